// A GPU, and what all engines on it share.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <set>

#include "driver.h"

namespace mxtrt {

// Gives the thread back the GPU that was its current one, at the end of a block: it may be a
// user's, who goes on with another library.  Valid after open_driver.
class Restored {
 public:
  Restored() { forgive(g_cuda.get_context(&before_)); }
  Restored(const Restored&) = delete;
  Restored& operator=(const Restored&) = delete;
  ~Restored() { forgive(g_cuda.set_context(before_)); }

 private:
  void* before_ = nullptr;
};

// One GPU: its primary context, two streams, and the scratch memory of its engines.
//
// Engines keep their activations in one scratch memory per GPU, as large as the neediest of them
// asks for.  So they run one after another, on whatever streams: whoever runs takes a Turn.
class Device {
 public:
  // The GPU with this ordinal, opened at the first call; throws std::runtime_error.
  static Device& get(int ordinal);

  void make_current() const { check(try_current()); }
  int try_current() const { return g_cuda.set_context(context_); }
  int handle() const { return handle_; }
  // For runs that no MXNet stream is given to, and for recording CUDA graphs.
  void* stream() const { return stream_; }
  void* recording_stream() const { return recording_stream_; }

  // Makes the scratch memory at least this large as long as it is not given back.
  void reserve(size_t bytes);
  void give_back(size_t bytes) noexcept;  // of a GPU in error too
  size_t scratch_bytes();

  // Waits for the engine that ran last, if the GPU still answers.
  void settle() noexcept;

 private:
  friend class Turn;
  explicit Device(int ordinal);
  void wait_for_last();

  int handle_ = 0;
  void* context_ = nullptr;
  void* stream_ = nullptr;
  void* recording_stream_ = nullptr;
  void* event_ = nullptr;

  std::mutex mutex_;
  void* last_stream_ = nullptr;
  DevicePointer scratch_ = 0;
  size_t size_ = 0;
  uint64_t generation_ = 0;
  std::multiset<size_t> reserved_;
};

// Exclusive use of a GPU's scratch memory for what is put on a stream meanwhile; it runs after
// everything of earlier turns.
class Turn {
  const std::lock_guard<std::mutex> lock_;  // before what it protects

 public:
  Turn(Device& device, void* on_stream);

  void* const stream;
  const DevicePointer scratch;
  const size_t scratch_bytes;
  const uint64_t generation;  // changes with the address of the scratch memory
};

}  // namespace mxtrt
