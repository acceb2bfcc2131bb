// An engine node: one MXNet operator that stands for a segment of the graph.
//
// Python creates it, describes it (number and types of inputs and outputs) and adds one *variant*
// per set of input shapes: the output shapes and the session that computes them.  MXNet then
// infers shapes, creates states and runs forwards without entering Python, except once for each
// new set of input shapes.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "session.h"
#include "spares.h"
#include "tensor.h"

namespace mxtrt {

// How long runs take, after one more: no longer than the shortest of late, as a thread of many may
// have to wait for a processor in the middle of a run.  One that takes longer counts for an eighth
// more, so that several in a row are believed.
//
// before: what was known, -1 for nothing.
// now: how long the run took.
inline int64_t usual_time(int64_t before, int64_t now) {
  return before < 0 ? now : std::min(now, before + before / 8 + 1);
}

// One set of input shapes of a node.
struct Variant {
  std::vector<Shape> inputs, outputs;
  std::shared_ptr<Session> session;              // null until the engine is built
  mutable std::atomic<int64_t> nanoseconds{-1};  // that whole runs take, -1 before the first
  mutable std::atomic<int64_t> last_use{0};      // by the node's count of them
  mutable Spares spares;

  // Runs the session and notes how long that takes.
  void run(Bindings* bindings, const std::vector<Tensor>& in, const std::vector<Tensor>& out,
           Place* place) const;
  // Notes how long a whole run took.
  void note_time_since(std::chrono::steady_clock::time_point begin) const;
};

// A node of a partitioned graph, found by the key in its `engine` attribute.
class Node {
 public:
  Node(std::vector<int> input_types, std::vector<int> output_types, int gpu)
      : input_types(std::move(input_types)), output_types(std::move(output_types)), gpu(gpu) {}

  // Throws std::runtime_error when MXNet sees another operator in a node than Python made.
  void check_counts(int64_t inputs, int64_t outputs) const;

  const std::vector<int> input_types, output_types;
  const int gpu;  // the GPU that its tensors are on, -1 for host memory
  int64_t key = 0;
  std::string name;                  // for people
  std::atomic<bool> retired{false};  // its engines failed and run no more

  // The variant for these input shapes, or null.
  std::shared_ptr<const Variant> find(const std::vector<Shape>& inputs) const;
  // Adds or replaces the variant for its input shapes.
  void put(std::shared_ptr<const Variant> added);
  // Forgets the variant for these input shapes, which operator states may run that have it.
  void drop(const std::vector<Shape>& inputs);
  // When the variant for these input shapes was used last, by a count of uses; -1 for one that
  // operator states were made for, or that does not exist.
  int64_t last_use(const std::vector<Shape>& inputs) const;
  // Nanoseconds that runs take of the variant that was used last; -1 where none has run.
  int64_t last_run() const;
  // Gives up spares of the variants that were used least lately, where those of this variant are
  // to take so many bytes more.
  void make_room(const std::shared_ptr<const Variant>& variant, size_t bytes);
  // Operator states that were made for these input shapes: their engine must not be given up.
  void enter(const std::vector<Shape>& inputs);
  void leave(const std::vector<Shape>& inputs);
  int users(const std::vector<Shape>& inputs) const;
  // Changes whenever a variant is added or replaced, so that states know to look again.
  uint64_t generation() const { return generation_.load(std::memory_order_acquire); }

 private:
  mutable std::mutex mutex_;
  mutable std::atomic<int64_t> uses_{0};  // counted without the mutex in a forked process
  std::map<std::vector<Shape>, std::shared_ptr<const Variant>> variants_;
  std::map<std::vector<Shape>, int> users_;
  std::mutex spared_mutex_;
  std::vector<std::weak_ptr<const Variant>> spared_;  // that have spares
  std::atomic<uint64_t> generation_{0};
};

}  // namespace mxtrt
