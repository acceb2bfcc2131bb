// A GPU, and the lanes on which engines run there.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

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

// Tells threads from each other.
using Caller = const void*;
Caller this_caller();

class Lane;

// One GPU: its primary context, and its lanes.
class Device {
 public:
  // The GPU with this ordinal, opened at the first call; throws std::runtime_error.
  static Device& get(int ordinal);

  void make_current() const { check(try_current()); }
  int try_current() const { return g_cuda.set_context(context_); }
  int handle() const { return handle_; }
  // The lane of engines that run one after another; it is always there.
  Lane& first() const { return *first_; }
  // Its stream, on which everything else is done too.
  void* stream() const;
  // The lane that the fewest sessions run on, other than these: a new one as long as there are
  // fewer than `most`.  Null if there is none.
  Lane* another(const std::set<const Lane*>& than, size_t most);
  size_t scratch_bytes();  // of all lanes

 private:
  explicit Device(int ordinal);

  int handle_ = 0;
  void* context_ = nullptr;
  Lane* first_ = nullptr;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Lane>> lanes_;
};

// A stream of a GPU, and scratch memory for the engines that run on it.
//
// They keep their activations in the scratch memory, as large as the neediest of them asks for.
// So they run one after another, on whatever streams: whoever runs takes a Turn.  Engines on
// different lanes run at once.
class Lane {
 public:
  explicit Lane(Device& device);

  Device& device;
  void* stream() const { return stream_; }
  void* recording_stream() const { return recording_stream_; }  // for recording CUDA graphs

  // A run begins, and ends: when its outputs are there.
  void enter(Caller caller);
  void leave() { --riders_; }
  int riders() const { return riders_; }
  // Whether a run of another thread is under way.
  bool is_taken(Caller caller) const { return riders_ > 0 && last_caller_ != caller; }
  // Whether runs ever overlapped: what waits for one has to tell it from the next.
  bool is_shared() const { return shared_; }

  std::atomic<int> sessions{0};  // that run on it

  // Makes the scratch memory at least this large as long as it is not given back.
  void reserve(size_t bytes);
  void give_back(size_t bytes) noexcept;  // of a GPU in error too
  size_t scratch_bytes();

  // Waits for the engine that ran last, if the GPU still answers.
  void settle() noexcept;

 private:
  friend class Turn;
  void wait_for_last();

  void* stream_ = nullptr;
  void* recording_stream_ = nullptr;
  void* event_ = nullptr;
  std::atomic<int> riders_{0};
  std::atomic<bool> shared_{false};
  std::atomic<Caller> last_caller_{nullptr};

  std::mutex mutex_;
  void* last_stream_ = nullptr;
  DevicePointer scratch_ = 0;
  size_t size_ = 0;
  uint64_t generation_ = 0;
  std::multiset<size_t> reserved_;
};

// Exclusive use of a lane's scratch memory for what is put on a stream meanwhile; it runs after
// everything of earlier turns.
//
// Python may be asked meanwhile, and its garbage collector may let go of any session there, which
// takes its lane's mutex: what `after_turns` is given is done once this thread has no turn.
class Turn {
  struct Held {
    Held();
    Held(const Held&) = delete;
    Held& operator=(const Held&) = delete;
    ~Held();
  };
  const Held held_;                         // after it has given back the lane
  const std::lock_guard<std::mutex> lock_;  // before what it protects

 public:
  Turn(Lane& lane, void* on_stream);

  void* const stream;
  const DevicePointer scratch;
  const size_t scratch_bytes;
  const uint64_t generation;  // changes with the address of the scratch memory
};

// Does something at once, or at the end of this thread's turns.
void after_turns(std::function<void()> body);

// A session on a GPU, which ends after the turns of the thread that drops it.
template <typename Session, typename... Given>
std::shared_ptr<Session> make_session(Given&&... given) {
  return {new Session(std::forward<Given>(given)...),
          [](Session* session) { after_turns([session] { delete session; }); }};
}

}  // namespace mxtrt
