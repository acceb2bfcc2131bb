// Sessions on an NVIDIA GPU, and what Python asks of a GPU.
//
// Python builds the engine; what a run puts on a stream is recorded as a CUDA graph, and a
// forward launches the graph from here.  For graphs in host memory the record holds the copies in
// and out too, between pinned memory and device memory of the session's own.  For graphs on the
// GPU the engine reads and writes MXNet's arrays where they are: one record for every set of
// addresses, the least recently used go first.
#include <algorithm>
#include <list>
#include <stdexcept>

#include "cuda_session.h"
#include "errors.h"
#include "export.h"
#include "process.h"
#include "registry.h"
#include "tally.h"

namespace mxtrt {
namespace {

constexpr int kComputeMajor = 75, kComputeMinor = 76;
constexpr size_t kMostRecords = 32;
constexpr uint64_t kMostPatience = 1 << 20;

// A session for tensors of one size each.
class FixedSession : public CudaSession {
 public:
  FixedSession(Device& device, int64_t token, const size_t* sizes, int num_inputs, int num_outputs,
               size_t scratch, bool on_device)
      : CudaSession(device, token, num_inputs, num_outputs, scratch, on_device) {
    for (size_t i = 0; i < buffers_.size(); ++i) buffers_[i].bytes = sizes[i];
  }
  FixedSession(const FixedSession&) = delete;
  FixedSession& operator=(const FixedSession&) = delete;

  ~FixedSession() override {
    if (shutting_down() || forked()) return;
    end([this] {
      own_.reset();
      records_.clear();
    });
  }

  // Runs the engine once, records it and runs the record: whatever fails does so before the first
  // forward.
  void prepare(bool record) {
    device_.make_current();
    allocate_buffers();
    once([&](const Turn& turn) {
      // What is initialized lazily is, by this.
      enqueue(own_addresses(), nullptr, turn, turn.stream);
    });
    if (!record) {
      unrecordable_ = "recording is switched off";
      return;
    }
    try {
      once([&](const Turn& turn) { own_record(turn).launch(turn.stream); });
    } catch (const std::exception& error) {
      unrecordable_ = error.what();
    }
    if (on_device_) {
      own_.reset();
      free_buffers();
    }
  }

  bool run(Bindings*, const std::vector<Tensor>& inputs, const std::vector<Tensor>& outputs,
           void* stream) override {
    std::lock_guard<std::mutex> lock(mutex_);
    if (on_device_ && stream) {
      run_in_place(inputs, outputs, stream);
      return false;
    }
    stream = device_.stream();
    on_device_ ? run_in_place(inputs, outputs, stream) : run_from_host(inputs, stream);
    ++g_tally.waits;
    check(g_cuda.stream_wait(stream));
    if (!on_device_) hand_outputs(outputs);
    return true;
  }

 private:
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
    if (!unrecordable_.empty()) return nullptr;
    try {
      return find();
    } catch (const std::exception& error) {
      unrecordable_ = error.what();
      return nullptr;
    }
  }

  void run_in_place(const std::vector<Tensor>& inputs, const std::vector<Tensor>& outputs,
                    void* stream) {
    const Addresses addresses = addresses_of(inputs, outputs);
    Turn turn(device_, stream);
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

  void run_from_host(const std::vector<Tensor>& inputs, void* stream) {
    take_inputs(inputs);
    for (const auto& buffer : buffers_) g_tally.copy(buffer.bytes);  // to the GPU and back
    Turn turn(device_, stream);
    if (auto* record = unless_unrecordable([&] { return &own_record(turn); })) {
      record->launch(stream);
    } else {
      enqueue_own(turn, stream);
    }
  }

  std::unique_ptr<Record> own_;
  std::list<std::unique_ptr<Record>> records_;  // most recently used first
  uint64_t runs_ = 0, next_push_ = 0, patience_ = kMostRecords;
};

std::shared_ptr<CudaSession> cuda_session(int64_t handle) {
  auto session = std::dynamic_pointer_cast<CudaSession>(find_session(handle));
  if (!session) throw std::runtime_error("no such session");
  return session;
}

}  // namespace
// Opens a GPU; gives its name, compute capability and memory.
MXTRT_EXPORT int mxtrt_cuda_device(int ordinal, char* name, int name_size, int* major, int* minor,
                                   size_t* memory) {
  return guarded([&] {
    const int device = Device::get(ordinal).handle();
    check(g_cuda.device_name(name, name_size, device));
    check(g_cuda.device_attribute(major, kComputeMajor, device));
    check(g_cuda.device_attribute(minor, kComputeMinor, device));
    check(g_cuda.device_memory(memory, device));
  });
}

// How many GPUs there are.
MXTRT_EXPORT int mxtrt_cuda_count(int* count) {
  return guarded([=] {
    open_driver();
    check(g_cuda.device_count(count));
  });
}

// What is current on this thread, for mxtrt_cuda_restore; 0 where nothing is.
MXTRT_EXPORT uint64_t mxtrt_cuda_current() {
  void* context = nullptr;
  guarded([&] {
    open_driver();
    check(g_cuda.get_context(&context));
  });
  return reinterpret_cast<uint64_t>(context);
}

MXTRT_EXPORT void mxtrt_cuda_restore(uint64_t context) {
  if (g_cuda.set_context) forgive(g_cuda.set_context(reinterpret_cast<void*>(context)));
}

// Makes a GPU the current one of this thread, for TensorRT's own calls.
MXTRT_EXPORT int mxtrt_cuda_make_current(int ordinal) {
  return guarded([&] { Device::get(ordinal).make_current(); });
}

// The stream of a GPU's engines; 0 after setting the error.
MXTRT_EXPORT uint64_t mxtrt_cuda_stream(int ordinal) {
  void* stream = nullptr;
  guarded([&] { stream = Device::get(ordinal).stream(); });
  return reinterpret_cast<uint64_t>(stream);
}

// Bytes of a GPU's memory that are free, all of them, and the scratch memory of its engines.
MXTRT_EXPORT int mxtrt_cuda_memory(int ordinal, size_t* free, size_t* total, size_t* scratch) {
  return guarded([&] {
    auto& device = Device::get(ordinal);
    const Restored restored;
    device.make_current();
    check(g_cuda.memory_info(free, total));
    *scratch = device.scratch_bytes();
  });
}

// Memory for an engine, on the GPU that is current; 0 when there is none left.
MXTRT_EXPORT uint64_t mxtrt_cuda_allocate(size_t bytes) {
  DevicePointer pointer = 0;
  ++g_tally.allocations;
  return g_cuda.allocate(&pointer, bytes) ? 0 : pointer;
}

MXTRT_EXPORT void mxtrt_cuda_free(uint64_t pointer) {
  if (!shutting_down() && !forked()) forgive(g_cuda.free(pointer));
}

// Puts a copy behind what is on a stream (null: that of the engines), and waits for it.
template <typename Copy>
static int copy_now(int ordinal, void* stream, Copy copy) {
  return guarded([&] {
    auto& device = Device::get(ordinal);
    const Restored restored;
    device.make_current();
    if (!stream) stream = device.stream();
    check(copy(stream));
    check(g_cuda.stream_wait(stream));
  });
}

// Copies GPU memory to host memory; see copy_now.
MXTRT_EXPORT int mxtrt_cuda_copy_out(int ordinal, void* to, uint64_t from, size_t bytes,
                                     void* stream) {
  return copy_now(ordinal, stream, [=](void* on) { return g_cuda.copy_out(to, from, bytes, on); });
}

// The same from host memory to GPU memory.
MXTRT_EXPORT int mxtrt_cuda_copy_in(int ordinal, uint64_t to, const void* from, size_t bytes,
                                    void* stream) {
  return copy_now(ordinal, stream, [=](void* on) { return g_cuda.copy_in(to, from, bytes, on); });
}

// A session of an engine: sizes of its inputs, then outputs, in bytes; whether these are in GPU
// memory at a forward; and its scratch memory.  The engine runs once.  Returns the session's
// handle, or 0 after setting the error.
MXTRT_EXPORT int64_t mxtrt_cuda_session(int ordinal, int64_t token, const size_t* sizes,
                                        int num_inputs, int num_outputs, size_t scratch,
                                        int on_device, int record) {
  int64_t handle = 0;
  guarded([&] {
    auto& device = Device::get(ordinal);
    const Restored restored;
    auto session = std::make_shared<FixedSession>(device, token, sizes, num_inputs, num_outputs,
                                                  scratch, on_device != 0);
    session->prepare(record != 0);
    handle = add_session(std::move(session));
  });
  return handle;
}

// Why runs of a session go through Python: empty, as they should not.
MXTRT_EXPORT const char* mxtrt_cuda_unrecordable(int64_t handle) {
  static thread_local std::string text;
  text.clear();
  guarded([&] { text = cuda_session(handle)->unrecordable(); });
  return text.c_str();
}

// The CUDA graphs of a session, and bytes of pinned and GPU memory of its own.
MXTRT_EXPORT int mxtrt_cuda_usage(int64_t handle, int64_t* records, size_t* host, size_t* device) {
  return guarded([&] { cuda_session(handle)->usage(records, host, device); });
}

}  // namespace mxtrt
