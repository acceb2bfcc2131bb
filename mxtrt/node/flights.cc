#include "flights.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <utility>

#include "callbacks.h"
#include "tally.h"

namespace mxtrt {
namespace {

constexpr int kNotReady = 600;     // CUDA_ERROR_NOT_READY
constexpr unsigned kNoTiming = 2;  // CU_EVENT_DISABLE_TIMING
constexpr std::chrono::microseconds kLookEvery{50};

// Runs that are under way on all GPUs.
std::atomic<size_t> g_under_way{0};

// Of all lanes, in the order in which they came; a process has a few.
struct All {
  std::mutex mutex;
  std::vector<std::pair<Lane*, Flights*>> of;

  static All& get() {
    static auto* all = new All;
    return *all;
  }
};

}  // namespace

Flights& Flights::of(Lane& lane) {
  auto& all = All::get();
  std::lock_guard<std::mutex> lock(all.mutex);
  for (const auto& [known, flights] : all.of) {
    if (known == &lane) return *flights;
  }
  all.of.emplace_back(&lane, new Flights(lane));
  return *all.of.back().second;
}

Flights::Flights(Lane& lane) : lane_(lane) { std::thread(&Flights::look, this).detach(); }

void Flights::add(int64_t node, std::vector<const Var*> outputs, const Completion& completion,
                  std::function<void(int code)> land) {
  std::unique_lock<std::mutex> lock(mutex_);
  void* event = nullptr;
  int code = lane_.device.try_current();
  if (!code && events_.empty()) code = g_cuda.event_create(&event, kNoTiming);
  if (!code && !event) {
    event = events_.back();
    events_.pop_back();
  }
  if (!code) code = g_cuda.event_record(event, lane_.stream());
  if (code) lane_.leave();
  check(code);
  flights_.push_back({++last_, node, event, std::move(outputs), completion, std::move(land)});
  g_under_way.fetch_add(1, std::memory_order_release);
  lock.unlock();
  wake_.notify_one();
}

void Flights::finish(const Var* output) {
  if (!g_under_way.load(std::memory_order_acquire)) return;
  auto& all = All::get();
  std::vector<std::pair<Lane*, Flights*>> known;
  {
    std::lock_guard<std::mutex> lock(all.mutex);
    known = all.of;
  }
  for (const auto& [lane, flights] : known) {
    if (flights->finish_own(output)) return;
  }
}

// Waits for the run that writes this array; false if it is none of this lane's.
bool Flights::finish_own(const Var* output) {
  std::unique_lock<std::mutex> lock(mutex_);
  auto found = std::find_if(flights_.begin(), flights_.end(), [&](const Flight& flight) {
    return std::count(flight.outputs.begin(), flight.outputs.end(), output) > 0;
  });
  if (found == flights_.end()) return false;
  const uint64_t number = found->number;
  void* event = found->event;
  lock.unlock();
  ++g_tally.waits;
  const Restored restored;
  int code = lane_.device.try_current();
  if (!code) code = g_cuda.event_wait(event);
  complete(number, code);
  return true;
}

// Tells MXNet that the runs up to this one are done.
void Flights::complete(uint64_t number, int code) {
  std::deque<Flight> done;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    while (!flights_.empty() && flights_.front().number <= number) {
      events_.push_back(flights_.front().event);
      done.push_back(std::move(flights_.front()));
      flights_.pop_front();
    }
  }
  g_under_way.fetch_sub(done.size(), std::memory_order_release);
  for (auto& flight : done) {
    lane_.leave();
    flight.complete(code);
  }
}

void Flights::Flight::complete(int code) {
  try {
    if (land) {
      land(code);
    } else if (code) {
      report_failure(node, words_of(code));
      check(code);
    }
  } catch (const std::exception& caught) {
    const std::runtime_error error(caught.what());
    completion(&error);
    return;
  }
  completion();
}

void Flights::look() {
  for (;;) {
    std::unique_lock<std::mutex> lock(mutex_);
    wake_.wait(lock, [&] { return !flights_.empty(); });
    const uint64_t number = flights_.front().number;
    void* event = flights_.front().event;
    lock.unlock();
    int code = lane_.device.try_current();
    if (!code) {
      while ((code = g_cuda.event_query(event)) == kNotReady) {
        std::this_thread::sleep_for(kLookEvery);
      }
    }
    complete(number, code);
  }
}

}  // namespace mxtrt
