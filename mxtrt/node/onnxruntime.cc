// Sessions of ONNX Runtime, through the C API of the wheel's shared library.
//
// The API is a table of functions that only ever grows at its end (onnxruntime_c_api.h), so
// a function is named here by its place in that table.
#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "errors.h"
#include "export.h"
#include "process.h"
#include "registry.h"
#include "session.h"

namespace mxtrt {
namespace {

constexpr uint32_t kApiVersion = 13;  // ONNX Runtime 1.13 and later
// Errors come back as a status, which the caller reports: they are not logged twice.
constexpr int kLogFatal = 4, kEnableAll = 99, kArenaAllocator = 1, kMemTypeDefault = 0;

enum Place : int {
  kGetErrorMessage = 2,
  kCreateSessionFromArray = 8,
  kRun = 9,
  kCreateSessionOptions = 10,
  kSetSessionGraphOptimizationLevel = 23,
  kCreateRunOptions = 39,
  kCreateTensorWithDataAsOrtValue = 49,
  kCreateCpuMemoryInfo = 69,
  kReleaseEnv = 92,
  kReleaseStatus = 93,
  kReleaseMemoryInfo = 94,
  kReleaseSession = 95,
  kReleaseValue = 96,
  kReleaseRunOptions = 97,
  kReleaseSessionOptions = 100,
  kCreateEnvWithGlobalThreadPools = 119,
  kDisablePerSessionThreads = 120,
  kCreateThreadingOptions = 121,
  kReleaseThreadingOptions = 122,
  kAddSessionConfigEntry = 130,
  kCreateAllocator = 131,
  kReleaseAllocator = 132,
  kCreateAndRegisterAllocator = 144,
  kSetGlobalIntraOpNumThreads = 147,
  kSetGlobalInterOpNumThreads = 148,
  kSetGlobalSpinControl = 149,
  kReleaseArenaCfg = 157,
  kCreateArenaCfgV2 = 164,
  kAddRunConfigEntry = 165,
  kAddExternalInitializers = 210,
  // Of ONNX Runtime 1.23 and later.
  kGetKeyValue = 297,
  kReleaseKeyValuePairs = 300,
  kAllocatorGetStats = 319,
};

struct ApiBase {
  const void* const* (*get_api)(uint32_t version);
  const char* (*version)();
};

std::mutex g_open_mutex;
const void* const* g_api = nullptr;
std::string g_version;
bool g_has_stats = false;
void* g_env = nullptr;
void* g_memory = nullptr;
std::atomic<bool> g_shrink{false};

template <typename... Args>
void* call(Place place, Args... args) {
  return reinterpret_cast<void* (*)(Args...)>(g_api[place])(args...);
}

void release(Place place, void* object) {
  reinterpret_cast<void (*)(void*)>(g_api[place])(object);
}

void check(void* status) {
  if (!status) return;
  std::string message = reinterpret_cast<const char* (*)(void*)>(g_api[kGetErrorMessage])(status);
  release(kReleaseStatus, status);
  message.erase(message.find_last_not_of(" \n") + 1);
  throw std::runtime_error("ONNX Runtime: " + message);
}

// An object of ONNX Runtime, released with its owner.
class Owned {
 public:
  explicit Owned(Place releaser) : releaser_(releaser) {}
  ~Owned() { reset(); }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  Owned(Owned&& other) noexcept : releaser_(other.releaser_), object_(other.object_) {
    other.object_ = nullptr;
  }
  void** slot() {
    reset();
    return &object_;
  }
  void* get() const { return object_; }
  // The object, which has no owner any more.
  void* take() { return std::exchange(object_, nullptr); }

 private:
  void reset() {
    if (object_ && !shutting_down() && !forked()) release(releaser_, object_);
    object_ = nullptr;
  }
  Place releaser_;
  void* object_ = nullptr;
};

int element_type(int type) {
  switch (static_cast<MXType>(type)) {
    case MXType::kFloat32: return 1;
    case MXType::kUint8: return 2;
    case MXType::kInt8: return 3;
    case MXType::kInt32: return 6;
    case MXType::kInt64: return 7;
    case MXType::kBool: return 9;
    case MXType::kFloat16: return 10;
    case MXType::kFloat64: return 11;
  }
  throw std::runtime_error("a tensor type that ONNX Runtime does not have");
}

void make_value(const Tensor& tensor, Owned* value) {
  check(call(kCreateTensorWithDataAsOrtValue, static_cast<const void*>(g_memory), tensor.data,
             bytes(tensor), tensor.shape, static_cast<size_t>(tensor.ndim),
             element_type(tensor.type), value->slot()));
}

class OrtBindings : public Bindings {
 public:
  // Value of a tensor; made anew only when its address differs from the last forward's.
  // (The variant fixes shape and type.)
  void* value(size_t index, const Tensor& tensor) {
    if (index >= data_.size()) {
      data_.resize(index + 1, nullptr);
      values_.emplace_back(kReleaseValue);
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

  std::vector<const void*> inputs;
  std::vector<void*> outputs;

 private:
  bool changed(size_t index, const Tensor& tensor) const {
    const auto& shape = shapes_[index];
    return shape.size() != static_cast<size_t>(tensor.ndim) ||
           !std::equal(shape.begin(), shape.end(), tensor.shape);
  }

  std::vector<void*> data_;
  std::vector<Owned> values_;
  std::vector<Shape> shapes_;
};

// Options of a run after which the arena gives back what nobody uses.
const void* shrinking() {
  static const void* const options = [] {
    static Owned made(kReleaseRunOptions);
    check(call(kCreateRunOptions, made.slot()));
    check(call(kAddRunConfigEntry, made.get(), "memory.enable_memory_arena_shrinkage", "cpu:0"));
    return made.get();
  }();
  return options;
}

class OrtSession : public Session {
 public:
  OrtSession(std::vector<std::string> inputs, std::vector<std::string> outputs)
      : inputs_(std::move(inputs)), outputs_(std::move(outputs)), session_(kReleaseSession) {
    for (const auto& name : inputs_) input_names_.push_back(name.c_str());
    for (const auto& name : outputs_) output_names_.push_back(name.c_str());
  }

  void** slot() { return session_.slot(); }
  const void* get() const { return session_.get(); }

  std::unique_ptr<Bindings> bindings() override { return std::make_unique<OrtBindings>(); }

  bool run(Bindings* bindings, const std::vector<Tensor>& inputs,
           const std::vector<Tensor>& outputs, void*) override {
    auto& bound = *static_cast<OrtBindings*>(bindings);
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
    const void* options = g_shrink || grown(size) ? shrinking() : nullptr;
    check(call(kRun, session_.get(), options, input_names_.data(),
               bound.inputs.data(), inputs.size(), output_names_.data(), outputs.size(),
               bound.outputs.data()));
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
  Owned session_;
  std::atomic<size_t> largest_{0};  // inputs of a run in bytes, and one
};

void open_library(const char* path, int threads, int spin) {
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) throw std::runtime_error(dlerror());
  auto get_base = reinterpret_cast<const ApiBase* (*)()>(dlsym(library, "OrtGetApiBase"));
  if (!get_base) throw std::runtime_error(std::string(path) + " is not ONNX Runtime");
  const ApiBase* base = get_base();
  g_version = base->version();
  g_api = base->get_api(kApiVersion);
  if (!g_api) throw std::runtime_error("ONNX Runtime " + g_version + " is older than 1.13");
  int major = 0, minor = 0;
  std::sscanf(g_version.c_str(), "%d.%d", &major, &minor);
  g_has_stats = major > 1 || minor >= 23;

  Owned threading(kReleaseThreadingOptions), arena(kReleaseArenaCfg);
  Owned env(kReleaseEnv), memory(kReleaseMemoryInfo);
  check(call(kCreateThreadingOptions, threading.slot()));
  check(call(kSetGlobalIntraOpNumThreads, threading.get(), threads));
  check(call(kSetGlobalInterOpNumThreads, threading.get(), 1));
  check(call(kSetGlobalSpinControl, threading.get(), spin));
  check(call(kCreateEnvWithGlobalThreadPools, kLogFatal, "mxtrt",
             static_cast<const void*>(threading.get()), env.slot()));
  check(call(kCreateCpuMemoryInfo, kArenaAllocator, kMemTypeDefault, memory.slot()));
  // One arena for all sessions, grown by what is asked for and not by powers of two: the
  // engine nodes of a graph run one after another and share their scratch memory.
  static const char* const keys[] = {"arena_extend_strategy"};
  static const size_t values[] = {1};
  check(call(kCreateArenaCfgV2, static_cast<const char* const*>(keys),
             static_cast<const size_t*>(values), size_t{1}, arena.slot()));
  check(call(kCreateAndRegisterAllocator, env.get(), static_cast<const void*>(memory.get()),
             static_cast<const void*>(arena.get())));
  g_memory = memory.take();
  g_env = env.take();
  // Its destructors at exit wait for its threads, which do not exist in a forked process.
  on_exit(
      [](int status, void*) {
        if (!forked()) return;
        std::fflush(nullptr);
        _exit(status);
      },
      nullptr);
}

}  // namespace
// Loads ONNX Runtime once per process, with so many threads.  Returns its version, or null
// after setting the error.
MXTRT_EXPORT const char* mxtrt_ort_open(const char* path, int threads, int spin) {
  const int opened = guarded([&] {
    if (forked()) throw std::runtime_error("its threads are those of the process that forked");
    threads_begin();
    std::lock_guard<std::mutex> lock(g_open_mutex);
    if (!g_env) open_library(path, threads, spin);
  });
  return opened ? g_version.c_str() : nullptr;
}

// From now on runs give back what their arena holds and nobody uses, or keep it as ever.
MXTRT_EXPORT void mxtrt_ort_shrink(int on) { g_shrink = on != 0; }

// Bytes that the arena of all sessions, that of this one, holds for activations; 0 where ONNX
// Runtime does not tell, or it is another engine's session.
MXTRT_EXPORT int64_t mxtrt_ort_arena(int64_t handle) {
  int64_t held = 0;
  auto session = std::dynamic_pointer_cast<OrtSession>(find_session(handle));
  if (!session || !g_has_stats) return held;
  guarded([&] {
    Owned arena(kReleaseAllocator), stats(kReleaseKeyValuePairs);
    check(call(kCreateAllocator, session->get(), static_cast<const void*>(g_memory),
               arena.slot()));
    check(call(kAllocatorGetStats, static_cast<const void*>(arena.get()), stats.slot()));
    auto value = reinterpret_cast<const char* (*)(const void*, const char*)>(g_api[kGetKeyValue]);
    if (const char* text = value(stats.get(), "TotalAllocated")) held = std::atoll(text);
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
    Owned options(kReleaseSessionOptions);
    check(call(kCreateSessionOptions, options.slot()));
    check(call(kDisablePerSessionThreads, options.get()));
    check(call(kSetSessionGraphOptimizationLevel, options.get(), kEnableAll));
    for (int i = 0; i < num_config; ++i) {
      check(call(kAddSessionConfigEntry, options.get(), config[2 * i], config[2 * i + 1]));
    }
    std::vector<Owned> owners;
    std::vector<const void*> values;
    for (int i = 0; i < num_weights; ++i) {
      owners.emplace_back(kReleaseValue);
      make_value({weight_data[i], weight_dims, weight_ndims[i], weight_types[i]}, &owners.back());
      values.push_back(owners.back().get());
      weight_dims += weight_ndims[i];
    }
    if (num_weights) {
      check(call(kAddExternalInitializers, options.get(), weight_names,
                 static_cast<const void* const*>(values.data()), values.size()));
    }
    auto session = std::make_shared<OrtSession>(
        std::vector<std::string>(inputs, inputs + num_inputs),
        std::vector<std::string>(outputs, outputs + num_outputs));
    check(call(kCreateSessionFromArray, static_cast<const void*>(g_env), model, size,
               static_cast<const void*>(options.get()), session->slot()));
    handle = add_session(std::move(session));
  });
  return handle;
}

}  // namespace mxtrt
