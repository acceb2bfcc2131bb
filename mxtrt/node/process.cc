#include "process.h"

#include <sys/types.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>

#include "export.h"

namespace mxtrt {
namespace {

std::atomic<bool> g_shutting_down{false};
std::atomic<pid_t> g_process{0};  // in which engines have threads, 0 before they have any

// Calls to Python that are under way; an exit waits for them so long at the most.
std::mutex g_mutex;
std::condition_variable g_ended;
int g_callouts = 0;
constexpr std::chrono::seconds kPatience{10};

}  // namespace

void threads_begin() {
  pid_t none = 0;
  g_process.compare_exchange_strong(none, getpid());
}

bool forked() {
  const pid_t process = g_process.load(std::memory_order_relaxed);
  return process && process != getpid();
}

bool shutting_down() { return g_shutting_down; }

MXTRT_EXPORT int mxtrt_forked() { return forked(); }

Callout::Callout() {
  const Lock lock(g_mutex);
  allowed_ = !g_shutting_down;
  if (allowed_) ++g_callouts;
}

Callout::~Callout() {
  if (!allowed_) return;
  const Lock lock(g_mutex);
  if (!--g_callouts) g_ended.notify_all();
}

// Called without the interpreter's lock, so that calls under way can end.
MXTRT_EXPORT void mxtrt_shutdown() {
  g_shutting_down = true;
  if (forked()) return;  // whoever held the mutex may be missing
  std::unique_lock<std::mutex> lock(g_mutex);
  g_ended.wait_for(lock, kPatience, [] { return !g_callouts; });
}

}  // namespace mxtrt
