#include "process.h"

#include <sys/types.h>
#include <unistd.h>

#include <atomic>

#include "export.h"

namespace mxtrt {
namespace {

std::atomic<bool> g_shutting_down{false};
std::atomic<pid_t> g_process{0};  // in which engines have threads, 0 before they have any

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

MXTRT_EXPORT void mxtrt_shutdown() { g_shutting_down = true; }

}  // namespace mxtrt
