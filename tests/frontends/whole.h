// A file as text, for the programs in C.
#pragma once

#include <stdio.h>
#include <stdlib.h>

static char* whole(const char* path, long* size) {
  FILE* file = fopen(path, "rb");
  if (!file) exit(3);
  fseek(file, 0, SEEK_END);
  *size = ftell(file);
  rewind(file);
  char* text = malloc(*size + 1);
  if (fread(text, 1, *size, file) != (size_t)*size) exit(3);
  text[*size] = 0;
  fclose(file);
  return text;
}
