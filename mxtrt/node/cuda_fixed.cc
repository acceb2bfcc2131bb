// Sessions on an NVIDIA GPU for tensors of one size each.
//
// Python builds the engine; what a run puts on a stream is recorded as a CUDA graph, and a
// forward launches the graph from here.  For graphs in host memory the record holds the copies in
// and out too, between pinned memory and device memory of the session's own.  For graphs on the
// GPU the engine reads and writes MXNet's arrays where they are: one record for every set of
// addresses, the least recently used go first.
//
// A session begins with a seat on the first lane of its GPU.  Where runs overlap it asks Python for
// another seat, on another lane, and goes on with what it has until that is there.
#include <algorithm>
#include <condition_variable>
#include <deque>
#include <set>
#include <stdexcept>
#include <tuple>
#include <utility>

#include "errors.h"
#include "export.h"
#include "fixed_seat.h"
#include "registry.h"
#include "tally.h"

namespace mxtrt {
namespace {

class FixedSession : public CudaSession {
 public:
  FixedSession(Device& device, int64_t token, Facts facts, size_t most_seats)
      : device_(device),
        token_(token),
        facts_(std::move(facts)),
        may_have_lanes_(most_seats > 1),
        most_seats_(most_seats) {
    add(device.first(), token);
  }

  Device* device() override { return facts_.on_device ? &device_ : nullptr; }

  bool run(Bindings*, const std::vector<Tensor>& inputs, const std::vector<Tensor>& outputs,
           Place* place) override {
    // MXNet's threads put runs on its streams, of many callers.
    const Caller caller = place->stream ? nullptr : caller_of(*place);
    if (facts_.on_device) {
      const Taken seat(*this, caller, caller ? nullptr : first());
      return seat->run_on_device(inputs, outputs, place);
    }
    for (;;) {
      auto seat = std::make_shared<const Taken>(*this, caller, nullptr);
      Ride ride((*seat)->lane, caller);
      try {
        (*seat)->start_from_host(inputs);
        if (place->later) {
          place->lane = &(*seat)->lane;
          place->land = [&, seat, this](int code) mutable { land(code, seat, inputs, outputs); };
          ride.hand_on();
          return false;
        }
        (*seat)->wait();
        (*seat)->hand_outputs(outputs);
        return true;
      } catch (const std::exception& error) {
        if (!others_are_left(**seat, error.what())) throw;
      }
    }
  }

  // On one lane MXNet's thread may as well wait.
  bool may_come_later() const override { return !facts_.on_device && may_have_lanes_; }

  // A seat on another lane of a GPU, of which its session has fewer than `most`.  Returns whether
  // there was one to have.
  bool open_lane(Device& device, int64_t token, size_t most) {
    std::set<const Lane*> mine;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      for (const auto& seat : seats_) mine.insert(&seat->lane);
    }
    Lane* lane = device.another(mine, most);
    if (lane) add(*lane, token);
    return lane != nullptr;
  }

  // Takes note that Python answered the last question for another lane, and whether more may be
  // asked.
  void answered(bool more) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!more) most_seats_ = 0;
    asked_ = false;
  }

  size_t lanes(const Device& device) {
    std::lock_guard<std::mutex> lock(mutex_);
    return static_cast<size_t>(std::count_if(seats_.begin(), seats_.end(), [&](const auto& seat) {
      return &seat->lane.device == &device;
    }));
  }

  std::string unrecordable() override {
    std::string reason;
    each([&](const Seat& seat) {
      if (reason.empty()) reason = seat.unrecordable;
    });
    return reason;
  }

  void usage(int64_t* records, size_t* host, size_t* device) override {
    *records = 0;
    *host = *device = 0;
    each([&](const Seat& seat) { seat.add_usage(records, host, device); });
  }

 private:
  // Who waits for a seat; what is given back goes to those who came first.
  struct Waiting {
    Waiting(Caller caller, FixedSeat* only) : caller(caller), only(only) {}

    const Caller caller;
    FixedSeat* const only;  // the seat that will do, null for any
    FixedSeat* seat = nullptr;
    std::condition_variable given;
  };

  // Exclusive use of a seat.
  class Taken {
   public:
    // One for a run of a thread, or a certain one.
    Taken(FixedSession& session, Caller caller, FixedSeat* only)
        : session_(session), seat_(session.take(caller, only)) {}
    Taken(const Taken&) = delete;
    Taken& operator=(const Taken&) = delete;
    ~Taken() { session_.give(seat_); }
    FixedSeat* operator->() const { return seat_; }
    FixedSeat& operator*() const { return *seat_; }

   private:
    FixedSession& session_;
    FixedSeat* const seat_;
  };

  void add(Lane& lane, int64_t token) {
    auto seat = std::make_unique<FixedSeat>(lane, token, facts_);
    seat->prepare(facts_.record);
    FixedSeat* added = seat.get();
    added->used = true;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      seats_.push_back(std::move(seat));
    }
    give(added);  // to who waits
  }

  // The end of a run in host memory that came later, or did not: then it is done once more where
  // another GPU is left.  Gives up the seat.
  void land(int code, std::shared_ptr<const Taken>& seat, const std::vector<Tensor>& inputs,
            const std::vector<Tensor>& outputs) {
    const auto landed = std::move(seat);
    try {
      check(code);
      (*landed)->hand_outputs(outputs);
    } catch (const std::exception& error) {
      if (!others_are_left(**landed, error.what())) throw;
      Place now;
      run(nullptr, inputs, outputs, &now);
    }
  }

  FixedSeat* first() {
    std::lock_guard<std::mutex> lock(mutex_);
    return seats_.front().get();
  }

  FixedSeat* take(Caller caller, FixedSeat* only) {
    bool ask = false;
    FixedSeat* seat = nullptr;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      seat = only ? (only->used ? nullptr : only) : best(caller);
      ask = !only && wants_more(caller, seat);
      asked_ |= ask;
      if (seat) {
        hand(seat, caller);
      } else {
        ++g_tally.waits;
        Waiting me(caller, only);
        waiting_.push_back(&me);
        if (ask) {  // Python may have to wait for a thread that waits for this one
          lock.unlock();
          ask_for_more(token_);
          ask = false;
          lock.lock();
        }
        me.given.wait(lock, [&] { return me.seat != nullptr; });
        seat = me.seat;
      }
    }
    if (ask) ask_for_more(token_);
    return seat;
  }

  void give(FixedSeat* seat) {
    std::lock_guard<std::mutex> lock(mutex_);
    seat->used = false;
    const auto next = std::find_if(waiting_.begin(), waiting_.end(), [&](const Waiting* other) {
      return other->only ? other->only == seat : !seat->lost;
    });
    if (next == waiting_.end()) return;
    hand(seat, (*next)->caller);
    (*next)->seat = seat;
    (*next)->given.notify_one();
    waiting_.erase(next);
  }

  void hand(FixedSeat* seat, Caller caller) {
    seat->used = true;
    if (!caller) return;
    seat->last_use = ++uses_;
    seat->last_caller = caller;
  }

  // The seat for a run of a thread: its last one, or the one used last, of those whose lanes nobody
  // else runs on; else one whose lane has the fewest runs.  Null if all are in use.
  FixedSeat* best(Caller caller) {
    FixedSeat* found = nullptr;
    const auto rank = [&](const FixedSeat& seat) {
      return std::make_tuple(seat.lane.is_taken(caller) ? seat.lane.riders() : 0,
                             seat.last_caller != caller, ~seat.last_use);
    };
    for (const auto& seat : seats_) {
      if (seat->used || seat->lost) continue;
      if (!found || rank(*seat) < rank(*found)) found = seat.get();
    }
    return found;
  }

  // Whether a thread would run sooner with another seat: others run on the one lane that the
  // session has, or on all seats, none of which it used last.  A thread that asks for one run after
  // another without waiting does not: it is alone.
  bool wants_more(Caller caller, const FixedSeat* seat) const {
    if (asked_ || seats_.size() >= most_seats_) return false;
    if (seat && !seat->lane.is_taken(caller)) return false;
    if (seat && seats_.size() == 1) return true;
    if (seat && !facts_.on_device) return false;
    return std::none_of(seats_.begin(), seats_.end(),
                        [&](const auto& one) { return one->last_caller == caller; });
  }

  // Gives up the seats on a GPU that failed; whether there are others.
  bool others_are_left(FixedSeat& failed, const std::string& message) {
    bool left = false, first = false;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      for (const auto& seat : seats_) {
        left |= !seat->lost && &seat->lane.device != &failed.lane.device;
      }
      if (!left) return false;
      first = !failed.lost;
      for (const auto& seat : seats_) seat->lost |= &seat->lane.device == &failed.lane.device;
    }
    if (first) tell_of_loss(token_, message);
    return true;
  }

  template <typename Body>
  void each(Body body) {
    std::vector<FixedSeat*> seats;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      for (const auto& seat : seats_) seats.push_back(seat.get());
    }
    for (FixedSeat* one : seats) body(*Taken(*this, nullptr, one));
  }

  Device& device_;
  const int64_t token_;
  const Facts facts_;
  const bool may_have_lanes_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<FixedSeat>> seats_;
  std::deque<Waiting*> waiting_;
  uint64_t uses_ = 0;
  size_t most_seats_;
  bool asked_ = false;
};

std::shared_ptr<FixedSession> fixed_session(int64_t handle) {
  auto session = std::dynamic_pointer_cast<FixedSession>(find_session(handle));
  if (!session) throw std::runtime_error("no such session");
  return session;
}

}  // namespace

// A session of an engine: sizes of its inputs, then outputs, in bytes; whether these are in GPU
// memory at a forward; its scratch memory; whether runs are recorded; and the most lanes that it
// may run on, of all GPUs.  The engine runs once.  Returns the session's handle, or 0 after
// setting the error.
MXTRT_EXPORT int64_t mxtrt_cuda_session(int ordinal, int64_t token, const size_t* sizes,
                                        int num_inputs, int num_outputs, size_t scratch,
                                        int on_device, int record, int most_lanes) {
  int64_t handle = 0;
  guarded([&] {
    auto& device = Device::get(ordinal);
    const Restored restored;
    Facts facts{{sizes, sizes + num_inputs + num_outputs},
                static_cast<size_t>(num_inputs),
                scratch,
                on_device != 0,
                record != 0};
    handle = add_session(make_session<FixedSession>(device, token, std::move(facts),
                                                    static_cast<size_t>(most_lanes)));
  });
  return handle;
}

// Has a session run on another lane of a GPU, which has `most` at the most, with another context of
// its engine; Python's answer to MoreCallback.  Returns 0 after setting the error: there is no such
// lane, or no room for the engine there.
MXTRT_EXPORT int mxtrt_cuda_open_lane(int64_t handle, int64_t token, int ordinal, int most) {
  return guarded([=] {
    auto session = fixed_session(handle);
    auto& device = Device::get(ordinal);
    const Restored restored;
    if (!session->open_lane(device, token, static_cast<size_t>(most))) {
      throw std::runtime_error("the session runs on all lanes of the GPU");
    }
  });
}

// Ends what MoreCallback began: whether the session may ask again.
MXTRT_EXPORT void mxtrt_cuda_lane_answered(int64_t handle, int more) {
  guarded([=] { fixed_session(handle)->answered(more != 0); });
}

// How many lanes of a GPU a session runs on; -1 for a session that is gone.
MXTRT_EXPORT int mxtrt_cuda_lanes(int64_t handle, int ordinal) {
  int count = -1;
  guarded([&] { count = static_cast<int>(fixed_session(handle)->lanes(Device::get(ordinal))); });
  return count;
}

}  // namespace mxtrt
