// What an engine is to a node.
#pragma once

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

// Where a run may go whose arrays are on a GPU.
struct Place {
  void* stream = nullptr;        // MXNet's, on which the outputs may come later
  bool later = false;            // without one: whether they may come later on a stream of ours
  const void* caller = nullptr;  // the thread that asked for the run, see this_caller
  Lane* lane = nullptr;          // set by the run, before anything else, if its stream is used
};

// An engine that is ready to run.  `run` may be called from several threads at once, each
// with bindings of its own.
class Session {
 public:
  virtual ~Session() = default;
  virtual std::unique_ptr<Bindings> bindings() = 0;
  // Computes the outputs into memory that MXNet allocated; throws std::runtime_error.  Returns
  // whether they are there: with a place for it the work may only be put on a stream.  Where that
  // is a lane's, whoever knows that they are there calls its `leave`.
  virtual bool run(Bindings* bindings, const std::vector<Tensor>& inputs,
                   const std::vector<Tensor>& outputs, Place* place) = 0;
  // The GPU that the arrays of a run are on; null for a session that is done when `run` returns.
  virtual Device* device() { return nullptr; }
};

}  // namespace mxtrt
