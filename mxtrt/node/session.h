// What an engine is to a node.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "tensor.h"

namespace mxtrt {

class Device;
class Lane;

// Memory descriptors of the last forward, kept so that the same addresses need no new ones.
class Bindings {
 public:
  virtual ~Bindings() = default;
};

// Where and when a run on a GPU may be done.
struct Place {
  void* stream = nullptr;        // MXNet's, on which the outputs may come later
  bool later = false;            // without one: whether they may come later on a lane
  const void* caller = nullptr;  // the thread that asked for the run, see this_caller
  // Set by a run that comes later on a lane.  Who notices that the lane has done it, with a code of
  // CUDA's, calls the lane's `leave`, and `land` if there is one.
  Lane* lane = nullptr;
  // Brings outputs in host memory; throws std::runtime_error where they do not come.
  std::function<void(int code)> land;
};

// An engine that is ready to run.  `run` may be called from several threads at once, each
// with bindings of its own.
class Session {
 public:
  virtual ~Session() = default;
  virtual std::unique_ptr<Bindings> bindings() = 0;
  // Computes the outputs into memory that MXNet allocated; throws std::runtime_error.  Returns
  // whether they are there: with a place for it the work may only be put on a stream, and the
  // tensors are needed until it is done.
  virtual bool run(Bindings* bindings, const std::vector<Tensor>& inputs,
                   const std::vector<Tensor>& outputs, Place* place) = 0;
  // The GPU that the arrays of a run are on; null for a session that is done when `run` returns.
  virtual Device* device() { return nullptr; }
  // Whether runs whose arrays are in host memory had better come later too.
  virtual bool may_come_later() const { return false; }
};

}  // namespace mxtrt
