// A stand-in for ONNX Runtime that opens in the steps that the engine node asks for, and fails in
// its last one as often as FAILURES says.
#include <cstdlib>
#include <type_traits>

#include "onnxruntime_c_api.h"

namespace {

int status, environments, memories;
int failures = std::atoi(std::getenv("FAILURES"));

template <typename Object>
Object* object(int* of) {
  return reinterpret_cast<Object*>(of);
}

// Makes nothing, and succeeds.
template <typename... Args>
OrtStatus* succeed(Args...) noexcept {
  return nullptr;
}
template <typename... Args>
void set(OrtStatus* (*&function)(Args...) noexcept) {
  function = succeed<Args...>;
}

template <typename Object>
void forget(Object*) noexcept {}

const OrtApi* get_api(uint32_t) noexcept {
  static const OrtApi api = [] {
    OrtApi made{};
    made.GetErrorMessage = [](const OrtStatus*) noexcept { return "no room for an arena"; };
    made.ReleaseStatus = forget;
    set(made.CreateThreadingOptions);
    made.ReleaseThreadingOptions = forget;
    set(made.SetGlobalIntraOpNumThreads);
    set(made.SetGlobalInterOpNumThreads);
    set(made.SetGlobalSpinControl);
    set(made.CreateArenaCfgV2);
    made.ReleaseArenaCfg = forget;
    made.CreateEnvWithGlobalThreadPools = [](OrtLoggingLevel, const char*,
                                             const OrtThreadingOptions*,
                                             OrtEnv** out) noexcept -> OrtStatus* {
      *out = object<OrtEnv>(&environments);
      ++environments;
      return nullptr;
    };
    made.ReleaseEnv = [](OrtEnv*) noexcept { --environments; };
    made.CreateCpuMemoryInfo = [](OrtAllocatorType, OrtMemType,
                                  OrtMemoryInfo** out) noexcept -> OrtStatus* {
      *out = object<OrtMemoryInfo>(&memories);
      ++memories;
      return nullptr;
    };
    made.ReleaseMemoryInfo = [](OrtMemoryInfo*) noexcept { --memories; };
    made.CreateAndRegisterAllocator = [](OrtEnv*, const OrtMemoryInfo*,
                                         const OrtArenaCfg*) noexcept {
      return failures-- > 0 ? object<OrtStatus>(&status) : nullptr;
    };
    return made;
  }();
  return &api;
}

const char* version() noexcept { return "1.99.0"; }

}  // namespace

extern "C" __attribute__((visibility("default"))) const OrtApiBase* OrtGetApiBase() noexcept {
  static const OrtApiBase base = {get_api, version};
  return &base;
}

// Environments and descriptions of memory that were made and not released.
extern "C" __attribute__((visibility("default"))) int held() {
  return environments * 10 + memories;
}
