#include "driver.h"

#include <dlfcn.h>

#include <mutex>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "process.h"

namespace mxtrt {

Driver g_cuda;

std::string words_of(int code) {
  const char* text = nullptr;
  if (g_cuda.get_error(code, &text) || !text) return "CUDA: error " + std::to_string(code);
  return std::string("CUDA: ") + text;
}

void check(int code) {
  if (code) throw std::runtime_error(words_of(code));
}

void open_driver() {
  if (forked()) throw std::runtime_error("CUDA does not work in a forked process");
  threads_begin();
  static std::mutex mutex;
  static bool open = false;
  std::lock_guard<std::mutex> lock(mutex);
  if (open) return;
  void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library) throw std::runtime_error("no NVIDIA driver (libcuda.so.1) on this machine");
  auto find = [&](auto* function, const char* name) {
    *function = reinterpret_cast<std::remove_pointer_t<decltype(function)>>(dlsym(library, name));
    if (!*function) throw std::runtime_error(std::string("the NVIDIA driver has no ") + name);
  };
  int (*init)(unsigned flags) = nullptr;
  find(&init, "cuInit");
  find(&g_cuda.get_error, "cuGetErrorString");
  find(&g_cuda.device_count, "cuDeviceGetCount");
  find(&g_cuda.device_get, "cuDeviceGet");
  find(&g_cuda.device_name, "cuDeviceGetName");
  find(&g_cuda.device_attribute, "cuDeviceGetAttribute");
  find(&g_cuda.device_memory, "cuDeviceTotalMem_v2");
  find(&g_cuda.retain_context, "cuDevicePrimaryCtxRetain");
  find(&g_cuda.set_context, "cuCtxSetCurrent");
  find(&g_cuda.get_context, "cuCtxGetCurrent");
  find(&g_cuda.memory_info, "cuMemGetInfo_v2");
  find(&g_cuda.pointer_attribute, "cuPointerGetAttribute");
  find(&g_cuda.allocate, "cuMemAlloc_v2");
  find(&g_cuda.allocate_managed, "cuMemAllocManaged");
  find(&g_cuda.free, "cuMemFree_v2");
  find(&g_cuda.allocate_host, "cuMemAllocHost_v2");
  find(&g_cuda.free_host, "cuMemFreeHost");
  find(&g_cuda.copy_in, "cuMemcpyHtoDAsync_v2");
  find(&g_cuda.copy_out, "cuMemcpyDtoHAsync_v2");
  find(&g_cuda.copy_across, "cuMemcpyDtoDAsync_v2");
  find(&g_cuda.prefetch, "cuMemPrefetchAsync");
  find(&g_cuda.stream_create, "cuStreamCreate");
  find(&g_cuda.stream_wait, "cuStreamSynchronize");
  find(&g_cuda.stream_wait_event, "cuStreamWaitEvent");
  find(&g_cuda.event_create, "cuEventCreate");
  find(&g_cuda.event_destroy, "cuEventDestroy_v2");
  find(&g_cuda.event_record, "cuEventRecord");
  find(&g_cuda.event_query, "cuEventQuery");
  find(&g_cuda.event_wait, "cuEventSynchronize");
  find(&g_cuda.begin_capture, "cuStreamBeginCapture_v2");
  find(&g_cuda.end_capture, "cuStreamEndCapture");
  find(&g_cuda.instantiate, "cuGraphInstantiateWithFlags");
  find(&g_cuda.launch, "cuGraphLaunch");
  find(&g_cuda.destroy_graph, "cuGraphDestroy");
  find(&g_cuda.destroy_executable, "cuGraphExecDestroy");
  if (int code = init(0)) check(code);
  open = true;
}

}  // namespace mxtrt
