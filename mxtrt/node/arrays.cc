// MXNet arrays from outside: whether they were written to, paging their bytes out, and running
// an engine on them without MXNet's engine threads.
#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "node.h"

namespace mxtrt {
namespace {

// MXNet's own C API, handed over by Python (the wheel's library is loaded privately).
using WaitToRead = int (*)(void* array);
using PushSync = int (*)(void (*function)(void*, void*), void* parameter, void (*deleter)(void*),
                         void* context, void** const_arrays, int num_const, void** mutable_arrays,
                         int num_mutable, void* property, int priority, const char* name);
using GetShape = int (*)(void* array, int* ndim, const int64_t** shape);
using GetType = int (*)(void* array, int* type);
using GetData = int (*)(void* array, void** data);
using Create = int (*)(const int64_t* shape, int ndim, int device_type, int device_id,
                       int delay_alloc, int type, void** array);
using Free = int (*)(void* array);

struct MXNet {
  WaitToRead wait_to_read;
  PushSync push_sync;
  GetShape get_shape;
  GetType get_type;
  GetData get_data;
  Create create;
  Free free;
} g_mxnet;

// The beginning of mxnet::NDArray, its chunk and mxnet::engine::Var in MXNet 1.9
// (include/mxnet/ndarray.h, storage.h, engine.h).  A var counts the writes to its array.
// Python checks at load that the count follows the writes.
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
};
struct Array {
  Chunk* chunk;
};

uint64_t version(void* array) { return static_cast<Array*>(array)->chunk->var->version; }

struct PageOut {
  char* data;
  size_t size;
  int file;
  off_t offset;
  std::string error;
};

// Runs inside MXNet's engine with exclusive access to the array.
void page_out(void*, void* parameter) {
  auto* task = static_cast<PageOut*>(parameter);
  // Pages that lie wholly inside the array; file and memory offsets agree modulo a page.
  for (size_t done = 0; done < task->size;) {
    ssize_t count = pwrite(task->file, task->data + done, task->size - done,
                           task->offset + static_cast<off_t>(done));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      task->error = std::strerror(count ? errno : ENOSPC);
      return;
    }
    done += static_cast<size_t>(count);
  }
  void* mapped = mmap(task->data, task->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED,
                      task->file, task->offset);
  if (mapped == MAP_FAILED) task->error = std::strerror(errno);
}

}  // namespace
}  // namespace mxtrt

using namespace mxtrt;

// Functions of MXNet's C API in the order of struct MXNet.
MXTRT_EXPORT void mxtrt_arrays_init(void* const* functions) {
  static_assert(sizeof(MXNet) == 7 * sizeof(void*), "only function pointers");
  std::memcpy(&g_mxnet, functions, sizeof(MXNet));
}

// Waits for pending writes, then reads how often each array was written to.
MXTRT_EXPORT int mxtrt_versions(void* const* arrays, int count, uint64_t* versions) {
  for (int i = 0; i < count; ++i) {
    if (g_mxnet.wait_to_read(arrays[i])) return 0;
    versions[i] = version(arrays[i]);
  }
  return 1;
}

// Whether any array was written to since its version was read: 1, 0, or -1 when waiting for
// a pending write failed (the error is MXNet's).
MXTRT_EXPORT int mxtrt_changed(void* const* arrays, int count, const uint64_t* versions) {
  for (int i = 0; i < count; ++i) {
    if (g_mxnet.wait_to_read(arrays[i])) return -1;
    if (version(arrays[i]) != versions[i]) return 1;
  }
  return 0;
}

// Writes the pages from `data` (page-aligned, `size` a multiple of the page size, inside the
// array's own memory) to `file` at `offset`, then backs them by the file: they keep address
// and contents, can be written to (privately), and need no memory until they are touched.
MXTRT_EXPORT int mxtrt_page_out(void* array, void* data, size_t size, int file, int64_t offset) {
  PageOut task{static_cast<char*>(data), size, file, static_cast<off_t>(offset), {}};
  Context cpu{1, 0};
  if (g_mxnet.push_sync(page_out, &task, nullptr, &cpu, nullptr, 0, &array, 1, nullptr, 0,
                  "mxtrt_page_out") ||
      g_mxnet.wait_to_read(array)) {
    set_error("MXNet's engine refused to page out an array");
    return 0;
  }
  if (!task.error.empty()) {
    set_error(task.error);
    return 0;
  }
  return 1;
}

// Runs a node on the calling thread: reads the inputs once they are written, allocates the
// outputs and computes them before it returns.  Worth it where the run is shorter than handing
// it to MXNet's engine thread and back.  Returns 1 when done, 0 after setting the error, and -1
// when the run has to go through MXNet: unknown shapes, no engine, or a last run at these shapes
// that took longer than `limit` nanoseconds.
MXTRT_EXPORT int mxtrt_run(int64_t key, void* const* inputs, int num_inputs, void** outputs,
                           int num_outputs, int64_t limit) {
  auto node = find_node(key);
  if (!node || node->input_types.size() != static_cast<size_t>(num_inputs) ||
      node->output_types.size() != static_cast<size_t>(num_outputs)) {
    return -1;
  }
  int allocated = 0;
  try {
    std::vector<Shape> shapes(num_inputs);
    for (int i = 0; i < num_inputs; ++i) {
      int type, ndim;
      const int64_t* shape;
      if (g_mxnet.get_type(inputs[i], &type) || g_mxnet.get_shape(inputs[i], &ndim, &shape) ||
          type != node->input_types[i] || ndim < 0) {
        return -1;
      }
      shapes[i].assign(shape, shape + ndim);
    }
    auto variant = node->find(shapes);
    if (!variant || !variant->session) return -1;
    const int64_t last = variant->nanoseconds.load(std::memory_order_relaxed);
    if (last < 0 || last > limit) return -1;
    std::vector<Tensor> in(num_inputs), out(num_outputs);
    for (int i = 0; i < num_inputs; ++i) {
      const auto& shape = variant->inputs[i];
      in[i] = {nullptr, shape.data(), static_cast<int>(shape.size()), node->input_types[i]};
      if (g_mxnet.wait_to_read(inputs[i]) || g_mxnet.get_data(inputs[i], &in[i].data)) return -1;
    }
    for (; allocated < num_outputs; ++allocated) {
      const auto& shape = variant->outputs[allocated];
      const int type = node->output_types[allocated], ndim = static_cast<int>(shape.size());
      if (g_mxnet.create(shape.data(), ndim, 1, 0, 0, type, &outputs[allocated])) {
        throw std::runtime_error("MXNet could not allocate an output");
      }
      out[allocated] = {nullptr, shape.data(), ndim, type};
      g_mxnet.get_data(outputs[allocated], &out[allocated].data);
    }
    auto bindings = variant->session->bindings();
    variant->run(bindings.get(), in, out);
    return 1;
  } catch (const std::exception& error) {
    while (allocated > 0) g_mxnet.free(outputs[--allocated]);
    set_error(error.what());
    return 0;
  }
}

// Gives memory that a build freed back to the system.
MXTRT_EXPORT void mxtrt_trim() { malloc_trim(0); }
