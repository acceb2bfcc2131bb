// What becomes of the process: its forks and its end.
#pragma once

#include <mutex>

namespace mxtrt {

// Says that engines have threads in this process from now on, ONNX Runtime's or CUDA's.
void threads_begin();

// True in a process forked from one in which engines had threads, which do not exist here.
bool forked();

// Holds a mutex.  Not in a forked process, where whoever held it at the fork may be missing, and
// nothing changes any more what it guards.
template <typename Mutex>
class Lock {
 public:
  explicit Lock(Mutex& mutex) : lock_(mutex, std::defer_lock) {
    if (!forked()) lock_.lock();
  }

 private:
  std::unique_lock<Mutex> lock_;
};

// True once Python has begun to exit: nothing is released any more.
bool shutting_down();

// A call to Python from a thread that may be MXNet's.  None begins once Python exits, which would
// end the thread in the middle of it, and the exit waits for those under way.
class Callout {
 public:
  Callout();
  Callout(const Callout&) = delete;
  Callout& operator=(const Callout&) = delete;
  ~Callout();
  explicit operator bool() const { return allowed_; }

 private:
  bool allowed_ = false;
};

}  // namespace mxtrt
