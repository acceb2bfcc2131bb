// The libmxnet.so behind this one.
#pragma once

#include <string>

namespace mxtrt {

// Path of this library.
std::string own_path();

// Path of MXNet's own.
std::string real_path();

// A function of MXNet's own; ends the program where there is none.
void* real_function(const char* name);

// Whether mxtrt has installed itself, see mxtrt_front_install in embedded.cc.
bool installed();

}  // namespace mxtrt

// A function of MXNet's own with the name and type of one that is declared here.
#define REAL(name) \
  static const auto real_##name = reinterpret_cast<decltype(&name)>(mxtrt::real_function(#name))
