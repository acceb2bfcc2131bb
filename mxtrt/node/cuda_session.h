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
// Python: runs of the session with this engine overlap; it may have another lane, in a while.
using MoreCallback = void (*)(int64_t token);
// Python: the session with this engine runs no more on a GPU that failed with these words.
using LostCallback = void (*)(int64_t token, const char* message);

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

// An engine's place on a lane: a context of it, and buffers for tensors that are in host memory.
// Used by one thread at a time.
class Seat {
 public:
  Seat(Lane& lane, int64_t token, size_t num_inputs, size_t num_outputs, size_t scratch,
       bool on_device);
  Seat(const Seat&) = delete;
  Seat& operator=(const Seat&) = delete;

  Lane& lane;
  const int64_t token;
  // Why runs go through Python; empty if they do not.
  std::string unrecordable;
  // Adds how many records there are, and bytes of pinned and device memory of the seat's own.
  void add_usage(int64_t* records, size_t* host, size_t* device) const;
  // Does a run whose tensors are on the GPU, as Session::run.
  bool run_on_device(const std::vector<Tensor>& inputs, const std::vector<Tensor>& outputs,
                     Place* place);

 protected:
  virtual ~Seat() = default;
  // Called first by destructors: `drop` gives up the records, when no run is under way.
  template <typename Drop>
  void end(Drop drop);
  // Puts something on the lane's stream, and waits for it.
  template <typename Body>
  void once(Body body);
  // Everything that `body` puts on the recording stream, as a record.
  template <typename Body>
  std::unique_ptr<Record> recorded(Addresses addresses, const Turn& turn, Body body);

  // Puts a run on a stream whose tensors are on the GPU.
  virtual void run_in_place(const std::vector<Tensor>& inputs, const std::vector<Tensor>& outputs,
                            void* stream) = 0;
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
  // Waits on the lane's stream for what was there at `mark`, which is called in the same turn.
  void mark(const Turn& turn);
  void wait();
  static Addresses addresses_of(const std::vector<Tensor>& inputs,
                                const std::vector<Tensor>& outputs);

  const size_t num_inputs_, scratch_;
  const bool on_device_;
  std::vector<Buffer> buffers_;

 private:
  void finish();

  void* event_ = nullptr;  // of the last run; made once the lane is shared
  bool marked_ = false;
};

// An engine on a GPU.
class CudaSession : public Session {
 public:
  std::unique_ptr<Bindings> bindings() override { return nullptr; }
  // Why runs go through Python; empty if they do not.
  virtual std::string unrecordable() = 0;
  // How many records there are, and bytes of pinned and device memory of the session's own.
  virtual void usage(int64_t* records, size_t* host, size_t* device) = 0;
};

// The thread that a run is for.
inline Caller caller_of(const Place& place) { return place.caller ? place.caller : this_caller(); }

// Tells Python that runs overlap, and that a GPU failed.
void ask_for_more(int64_t token);
void tell_of_loss(int64_t token, const std::string& message);

// A run on a lane's own stream: it leaves the lane at the end of a block, unless it was handed on.
class Ride {
 public:
  Ride(Lane& lane, Caller caller) : lane_(&lane) { lane.enter(caller); }
  Ride(const Ride&) = delete;
  Ride& operator=(const Ride&) = delete;
  ~Ride() {
    if (lane_) lane_->leave();
  }
  // Whoever notices that the outputs are there leaves the lane.
  void hand_on() { lane_ = nullptr; }

 private:
  Lane* lane_;
};

template <typename Drop>
void Seat::end(Drop drop) {
  const Restored restored;
  lane.settle();
  drop();
  finish();
}

template <typename Body>
void Seat::once(Body body) {
  Turn turn(lane, lane.stream());
  body(turn);
  check(g_cuda.stream_wait(turn.stream));
}

template <typename Body>
std::unique_ptr<Record> Seat::recorded(Addresses addresses, const Turn& turn, Body body) {
  constexpr int kCaptureRelaxed = 2;
  void* stream = lane.recording_stream();
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
