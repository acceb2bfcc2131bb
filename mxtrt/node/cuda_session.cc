#include "cuda_session.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "errors.h"
#include "export.h"
#include "process.h"
#include "tally.h"

namespace mxtrt {
namespace {

std::atomic<EnqueueCallback> g_enqueue{nullptr};
std::atomic<ReleaseCallback> g_release{nullptr};
std::atomic<MoreCallback> g_more{nullptr};
std::atomic<LostCallback> g_lost{nullptr};
constexpr unsigned kNoTiming = 2;  // CU_EVENT_DISABLE_TIMING

}  // namespace

Record::Record(Addresses addresses, uint64_t generation, void* graph)
    : addresses(std::move(addresses)), generation(generation) {
  const int code = g_cuda.instantiate(&executable_, graph, 0);
  forgive(g_cuda.destroy_graph(graph));
  check(code);
}

Seat::Seat(Lane& lane, int64_t token, size_t num_inputs, size_t num_outputs, size_t scratch,
           bool on_device)
    : lane(lane),
      token(token),
      num_inputs_(num_inputs),
      scratch_(scratch),
      on_device_(on_device),
      buffers_(num_inputs + num_outputs) {
  if (scratch_) lane.reserve(scratch_);
  ++lane.sessions;
}

void Seat::finish() {
  free_buffers();
  if (event_) forgive(g_cuda.event_destroy(event_));
  if (scratch_) lane.give_back(scratch_);
  --lane.sessions;
  // The records used the engine's memory: Python may let it go only now.
  const Callout callout;
  if (const ReleaseCallback release = g_release; release && callout) release(token);
}

void Seat::add_usage(int64_t* records, size_t* host, size_t* device) const {
  *records += count_records();
  for (const auto& buffer : buffers_) {
    if (buffer.host) *host += buffer.capacity;
    if (buffer.device) *device += buffer.capacity;
  }
}

bool Seat::run_on_device(const std::vector<Tensor>& inputs, const std::vector<Tensor>& outputs,
                         Place* place) {
  if (place->stream) {
    run_in_place(inputs, outputs, place->stream);
    return false;
  }
  Ride ride(lane, caller_of(*place));
  if (place->later) place->lane = &lane;
  run_in_place(inputs, outputs, lane.stream());
  if (place->later) {
    ride.hand_on();
    return false;
  }
  ++g_tally.waits;
  check(g_cuda.stream_wait(lane.stream()));
  return true;
}

void Seat::mark(const Turn& turn) {
  marked_ = lane.is_shared();
  if (!marked_) return;
  if (!event_) check(g_cuda.event_create(&event_, kNoTiming));
  check(g_cuda.event_record(event_, turn.stream));
}

void Seat::wait() {
  ++g_tally.waits;
  check(marked_ ? g_cuda.event_wait(event_) : g_cuda.stream_wait(lane.stream()));
}

static bool fits(const Buffer& buffer) { return buffer.device && buffer.capacity >= buffer.bytes; }

bool Seat::buffers_fit() const { return std::all_of(buffers_.begin(), buffers_.end(), fits); }

void Seat::allocate_buffers() {
  for (auto& buffer : buffers_) {
    const size_t bytes = std::max<size_t>(buffer.bytes, 1);
    if (fits(buffer)) continue;
    if (buffer.host) forgive(g_cuda.free_host(buffer.host));
    if (buffer.device) forgive(g_cuda.free(buffer.device));
    buffer.host = nullptr;
    buffer.device = 0;
    buffer.capacity = buffer.bytes;
    if (!on_device_) {
      ++g_tally.allocations;
      check(g_cuda.allocate_host(&buffer.host, bytes));
    }
    ++g_tally.allocations;
    check(g_cuda.allocate(&buffer.device, bytes));
  }
}

void Seat::free_buffers() {
  for (auto& buffer : buffers_) {
    if (buffer.host) forgive(g_cuda.free_host(buffer.host));
    if (buffer.device) forgive(g_cuda.free(buffer.device));
    buffer.host = nullptr;
    buffer.device = 0;
  }
}

Addresses Seat::own_addresses() const {
  Addresses addresses;
  for (const auto& buffer : buffers_) addresses.push_back(buffer.device);
  return addresses;
}

int Seat::enqueue(const Addresses& addresses, const std::vector<Shape>* shapes, const Turn& turn,
                  void* stream) {
  if (turn.scratch_bytes < scratch_) {
    throw std::runtime_error("the GPU had no memory left for the engine's scratch");
  }
  std::vector<int64_t> dims;
  std::vector<int> ndims;
  if (shapes) {
    for (const auto& shape : *shapes) {
      dims.insert(dims.end(), shape.begin(), shape.end());
      ndims.push_back(static_cast<int>(shape.size()));
    }
  }
  const EnqueueCallback call = g_enqueue;
  const Callout callout;
  const int context = call && callout
                          ? call(token, addresses.data(), static_cast<int>(addresses.size()),
                                 shapes ? dims.data() : nullptr, shapes ? ndims.data() : nullptr,
                                 static_cast<int>(ndims.size()), turn.scratch, stream)
                          : 0;
  if (!context) throw std::runtime_error(take_error("the engine did not run"));
  return context;
}

void Seat::copy_inputs_in(void* stream) {
  for (size_t i = 0; i < num_inputs_; ++i) {
    check(g_cuda.copy_in(buffers_[i].device, buffers_[i].host, buffers_[i].bytes, stream));
  }
}

void Seat::copy_outputs_out(void* stream) {
  for (size_t i = num_inputs_; i < buffers_.size(); ++i) {
    check(g_cuda.copy_out(buffers_[i].host, buffers_[i].device, buffers_[i].bytes, stream));
  }
}

void Seat::take_inputs(const std::vector<Tensor>& inputs) {
  for (size_t i = 0; i < inputs.size(); ++i) {
    g_tally.copy(buffers_[i].bytes);
    std::memcpy(buffers_[i].host, inputs[i].data, buffers_[i].bytes);
  }
}

void Seat::hand_outputs(const std::vector<Tensor>& outputs) {
  for (size_t i = 0; i < outputs.size(); ++i) {
    const auto& buffer = buffers_[num_inputs_ + i];
    g_tally.copy(buffer.bytes);
    std::memcpy(outputs[i].data, buffer.host, buffer.bytes);
  }
}

Addresses Seat::addresses_of(const std::vector<Tensor>& inputs,
                             const std::vector<Tensor>& outputs) {
  Addresses addresses;
  addresses.reserve(inputs.size() + outputs.size());
  for (const auto* tensors : {&inputs, &outputs}) {
    for (const auto& tensor : *tensors) {
      addresses.push_back(reinterpret_cast<DevicePointer>(tensor.data));
    }
  }
  return addresses;
}

void ask_for_more(int64_t token) {
  const Callout callout;
  if (const MoreCallback more = g_more; more && callout) more(token);
}

void tell_of_loss(int64_t token, const std::string& message) {
  const Callout callout;
  if (const LostCallback lost = g_lost; lost && callout) lost(token, message.c_str());
}

MXTRT_EXPORT void mxtrt_cuda_callbacks(EnqueueCallback enqueue, ReleaseCallback release,
                                       MoreCallback more, LostCallback lost) {
  g_enqueue = enqueue;
  g_release = release;
  g_more = more;
  g_lost = lost;
}

}  // namespace mxtrt
