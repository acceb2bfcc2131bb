#include "spares.h"

#include <algorithm>
#include <atomic>
#include <exception>

#include "arrays.h"
#include "export.h"
#include "process.h"

namespace mxtrt {
namespace {

constexpr size_t kMostSpares = 3;  // sets of output arrays of one variant
std::atomic<int64_t> g_spare_bytes{0};

}  // namespace

int64_t Spares::held() { return g_spare_bytes; }

Spares::~Spares() { clear(); }

void Spares::clear() {
  if (shutting_down() || forked()) return;
  std::vector<std::vector<void*>> sets;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    sets.swap(sets_);
    g_spare_bytes -= static_cast<int64_t>(bytes_);
    bytes_ = 0;
  }
  for (const auto& arrays : sets) {
    for (void* array : arrays) free_array(array);
  }
}

bool Spares::take(std::vector<void*>* arrays) {
  std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& set : sets_) {
    const bool unused =
        std::all_of(set.begin(), set.end(), [](void* array) { return owners(array) == 1; });
    if (unused) {
      for (void* array : set) arrays->push_back(another_handle(array));
      return true;
    }
  }
  return false;
}

void Spares::offer(const std::vector<void*>& arrays, size_t bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (sets_.size() >= kMostSpares) return;
  std::vector<void*> set;
  set.reserve(arrays.size());
  try {
    for (void* array : arrays) set.push_back(another_handle(array));
    sets_.push_back(set);
  } catch (const std::exception&) {  // the run needs none
    for (void* array : set) free_array(array);
    return;
  }
  bytes_ += bytes;
  g_spare_bytes += static_cast<int64_t>(bytes);
}

// Bytes of the output arrays that the process keeps for later runs, in use or not.
MXTRT_EXPORT int64_t mxtrt_spare_bytes() { return Spares::held(); }

}  // namespace mxtrt
