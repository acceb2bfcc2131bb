// Errors on their way out of C++: every thread keeps the message of its last failure.
#pragma once

#include <exception>
#include <string>

namespace mxtrt {

// The message of the last failure on this thread; MXNet or Python fetches it once.
void set_error(const std::string& message);
// The message, then forgotten, or another sentence when there is none.
std::string take_error(const char* otherwise);
// Whether there is a message.
bool has_error();
// The message for a C caller, then forgotten; valid until the next call on this thread.
const char* show_error();

// Runs a body for a C caller: 1, or 0 after keeping the message of what it threw.
template <typename Body>
int guarded(Body body) {
  try {
    body();
    return 1;
  } catch (const std::exception& error) {
    set_error(error.what());
  } catch (...) {
    set_error("unknown C++ exception");
  }
  return 0;
}

}  // namespace mxtrt
