// NVTX, by the two functions of its library that CUDA 11 and 12 bring (nvToolsExt.h).
#include "nvtx.h"

#include <dlfcn.h>

namespace {

struct Nvtx {
  int (*push)(const char* name) = nullptr;
  int (*pop)() = nullptr;

  Nvtx() {
    void* library = dlopen("libnvToolsExt.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) return;
    auto* begin = reinterpret_cast<decltype(push)>(dlsym(library, "nvtxRangePushA"));
    auto* end = reinterpret_cast<decltype(pop)>(dlsym(library, "nvtxRangePop"));
    if (begin && end) push = begin, pop = end;
  }
};

const Nvtx& nvtx() {
  static const Nvtx loaded;
  return loaded;
}

}  // namespace

MXTRT_EXPORT void mxtrt_range_push(const char* name) {
  if (nvtx().push) nvtx().push(name);
}

MXTRT_EXPORT void mxtrt_range_pop() {
  if (nvtx().pop) nvtx().pop();
}
