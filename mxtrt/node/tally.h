// A count of what forwards do.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace mxtrt {

// What forwards did since the process began; `mxtrt_tally` gives it to Python.
struct Tally {
  std::atomic<int64_t> runs{0};         // runs of sessions
  std::atomic<int64_t> copies{0};       // tensors copied on their way in or out of an engine
  std::atomic<int64_t> copied{0};       // bytes of these
  std::atomic<int64_t> waits{0};        // waits for a stream, an event or an array
  std::atomic<int64_t> allocations{0};  // allocations of memory for tensors

  void copy(size_t bytes) {
    copies.fetch_add(1, std::memory_order_relaxed);
    copied.fetch_add(static_cast<int64_t>(bytes), std::memory_order_relaxed);
  }
};
extern Tally g_tally;

}  // namespace mxtrt
