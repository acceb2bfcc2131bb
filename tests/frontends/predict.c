// A program on MXNet's predict API:
// predict MODEL.json MODEL.params OUT WAY DEVICE SIDE TIMES BATCH...
// For each batch size: as many pictures of constant numbers, of SIDE pixels, on the CPU (DEVICE 1)
// or GPU 0 (2); appends the outputs to OUT.  With TIMES the last batch is asked that often, and
// told on standard error how long a call takes. WAY is plain, typed, partial:OUTPUT, or threads.
#include <stdbool.h>
#include <stdint.h>

#include <dlfcn.h>
#include <mxnet/c_predict_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "whole.h"

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

static int compare(const void* one, const void* other) {
  const double difference = *(const double*)one - *(const double*)other;
  return (difference > 0) - (difference < 0);
}

// A call, and its first output; the caller frees it.
static float* answer(PredictorHandle predictor, const float* values, uint32_t size,
                     uint32_t* number) {
  uint32_t *shape, ndim;
  check(MXPredSetInput(predictor, "data", values, size));
  check(MXPredForward(predictor));
  check(MXPredGetOutputShape(predictor, 0, &shape, &ndim));
  *number = 1;
  for (uint32_t i = 0; i < ndim; ++i) *number *= shape[i];
  float* made = malloc(*number * sizeof(float));
  check(MXPredGetOutput(predictor, 0, made, *number));
  return made;
}

static void ask(PredictorHandle predictor, int batch, int side, int times, FILE* out) {
  const uint32_t size = batch * 3 * side * side;
  uint32_t number;
  float* values = malloc(size * sizeof(float));
  for (uint32_t i = 0; i < size; ++i) values[i] = (float)(i % 37) / 37 - 0.5f;
  float* made = answer(predictor, values, size, &number);
  fwrite(made, sizeof(float), number, out);
  free(made);
  double* seen = malloc((times + 1) * sizeof(double));
  for (int i = 0; i < times; ++i) {
    struct timespec begin, end;
    timespec_get(&begin, TIME_UTC);
    free(answer(predictor, values, size, &number));
    timespec_get(&end, TIME_UTC);
    seen[i] = 1e6 * (end.tv_sec - begin.tv_sec) + 1e-3 * (end.tv_nsec - begin.tv_nsec);
  }
  if (times) {
    qsort(seen, times, sizeof(double), compare);
    fprintf(stderr, "p10 %.1f us, median %.1f us\n", seen[times / 10], seen[times / 2]);
  }
  free(seen);
  free(values);
}

int main(int argc, char** argv) {
  if (argc < 9) return 2;
  const int device = atoi(argv[5]), side = atoi(argv[6]), times = atoi(argv[7]);
  long size = 0, ignored = 0;
  char* json = whole(argv[1], &ignored);
  char* parameters = whole(argv[2], &size);
  FILE* out = fopen(argv[3], "wb");
  const char* key = "data";
  const uint32_t begins[] = {0, 4};
  PredictorHandle predictor = NULL;
  for (int i = 8; i < argc; ++i) {
    const int batch = atoi(argv[i]);
    const uint32_t shape[] = {batch, 3, side, side};
    if (predictor) {
      PredictorHandle other = NULL;
      check(MXPredReshape(1, &key, begins, shape, predictor, &other));
      check(MXPredFree(predictor));
      predictor = other;
    } else if (!strncmp(argv[4], "partial:", 8)) {
      const char* output = argv[4] + 8;
      check(MXPredCreatePartialOut(json, parameters, (int)size, device, 0, 1, &key, begins, shape,
                                   1, &output, &predictor));
    } else if (!strcmp(argv[4], "threads")) {
      PredictorHandle both[2];
      check(MXPredCreateMultiThread(json, parameters, (int)size, device, 0, 1, &key, begins, shape,
                                    2, both));
      ask(both[1], batch, side, 0, out);
      check(MXPredFree(both[1]));
      predictor = both[0];
    } else if (!strcmp(argv[4], "typed")) {
      const int type = 0;  // float32
      check(MXPredCreateEx(json, parameters, (int)size, device, 0, 1, &key, begins, shape, 1, &key,
                           &type, &predictor));
    } else {
      check(
          MXPredCreate(json, parameters, (int)size, device, 0, 1, &key, begins, shape, &predictor));
    }
    ask(predictor, batch, side, 0, out);
    ask(predictor, batch, side, i + 1 == argc ? times : 0, out);
  }
  tell_runs();
  check(MXPredFree(predictor));
  fclose(out);
  free(json);
  free(parameters);
  return 0;
}
