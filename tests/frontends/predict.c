// A program on MXNet's predict API: predict MODEL.json MODEL.params OUT WAY BATCH...
// For each batch size: as many pictures of constant numbers; appends the outputs to OUT.
// WAY is plain, typed, partial:OUTPUT, or threads.
#include <stdbool.h>
#include <stdint.h>

#include <dlfcn.h>
#include <mxnet/c_predict_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

static void check(int code) {
  if (!code) return;
  fprintf(stderr, "failed: %s\n", MXGetLastError());
  exit(4);
}

// How often engines ran, on standard error.
static void tell_runs(void) {
  const char* path = getenv("NODE");
  void* node = path ? dlopen(path, RTLD_NOW | RTLD_NOLOAD) : NULL;
  int64_t tally[5] = {0};
  if (node) ((void (*)(int64_t*))dlsym(node, "mxtrt_tally"))(tally);
  fprintf(stderr, "runs %d\n", (int)tally[0]);
}

static void ask(PredictorHandle predictor, int batch, FILE* out) {
  const uint32_t size = batch * 3 * 16 * 16;
  float* values = malloc(size * sizeof(float));
  for (uint32_t i = 0; i < size; ++i) values[i] = (float)(i % 37) / 37 - 0.5f;
  check(MXPredSetInput(predictor, "data", values, size));
  free(values);
  check(MXPredForward(predictor));
  uint32_t *shape, ndim, number = 1;
  check(MXPredGetOutputShape(predictor, 0, &shape, &ndim));
  for (uint32_t i = 0; i < ndim; ++i) number *= shape[i];
  float* made = malloc(number * sizeof(float));
  check(MXPredGetOutput(predictor, 0, made, number));
  fwrite(made, sizeof(float), number, out);
  free(made);
}

int main(int argc, char** argv) {
  if (argc < 6) return 2;
  long size = 0, ignored = 0;
  char* json = whole(argv[1], &ignored);
  char* parameters = whole(argv[2], &size);
  FILE* out = fopen(argv[3], "wb");
  const char* key = "data";
  const uint32_t begins[] = {0, 4};
  PredictorHandle predictor = NULL;
  for (int i = 5; i < argc; ++i) {
    const int batch = atoi(argv[i]);
    const uint32_t shape[] = {batch, 3, 16, 16};
    if (predictor) {
      PredictorHandle other = NULL;
      check(MXPredReshape(1, &key, begins, shape, predictor, &other));
      check(MXPredFree(predictor));
      predictor = other;
    } else if (!strncmp(argv[4], "partial:", 8)) {
      const char* output = argv[4] + 8;
      check(MXPredCreatePartialOut(json, parameters, (int)size, 1, 0, 1, &key, begins, shape, 1,
                                   &output, &predictor));
    } else if (!strcmp(argv[4], "threads")) {
      PredictorHandle both[2];
      check(MXPredCreateMultiThread(json, parameters, (int)size, 1, 0, 1, &key, begins, shape, 2,
                                    both));
      ask(both[1], batch, out);
      check(MXPredFree(both[1]));
      predictor = both[0];
    } else if (!strcmp(argv[4], "typed")) {
      const int type = 0;  // float32
      check(MXPredCreateEx(json, parameters, (int)size, 1, 0, 1, &key, begins, shape, 1, &key,
                           &type, &predictor));
    } else {
      check(MXPredCreate(json, parameters, (int)size, 1, 0, 1, &key, begins, shape, &predictor));
    }
    ask(predictor, batch, out);
    ask(predictor, batch, out);
  }
  tell_runs();
  check(MXPredFree(predictor));
  fclose(out);
  free(json);
  free(parameters);
  return 0;
}
