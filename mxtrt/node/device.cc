#include "device.h"

#include <memory>
#include <stdexcept>
#include <string>

namespace mxtrt {

namespace {
constexpr unsigned kNonBlocking = 1, kNoTiming = 2;
}  // namespace

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
  make_current();
  check(g_cuda.stream_create(&stream_, kNonBlocking));
  check(g_cuda.stream_create(&recording_stream_, kNonBlocking));
  check(g_cuda.event_create(&event_, kNoTiming));
}

void Device::wait_for_last() {
  make_current();
  if (last_stream_) check(g_cuda.stream_wait(last_stream_));
}

void Device::settle() noexcept {
  std::lock_guard<std::mutex> lock(mutex_);
  if (try_current() == 0 && last_stream_) forgive(g_cuda.stream_wait(last_stream_));
}

void Device::reserve(size_t bytes) {
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

void Device::give_back(size_t bytes) noexcept {
  std::lock_guard<std::mutex> lock(mutex_);
  reserved_.erase(reserved_.find(bytes));
  if (!reserved_.empty() || !scratch_) return;
  forgive(try_current());
  forgive(g_cuda.free(scratch_));
  scratch_ = size_ = 0;
  ++generation_;
}

size_t Device::scratch_bytes() {
  std::lock_guard<std::mutex> lock(mutex_);
  return size_;
}

Turn::Turn(Device& device, void* on_stream)
    : lock_(device.mutex_),
      stream(on_stream),
      scratch(device.scratch_),
      scratch_bytes(device.size_),
      generation(device.generation_) {
  device.make_current();
  if (device.last_stream_ && device.last_stream_ != stream) {
    check(g_cuda.event_record(device.event_, device.last_stream_));
    check(g_cuda.stream_wait_event(stream, device.event_, 0));
  }
  device.last_stream_ = stream;
}

}  // namespace mxtrt
