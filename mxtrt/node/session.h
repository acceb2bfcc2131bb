// What an engine is to a node.
#pragma once

#include <memory>
#include <vector>

#include "tensor.h"

namespace mxtrt {

class Device;

// Memory descriptors of the last forward, kept so that the same addresses need no new ones.
class Bindings {
 public:
  virtual ~Bindings() = default;
};

// An engine that is ready to run.  `run` may be called from several threads at once, each
// with bindings of its own.
class Session {
 public:
  virtual ~Session() = default;
  virtual std::unique_ptr<Bindings> bindings() = 0;
  // Computes the outputs into memory that MXNet allocated; throws std::runtime_error.  With
  // MXNet's CUDA stream it may only put the work there; returns whether the outputs are there.
  virtual bool run(Bindings* bindings, const std::vector<Tensor>& inputs,
                   const std::vector<Tensor>& outputs, void* stream) = 0;
  // The GPU on whose stream a run is put when its arrays are there; null for a session that is
  // done when `run` returns.
  virtual Device* device() { return nullptr; }
};

}  // namespace mxtrt
