// One operation at a time is put in line by MXNet's engine.
//
// An operation waits for its turn at every array that it reads or writes.  MXNet's threaded engines
// put it in line at one array after the other, without a lock over all (ThreadedEngine::Push in
// MXNet's src/engine/threaded_engine.cc): of two operations that two threads push at once each may
// be first at an array of both, and the process stands still.  It takes two arrays that both
// operations use and one of them writes, such as the statistics of a BatchNorm in a block that
// threads share.  Any two engine nodes have them: MXNet gives every operator of an extension a
// scratch space and the process's one generator of random numbers, as arrays that it writes.
//
// So the object of MXNet's usual engine gets a table of virtual functions in which the two
// functions take a lock around that.  The lock is not held while an operation runs or waits.
#include <dlfcn.h>
#include <link.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <new>
#include <vector>

#include "arrays.h"
#include "export.h"

namespace mxtrt {
namespace {

constexpr const char* kEngine = "_ZN5mxnet6Engine3GetEv";
constexpr const char* kPush = "_ZN5mxnet6engine14ThreadedEngine4PushEPNS0_3OprENS_7ContextEib";
// MXNet's usual engine: its table, and what puts an operation that has had its turn everywhere into
// a queue, or runs it.
constexpr const char* kTable = "_ZTVN5mxnet6engine23ThreadedEnginePerDeviceE";
constexpr const char* kExecute =
    "_ZN5mxnet6engine23ThreadedEnginePerDevice13PushToExecuteEPNS0_8OprBlockEb";
// What a table has in front of its functions: an offset and the type.
constexpr size_t kHead = 2;

using Push = void (*)(void* engine, void* operation, Context context, int priority, bool profiling);
using Execute = void (*)(void* engine, void* block, bool by_pusher);

// Atomic for sanitizers: they do not see that MXNet's threads come here by the table that is stored
// last.
std::atomic<Push> g_push{nullptr};
std::atomic<Execute> g_execute{nullptr};
std::mutex g_line;
thread_local bool t_in_line = false;  // this thread holds the mutex

void enter_line() {
  g_line.lock();
  t_in_line = true;
}

void leave_line() {
  if (!t_in_line) return;
  t_in_line = false;
  g_line.unlock();
}

// In front of an operation MXNet pushes, from here, the bulk that the thread has collected.
void push(void* engine, void* operation, Context context, int priority, bool profiling) {
  struct Turn {
    const bool of_bulk = t_in_line;
    Turn() {
      if (!of_bulk) enter_line();
    }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;
    ~Turn() {
      if (!of_bulk) leave_line();
      if (of_bulk && !t_in_line) enter_line();
    }
  } const turn;
  g_push.load(std::memory_order_relaxed)(engine, operation, context, priority, profiling);
}

// MXNet may run the operation here, and that may push others.
void execute(void* engine, void* block, bool by_pusher) {
  leave_line();
  g_execute.load(std::memory_order_relaxed)(engine, block, by_pusher);
}

// A copy of the table of a class with these two functions in it; empty where it lacks them.
std::vector<void*> changed_table(void* const* table, size_t entries) {
  std::vector<void*> copy(table, table + entries);
  const auto replace = [&](void* old, void* other) {
    const auto place = std::find(copy.begin(), copy.end(), old);
    if (place == copy.end()) return false;
    *place = other;
    return true;
  };
  const bool both =
      replace(reinterpret_cast<void*>(g_push.load()), reinterpret_cast<void*>(push)) &&
      replace(reinterpret_cast<void*>(g_execute.load()), reinterpret_cast<void*>(execute));
  return both ? copy : std::vector<void*>();
}

bool order_pushes() {
  Dl_info info;
  if (!dladdr(reinterpret_cast<void*>(g_mxnet.push_sync), &info)) return false;
  void* mxnet = dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD);
  if (!mxnet) return false;
  const auto get = reinterpret_cast<void* (*)()>(dlsym(mxnet, kEngine));
  g_push = reinterpret_cast<Push>(dlsym(mxnet, kPush));
  if (!get || !g_push) return false;
  g_execute = reinterpret_cast<Execute>(dlsym(mxnet, kExecute));
  auto* const table = static_cast<void**>(dlsym(mxnet, kTable));
  auto* const engine = static_cast<void***>(get());
  if (!table || !g_execute || *engine != table + kHead) return false;
  void* symbol = nullptr;
  if (!dladdr1(static_cast<void*>(table), &info, &symbol, RTLD_DL_SYMENT)) return false;
  const size_t entries = static_cast<const ElfW(Sym)*>(symbol)->st_size / sizeof(void*);
  // MXNet's engine has it to the end of the process.
  auto* const changed = new std::vector<void*>(changed_table(table, entries));
  if (changed->empty()) return false;
  // A child that is forked while another thread puts something in line has that thread no more.
  if (pthread_atfork(nullptr, nullptr, [] {
        t_in_line = false;
        new (&g_line) std::mutex;
      })) {
    return false;
  }
  __atomic_store_n(engine, changed->data() + kHead, __ATOMIC_RELEASE);
  return true;
}

}  // namespace

// Has threads that push operations at once not stop MXNet's engine.  Whether it is so: not where
// MXNET_ENGINE_TYPE names another engine than the usual one, or this MXNet is not known.
MXTRT_EXPORT int mxtrt_order_pushes() {
  static const bool done = order_pushes();
  return done;
}

}  // namespace mxtrt
