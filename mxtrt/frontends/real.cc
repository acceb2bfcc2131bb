#include "real.h"

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>

namespace mxtrt {
namespace {

void* real_library() {
  static void* library = [] {
    // This library links MXNet's own by a path: it is loaded, and is not looked for by its name.
    void* found = dlopen(real_path().c_str(), RTLD_NOW | RTLD_NOLOAD);
    if (!found) {
      std::fprintf(stderr, "mxtrt: MXNet's own library is not loaded: %s\n", dlerror());
      std::abort();
    }
    return found;
  }();
  return library;
}

}  // namespace

std::string own_path() {
  Dl_info info{};
  dladdr(reinterpret_cast<void*>(&own_path), &info);
  return info.dli_fname;
}

std::string real_path() {
  const std::string own = own_path();
  return own.substr(0, own.rfind('/')) + "/../../mxnet/libmxnet.so";
}

void* real_function(const char* name) {
  void* found = dlsym(real_library(), name);
  if (!found) {
    std::fprintf(stderr, "mxtrt: this MXNet has no %s; install mxnet 1.9.1\n", name);
    std::abort();
  }
  return found;
}

}  // namespace mxtrt
