#include "node.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <utility>

#include "process.h"
#include "tally.h"

namespace mxtrt {
namespace {

// Variants of a node that have spares, and bytes of spares in the process beyond those of the
// variants that nodes ran last.
constexpr size_t kMostSpared = 64;
constexpr int64_t kMostSpareBytes = int64_t{16} << 20;

}  // namespace

void Variant::run(Bindings* bindings, const std::vector<Tensor>& in, const std::vector<Tensor>& out,
                  Place* place) const {
  const auto begin = std::chrono::steady_clock::now();
  if (session->run(bindings, in, out, place)) note_time_since(begin);
  ++g_tally.runs;
}

void Variant::note_time_since(std::chrono::steady_clock::time_point begin) const {
  const auto now = (std::chrono::steady_clock::now() - begin) / std::chrono::nanoseconds(1);
  const int64_t before = nanoseconds.load(std::memory_order_relaxed);
  nanoseconds.store(usual_time(before, now), std::memory_order_relaxed);
}

void Node::check_counts(int64_t inputs, int64_t outputs) const {
  const auto mine_in = static_cast<int64_t>(input_types.size());
  const auto mine_out = static_cast<int64_t>(output_types.size());
  if (inputs == mine_in && outputs == mine_out) return;
  throw std::runtime_error("an engine node has " + std::to_string(inputs) + " inputs and " +
                           std::to_string(outputs) + " outputs in the symbol, its engine has " +
                           std::to_string(mine_in) + " and " + std::to_string(mine_out) +
                           "; partition the original symbol again");
}

std::shared_ptr<const Variant> Node::find(const std::vector<Shape>& inputs) const {
  Lock lock(mutex_);
  auto found = variants_.find(inputs);
  if (found == variants_.end()) return nullptr;
  found->second->last_use.store(++uses_, std::memory_order_relaxed);
  return found->second;
}

void Node::drop(const std::vector<Shape>& inputs) {
  std::shared_ptr<const Variant> dropped;  // destroyed without the lock
  {
    std::lock_guard<std::mutex> lock(mutex_);
    auto found = variants_.find(inputs);
    if (found == variants_.end()) return;
    dropped.swap(found->second);
    variants_.erase(found);
  }
  generation_.fetch_add(1, std::memory_order_release);
}

int64_t Node::last_run() const {
  std::lock_guard<std::mutex> lock(mutex_);
  int64_t use = -1;
  int64_t last = -1;
  for (const auto& [inputs, variant] : variants_) {
    if (variant->nanoseconds < 0 || variant->last_use < use) continue;
    use = variant->last_use;
    last = variant->nanoseconds;
  }
  return last;
}

int64_t Node::last_use(const std::vector<Shape>& inputs) const {
  std::lock_guard<std::mutex> lock(mutex_);
  auto found = variants_.find(inputs);
  return found == variants_.end() || users_.count(inputs) ? -1 : found->second->last_use.load();
}

void Node::enter(const std::vector<Shape>& inputs) {
  if (forked()) return;
  std::lock_guard<std::mutex> lock(mutex_);
  ++users_[inputs];
}

void Node::leave(const std::vector<Shape>& inputs) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (--users_[inputs] == 0) users_.erase(inputs);
}

int Node::users(const std::vector<Shape>& inputs) const {
  std::lock_guard<std::mutex> lock(mutex_);
  auto found = users_.find(inputs);
  return found == users_.end() ? 0 : found->second;
}

void Node::put(std::shared_ptr<const Variant> added) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    added->last_use = ++uses_;
    variants_[added->inputs].swap(added);
  }
  // What was replaced is destroyed without the lock.
  generation_.fetch_add(1, std::memory_order_release);
}

void Node::make_room(const std::shared_ptr<const Variant>& variant, size_t bytes) {
  // Freed without the lock.
  std::vector<std::pair<int64_t, std::shared_ptr<const Variant>>> alive, given_up;
  std::lock_guard<std::mutex> lock(spared_mutex_);
  for (const auto& spared : spared_) {
    auto other = spared.lock();
    if (!other || other == variant) continue;
    // Read once: other threads use variants while these are sorted.
    const int64_t last_use = other->last_use;
    alive.emplace_back(last_use, std::move(other));
  }
  std::sort(alive.begin(), alive.end(),
            [](const auto& one, const auto& other) { return one.first > other.first; });
  const int64_t most = kMostSpareBytes - static_cast<int64_t>(bytes);
  while (!alive.empty() && (alive.size() >= kMostSpared || Spares::held() > most)) {
    alive.back().second->spares.clear();
    given_up.push_back(std::move(alive.back()));
    alive.pop_back();
  }
  spared_.clear();
  for (const auto& kept : alive) spared_.push_back(kept.second);
  spared_.push_back(variant);
}

}  // namespace mxtrt
