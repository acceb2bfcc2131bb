// What sessions on an NVIDIA GPU have in common.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "device.h"
#include "session.h"

namespace mxtrt {

using Addresses = std::vector<DevicePointer>;

// Python: puts a run of an engine on a stream, with its tensors and its scratch memory at these
// addresses.  Sizes and numbers of axes of its inputs are given to an engine for many shapes, else
// null.  Returns the number of the context that runs, from 1 on, or 0 after mxtrt_set_error.
using EnqueueCallback = int (*)(int64_t token, const DevicePointer* addresses, int count,
                                const int64_t* dims, const int* ndims, int num_inputs,
                                DevicePointer scratch, void* stream);
// Python: nothing uses the engine with this token any more.
using ReleaseCallback = void (*)(int64_t token);

// One input or output: memory of the session's own, its size in bytes, and that of the tensor.
struct Buffer {
  void* host = nullptr;
  DevicePointer device = 0;
  size_t capacity = 0, bytes = 0;
};

// A CUDA graph of one run.
class Record {
 public:
  Record(Addresses addresses, uint64_t generation, void* graph);
  Record(const Record&) = delete;
  Record& operator=(const Record&) = delete;
  ~Record() { forgive(g_cuda.destroy_executable(executable_)); }
  void launch(void* stream) const { check(g_cuda.launch(executable_, stream)); }

  const Addresses addresses;
  const uint64_t generation;  // of the scratch memory

 private:
  void* executable_ = nullptr;
};

// An engine on a GPU, with buffers for tensors that are in host memory.
class CudaSession : public Session {
 public:
  CudaSession(Device& device, int64_t token, size_t num_inputs, size_t num_outputs, size_t scratch,
              bool on_device);
  CudaSession(const CudaSession&) = delete;
  CudaSession& operator=(const CudaSession&) = delete;

  // Why runs go through Python; empty if they do not.
  std::string unrecordable();
  Device* device() override { return on_device_ ? &device_ : nullptr; }
  std::unique_ptr<Bindings> bindings() override { return nullptr; }
  // How many records there are, and bytes of pinned and device memory of the session's own.
  void usage(int64_t* records, size_t* host, size_t* device);

 protected:
  // Called first by destructors: `drop` gives up the records, when no run is under way.
  template <typename Drop>
  void end(Drop drop);
  // Puts something on the stream of the GPU's engines, and waits for it.
  template <typename Body>
  void once(Body body);
  // Everything that `body` puts on the recording stream, as a record.
  template <typename Body>
  std::unique_ptr<Record> recorded(Addresses addresses, const Turn& turn, Body body);

  virtual int64_t count_records() const = 0;
  // Buffers that hold the tensors; they grow, and never shrink.
  void allocate_buffers();
  bool buffers_fit() const;  // and are there
  void free_buffers();
  Addresses own_addresses() const;
  // The number of the context that runs, see EnqueueCallback; shapes are null or the inputs'.
  int enqueue(const Addresses& addresses, const std::vector<Shape>* shapes, const Turn& turn,
              void* stream);
  void copy_inputs_in(void* stream);
  void copy_outputs_out(void* stream);
  // Between the tensors of a forward in host memory and the pinned memory.
  void take_inputs(const std::vector<Tensor>& inputs);
  void hand_outputs(const std::vector<Tensor>& outputs);
  static Addresses addresses_of(const std::vector<Tensor>& inputs,
                                const std::vector<Tensor>& outputs);

  Device& device_;
  const int64_t token_;
  const size_t num_inputs_, scratch_;
  const bool on_device_;
  std::vector<Buffer> buffers_;
  std::string unrecordable_;
  std::mutex mutex_;

 private:
  void finish();
};

template <typename Drop>
void CudaSession::end(Drop drop) {
  const Restored restored;
  device_.settle();
  drop();
  finish();
}

template <typename Body>
void CudaSession::once(Body body) {
  Turn turn(device_, device_.stream());
  body(turn);
  check(g_cuda.stream_wait(turn.stream));
}

template <typename Body>
std::unique_ptr<Record> CudaSession::recorded(Addresses addresses, const Turn& turn, Body body) {
  constexpr int kCaptureRelaxed = 2;
  void* stream = device_.recording_stream();
  void* graph = nullptr;
  check(g_cuda.begin_capture(stream, kCaptureRelaxed));
  try {
    body(stream);
  } catch (...) {
    forgive(g_cuda.end_capture(stream, &graph));  // what failed in the capture is thrown
    if (graph) forgive(g_cuda.destroy_graph(graph));
    throw;
  }
  check(g_cuda.end_capture(stream, &graph));
  return std::make_unique<Record>(std::move(addresses), turn.generation, graph);
}

}  // namespace mxtrt
