// What has engines, and what runs it without Python.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "embedded.h"

namespace mxtrt {

// Things by handle.
template <typename Value>
class Registry {
 public:
  void put(Handle handle, Value value) {
    const std::unique_lock<std::shared_mutex> lock(mutex_);
    values_[handle] = std::move(value);
  }

  // The thing, or one that is empty.
  Value find(Handle handle) const {
    const std::shared_lock<std::shared_mutex> lock(mutex_);
    const auto found = values_.find(handle);
    return found == values_.end() ? Value{} : found->second;
  }

  // The same, which is none of them any more.
  Value take(Handle handle) {
    const std::unique_lock<std::shared_mutex> lock(mutex_);
    const auto found = values_.find(handle);
    if (found == values_.end()) return {};
    Value value = std::move(found->second);
    values_.erase(found);
    return value;
  }

  bool has(const Value& value) const {
    const std::shared_lock<std::shared_mutex> lock(mutex_);
    return std::any_of(values_.begin(), values_.end(),
                       [&](const auto& one) { return one.second == value; });
  }

 private:
  mutable std::shared_mutex mutex_;
  std::unordered_map<Handle, Value> values_;
};

// What executors and CachedOps have in common of what Python arms, as arms.py has it.  Python keeps
// what is named here until the handle is dropped or armed anew.
struct Arms {
  void* const* watches;
  const void* call;    // a graph of one node, where it is one
  Handle partitioned;  // MXNet's executor or CachedOp with the engine nodes
  const int64_t* nodes;
  int num_watches, num_nodes;
};

// Whether nothing has happened since Python armed it that Python has to look at.
class Armed {
 public:
  Armed() = default;
  explicit Armed(const Arms& arms)
      : call(arms.call),
        partitioned(arms.partitioned),
        watches_(arms.watches, arms.watches + arms.num_watches),
        nodes_(arms.nodes, arms.nodes + arms.num_nodes) {}

  // Whether a weight was written to.
  bool changed() const {
    return std::any_of(watches_.begin(), watches_.end(),
                       [](void* watch) { return node().changed(watch) != 0; });
  }

  // Whether an engine failed.
  bool retired() const {
    return node().any_retired(nodes_.data(), static_cast<int>(nodes_.size()));
  }

  const void* call = nullptr;
  Handle partitioned = nullptr;

 private:
  std::vector<void*> watches_;
  std::vector<int64_t> nodes_;
};

// When Python is asked again.  A question takes as long as many small forwards: where it leads to
// nothing, as weights are written to before each of them, MXNet answers most of them.
class Patience {
 public:
  using Clock = std::chrono::steady_clock;

  // Whether to ask now.
  bool allows() {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto now = Clock::now();
    const auto pauses = pause_.count() > 0 ? (now - since_) / pause_ : Clock::rep{kMost};
    if (pauses > 0) {
      left_ = static_cast<int>(std::min<Clock::rep>(kMost, left_ + pauses));
      since_ = now;
    }
    return left_ > 0;
  }

  // Python was asked in vain; it took so long.
  void spent(Clock::duration taken) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (left_) --left_;
    pause_ = kPause * std::min<Clock::duration>(taken, kLongest);
    since_ = Clock::now();
  }

 private:
  static constexpr int kMost = 4;    // questions one after another
  static constexpr int kPause = 50;  // times what the last one took, until there is one more
  static constexpr std::chrono::milliseconds kLongest{4};  // longer ones built something

  std::mutex mutex_;
  int left_ = kMost;
  Clock::duration pause_{0};
  Clock::time_point since_{};
};

// An executor or CachedOp with engines.
template <typename Run>
class Bound {
 public:
  void arm(Run run) {
    const std::unique_lock<std::shared_mutex> lock(mutex_);
    run_ = std::move(run);
    armed_ = true;
    ++times_armed_;
  }

  void disarm() {
    const std::unique_lock<std::shared_mutex> lock(mutex_);
    armed_ = false;
  }

  // Runs what Python armed; false where it did not, or that does not do it.
  template <typename Body>
  bool run(const Body& body) {
    const std::shared_lock<std::shared_mutex> lock(mutex_);
    return armed_ && !is_forked_child() && body(run_);
  }

  // Asks Python to do it, and to arm it; 0 for "MXNet's own", at once where it was asked in vain.
  template <typename Question>
  int ask(const Question& question, Handed* handed = nullptr) {
    if (!patience_.allows()) return 0;
    disarm();
    const auto begin = Patience::Clock::now();
    const int times_armed = times_armed_;
    const int answer = mxtrt::ask(question, handed);
    if (times_armed_ == times_armed) patience_.spent(Patience::Clock::now() - begin);
    return answer;
  }

 private:
  std::shared_mutex mutex_;  // shared by runs
  bool armed_ = false;
  std::atomic<int> times_armed_{0};
  Run run_;
  Patience patience_;
};

template <typename Run>
using Bounds = Registry<std::shared_ptr<Bound<Run>>>;

// Asks Python for engines for what MXNet has bound.
template <typename Run, typename Question>
std::shared_ptr<Bound<Run>> adopt(Bounds<Run>* bounds, Handle handle, const Question& bind) {
  auto bound = std::make_shared<Bound<Run>>();
  bounds->put(handle, bound);  // Python may arm it at once
  if (ask(bind) == 1) return bound;
  bounds->take(handle);
  return nullptr;
}

// Leaves it to MXNet from here on.
template <typename Run>
void forget(Bounds<Run>* bounds, Handle handle) {
  const auto bound = bounds->take(handle);
  if (!bound) return;
  bound->disarm();
  ask([&] { return python().drop(handle), 0; });
}

}  // namespace mxtrt
