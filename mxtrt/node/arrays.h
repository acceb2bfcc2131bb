// MXNet from outside: its C API, and the beginning of its arrays.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

namespace mxtrt {

// MXNet's own C API, handed over by Python (the wheel's library is loaded privately).
using WaitToRead = int (*)(void* array);
using PushSync = int (*)(void (*function)(void*, void*), void* parameter, void (*deleter)(void*),
                         void* context, void** const_arrays, int num_const, void** mutable_arrays,
                         int num_mutable, void* property, int priority, const char* name);
using GetShape = int (*)(void* array, int* ndim, const int64_t** shape);
using GetType = int (*)(void* array, int* type);
using GetStorageType = int (*)(void* array, int* type);
using GetLastError = const char* (*)();
using GetData = int (*)(void* array, void** data);
using Create = int (*)(const int64_t* shape, int ndim, int device_type, int device_id,
                       int delay_alloc, int type, void** array);
using Free = int (*)(void* array);
using ShallowCopy = int (*)(void* array, void** copy);

// The parameter is MXNet's from the call on, which deletes it whatever becomes of the operation.
using PushAsync = int (*)(void (*function)(void* context, void* completion, void* parameter),
                          void* parameter, void (*deleter)(void*), void* context, void* const_vars,
                          int num_const, void* mutable_vars, int num_mutable, void* property,
                          int priority, const char* name, bool wait);

using FindOperator = int (*)(const char* name, void** operation);
using Invoke = int (*)(void* operation, int num_inputs, void** inputs, int* num_outputs,
                       void*** outputs, int num_params, const char** keys, const char** values);
using SetRecording = int (*)(int recording, int* before);
using SetBulkSize = int (*)(int size, int* before);
using Seed = int (*)(int seed);
using SeedContext = int (*)(int seed, int device_type, int device_id);

struct MXNet {
  WaitToRead wait_to_read;
  PushSync push_sync;
  GetShape get_shape;
  GetType get_type;
  GetData get_data;
  Create create;
  Free free;
  ShallowCopy shallow_copy;
  PushAsync push_async;
  GetStorageType get_storage_type;
  GetLastError get_last_error;
  FindOperator find_operator;
  Invoke invoke;
  SetRecording set_recording;
  SetBulkSize set_bulk_size;
  Seed seed;
  SeedContext seed_context;
  WaitToRead wait_to_write;
};
extern MXNet g_mxnet;

// The beginning of mxnet::NDArray, its chunk and mxnet::engine::Var in MXNet 1.9
// (include/mxnet/ndarray.h, storage.h, engine.h).  A var counts the writes to its array.
// Python checks at load that the count follows the writes and the flags the allocation.
struct Var {
  void* vtable;
  uint64_t version;
};
struct Context {
  int device_type, device_id;
};
struct StorageHandle {
  void* data;
  size_t size;
  Context context;
  int shared_pid, shared_id;
};
struct Chunk {
  StorageHandle storage;
  StorageHandle *aux_begin, *aux_end, *aux_capacity;
  void *mkldnn, *mkldnn_count;
  Var* var;
  bool static_data, delay_alloc;  // not from MXNet's storage; not allocated yet
};
// std::shared_ptr<Chunk> of libstdc++.
struct Owners {
  void* vtable;
  int count;
};
struct Array {
  Chunk* chunk;
  Owners* owners;
  struct {
    int ndim, num_heap_allocated;
    int64_t on_stack[4];
    int64_t* on_heap;
  } shape;
  size_t offset;  // of its first byte in the chunk
};

constexpr int kCpu = 1, kGpu = 2;  // device types of mx.cpu() and mx.gpu()
constexpr int kDense = 0;          // mxnet::kDefaultStorage

inline Chunk& chunk(void* array) { return *static_cast<Array*>(array)->chunk; }
// Threads of MXNet's change these two meanwhile.
inline uint64_t version(void* array) {
  return __atomic_load_n(&chunk(array).var->version, __ATOMIC_ACQUIRE);
}
inline int owners(void* array) {
  return __atomic_load_n(&static_cast<Array*>(array)->owners->count, __ATOMIC_ACQUIRE);
}

// The sizes of an array; false where they are not known.
inline bool get_shape(void* array, std::vector<int64_t>* shape) {
  int ndim = 0;
  const int64_t* sizes = nullptr;
  if (g_mxnet.get_shape(array, &ndim, &sizes) || ndim < 0) return false;
  shape->assign(sizes, sizes + ndim);
  return true;
}

// Whether an array is dense, of this type and in this context.
inline bool is_alike(void* array, int type, const Context& context) {
  int actual = 0, storage = 0;
  if (g_mxnet.get_type(array, &actual) || actual != type ||  // no memory: -1
      g_mxnet.get_storage_type(array, &storage) || storage != kDense) {
    return false;
  }
  const Context& where = chunk(array).storage.context;
  return where.device_type == context.device_type && where.device_id == context.device_id;
}

// Waits until an array can be read; false when a pending write to it failed.  MXNet tells of a
// failure once: it is told again to whoever reads the array next.
bool is_readable(void* array);

// Another handle of an array, which shares its memory.
inline void* another_handle(void* array) {
  void* copy = nullptr;
  if (g_mxnet.shallow_copy(array, &copy)) throw std::runtime_error("MXNet made no array");
  return copy;
}

// Gives a handle back.  MXNet has no other way to free one that it refuses.
inline void free_array(void* array) noexcept { static_cast<void>(g_mxnet.free(array)); }

// The address of an array's first byte.
inline void* data_of(void* array) {
  void* data = nullptr;
  if (g_mxnet.get_data(array, &data)) throw std::runtime_error("MXNet gave no address of an array");
  return data;
}

}  // namespace mxtrt
