// Sessions on an NVIDIA GPU for graphs whose arrays are in host memory.
//
// Python builds the engine and records one run of it, between mxtrt_cuda_record(begin) and
// (end), as a CUDA graph together with the copies in and out.  A forward is then a memcpy into
// pinned memory, one graph launch, one synchronization and a memcpy out, all through the
// driver API (libcuda.so.1, which comes with the driver and fits every CUDA version).
#include <dlfcn.h>

#include <cstring>
#include <stdexcept>

#include "node.h"

namespace mxtrt {
namespace {

using DevicePointer = unsigned long long;
constexpr int kCaptureRelaxed = 2, kComputeMajor = 75, kComputeMinor = 76;

// The driver's functions (cuda.h), looked up by name.
struct Driver {
  int (*init)(unsigned flags);
  int (*get_error)(int code, const char** text);
  int (*device_count)(int* count);
  int (*device_get)(int* device, int ordinal);
  int (*device_name)(char* name, int size, int device);
  int (*device_attribute)(int* value, int attribute, int device);
  int (*device_memory)(size_t* bytes, int device);
  int (*retain_context)(void** context, int device);
  int (*set_context)(void* context);
  int (*memory_info)(size_t* free, size_t* total);
  int (*allocate)(DevicePointer* pointer, size_t bytes);
  int (*free)(DevicePointer pointer);
  int (*allocate_host)(void** pointer, size_t bytes);
  int (*free_host)(void* pointer);
  int (*copy_in)(DevicePointer to, const void* from, size_t bytes, void* stream);
  int (*copy_out)(void* to, DevicePointer from, size_t bytes, void* stream);
  int (*stream_create)(void** stream, unsigned flags);
  int (*stream_destroy)(void* stream);
  int (*stream_wait)(void* stream);
  int (*begin_capture)(void* stream, int mode);
  int (*end_capture)(void* stream, void** graph);
  int (*instantiate)(void** executable, void* graph, unsigned long long flags);
  int (*launch)(void* executable, void* stream);
  int (*destroy_graph)(void* graph);
  int (*destroy_executable)(void* executable);
} g_cuda;
bool g_open = false;
std::mutex g_cuda_mutex;

void (*g_released)(int64_t token) = nullptr;

void check(int code) {
  if (!code) return;
  const char* text = nullptr;
  g_cuda.get_error(code, &text);
  throw std::runtime_error(std::string("CUDA: ") + (text ? text : "unknown error"));
}

void open_driver() {
  std::lock_guard<std::mutex> lock(g_cuda_mutex);
  if (g_open) return;
  void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library) throw std::runtime_error("no NVIDIA driver (libcuda.so.1) on this machine");
  auto find = [&](auto* function, const char* name) {
    *function = reinterpret_cast<std::remove_pointer_t<decltype(function)>>(dlsym(library, name));
    if (!*function) throw std::runtime_error(std::string("the NVIDIA driver has no ") + name);
  };
  find(&g_cuda.init, "cuInit");
  find(&g_cuda.get_error, "cuGetErrorString");
  find(&g_cuda.device_count, "cuDeviceGetCount");
  find(&g_cuda.device_get, "cuDeviceGet");
  find(&g_cuda.device_name, "cuDeviceGetName");
  find(&g_cuda.device_attribute, "cuDeviceGetAttribute");
  find(&g_cuda.device_memory, "cuDeviceTotalMem_v2");
  find(&g_cuda.retain_context, "cuDevicePrimaryCtxRetain");
  find(&g_cuda.set_context, "cuCtxSetCurrent");
  find(&g_cuda.memory_info, "cuMemGetInfo_v2");
  find(&g_cuda.allocate, "cuMemAlloc_v2");
  find(&g_cuda.free, "cuMemFree_v2");
  find(&g_cuda.allocate_host, "cuMemAllocHost_v2");
  find(&g_cuda.free_host, "cuMemFreeHost");
  find(&g_cuda.copy_in, "cuMemcpyHtoDAsync_v2");
  find(&g_cuda.copy_out, "cuMemcpyDtoHAsync_v2");
  find(&g_cuda.stream_create, "cuStreamCreate");
  find(&g_cuda.stream_destroy, "cuStreamDestroy_v2");
  find(&g_cuda.stream_wait, "cuStreamSynchronize");
  find(&g_cuda.begin_capture, "cuStreamBeginCapture_v2");
  find(&g_cuda.end_capture, "cuStreamEndCapture");
  find(&g_cuda.instantiate, "cuGraphInstantiateWithFlags");
  find(&g_cuda.launch, "cuGraphLaunch");
  find(&g_cuda.destroy_graph, "cuGraphDestroy");
  find(&g_cuda.destroy_executable, "cuGraphExecDestroy");
  check(g_cuda.init(0));
  g_open = true;
}

// One input or output: pinned host memory, device memory, and their size in bytes.
struct Buffer {
  void* host = nullptr;
  DevicePointer device = 0;
  size_t bytes = 0;
};

class CudaSession : public Session {
 public:
  CudaSession(int device, const size_t* sizes, int num_inputs, int num_outputs, int64_t token)
      : token_(token), num_inputs_(num_inputs), buffers_(num_inputs + num_outputs) {
    for (size_t i = 0; i < buffers_.size(); ++i) buffers_[i].bytes = sizes[i];
    check(g_cuda.retain_context(&context_, device));
  }

  // Apart from the constructor, so that a failure half-way is cleaned up.
  void allocate() {
    check(g_cuda.set_context(context_));
    check(g_cuda.stream_create(&stream_, 1));
    for (auto& buffer : buffers_) {
      check(g_cuda.allocate_host(&buffer.host, buffer.bytes));
      check(g_cuda.allocate(&buffer.device, buffer.bytes));
    }
  }

  ~CudaSession() override {
    if (shutting_down() || forked()) return;
    g_cuda.set_context(context_);
    if (stream_) g_cuda.stream_wait(stream_);
    if (executable_) g_cuda.destroy_executable(executable_);
    for (auto& buffer : buffers_) {
      if (buffer.host) g_cuda.free_host(buffer.host);
      if (buffer.device) g_cuda.free(buffer.device);
    }
    if (stream_) g_cuda.stream_destroy(stream_);
    // The graph used the engine's memory: Python may let it go only now.
    if (g_released) g_released(token_);
  }

  void* stream() const { return stream_; }
  DevicePointer device(size_t index) const { return buffers_[index].device; }

  // Everything that is put on the stream between begin and end becomes the graph.
  void begin_recording() {
    check(g_cuda.set_context(context_));
    check(g_cuda.stream_wait(stream_));
    check(g_cuda.begin_capture(stream_, kCaptureRelaxed));
    for (int i = 0; i < num_inputs_; ++i) {
      check(g_cuda.copy_in(buffers_[i].device, buffers_[i].host, buffers_[i].bytes, stream_));
    }
  }

  void end_recording() {
    for (size_t i = num_inputs_; i < buffers_.size(); ++i) {
      check(g_cuda.copy_out(buffers_[i].host, buffers_[i].device, buffers_[i].bytes, stream_));
    }
    void* graph = nullptr;
    check(g_cuda.end_capture(stream_, &graph));
    int code = g_cuda.instantiate(&executable_, graph, 0);
    g_cuda.destroy_graph(graph);
    check(code);
  }

  std::unique_ptr<Bindings> bindings() override { return nullptr; }

  void run(Bindings*, const std::vector<Tensor>& inputs,
           const std::vector<Tensor>& outputs) override {
    std::lock_guard<std::mutex> lock(mutex_);
    check(g_cuda.set_context(context_));
    for (size_t i = 0; i < inputs.size(); ++i) {
      std::memcpy(buffers_[i].host, inputs[i].data, buffers_[i].bytes);
    }
    check(g_cuda.launch(executable_, stream_));
    check(g_cuda.stream_wait(stream_));
    for (size_t i = 0; i < outputs.size(); ++i) {
      const auto& buffer = buffers_[inputs.size() + i];
      std::memcpy(outputs[i].data, buffer.host, buffer.bytes);
    }
  }

 private:
  const int64_t token_;
  const int num_inputs_;
  std::vector<Buffer> buffers_;
  void* context_ = nullptr;
  void* stream_ = nullptr;
  void* executable_ = nullptr;
  std::mutex mutex_;
};

}  // namespace
}  // namespace mxtrt

using namespace mxtrt;

// Opens the driver; gives the number of GPUs and, of one of them, its name, compute capability
// and memory.  Returns 1, or 0 after setting the error.
MXTRT_EXPORT int mxtrt_cuda_device(int ordinal, int* count, char* name, int name_size, int* major,
                                   int* minor, size_t* memory) {
  return guarded([&] {
    open_driver();
    check(g_cuda.device_count(count));
    if (ordinal >= *count) throw std::runtime_error("no such GPU");
    int device;
    check(g_cuda.device_get(&device, ordinal));
    check(g_cuda.device_name(name, name_size, device));
    check(g_cuda.device_attribute(major, kComputeMajor, device));
    check(g_cuda.device_attribute(minor, kComputeMinor, device));
    check(g_cuda.device_memory(memory, device));
  });
}

// Free and total bytes of the current GPU's memory.
MXTRT_EXPORT int mxtrt_cuda_memory(size_t* free, size_t* total) {
  return guarded([&] {
    open_driver();
    check(g_cuda.memory_info(free, total));
  });
}

// Called with a session's token when nothing uses it any more.
MXTRT_EXPORT void mxtrt_cuda_on_release(void (*released)(int64_t token)) { g_released = released; }

// A session with buffers of these sizes (inputs, then outputs) and no graph yet; gives their
// device addresses and the stream to record on.  Returns its handle, or 0.
MXTRT_EXPORT int64_t mxtrt_cuda_session(int ordinal, const size_t* sizes, int num_inputs,
                                        int num_outputs, int64_t token, uint64_t* addresses,
                                        uint64_t* stream) {
  int64_t handle = 0;
  guarded([&] {
    open_driver();
    int device;
    check(g_cuda.device_get(&device, ordinal));
    auto session = std::make_shared<CudaSession>(device, sizes, num_inputs, num_outputs, token);
    session->allocate();
    for (int i = 0; i < num_inputs + num_outputs; ++i) addresses[i] = session->device(i);
    *stream = reinterpret_cast<uint64_t>(session->stream());
    handle = add_session(std::move(session));
  });
  return handle;
}

// Begins (1) or ends (0) recording what is put on the session's stream as its graph.
MXTRT_EXPORT int mxtrt_cuda_record(int64_t handle, int begin) {
  return guarded([&] {
    auto session = std::dynamic_pointer_cast<CudaSession>(find_session(handle));
    if (!session) throw std::runtime_error("no such session");
    begin ? session->begin_recording() : session->end_recording();
  });
}

// Waits for the session's stream: errors of what was put there show here.
MXTRT_EXPORT int mxtrt_cuda_wait(int64_t handle) {
  return guarded([&] {
    auto session = std::dynamic_pointer_cast<CudaSession>(find_session(handle));
    if (!session) throw std::runtime_error("no such session");
    check(g_cuda.stream_wait(session->stream()));
  });
}
