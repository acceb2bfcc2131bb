#include "device.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace mxtrt {

namespace {
constexpr unsigned kNonBlocking = 1, kNoTiming = 2;

thread_local int t_turns = 0;
thread_local std::vector<std::function<void()>> t_after_turns;
}  // namespace

Caller this_caller() {
  static thread_local const char here = 0;
  return &here;
}

Device& Device::get(int ordinal) {
  static std::mutex mutex;
  static std::map<int, std::unique_ptr<Device>> devices;  // never closed: MXNet's stay open too
  std::lock_guard<std::mutex> lock(mutex);
  auto& device = devices[ordinal];
  if (!device) device.reset(new Device(ordinal));
  return *device;
}

Device::Device(int ordinal) {
  open_driver();
  int count = 0;
  check(g_cuda.device_count(&count));
  if (ordinal >= count) {
    throw std::runtime_error("no GPU " + std::to_string(ordinal) + ", there are " +
                             std::to_string(count));
  }
  const Restored restored;
  check(g_cuda.device_get(&handle_, ordinal));
  check(g_cuda.retain_context(&context_, handle_));
  lanes_.push_back(std::make_unique<Lane>(*this));
  first_ = lanes_.front().get();
}

void* Device::stream() const { return first_->stream(); }

Lane* Device::another(const std::set<const Lane*>& than, size_t most) {
  std::lock_guard<std::mutex> lock(mutex_);
  Lane* found = nullptr;
  for (const auto& lane : lanes_) {
    if (than.count(lane.get()) || (found && found->sessions <= lane->sessions)) continue;
    found = lane.get();
  }
  if (lanes_.size() >= most || (found && !found->sessions)) return found;
  lanes_.push_back(std::make_unique<Lane>(*this));
  return lanes_.back().get();
}

size_t Device::scratch_bytes() {
  std::lock_guard<std::mutex> lock(mutex_);
  size_t bytes = 0;
  for (const auto& lane : lanes_) bytes += lane->scratch_bytes();
  return bytes;
}

Lane::Lane(Device& device) : device(device) {
  const Restored restored;
  device.make_current();
  check(g_cuda.stream_create(&stream_, kNonBlocking));
  check(g_cuda.stream_create(&recording_stream_, kNonBlocking));
  check(g_cuda.event_create(&event_, kNoTiming));
}

void Lane::enter(Caller caller) {
  if (riders_++) shared_ = true;
  last_caller_ = caller;
}

void Lane::wait_for_last() {
  device.make_current();
  if (last_stream_) check(g_cuda.stream_wait(last_stream_));
}

void Lane::settle() noexcept {
  std::lock_guard<std::mutex> lock(mutex_);
  if (device.try_current() == 0 && last_stream_) forgive(g_cuda.stream_wait(last_stream_));
}

void Lane::reserve(size_t bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (bytes > size_) {
    wait_for_last();
    // The old memory goes first, so that both never exist at once.
    if (scratch_) check(g_cuda.free(scratch_));
    scratch_ = 0;
    ++generation_;
    if (int code = g_cuda.allocate(&scratch_, bytes)) {
      // What was there is needed by others.
      if (size_ && g_cuda.allocate(&scratch_, size_)) size_ = scratch_ = 0;
      check(code);
    }
    size_ = bytes;
  }
  reserved_.insert(bytes);
}

void Lane::give_back(size_t bytes) noexcept {
  std::lock_guard<std::mutex> lock(mutex_);
  reserved_.erase(reserved_.find(bytes));
  if (!reserved_.empty() || !scratch_) return;
  forgive(device.try_current());
  forgive(g_cuda.free(scratch_));
  scratch_ = size_ = 0;
  ++generation_;
}

size_t Lane::scratch_bytes() {
  std::lock_guard<std::mutex> lock(mutex_);
  return size_;
}

Turn::Held::Held() { ++t_turns; }

Turn::Held::~Held() {
  if (--t_turns) return;
  const auto bodies = std::move(t_after_turns);
  t_after_turns.clear();
  for (const auto& body : bodies) body();
}

void after_turns(std::function<void()> body) {
  if (t_turns) {
    t_after_turns.push_back(std::move(body));
  } else {
    body();
  }
}

Turn::Turn(Lane& lane, void* on_stream)
    : lock_(lane.mutex_),
      stream(on_stream),
      scratch(lane.scratch_),
      scratch_bytes(lane.size_),
      generation(lane.generation_) {
  lane.device.make_current();
  if (lane.last_stream_ && lane.last_stream_ != stream) {
    check(g_cuda.event_record(lane.event_, lane.last_stream_));
    check(g_cuda.stream_wait_event(stream, lane.event_, 0));
  }
  lane.last_stream_ = stream;
}

}  // namespace mxtrt
