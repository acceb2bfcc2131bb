// Runs that are on a lane of a GPU and that MXNet waits for.
//
// MXNet is told that one is done by whoever notices first: a thread that waits for one of its
// outputs, or a thread of ours that looks every few microseconds.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <stdexcept>
#include <vector>

#include "arrays.h"
#include "device.h"

namespace mxtrt {

// mxnet::engine::CallbackOnComplete (include/mxnet/engine.h).
struct Completion {
  void (*function)(void* engine, void* parameter, const void* error);
  void* engine;
  void* parameter;

  // MXNet takes the error for a dmlc::Error, which is a std::runtime_error and nothing else.
  void operator()(const std::runtime_error* error = nullptr) const {
    function(engine, parameter, error);
  }
};

// The runs of one lane, oldest first: its stream does them in this order.
class Flights {
 public:
  // Those of a lane; never destroyed, because their thread never ends.
  static Flights& of(Lane& lane);

  // What was put on the lane's stream last is a run of this node with these outputs.  When it is
  // done `land` is called, if there is one, with CUDA's code; it may throw std::runtime_error.
  void add(int64_t node, std::vector<const Var*> outputs, const Completion& completion,
           std::function<void(int code)> land);

  // Returns when the run that writes this array is done, at once if there is none.
  static void finish(const Var* output);

 private:
  struct Flight {
    uint64_t number;
    int64_t node;
    void* event;
    std::vector<const Var*> outputs;
    Completion completion;
    std::function<void(int code)> land;

    void complete(int code);
  };

  explicit Flights(Lane& lane);
  bool finish_own(const Var* output);
  void complete(uint64_t number, int code);
  void look();

  Lane& lane_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Flight> flights_;
  std::vector<void*> events_;  // to be used again
  uint64_t last_ = 0;
};

}  // namespace mxtrt
