// NVIDIA's driver API (cuda.h), looked up by name in libcuda.so.1: it comes with the driver and
// fits every CUDA version.
#pragma once

#include <cstddef>
#include <string>

namespace mxtrt {

using DevicePointer = unsigned long long;

struct Driver {
  int (*get_error)(int code, const char** text);
  int (*device_count)(int* count);
  int (*device_get)(int* device, int ordinal);
  int (*device_name)(char* name, int size, int device);
  int (*device_attribute)(int* value, int attribute, int device);
  int (*device_memory)(size_t* bytes, int device);
  int (*retain_context)(void** context, int device);
  int (*set_context)(void* context);
  int (*get_context)(void** context);
  int (*memory_info)(size_t* free, size_t* total);
  int (*pointer_attribute)(void* value, int attribute, DevicePointer pointer);
  int (*allocate)(DevicePointer* pointer, size_t bytes);
  int (*allocate_managed)(DevicePointer* pointer, size_t bytes, unsigned flags);
  int (*free)(DevicePointer pointer);
  int (*allocate_host)(void** pointer, size_t bytes);
  int (*free_host)(void* pointer);
  int (*copy_in)(DevicePointer to, const void* from, size_t bytes, void* stream);
  int (*copy_out)(void* to, DevicePointer from, size_t bytes, void* stream);
  int (*copy_across)(DevicePointer to, DevicePointer from, size_t bytes, void* stream);
  int (*prefetch)(DevicePointer pointer, size_t bytes, int device, void* stream);
  int (*stream_create)(void** stream, unsigned flags);
  int (*stream_wait)(void* stream);
  int (*stream_wait_event)(void* stream, void* event, unsigned flags);
  int (*event_create)(void** event, unsigned flags);
  int (*event_destroy)(void* event);
  int (*event_record)(void* event, void* stream);
  int (*event_query)(void* event);
  int (*event_wait)(void* event);
  int (*begin_capture)(void* stream, int mode);
  int (*end_capture)(void* stream, void** graph);
  int (*instantiate)(void** executable, void* graph, unsigned long long flags);
  int (*launch)(void* executable, void* stream);
  int (*destroy_graph)(void* graph);
  int (*destroy_executable)(void* executable);
};

// Valid after open_driver.
extern Driver g_cuda;

// Loads the driver and initializes it, once; throws std::runtime_error.
void open_driver();

// What the driver says of a code that is not CUDA_SUCCESS.
std::string words_of(int code);

// Throws std::runtime_error with the driver's words when a code is not CUDA_SUCCESS.
void check(int code);

// For the code of a call that gives something back, where nothing can be done about its failure:
// that is of a GPU in error, whose memory is lost anyway, and the next checked call tells of it.
inline void forgive(int /*code*/) noexcept {}

}  // namespace mxtrt
