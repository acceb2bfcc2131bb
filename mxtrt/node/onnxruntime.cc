// Sessions of ONNX Runtime, through the C API of the wheel's shared library.
#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "errors.h"
#include "export.h"
#include "process.h"
#include "registry.h"
#include "session.h"
#include "vendor/onnxruntime/onnxruntime_c_api.h"

namespace mxtrt {
namespace {

// The API of ONNX Runtime 1.N has number N, and all of those before: its table of functions only
// ever grows at its end.
constexpr uint32_t kApiVersion = 13;
constexpr uint32_t kApiOfStats = 23;  // AllocatorGetStats, KeyValuePairs
static_assert(kApiOfStats <= ORT_API_VERSION, "the header has no such functions");

// The library, from the moment at which it is open to the end of the process.
struct Runtime {
  std::string version;
  OrtEnv* env;
  OrtMemoryInfo* memory;  // CPU memory, of the arena
  bool has_stats;         // of arenas
};

std::mutex g_open_mutex;
std::atomic<const OrtApi*> g_api{nullptr};  // there from the first try to open the library on
std::atomic<const Runtime*> g_runtime{nullptr};
std::atomic<bool> g_shrink{false};

const OrtApi& api() { return *g_api.load(std::memory_order_acquire); }

const Runtime& runtime() {
  const Runtime* open = g_runtime.load(std::memory_order_acquire);
  if (!open) throw std::runtime_error("ONNX Runtime is not open");
  return *open;
}

void check(OrtStatus* status) {
  if (!status) return;
  std::string message = api().GetErrorMessage(status);
  api().ReleaseStatus(status);
  message.erase(message.find_last_not_of(" \n") + 1);
  throw std::runtime_error("ONNX Runtime: " + message);
}

// An object of ONNX Runtime, which `release` of its API gives back.
template <typename Object, void (*OrtApi::*release)(Object*)>
class Owned {
 public:
  Owned() = default;
  ~Owned() { reset(); }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  Owned(Owned&& other) noexcept : object_(other.take()) {}
  Owned& operator=(Owned&&) = delete;
  // Where a function that makes such an object writes it.
  Object** slot() {
    reset();
    return &object_;
  }
  Object* get() const { return object_; }
  // The object, which has no owner any more.
  Object* take() { return std::exchange(object_, nullptr); }

 private:
  void reset() {
    if (object_ && !shutting_down() && !forked()) (api().*release)(object_);
    object_ = nullptr;
  }
  Object* object_ = nullptr;
};

using Allocator = Owned<OrtAllocator, &OrtApi::ReleaseAllocator>;
using ArenaCfg = Owned<OrtArenaCfg, &OrtApi::ReleaseArenaCfg>;
using Env = Owned<OrtEnv, &OrtApi::ReleaseEnv>;
using KeyValuePairs = Owned<OrtKeyValuePairs, &OrtApi::ReleaseKeyValuePairs>;
using MemoryInfo = Owned<OrtMemoryInfo, &OrtApi::ReleaseMemoryInfo>;
using RunOptions = Owned<OrtRunOptions, &OrtApi::ReleaseRunOptions>;
using SessionOptions = Owned<OrtSessionOptions, &OrtApi::ReleaseSessionOptions>;
using ThreadingOptions = Owned<OrtThreadingOptions, &OrtApi::ReleaseThreadingOptions>;
using Value = Owned<OrtValue, &OrtApi::ReleaseValue>;

ONNXTensorElementDataType element_type(int type) {
  switch (static_cast<MXType>(type)) {
    case MXType::kFloat32: return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    case MXType::kFloat64: return ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE;
    case MXType::kFloat16: return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
    case MXType::kUint8: return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
    case MXType::kInt32: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
    case MXType::kInt8: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
    case MXType::kInt64: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
    case MXType::kBool: return ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL;
  }
  throw std::runtime_error("a tensor type that ONNX Runtime does not have");
}

void make_value(const Tensor& tensor, Value* value) {
  check(api().CreateTensorWithDataAsOrtValue(runtime().memory, tensor.data, bytes(tensor),
                                             tensor.shape, static_cast<size_t>(tensor.ndim),
                                             element_type(tensor.type), value->slot()));
}

class Values : public Bindings {
 public:
  // Value of a tensor; made anew only when its address differs from the last forward's.
  // (The variant fixes shape and type.)
  OrtValue* value(size_t index, const Tensor& tensor) {
    if (index >= data_.size()) {
      data_.resize(index + 1, nullptr);
      values_.emplace_back();
    }
    if (data_[index] != tensor.data || !values_[index].get() || changed(index, tensor)) {
      data_[index] = nullptr;
      make_value(tensor, &values_[index]);
      data_[index] = tensor.data;
      shapes_.resize(data_.size());
      shapes_[index].assign(tensor.shape, tensor.shape + tensor.ndim);
    }
    return values_[index].get();
  }

  std::vector<const OrtValue*> inputs;
  std::vector<OrtValue*> outputs;

 private:
  bool changed(size_t index, const Tensor& tensor) const {
    const auto& shape = shapes_[index];
    return shape.size() != static_cast<size_t>(tensor.ndim) ||
           !std::equal(shape.begin(), shape.end(), tensor.shape);
  }

  std::vector<void*> data_;
  std::vector<Value> values_;
  std::vector<Shape> shapes_;
};

// Options of a run after which the arena gives back what nobody uses.
const OrtRunOptions* shrinking() {
  static const OrtRunOptions* const options = [] {
    RunOptions made;
    check(api().CreateRunOptions(made.slot()));
    check(api().AddRunConfigEntry(made.get(), "memory.enable_memory_arena_shrinkage", "cpu:0"));
    return made.take();  // used as long as the process runs
  }();
  return options;
}

class OnnxRuntimeSession : public Session {
 public:
  OnnxRuntimeSession(std::vector<std::string> inputs, std::vector<std::string> outputs)
      : inputs_(std::move(inputs)), outputs_(std::move(outputs)) {
    for (const auto& name : inputs_) input_names_.push_back(name.c_str());
    for (const auto& name : outputs_) output_names_.push_back(name.c_str());
  }

  OrtSession** slot() { return session_.slot(); }
  const OrtSession* get() const { return session_.get(); }

  std::unique_ptr<Bindings> bindings() override { return std::make_unique<Values>(); }

  bool run(Bindings* bindings, const std::vector<Tensor>& inputs,
           const std::vector<Tensor>& outputs, Place*) override {
    auto& bound = *static_cast<Values*>(bindings);
    bound.inputs.resize(inputs.size());
    bound.outputs.resize(outputs.size());
    for (size_t i = 0; i < inputs.size(); ++i) bound.inputs[i] = bound.value(i, inputs[i]);
    for (size_t i = 0; i < outputs.size(); ++i) {
      bound.outputs[i] = bound.value(inputs.size() + i, outputs[i]);
    }
    // The first run at some shapes asks for one tensor after the other, later ones for what all of
    // them need together, which has no room among the pieces.  Shapes of a size that was there
    // before have room in what that size took.
    size_t size = 0;
    for (const auto& input : inputs) size += bytes(input);
    const OrtRunOptions* options = g_shrink || grown(size) ? shrinking() : nullptr;
    check(api().Run(session_.get(), options, input_names_.data(), bound.inputs.data(),
                    inputs.size(), output_names_.data(), outputs.size(), bound.outputs.data()));
    return true;
  }

 private:
  // Whether no run had inputs of so many bytes.
  bool grown(size_t size) {
    size_t largest = largest_.load(std::memory_order_relaxed);
    while (size + 1 > largest) {
      if (largest_.compare_exchange_weak(largest, size + 1)) return true;
    }
    return false;
  }

  std::vector<std::string> inputs_, outputs_;
  std::vector<const char*> input_names_, output_names_;
  Owned<OrtSession, &OrtApi::ReleaseSession> session_;
  std::atomic<size_t> largest_{0};  // inputs of a run in bytes, and one
};

// Whether this version of ONNX Runtime tells what its arenas hold.  (One that does not have an API
// says so on stderr when it is asked for it.)
bool has_stats(const OrtApiBase& base, const std::string& version) {
  char* end = nullptr;
  const auto major = std::strtoul(version.c_str(), &end, 10);
  const auto minor = *end == '.' ? std::strtoul(end + 1, nullptr, 10) : 0;
  return (major > 1 || minor >= kApiOfStats) && base.GetApi(kApiOfStats);
}

const Runtime* open_library(const char* path, int threads, int spin) {
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) throw std::runtime_error(dlerror());
  auto get_base = reinterpret_cast<decltype(&OrtGetApiBase)>(dlsym(library, "OrtGetApiBase"));
  if (!get_base) throw std::runtime_error(std::string(path) + " is not ONNX Runtime");
  const OrtApiBase* base = get_base();
  const std::string version = base->GetVersionString();
  g_api.store(base->GetApi(kApiVersion), std::memory_order_release);
  if (!g_api) throw std::runtime_error("ONNX Runtime " + version + " is older than 1.13");

  ThreadingOptions threading;
  check(api().CreateThreadingOptions(threading.slot()));
  check(api().SetGlobalIntraOpNumThreads(threading.get(), threads));
  check(api().SetGlobalInterOpNumThreads(threading.get(), 1));
  check(api().SetGlobalSpinControl(threading.get(), spin));
  Env env;
  // Errors come back as a status, which the caller reports: they are not logged twice.
  check(api().CreateEnvWithGlobalThreadPools(ORT_LOGGING_LEVEL_FATAL, "mxtrt", threading.get(),
                                             env.slot()));
  MemoryInfo memory;
  check(api().CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, memory.slot()));
  // One arena for all sessions, grown by what is asked for and not by powers of two: the
  // engine nodes of a graph run one after another and share their scratch memory.
  const char* const keys[] = {"arena_extend_strategy"};
  const size_t values[] = {1};
  ArenaCfg arena;
  check(api().CreateArenaCfgV2(keys, values, 1, arena.slot()));
  check(api().CreateAndRegisterAllocator(env.get(), memory.get(), arena.get()));
  // Its destructors at exit wait for its threads, which do not exist in a forked process.
  const int refused = on_exit(
      [](int status, void*) {
        if (!forked()) return;
        std::fflush(nullptr);
        _exit(status);
      },
      nullptr);
  if (refused) throw std::runtime_error("the process takes no more functions for its end");
  return new Runtime{version, env.take(), memory.take(), has_stats(*base, version)};
}

}  // namespace
// Loads ONNX Runtime once per process, with so many threads.  Returns its version, or null
// after setting the error.
MXTRT_EXPORT const char* mxtrt_ort_open(const char* path, int threads, int spin) {
  const Runtime* open = nullptr;
  guarded([&] {
    if (forked()) throw std::runtime_error("its threads are those of the process that forked");
    threads_begin();
    const std::lock_guard<std::mutex> lock(g_open_mutex);
    open = g_runtime.load(std::memory_order_acquire);
    if (open) return;
    open = open_library(path, threads, spin);
    g_runtime.store(open, std::memory_order_release);
  });
  return open ? open->version.c_str() : nullptr;
}

// From now on runs give back what their arena holds and nobody uses, or keep it as ever.
MXTRT_EXPORT void mxtrt_ort_shrink(int on) { g_shrink = on != 0; }

// Bytes that the arena of all sessions, that of this one, holds for activations; 0 where ONNX
// Runtime does not tell, or it is another engine's session.
MXTRT_EXPORT int64_t mxtrt_ort_arena(int64_t handle) {
  int64_t held = 0;
  auto session = std::dynamic_pointer_cast<OnnxRuntimeSession>(find_session(handle));
  if (!session || !runtime().has_stats) return held;
  guarded([&] {
    Allocator arena;
    check(api().CreateAllocator(session->get(), runtime().memory, arena.slot()));
    KeyValuePairs stats;
    check(api().AllocatorGetStats(arena.get(), stats.slot()));
    if (const char* text = api().GetKeyValue(stats.get(), "TotalAllocated")) {
      held = std::strtoll(text, nullptr, 10);
    }
  });
  return held;
}

// Builds a session.  Weights stay where they are and must outlive the session; returns its
// handle, or 0 after setting the error.
MXTRT_EXPORT int64_t mxtrt_ort_session(const void* model, size_t size, const char* const* inputs,
                                       int num_inputs, const char* const* outputs, int num_outputs,
                                       const char* const* weight_names, void* const* weight_data,
                                       const int64_t* weight_dims, const int* weight_ndims,
                                       const int* weight_types, int num_weights,
                                       const char* const* config, int num_config) {
  int64_t handle = 0;
  guarded([&] {
    SessionOptions options;
    check(api().CreateSessionOptions(options.slot()));
    check(api().DisablePerSessionThreads(options.get()));
    check(api().SetSessionGraphOptimizationLevel(options.get(), ORT_ENABLE_ALL));
    for (int i = 0; i < num_config; ++i) {
      check(api().AddSessionConfigEntry(options.get(), config[0], config[1]));
      config += 2;
    }
    std::vector<Value> owners(num_weights);
    std::vector<const OrtValue*> values;
    for (int i = 0; i < num_weights; ++i) {
      make_value({weight_data[i], weight_dims, weight_ndims[i], weight_types[i]}, &owners[i]);
      values.push_back(owners[i].get());
      weight_dims += weight_ndims[i];
    }
    if (num_weights) {
      check(
          api().AddExternalInitializers(options.get(), weight_names, values.data(), values.size()));
    }
    auto session = std::make_shared<OnnxRuntimeSession>(
        std::vector<std::string>(inputs, inputs + num_inputs),
        std::vector<std::string>(outputs, outputs + num_outputs));
    check(api().CreateSessionFromArray(runtime().env, model, size, options.get(), session->slot()));
    handle = add_session(std::move(session));
  });
  return handle;
}

}  // namespace mxtrt
