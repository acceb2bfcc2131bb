#include "callbacks.h"

#include <atomic>
#include <stdexcept>
#include <utility>

#include "errors.h"
#include "export.h"
#include "process.h"

namespace mxtrt {
namespace {

// Python: returns 1 after calling mxtrt_pass_result, 0 after calling mxtrt_set_error.
using PassCallback = int (*)(const char* graph, const char* const* keys, const char* const* values,
                             int num_options);
// Python: adds the variant for these shapes and returns 1, or 0 after mxtrt_set_error.  In a
// forward it builds no engine and waits for nothing.
using ShapeCallback = int (*)(int64_t key, const int64_t* dims, const int* ndims, int num_inputs,
                              int in_forward);
// Python: a node has no engine that works.  With tensors, where MXNet has them, and the stream on
// which it works there, it computes the outputs by other means: returns 1, or 0 after
// mxtrt_set_error.  Without (null) it takes note and returns 0.
using FailureCallback = int (*)(int64_t key, const char* message, const int64_t* dims,
                                const int* ndims, void* const* data, void* stream);

// Set by a thread of Python's, called on MXNet's too.
std::atomic<PassCallback> g_pass{nullptr};
std::atomic<ShapeCallback> g_shape{nullptr};
std::atomic<FailureCallback> g_failure{nullptr};

thread_local std::string t_pass_result;

}  // namespace

std::string partition(const char* graph, const char* const* keys, const char* const* values,
                      int num_options) {
  const PassCallback call = g_pass;
  const Callout callout;
  if (!call || !callout || !call(graph, keys, values, num_options)) {
    throw std::runtime_error(take_error("the TensorRT pass failed"));
  }
  return std::exchange(t_pass_result, {});
}

bool add_variant(int64_t key, const std::vector<Shape>& inputs, bool in_forward) {
  std::vector<int64_t> dims;
  std::vector<int> ndims;
  for (const auto& shape : inputs) {
    dims.insert(dims.end(), shape.begin(), shape.end());
    ndims.push_back(static_cast<int>(shape.size()));
  }
  const int count = static_cast<int>(ndims.size());
  const ShapeCallback call = g_shape;
  const Callout callout;
  return call && callout && call(key, dims.data(), ndims.data(), count, in_forward);
}

void take_over(int64_t key, const std::vector<Tensor>& inputs, const std::vector<Tensor>& outputs,
               const std::string& message, void* stream) {
  std::vector<int64_t> dims;
  std::vector<int> ndims;
  std::vector<void*> data;
  for (const auto* tensors : {&inputs, &outputs}) {
    for (const auto& tensor : *tensors) {
      dims.insert(dims.end(), tensor.shape, tensor.shape + tensor.ndim);
      ndims.push_back(tensor.ndim);
      data.push_back(tensor.data);
    }
  }
  const FailureCallback call = g_failure;
  const Callout callout;
  if (!call || !callout ||
      !call(key, message.c_str(), dims.data(), ndims.data(), data.data(), stream)) {
    throw std::runtime_error(take_error(message.c_str()));
  }
}

void report_failure(int64_t key, const std::string& message) {
  const FailureCallback call = g_failure;
  const Callout callout;
  if (!call || !callout) return;
  call(key, message.c_str(), nullptr, nullptr, nullptr, nullptr);  // 0, with nothing to compute
  take_error("");
}

MXTRT_EXPORT void mxtrt_set_callbacks(PassCallback pass, ShapeCallback shape,
                                      FailureCallback failure) {
  g_pass = pass;
  g_shape = shape;
  g_failure = failure;
}

MXTRT_EXPORT void mxtrt_pass_result(const char* graph) { t_pass_result = graph; }

}  // namespace mxtrt
