// A program that uses MXNet's predict API wrongly, and in ways that few do:
// mistakes MODEL.json MODEL.params OUT
// A line in OUT for each call: what it returned, and the first line of MXNet's error.
#include <stdbool.h>
#include <stdint.h>

#include <mxnet/c_predict_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "whole.h"

static FILE* out;

// MXNet's errors have a place in its sources first, and the calls that led there behind.
static void tell(const char* what, int code) {
  const char* error = code ? MXGetLastError() : "";
  const char* said = strstr(error, "MXNetError: ");
  said = said ? said : error;
  fprintf(out, "%s: %d %.*s\n", what, code, (int)strcspn(said, "\n"), said);
}

int main(int argc, char** argv) {
  if (argc < 4) return 2;
  long size = 0, ignored = 0;
  char* json = whole(argv[1], &ignored);
  char* parameters = whole(argv[2], &size);
  out = fopen(argv[3], "w");
  const char *key = "data", *nothing = "nothing", *bias = "top_bias";
  const uint32_t begins[] = {0, 4}, right[] = {2, 3, 16, 16}, wrong[] = {2, 5, 16, 16};
  const uint32_t larger[] = {3, 3, 16, 16};
  PredictorHandle predictor = NULL, other = NULL;
  tell("wrong shape",
       MXPredCreate(json, parameters, (int)size, 1, 0, 1, &key, begins, wrong, &predictor));
  tell("no input",
       MXPredCreate(json, parameters, (int)size, 1, 0, 1, &nothing, begins, right, &predictor));
  tell("right",
       MXPredCreate(json, parameters, (int)size, 1, 0, 1, &key, begins, right, &predictor));
  float values[3 * 3 * 16 * 16], biases[10];
  for (uint32_t i = 0; i < sizeof(values) / sizeof(float); ++i) values[i] = (float)(i % 37) / 37;
  for (uint32_t i = 0; i < 10; ++i) biases[i] = (float)i;
  tell("unknown input", MXPredSetInput(predictor, nothing, values, 1));
  tell("too small", MXPredSetInput(predictor, key, values, 7));
  tell("input", MXPredSetInput(predictor, key, values, 2 * 3 * 16 * 16));
  for (int round = 0; round < 3; ++round) {
    tell("forward", MXPredForward(predictor));
    float answers[30] = {0};
    tell("output", MXPredGetOutput(predictor, 0, answers, 20));
    for (int i = 0; i < 20; ++i) fprintf(out, "answer %.4f\n", answers[i]);
    tell("small parameter", MXPredSetInput(predictor, bias, biases, 3));
    tell("parameter", MXPredSetInput(predictor, bias, biases, 10));
    biases[round] += 3;
  }
  tell("wrong output", MXPredGetOutput(predictor, 7, values, 20));
  tell("wrong reshape", MXPredReshape(1, &key, begins, wrong, predictor, &other));
  tell("unknown reshape", MXPredReshape(1, &nothing, begins, right, predictor, &other));
  tell("reshape", MXPredReshape(1, &key, begins, larger, predictor, &other));
  tell("input", MXPredSetInput(other, key, values, 3 * 3 * 16 * 16));
  tell("forward", MXPredForward(other));
  float answers[30] = {0};
  tell("output", MXPredGetOutput(other, 0, answers, 30));
  for (int i = 0; i < 30; ++i) fprintf(out, "answer %.4f\n", answers[i]);
  fclose(out);
  MXPredFree(other);
  MXPredFree(predictor);
  free(json);
  free(parameters);
  return 0;
}
