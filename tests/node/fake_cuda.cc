// A stand-in for NVIDIA's driver, libcuda.so.1, with two GPUs: device memory is host memory, and
// work is done when it is put on a stream (or, with kLate, when the stream is waited for), or
// recorded while the stream is capturing; with kSlow a launch takes so many microseconds.  As the
// driver does it refuses streams and events of a GPU that is not the thread's current one, and has
// freed device memory come back at its address; as it does not, it notices freed memory.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

using Pointer = unsigned long long;
using Graph = std::vector<std::function<int()>>;

constexpr int kGpus = 2, kInvalidHandle = 400;
constexpr size_t kBlock = 4096;  // of device memory

// A GPU's primary context, and the current one of a thread.
struct Context {};
static Context g_contexts[kGpus];
static thread_local Context* t_context;

struct Stream {
  const Context* context = t_context;
  Graph* capturing = nullptr;
  Graph late;
  long copies = 0;
};

struct Event {
  const Context* context = t_context;
  Stream* stream = nullptr;
};

struct Executable {
  const Context* context;
  Graph work;
};

static std::mutex g_mutex;
static std::map<Pointer, size_t> g_memory;
static std::vector<Pointer> g_free;       // blocks of device memory, the last freed one last
static std::set<const void*> g_released;  // host memory
static std::set<Pointer> g_managed;
static std::atomic<long> g_counts[15];
enum { kCaptures, kLaunches, kGraphs, kBytes, kPrefetches, kFailCapture, kQueries, kWaits };
enum { kLate = kWaits + 1, kFailCopy, kInError, kHold, kSlow, kFailGpu, kMostAtOnce };
static std::atomic<long> g_at_once;

EXPORT long fake_count(int which) { return g_counts[which]; }
EXPORT void fake_set(int which, long value) { g_counts[which] = value; }
EXPORT long fake_copies(void* stream) { return static_cast<Stream*>(stream)->copies; }

static int put(void* stream, std::function<int()> work) {
  auto* on = static_cast<Stream*>(stream);
  if (on->context != t_context) return kInvalidHandle;
  if (!on->capturing && !g_counts[kLate]) return work();
  (on->capturing ? *on->capturing : on->late).push_back(std::move(work));
  return 0;
}

static int copy(void* to, const void* from, size_t bytes, void* stream) {
  if (g_counts[kFailCopy]) return 700;
  ++static_cast<Stream*>(stream)->copies;
  return put(stream, [=] {
    {
      std::lock_guard<std::mutex> lock(g_mutex);
      if (g_released.count(to) || g_released.count(from)) return 700;
    }
    return std::memcpy(to, from, bytes), 0;
  });
}

static void* at(Pointer pointer) { return reinterpret_cast<void*>(pointer); }

// The engine: out = 2 * in, by way of scratch memory, which has to be alive when it runs.
EXPORT int fake_kernel(const float* in, float* out, int count, float* scratch, void* stream) {
  return put(stream, [=] {
    {
      std::lock_guard<std::mutex> lock(g_mutex);
      if (scratch && !g_memory.count(reinterpret_cast<Pointer>(scratch))) return 700;
    }
    for (int i = 0; i < count; ++i) {
      if (scratch) scratch[0] = 2 * in[i];
      out[i] = scratch ? scratch[0] : 2 * in[i];
    }
    return 0;
  });
}

EXPORT int cuInit(unsigned) { return 0; }
EXPORT int cuGetErrorString(int code, const char** text) {
  *text = code == 2     ? "out of memory"
          : code == 900 ? "capture is not possible"
          : code == 700 ? "an illegal memory access"
          : code == 400 ? "invalid resource handle"
                        : "failed";
  return 0;
}
EXPORT int cuDeviceGetCount(int* count) { return *count = kGpus, 0; }
EXPORT int cuDeviceGet(int* device, int ordinal) { return *device = ordinal, 0; }
EXPORT int cuDeviceGetName(char* name, int size, int) {
  std::strncpy(name, "Stand-in", static_cast<size_t>(size));
  return 0;
}
EXPORT int cuDeviceGetAttribute(int* value, int, int) { return *value = 9, 0; }
EXPORT int cuDeviceTotalMem_v2(size_t* bytes, int) { return *bytes = size_t{1} << 30, 0; }
EXPORT int cuDevicePrimaryCtxRetain(void** context, int device) {
  return *context = &g_contexts[device], 0;
}
EXPORT int cuCtxSetCurrent(void* context) {
  if (g_counts[kInError]) return 700;
  return t_context = static_cast<Context*>(context), 0;
}
EXPORT int cuCtxGetCurrent(void** context) { return *context = t_context, 0; }
EXPORT int cuDriverGetVersion(int* version) { return *version = 12040, 0; }
EXPORT int cuMemGetInfo_v2(size_t* free, size_t* total) {
  *total = size_t{1} << 30;
  *free = *total - static_cast<size_t>(g_counts[kBytes]);
  return 0;
}
EXPORT int cuPointerGetAttribute(void* value, int, Pointer pointer) {
  *static_cast<unsigned*>(value) = g_managed.count(pointer) > 0;
  return 0;
}

EXPORT int cuMemAlloc_v2(Pointer* pointer, size_t bytes) {
  if (bytes > (size_t{1} << 30)) return 2;
  std::lock_guard<std::mutex> lock(g_mutex);
  if (bytes <= kBlock && !g_free.empty()) {
    *pointer = g_free.back();
    g_free.pop_back();
  } else {
    *pointer = reinterpret_cast<Pointer>(::operator new(std::max(bytes, kBlock)));
  }
  g_memory[*pointer] = bytes;
  g_counts[kBytes] += static_cast<long>(bytes);
  return 0;
}
// MXNet frees this on a CPU context, so it comes from malloc.
EXPORT int cuMemAllocManaged(Pointer* pointer, size_t bytes, unsigned) {
  *pointer = reinterpret_cast<Pointer>(std::malloc(bytes));
  g_managed.insert(*pointer);
  return 0;
}
EXPORT int cuMemFree_v2(Pointer pointer) {
  std::lock_guard<std::mutex> lock(g_mutex);
  if (!g_memory.count(pointer)) return 1;
  g_counts[kBytes] -= static_cast<long>(g_memory[pointer]);
  if (g_memory[pointer] <= kBlock) {
    g_free.push_back(pointer);
  } else {
    ::operator delete(at(pointer));
  }
  g_memory.erase(pointer);
  return 0;
}
EXPORT int cuMemAllocHost_v2(void** pointer, size_t bytes) {
  return *pointer = ::operator new(bytes), 0;
}
EXPORT int cuMemFreeHost(void* pointer) {  // kept, so that whoever goes on using it is noticed
  std::lock_guard<std::mutex> lock(g_mutex);
  return g_released.insert(pointer), 0;
}
EXPORT int cuMemcpyHtoDAsync_v2(Pointer to, const void* from, size_t bytes, void* stream) {
  return copy(at(to), from, bytes, stream);
}
EXPORT int cuMemcpyDtoHAsync_v2(void* to, Pointer from, size_t bytes, void* stream) {
  return copy(to, at(from), bytes, stream);
}
EXPORT int cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, size_t bytes, void* stream) {
  return copy(at(to), at(from), bytes, stream);
}
EXPORT int cuMemPrefetchAsync(Pointer pointer, size_t, int, void*) {
  ++g_counts[kPrefetches];
  return g_managed.count(pointer) ? 0 : 1;
}
EXPORT int cuStreamCreate(void** stream, unsigned) { return *stream = new Stream, 0; }
EXPORT int cuStreamDestroy_v2(void* stream) { return delete static_cast<Stream*>(stream), 0; }
EXPORT int cuStreamSynchronize(void* stream) {
  for (auto& work : std::exchange(static_cast<Stream*>(stream)->late, {})) {
    if (int code = work()) return code;
  }
  return 0;
}
EXPORT int cuStreamWaitEvent(void*, void*, unsigned) { return 0; }
EXPORT int cuEventCreate(void** event, unsigned) { return *event = new Event, 0; }
// kHold: 1 for a first GPU that is not done, 2 for a second one.
EXPORT int cuEventQuery(void* event) {
  const long held = g_counts[kHold];
  const bool holds = held && static_cast<Event*>(event)->context == &g_contexts[held - 1];
  return ++g_counts[kQueries] % 3 || holds ? 600 : 0;
}
EXPORT int cuEventSynchronize(void* event) {
  ++g_counts[kWaits];
  Stream* stream = static_cast<Event*>(event)->stream;
  return stream ? cuStreamSynchronize(stream) : 0;
}
EXPORT int cuEventDestroy_v2(void* event) { return delete static_cast<Event*>(event), 0; }
EXPORT int cuEventRecord(void* event, void* stream) {
  auto* recorded = static_cast<Event*>(event);
  recorded->stream = static_cast<Stream*>(stream);
  return recorded->context == recorded->stream->context ? 0 : kInvalidHandle;
}
EXPORT int cuStreamBeginCapture_v2(void* stream, int) {
  if (g_counts[kFailCapture]) return 900;
  static_cast<Stream*>(stream)->capturing = new Graph;
  ++g_counts[kCaptures];
  return 0;
}
EXPORT int cuStreamEndCapture(void* stream, void** graph) {
  *graph = std::exchange(static_cast<Stream*>(stream)->capturing, nullptr);
  return 0;
}
EXPORT int cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long) {
  *executable = new Executable{t_context, *static_cast<Graph*>(graph)};
  ++g_counts[kGraphs];
  return 0;
}
EXPORT int cuGraphLaunch(void* executable, void* stream) {
  auto* graph = static_cast<Executable*>(executable);
  if (graph->context != static_cast<Stream*>(stream)->context) return kInvalidHandle;
  ++g_counts[kLaunches];
  // kFailGpu: 1 for a first GPU that fails, 2 for a second one.
  if (const long failed = g_counts[kFailGpu]; failed && graph->context == &g_contexts[failed - 1]) {
    return 700;
  }
  const long at_once = ++g_at_once;
  long most = g_counts[kMostAtOnce];
  while (most < at_once && !g_counts[kMostAtOnce].compare_exchange_weak(most, at_once)) {
  }
  std::this_thread::sleep_for(std::chrono::microseconds(g_counts[kSlow]));
  --g_at_once;
  for (auto& work : graph->work) {
    if (int code = put(stream, work)) return code;
  }
  return 0;
}
EXPORT int cuGraphDestroy(void* graph) { return delete static_cast<Graph*>(graph), 0; }
EXPORT int cuGraphExecDestroy(void* executable) {
  --g_counts[kGraphs];
  return delete static_cast<Executable*>(executable), 0;
}
