// What the programs on MXNet's C API share.
#pragma once

#include <dlfcn.h>
#include <mxnet/c_api.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

// NNVM's, whose header is not among MXNet's.
extern "C" int NNSymbolListInputNames(SymbolHandle symbol, int option, uint32_t* number,
                                      const char*** names);

using Names = std::vector<std::string>;
using Answers = std::vector<float>;

constexpr uint32_t kFewest = 2, kMost = 5;  // pictures

inline void check(int code) {
  if (!code) return;
  std::fprintf(stderr, "failed: %s\n", MXGetLastError());
  std::exit(4);
}

inline Names names_of(SymbolHandle symbol, int (*list)(SymbolHandle, uint32_t*, const char***)) {
  uint32_t number = 0;
  const char** names = nullptr;
  check(list(symbol, &number, &names));
  return {names, names + number};
}

inline size_t size_of(NDArrayHandle array) {
  int ndim = 0;
  const int* shape = nullptr;
  check(MXNDArrayGetShapeEx(array, &ndim, &shape));
  size_t size = 1;
  for (int i = 0; i < ndim; ++i) size *= shape[i];
  return size;
}

inline NDArrayHandle empty(const std::vector<uint32_t>& shape) {
  NDArrayHandle array = nullptr;
  check(MXNDArrayCreateEx(shape.data(), shape.size(), 1, 0, 0, 0, &array));
  return array;
}

inline NDArrayHandle like(NDArrayHandle array) {
  int ndim = 0;
  const int* sizes = nullptr;
  check(MXNDArrayGetShapeEx(array, &ndim, &sizes));
  return empty({sizes, sizes + ndim});
}

inline std::vector<NDArrayHandle> outputs_of(ExecutorHandle executor) {
  uint32_t number = 0;
  NDArrayHandle* heads = nullptr;
  check(MXExecutorOutputs(executor, &number, &heads));
  return std::vector<NDArrayHandle>(heads, heads + number);  // braces would list two
}

inline void fill(NDArrayHandle array, float offset) {
  std::vector<float> values(size_of(array));
  for (size_t i = 0; i < values.size(); ++i) values[i] = float(i % 37) / 37 - 0.5f + offset;
  check(MXNDArraySyncCopyFromCPU(array, values.data(), values.size()));
}

inline void scale(NDArrayHandle array, float factor) {
  std::vector<float> values(size_of(array));
  check(MXNDArraySyncCopyToCPU(array, values.data(), values.size()));
  for (float& value : values) value *= factor;
  check(MXNDArraySyncCopyFromCPU(array, values.data(), values.size()));
}

inline void take(NDArrayHandle array, Answers* into) {
  std::vector<float> values(size_of(array));
  check(MXNDArraySyncCopyToCPU(array, values.data(), values.size()));
  into->insert(into->end(), values.begin(), values.end());
}

struct Model {
  SymbolHandle symbol = nullptr;
  Names arguments, states;
  std::map<std::string, NDArrayHandle> parameters;

  Model(const char* json, const char* file) {
    check(MXSymbolCreateFromFile(json, &symbol));
    arguments = names_of(symbol, MXSymbolListArguments);
    states = names_of(symbol, MXSymbolListAuxiliaryStates);
    uint32_t number = 0, num_names = 0;
    NDArrayHandle* arrays = nullptr;
    const char** names = nullptr;
    check(MXNDArrayLoad(file, &number, &arrays, &num_names, &names));
    for (uint32_t i = 0; i < number; ++i) parameters[names[i] + 4] = arrays[i];
  }
};

// The engine node, if it is loaded.
inline void* node() {
  const char* path = std::getenv("NODE");
  return path ? dlopen(path, RTLD_NOW | RTLD_NOLOAD) : nullptr;
}

// How often engines ran.
inline int runs() {
  int64_t tally[5] = {0};
  if (node()) reinterpret_cast<void (*)(int64_t*)>(dlsym(node(), "mxtrt_tally"))(tally);
  return static_cast<int>(tally[0]);
}

inline void tell_runs() { std::fprintf(stderr, "runs %d\n", runs()); }
