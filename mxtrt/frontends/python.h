// An interpreter for a process that has none, see python.cc.
#pragma once

#include <functional>

namespace mxtrt {

// Whether this thread is one of an interpreter: what it calls of MXNet is mxtrt's own, or a Python
// program's, which has mxtrt's hooks.
bool in_python();

// Whether mxtrt can be asked.  Starts the interpreter at the first call; says why where it cannot.
bool python_is_there();

// Whether this process was forked from one with an interpreter, whose threads it does not have.
bool is_forked_child();

// Runs on the interpreter's thread, and returns when it is done.  MXNet keeps what it returns in
// the caller's thread, which Python's own calls of MXNet would overwrite.
void in_interpreter(const std::function<void()>& body);

}  // namespace mxtrt
