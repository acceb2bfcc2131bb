// What Python asks of a GPU, and of sessions there.
#include <stdexcept>

#include "cuda_session.h"
#include "errors.h"
#include "export.h"
#include "process.h"
#include "registry.h"
#include "tally.h"

namespace mxtrt {
namespace {

constexpr int kComputeMajor = 75, kComputeMinor = 76;

std::shared_ptr<CudaSession> cuda_session(int64_t handle) {
  auto session = std::dynamic_pointer_cast<CudaSession>(find_session(handle));
  if (!session) throw std::runtime_error("no such session");
  return session;
}

}  // namespace

// Opens a GPU; gives its name, compute capability and memory.
MXTRT_EXPORT int mxtrt_cuda_device(int ordinal, char* name, int name_size, int* major, int* minor,
                                   size_t* memory) {
  return guarded([&] {
    const int device = Device::get(ordinal).handle();
    check(g_cuda.device_name(name, name_size, device));
    check(g_cuda.device_attribute(major, kComputeMajor, device));
    check(g_cuda.device_attribute(minor, kComputeMinor, device));
    check(g_cuda.device_memory(memory, device));
  });
}

// How many GPUs there are.
MXTRT_EXPORT int mxtrt_cuda_count(int* count) {
  return guarded([=] {
    open_driver();
    check(g_cuda.device_count(count));
  });
}

// What is current on this thread, for mxtrt_cuda_restore; 0 where nothing is.
MXTRT_EXPORT uint64_t mxtrt_cuda_current() {
  void* context = nullptr;
  guarded([&] {
    open_driver();
    check(g_cuda.get_context(&context));
  });
  return reinterpret_cast<uint64_t>(context);
}

MXTRT_EXPORT void mxtrt_cuda_restore(uint64_t context) {
  if (g_cuda.set_context) forgive(g_cuda.set_context(reinterpret_cast<void*>(context)));
}

// Makes a GPU the current one of this thread, for TensorRT's own calls.
MXTRT_EXPORT int mxtrt_cuda_make_current(int ordinal) {
  return guarded([&] { Device::get(ordinal).make_current(); });
}

// The stream of a GPU's engines; 0 after setting the error.
MXTRT_EXPORT uint64_t mxtrt_cuda_stream(int ordinal) {
  void* stream = nullptr;
  guarded([&] { stream = Device::get(ordinal).stream(); });
  return reinterpret_cast<uint64_t>(stream);
}

// Bytes of a GPU's memory that are free, all of them, and the scratch memory of its engines.
MXTRT_EXPORT int mxtrt_cuda_memory(int ordinal, size_t* free, size_t* total, size_t* scratch) {
  return guarded([&] {
    auto& device = Device::get(ordinal);
    const Restored restored;
    device.make_current();
    check(g_cuda.memory_info(free, total));
    *scratch = device.scratch_bytes();
  });
}

// Memory for an engine, on the GPU that is current; 0 when there is none left.
MXTRT_EXPORT uint64_t mxtrt_cuda_allocate(size_t bytes) {
  DevicePointer pointer = 0;
  ++g_tally.allocations;
  return g_cuda.allocate(&pointer, bytes) ? 0 : pointer;
}

MXTRT_EXPORT void mxtrt_cuda_free(uint64_t pointer) {
  if (!shutting_down() && !forked()) forgive(g_cuda.free(pointer));
}

// Puts a copy behind what is on a stream (null: that of the engines), and waits for it.
template <typename Copy>
static int copy_now(int ordinal, void* stream, Copy copy) {
  return guarded([&] {
    auto& device = Device::get(ordinal);
    const Restored restored;
    device.make_current();
    if (!stream) stream = device.stream();
    check(copy(stream));
    check(g_cuda.stream_wait(stream));
  });
}

// Copies GPU memory to host memory; see copy_now.
MXTRT_EXPORT int mxtrt_cuda_copy_out(int ordinal, void* to, uint64_t from, size_t bytes,
                                     void* stream) {
  return copy_now(ordinal, stream, [=](void* on) { return g_cuda.copy_out(to, from, bytes, on); });
}

// The same from host memory to GPU memory.
MXTRT_EXPORT int mxtrt_cuda_copy_in(int ordinal, uint64_t to, const void* from, size_t bytes,
                                    void* stream) {
  return copy_now(ordinal, stream, [=](void* on) { return g_cuda.copy_in(to, from, bytes, on); });
}

// Why runs of a session go through Python: empty, as they should not.
MXTRT_EXPORT const char* mxtrt_cuda_unrecordable(int64_t handle) {
  static thread_local std::string text;
  text.clear();
  guarded([&] { text = cuda_session(handle)->unrecordable(); });
  return text.c_str();
}

// The CUDA graphs of a session, and bytes of pinned and GPU memory of its own.
MXTRT_EXPORT int mxtrt_cuda_usage(int64_t handle, int64_t* records, size_t* host, size_t* device) {
  return guarded([&] { cuda_session(handle)->usage(records, host, device); });
}

}  // namespace mxtrt
