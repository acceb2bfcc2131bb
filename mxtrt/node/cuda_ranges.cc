// Sessions on an NVIDIA GPU for tensors of many shapes.
//
// The engine has a few contexts, each at some shapes at a time, and says which of them runs.  A
// CUDA graph holds for as long as nobody changes the shapes of the context that it was recorded
// from: TensorRT says so.  So a run at other shapes than the last one goes through Python, which
// sets them; one at the same shapes is recorded, where these last long enough to be worth it.
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

constexpr size_t kMostRecords = 8;  // of a context
// Runs at the same shapes before one is recorded, and so many after which recording was worth it.
constexpr uint64_t kPatience = 2, kMostPatience = 64, kWorth = 16;

class RangeSeat final : public Seat {
 public:
  RangeSeat(Device& device, int64_t token, int num_inputs, int num_outputs, size_t scratch,
            bool on_device, const int64_t* changes, int64_t* uses, int num_contexts)
      : Seat(device.first(), token, num_inputs, num_outputs, scratch, on_device),
        changes_(changes),
        uses_(uses),
        contexts_(num_contexts) {}
  RangeSeat(const RangeSeat&) = delete;
  RangeSeat& operator=(const RangeSeat&) = delete;

  ~RangeSeat() override {
    if (shutting_down() || forked()) return;
    end([this] { contexts_.clear(); });
  }

  // Runs the engine at some shapes, records it and runs the record: what fails does so here.
  void prepare(const size_t* sizes, const std::vector<Shape>& shapes, bool record) {
    lane.device.make_current();
    for (size_t i = 0; i < buffers_.size(); ++i) buffers_[i].bytes = sizes[i];
    allocate_buffers();
    if (!record) unrecordable = "recording is switched off";
    for (uint64_t i = 0; i < kPatience; ++i) {
      once([&](const Turn& turn) { put_own(shapes, turn, turn.stream); });
    }
    contexts_ = std::vector<Context>(contexts_.size());  // what comes may be at other shapes
    if (on_device_) free_buffers();
  }

  // Computes outputs in host memory.
  void run_from_host(const std::vector<Tensor>& inputs, const std::vector<Tensor>& outputs) {
    for (size_t i = 0; i < buffers_.size(); ++i) {
      buffers_[i].bytes = bytes(i < num_inputs_ ? inputs[i] : outputs[i - num_inputs_]);
    }
    lane.device.make_current();
    make_room();
    take_inputs(inputs);
    for (const auto& buffer : buffers_) g_tally.copy(buffer.bytes);  // to the GPU and back
    {
      Turn turn(lane, lane.stream());
      put_own(shapes_of(inputs), turn, turn.stream);
      mark(turn);
    }
    wait();
    hand_outputs(outputs);
  }

 private:
  // A context of the engine, as a run of this session left it.
  struct Context {
    int64_t change = -1;  // of its shapes, see changes_
    std::vector<Shape> shapes;
    uint64_t runs = 0;                           // at these shapes
    std::list<std::unique_ptr<Record>> records;  // at these shapes, most recently used first
  };

  void run_in_place(const std::vector<Tensor>& inputs, const std::vector<Tensor>& outputs,
                    void* stream) override {
    const Addresses addresses = addresses_of(inputs, outputs);
    const std::vector<Shape> shapes = shapes_of(inputs);
    Turn turn(lane, stream);
    put(addresses, shapes, turn, stream,
        [&](void* on) { return enqueue(addresses, &shapes, turn, on); });
  }

  static std::vector<Shape> shapes_of(const std::vector<Tensor>& tensors) {
    std::vector<Shape> shapes;
    shapes.reserve(tensors.size());
    for (const auto& one : tensors) shapes.emplace_back(one.shape, one.shape + one.ndim);
    return shapes;
  }

  int64_t count_records() const override {
    size_t count = 0;
    for (const auto& context : contexts_) count += context.records.size();
    return static_cast<int64_t>(count);
  }

  // Has buffers that hold the tensors.  What was recorded with smaller ones, whose host memory
  // goes, goes first; no run is under way, as each is waited for.
  void make_room() {
    if (buffers_fit()) return;
    for (auto& context : contexts_) context.records.clear();
    allocate_buffers();
  }

  void put_own(const std::vector<Shape>& shapes, const Turn& turn, void* stream) {
    const Addresses addresses = own_addresses();
    put(addresses, shapes, turn, stream, [&](void* on) {
      if (!on_device_) copy_inputs_in(on);
      const int context = enqueue(addresses, &shapes, turn, on);
      if (!on_device_) copy_outputs_out(on);
      return context;
    });
  }

  // Puts a run on a stream; `body` does so through Python and returns the context that runs.
  template <typename Body>
  void put(const Addresses& addresses, const std::vector<Shape>& shapes, const Turn& turn,
           void* stream, Body body) {
    Context* at = context_at(shapes);
    if (at && ++at->runs >= patience_) {
      if (const Record* record = record_of(*at, addresses, turn, body)) {
        uses_[at - contexts_.data()] = ++uses_[contexts_.size()];
        record->launch(stream);
        return;
      }
    }
    note(body(stream), shapes, turn);
  }

  // The context that is at some shapes since a run of this session, or null.
  Context* context_at(const std::vector<Shape>& shapes) {
    for (size_t i = 0; i < contexts_.size(); ++i) {
      auto& context = contexts_[i];
      if (context.change == changes_[i] && context.shapes == shapes) return &context;
    }
    return nullptr;
  }

  // Notes which context ran, and gives up what was recorded at its shapes before.
  void note(int number, const std::vector<Shape>& shapes, const Turn& turn) {
    auto& context = contexts_.at(number - 1);
    const int64_t change = changes_[number - 1];
    if (context.change == change && context.shapes == shapes) return;
    if (!context.records.empty()) {
      patience_ = context.runs < kWorth ? std::min(2 * patience_, kMostPatience) : kPatience;
      forget(context, turn);
    }
    context.change = change;
    context.shapes = shapes;
    context.runs = 1;
  }

  void forget(Context& context, const Turn& turn) {
    ++g_tally.waits;
    check(g_cuda.stream_wait(turn.stream));  // a launch may still be under way
    context.records.clear();
  }

  // The record for these addresses; null where none can be made.
  template <typename Body>
  const Record* record_of(Context& context, const Addresses& addresses, const Turn& turn,
                          Body body) {
    if (!unrecordable.empty()) return nullptr;
    auto& records = context.records;
    if (!records.empty() && records.front()->generation != turn.generation) forget(context, turn);
    auto found = std::find_if(records.begin(), records.end(),
                              [&](const auto& record) { return record->addresses == addresses; });
    if (found != records.end()) {
      records.splice(records.begin(), records, found);
      return records.front().get();
    }
    if (records.size() >= kMostRecords) return nullptr;
    try {
      records.push_front(recorded(addresses, turn, body));
    } catch (const std::exception& error) {
      unrecordable = error.what();
      return nullptr;
    }
    return records.front().get();
  }

  // Python's, which reads and writes them during runs: how often the shapes of each context were
  // changed, when it ran last, and behind these how often any did.
  const int64_t* const changes_;
  int64_t* const uses_;
  std::vector<Context> contexts_;
  uint64_t patience_ = kPatience;
};

// The contexts of the engine are those of all its sessions: these run on one lane.
class RangeSession : public CudaSession {
 public:
  template <typename... Facts>
  RangeSession(Device& device, bool on_device, Facts... facts)
      : device_(device), on_device_(on_device), seat_(device, facts...) {}

  RangeSeat& seat() { return seat_; }
  Device* device() override { return on_device_ ? &device_ : nullptr; }

  bool run(Bindings*, const std::vector<Tensor>& inputs, const std::vector<Tensor>& outputs,
           Place* place) override {
    std::lock_guard<std::mutex> lock(mutex_);
    if (on_device_) return seat_.run_on_device(inputs, outputs, place);
    const Ride ride(seat_.lane, caller_of(*place));
    seat_.run_from_host(inputs, outputs);
    return true;
  }

  std::string unrecordable() override {
    std::lock_guard<std::mutex> lock(mutex_);
    return seat_.unrecordable;
  }

  void usage(int64_t* records, size_t* host, size_t* device) override {
    std::lock_guard<std::mutex> lock(mutex_);
    *records = 0;
    *host = *device = 0;
    seat_.add_usage(records, host, device);
  }

 private:
  Device& device_;
  const bool on_device_;
  std::mutex mutex_;
  RangeSeat seat_;
};

}  // namespace

// A session of an engine for many shapes: sizes in bytes of its inputs, then outputs, and shapes
// of its inputs, at which it runs once; whether these are in GPU memory at a forward; its scratch
// memory; of its contexts what RangeSession knows of them.  Returns the session's handle, or 0
// after setting the error.
MXTRT_EXPORT int64_t mxtrt_cuda_range_session(int ordinal, int64_t token, const size_t* sizes,
                                              const int64_t* dims, const int* ndims, int num_inputs,
                                              int num_outputs, size_t scratch, int on_device,
                                              int record, const int64_t* changes, int64_t* uses,
                                              int num_contexts) {
  int64_t handle = 0;
  guarded([&] {
    std::vector<Shape> shapes;
    for (int i = 0; i < num_inputs; ++i) {
      shapes.emplace_back(dims, dims + ndims[i]);
      dims += ndims[i];
    }
    auto& device = Device::get(ordinal);
    const Restored restored;
    auto session =
        make_session<RangeSession>(device, on_device != 0, token, num_inputs, num_outputs, scratch,
                                   on_device != 0, changes, uses, num_contexts);
    session->seat().prepare(sizes, shapes, record != 0);
    handle = add_session(std::move(session));
  });
  return handle;
}

}  // namespace mxtrt
