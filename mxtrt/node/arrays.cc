// MXNet arrays from outside: whether they were written to, and moving their bytes out of memory.
#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <stdexcept>

#include "arrays.h"
#include "device.h"
#include "errors.h"
#include "export.h"
#include "process.h"
#include "tensor.h"

namespace mxtrt {

MXNet g_mxnet;

namespace {

// Arrays and how often each was written to.
struct Watch {
  std::vector<void*> arrays;
  std::vector<uint64_t> versions;
  mutable std::mutex mutex;  // a bind in one thread remembers what a forward in another asks

  Watch() = default;
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;
  ~Watch() {
    for (void* array : arrays) free_array(array);
  }

  bool remember() {
    std::vector<uint64_t> now;
    for (void* array : arrays) {
      if (!is_readable(array)) return false;
      now.push_back(version(array));
    }
    std::lock_guard<std::mutex> lock(mutex);
    versions.swap(now);
    return true;
  }

  // Takes the next write to an array for none.
  void expect(void* array) {
    std::lock_guard<std::mutex> lock(mutex);
    for (size_t i = 0; i < arrays.size(); ++i) {
      versions[i] += chunk(arrays[i]).var == chunk(array).var;
    }
  }
};

struct PageOut {
  char* data = nullptr;
  size_t size = 0;
  int file = -1;
  off_t offset = 0;
  int error = 0;  // of the system; ENOMEM when it has no room for another mapping
};

// Reads or writes a part of a file; returns the system's error, 0 if there is none.
template <typename Call>
int whole(Call call, char* data, size_t size, int file, off_t offset) {
  for (size_t done = 0; done < size;) {
    const ssize_t count = call(file, data + done, size - done, offset + static_cast<off_t>(done));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return count ? errno : ENOSPC;
    done += static_cast<size_t>(count);
  }
  return 0;
}

bool is_mapped(char* data, size_t size) {
  std::vector<unsigned char> resident(size / static_cast<size_t>(getpagesize()));
  return !mincore(data, size, resident.data());
}

// Runs inside MXNet's engine with exclusive access to the array.
void page_out(void*, void* parameter) {
  auto* task = static_cast<PageOut*>(parameter);
  // Pages that lie wholly inside the array; file and memory offsets agree modulo a page.
  task->error = whole(pwrite, task->data, task->size, task->file, task->offset);
  if (task->error) return;
  // Mapped at another place first: what can fail fails before the array's own pages go.
  constexpr int kAccess = PROT_READ | PROT_WRITE;
  void* mapped = mmap(nullptr, task->size, kAccess, MAP_PRIVATE, task->file, task->offset);
  if (mapped == MAP_FAILED) {
    task->error = errno;
    return;
  }
  if (mremap(mapped, task->size, task->size, MREMAP_MAYMOVE | MREMAP_FIXED, task->data) !=
      MAP_FAILED) {
    return;
  }
  task->error = errno;
  static_cast<void>(munmap(mapped, task->size));  // what it fails to unmap stays mapped
  if (is_mapped(task->data, task->size)) return;
  // The pages went, and nothing came in their place.
  void* restored = mmap(task->data, task->size, kAccess,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  if (restored != task->data || whole(pread, task->data, task->size, task->file, task->offset)) {
    // MXNet tells whoever reads the array.
    throw std::runtime_error("the contents of an array were lost while it was paged out");
  }
}

constexpr int kIsManaged = 8;                 // CU_POINTER_ATTRIBUTE_IS_MANAGED
constexpr int kConcurrentManagedAccess = 89;  // CU_DEVICE_ATTRIBUTE_...
constexpr unsigned kAttachGlobal = 1;         // CU_MEM_ATTACH_GLOBAL
constexpr int kHost = -1;                     // CU_DEVICE_CPU

bool is_managed(const void* data) {
  unsigned managed = 0;
  check(g_cuda.pointer_attribute(&managed, kIsManaged, reinterpret_cast<DevicePointer>(data)));
  return managed;
}

struct Evict {
  void* array;
  void*
      carrier;  // an array without memory, which gives MXNet the old memory that CUDA does not take
  Device* device;
  DevicePointer managed;
  std::string error;
};

// Runs inside MXNet's engine with exclusive access to the array.
void evict(void*, void* parameter) {
  auto* task = static_cast<Evict*>(parameter);
  try {
    auto& storage = chunk(task->array).storage;
    auto old = reinterpret_cast<DevicePointer>(storage.data);
    void* stream = task->device->stream();
    task->device->make_current();
    // By way of host memory: what a GPU touches of managed memory keeps a place there.
    std::vector<char> part(std::min<size_t>(storage.size, size_t{4} << 20));
    for (size_t done = 0; done < storage.size; done += part.size()) {
      const size_t bytes = std::min(part.size(), storage.size - done);
      check(g_cuda.copy_out(part.data(), old + done, bytes, stream));
      check(g_cuda.stream_wait(stream));
      std::memcpy(reinterpret_cast<char*>(task->managed) + done, part.data(), bytes);
    }
    const auto kept = storage;
    storage.data = reinterpret_cast<void*>(task->managed);
    task->managed = 0;  // MXNet's now
    if (!g_cuda.free(old)) return;
    auto& carrier = chunk(task->carrier);
    carrier.storage = kept;
    carrier.delay_alloc = false;
  } catch (const std::exception& error) {
    task->error = error.what();
  }
}

// Runs inside MXNet's engine, which takes what it throws for the array's failure.
void fail(void*, void* parameter) {
  throw std::runtime_error(*static_cast<std::string*>(parameter));
}

}  // namespace

bool is_readable(void* array) {
  if (!g_mxnet.wait_to_read(array)) return true;
  auto* message = new std::string(g_mxnet.get_last_error());
  Context cpu{kCpu, 0};
  // NaiveEngine runs the operation inside the push, which fails with the message.  Where another
  // engine refuses it the last error of MXNet's is the refusal: callers raise that one.
  static_cast<void>(g_mxnet.push_sync(
      fail, message, [](void* given) { delete static_cast<std::string*>(given); }, &cpu, nullptr, 0,
      &array, 1, nullptr, 0, "mxtrt_fail"));
  return false;
}

// Functions of MXNet's C API in the order of struct MXNet.
MXTRT_EXPORT void mxtrt_arrays_init(void* const* functions) {
  static_assert(sizeof(MXNet) == 18 * sizeof(void*), "only function pointers");
  std::memcpy(&g_mxnet, static_cast<const void*>(functions), sizeof(MXNet));
}

// Watches arrays for writes, from now on; null when a pending write failed (the error is MXNet's).
// The watch has handles of its own: it works whatever becomes of the caller's.
MXTRT_EXPORT Watch* mxtrt_watch(void* const* arrays, int count) {
  Watch* made = nullptr;
  guarded([&] {
    auto watch = std::make_unique<Watch>();
    watch->arrays.reserve(count);
    for (int i = 0; i < count; ++i) watch->arrays.push_back(another_handle(arrays[i]));
    if (watch->remember()) made = watch.release();
  });
  return made;
}

// Whether any array was written to by writes that are done by now: waits for nothing.
MXTRT_EXPORT int mxtrt_watch_written(const Watch* watch) {
  std::lock_guard<std::mutex> lock(watch->mutex);
  for (size_t i = 0; i < watch->arrays.size(); ++i) {
    if (version(watch->arrays[i]) != watch->versions[i]) return 1;
  }
  return 0;
}

// Whether any array was written to since: 1, 0, or -1 when a pending write failed.
MXTRT_EXPORT int mxtrt_watch_changed(const Watch* watch) {
  // Without the lock: a write may wait for a thread of MXNet's that asks mxtrt_watch_written.
  for (void* array : watch->arrays) {
    if (!is_readable(array)) return -1;
  }
  return mxtrt_watch_written(watch);
}

// Watches from now on.
MXTRT_EXPORT int mxtrt_watch_remember(Watch* watch) { return watch->remember(); }

// How often each array was written to, in order, when the pending writes were done; 0 when one of
// them failed.
MXTRT_EXPORT int mxtrt_watch_counts(const Watch* watch, uint64_t* counts) {
  for (size_t i = 0; i < watch->arrays.size(); ++i) {
    if (!is_readable(watch->arrays[i])) return 0;
    counts[i] = version(watch->arrays[i]);
  }
  return 1;
}

// Watches from the moment that had these counts.
MXTRT_EXPORT void mxtrt_watch_since(Watch* watch, const uint64_t* counts) {
  std::lock_guard<std::mutex> lock(watch->mutex);
  std::copy_n(counts, watch->versions.size(), watch->versions.begin());
}

MXTRT_EXPORT void mxtrt_watch_free(Watch* watch) {
  if (!shutting_down() && !forked()) delete watch;
}

// Writes the pages from `data` (page-aligned, `size` a multiple of the page size, inside the
// array's own memory) to `file` at `offset`, then backs them by the file: they keep address
// and contents, can be written to (privately), and need no memory until they are touched.
// `watch` may be null.  Returns 0, the system's error, or -1 when MXNet's engine refused.
MXTRT_EXPORT int mxtrt_page_out(void* array, void* data, size_t size, int file, int64_t offset,
                                Watch* watch) {
  PageOut task{static_cast<char*>(data), size, file, static_cast<off_t>(offset)};
  Context cpu{kCpu, 0};
  const bool refused = g_mxnet.push_sync(page_out, &task, nullptr, &cpu, nullptr, 0, &array, 1,
                                         nullptr, 0, "mxtrt_page_out");
  if (!refused && watch) watch->expect(array);
  return !is_readable(array) || refused ? -1 : task.error;
}

// Puts a write that changes nothing behind all that was put before it at these arrays.
MXTRT_EXPORT void mxtrt_count_write(void* const* arrays, int count) {
  std::vector<void*> once;  // MXNet takes no array twice
  for (int i = 0; i < count; ++i) {
    const auto is_known = [&](void* one) { return chunk(one).var == chunk(arrays[i]).var; };
    if (std::none_of(once.begin(), once.end(), is_known)) once.push_back(arrays[i]);
  }
  Context cpu{kCpu, 0};
  const auto nothing = [](void*, void*) {};
  static_cast<void>(g_mxnet.push_sync(nothing, nullptr, nullptr, &cpu, nullptr, 0, once.data(),
                                      static_cast<int>(once.size()), nullptr, 0,
                                      "mxtrt_count_write"));
}

// Whether arrays are dense, of these types and in one context.
MXTRT_EXPORT int mxtrt_are_alike(void* const* arrays, const int* types, int count, int device_type,
                                 int device_id) {
  for (int i = 0; i < count; ++i) {
    if (!is_alike(arrays[i], types[i], {device_type, device_id})) return 0;
  }
  return 1;
}

// Whether two handles are of the same memory in the same shape.  The handle of an array that was
// freed may be another array's now.
MXTRT_EXPORT int mxtrt_is_same(void* one, void* other) {
  const auto& array = *static_cast<const Array*>(one);
  const auto& another = *static_cast<const Array*>(other);
  if (array.chunk != another.chunk || array.offset != another.offset) return 0;
  std::vector<int64_t> shape, another_shape;
  return get_shape(one, &shape) && get_shape(other, &another_shape) && shape == another_shape;
}

// Waits until an array can be read: 0 when a pending write to it failed, which whoever reads it
// next is told.
MXTRT_EXPORT int mxtrt_is_readable(void* array) { return is_readable(array); }

// What mxnet::NDArray's chunk says of its memory: 1 not from MXNet's storage, 2 not allocated yet.
MXTRT_EXPORT int mxtrt_memory_flags(void* array) {
  return chunk(array).static_data | chunk(array).delay_alloc << 1;
}

// Whether mxtrt_evict has moved an array: 1, 0, or -1 after setting the error.
MXTRT_EXPORT int mxtrt_is_evicted(void* array) {
  int evicted = -1;
  guarded([&] {
    open_driver();
    evicted = is_managed(chunk(array).storage.data);
  });
  return evicted;
}

// How many arrays share this one's memory.
MXTRT_EXPORT int mxtrt_owners(void* array) { return owners(array); }

// Moves an array on a GPU to managed memory that lives on the host until somebody touches it on
// the GPU.  The old memory goes back to CUDA: MXNet's pool would keep it, and emptying that
// (MXStorageEmptyCache) takes no lock against the threads that allocate from it.  MXNet frees
// managed memory like any other (cudaFree takes both), and its pool may make another array of it.
// Returns the array's bytes, 0 when they are not MXNet's own, or -1 after setting the error.
// `watch` may be null.
MXTRT_EXPORT int64_t mxtrt_evict(void* array, int ordinal, Watch* watch) {
  int64_t moved = -1;
  guarded([&] {
    if (!is_readable(array)) throw std::runtime_error("the array is not readable");
    const size_t size = chunk(array).storage.size;
    if (mxtrt_memory_flags(array) || !chunk(array).storage.data || !size) {
      moved = 0;
      return;
    }
    auto& device = Device::get(ordinal);
    const Restored restored;
    device.make_current();
    if (is_managed(chunk(array).storage.data)) {
      // It is where it can move by itself; this is no write, other plans may watch the array.
      auto data = reinterpret_cast<DevicePointer>(chunk(array).storage.data);
      check(g_cuda.prefetch(data, size, kHost, device.stream()));
      check(g_cuda.stream_wait(device.stream()));
      moved = static_cast<int64_t>(size);
      return;
    }
    int concurrent = 0;
    check(g_cuda.device_attribute(&concurrent, kConcurrentManagedAccess, device.handle()));
    if (!concurrent) throw std::runtime_error("this GPU does not share managed memory");
    // MXNet's pools round sizes up, to a power of two at most, and hand the whole block out
    // again; pages that nobody touches take no memory.
    size_t rounded = size_t{2} << 20;
    while (rounded < size) rounded *= 2;
    Evict task{array, nullptr, &device, 0, {}};
    check(g_cuda.allocate_managed(&task.managed, rounded, kAttachGlobal));
    const Context& context = chunk(array).storage.context;
    const auto shape = static_cast<int64_t>(size);
    const int type = static_cast<int>(MXType::kUint8);
    bool pushed =
        !g_mxnet.create(&shape, 1, context.device_type, context.device_id, 1, type, &task.carrier);
    if (pushed) {
      Context cpu{kCpu, 0};
      pushed = !g_mxnet.push_sync(evict, &task, nullptr, &cpu, nullptr, 0, &array, 1, nullptr, 0,
                                  "mxtrt_evict");
      if (pushed && watch) watch->expect(array);
      pushed = is_readable(array) && pushed;
      free_array(task.carrier);
    }
    if (task.managed) forgive(g_cuda.free(task.managed));
    if (!pushed) throw std::runtime_error("MXNet's engine refused to move an array");
    if (!task.error.empty()) throw std::runtime_error(task.error);
    moved = static_cast<int64_t>(size);
  });
  return moved;
}

// Gives memory that a build freed back to the system.
MXTRT_EXPORT void mxtrt_trim() { malloc_trim(0); }

}  // namespace mxtrt
