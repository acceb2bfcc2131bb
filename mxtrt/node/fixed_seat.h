// A seat for tensors of one size each.
#pragma once

#include <algorithm>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "cuda_session.h"
#include "process.h"
#include "tally.h"

namespace mxtrt {

// What a session knows of its engine, on every lane.
struct Facts {
  std::vector<size_t> sizes;  // bytes of the inputs, then outputs
  size_t num_inputs, scratch;
  bool on_device;  // whether these are in GPU memory at a forward
  bool record;     // whether runs are recorded
};

class FixedSeat final : public Seat {
 public:
  FixedSeat(Lane& lane, int64_t token, const Facts& facts)
      : Seat(lane, token, facts.num_inputs, facts.sizes.size() - facts.num_inputs, facts.scratch,
             facts.on_device) {
    for (size_t i = 0; i < buffers_.size(); ++i) buffers_[i].bytes = facts.sizes[i];
  }
  FixedSeat(const FixedSeat&) = delete;
  FixedSeat& operator=(const FixedSeat&) = delete;

  ~FixedSeat() override {
    if (shutting_down() || forked()) return;
    end([this] {
      own_.reset();
      records_.clear();
    });
  }

  // Runs the engine once, records it and runs the record: whatever fails does so before the first
  // forward.
  void prepare(bool record) {
    lane.device.make_current();
    allocate_buffers();
    once([&](const Turn& turn) {
      // What is initialized lazily is, by this.
      enqueue(own_addresses(), nullptr, turn, turn.stream);
    });
    if (!record) {
      unrecordable = "recording is switched off";
      return;
    }
    try {
      once([&](const Turn& turn) { own_record(turn).launch(turn.stream); });
    } catch (const std::exception& error) {
      unrecordable = error.what();
    }
    if (on_device_) {
      own_.reset();
      free_buffers();
    }
  }

  // Puts a run on the lane's stream whose tensors are in host memory.
  void start_from_host(const std::vector<Tensor>& inputs) {
    take_inputs(inputs);
    for (const auto& buffer : buffers_) g_tally.copy(buffer.bytes);  // to the GPU and back
    Turn turn(lane, lane.stream());
    if (auto* record = unless_unrecordable([&] { return &own_record(turn); })) {
      record->launch(turn.stream);
    } else {
      enqueue_own(turn, turn.stream);
    }
    mark(turn);
  }

  using Seat::hand_outputs;
  using Seat::wait;

  // What its session knows of it.
  bool used = false;  // by a thread
  bool lost = false;  // its GPU failed
  Caller last_caller = nullptr;
  uint64_t last_use = 0;  // by the session's count

 private:
  static constexpr size_t kMostRecords = 32;
  static constexpr uint64_t kMostPatience = 1 << 20;

  void run_in_place(const std::vector<Tensor>& inputs, const std::vector<Tensor>& outputs,
                    void* stream) override {
    const Addresses addresses = addresses_of(inputs, outputs);
    Turn turn(lane, stream);
    ++runs_;
    if (auto* record = unless_unrecordable([&] { return record_of(addresses, turn); })) {
      record->launch(stream);
      return;
    }
    auto* staged = unless_unrecordable([&] {
      allocate_buffers();
      return &own_record(turn);
    });
    if (!staged) {
      enqueue(addresses, nullptr, turn, stream);
      return;
    }
    for (size_t i = 0; i < num_inputs_; ++i) {
      g_tally.copy(buffers_[i].bytes);
      check(g_cuda.copy_across(buffers_[i].device, addresses[i], buffers_[i].bytes, stream));
    }
    staged->launch(stream);
    for (size_t i = num_inputs_; i < buffers_.size(); ++i) {
      g_tally.copy(buffers_[i].bytes);
      check(g_cuda.copy_across(addresses[i], buffers_[i].device, buffers_[i].bytes, stream));
    }
  }

  int64_t count_records() const override {
    return static_cast<int64_t>(records_.size()) + (own_ != nullptr);
  }

  // What a run on the session's own buffers puts on a stream.
  void enqueue_own(const Turn& turn, void* stream) {
    if (!on_device_) copy_inputs_in(stream);
    enqueue(own_addresses(), nullptr, turn, stream);
    if (!on_device_) copy_outputs_out(stream);
  }

  // The record of a run on the session's own buffers.
  const Record& own_record(const Turn& turn) {
    if (!own_ || own_->generation != turn.generation) {
      own_.reset();
      own_ = recorded(own_addresses(), turn, [&](void* stream) { enqueue_own(turn, stream); });
    }
    return *own_;
  }

  // The record for these addresses; null when it is not worth recording.  Recording takes
  // longer than a run: once all records are in use, each that pushes another out doubles the
  // number of runs before the next may, so that addresses that never repeat do not record forever.
  const Record* record_of(const Addresses& addresses, const Turn& turn) {
    auto found = std::find_if(records_.begin(), records_.end(),
                              [&](const auto& record) { return record->addresses == addresses; });
    if (found != records_.end()) {
      if ((*found)->generation == turn.generation) {
        records_.splice(records_.begin(), records_, found);
        return records_.front().get();
      }
      records_.erase(found);
    }
    if (records_.size() >= kMostRecords) {
      if (runs_ < next_push_) return nullptr;
      next_push_ = runs_ + patience_;
      patience_ = std::min(2 * patience_, kMostPatience);
      ++g_tally.waits;
      check(g_cuda.stream_wait(turn.stream));  // its last launch may still be under way
      records_.pop_back();
    }
    records_.push_front(recorded(addresses, turn,
                                 [&](void* stream) { enqueue(addresses, nullptr, turn, stream); }));
    return records_.front().get();
  }

  // Calls `find` for a record; a failure to record is kept, and runs go through Python from then.
  template <typename Find>
  const Record* unless_unrecordable(Find find) {
    if (!unrecordable.empty()) return nullptr;
    try {
      return find();
    } catch (const std::exception& error) {
      unrecordable = error.what();
      return nullptr;
    }
  }

  std::unique_ptr<Record> own_;
  std::list<std::unique_ptr<Record>> records_;  // most recently used first
  uint64_t runs_ = 0, next_push_ = 0, patience_ = kMostRecords;
};

}  // namespace mxtrt
