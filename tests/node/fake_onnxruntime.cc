// A stand-in for ONNX Runtime that opens in the steps that the engine node asks for, and fails in
// its last one as often as FAILURES says.
#include <cstdint>
#include <cstdlib>

namespace {

constexpr int kErrorMessage = 2, kReleaseEnv = 92, kReleaseStatus = 93, kReleaseMemoryInfo = 94;
constexpr int kCreateEnv = 119, kCreateMemoryInfo = 69, kRegisterAllocator = 144, kFunctions = 400;
int status, environments, memories;
int failures = std::atoi(std::getenv("FAILURES"));
const void* table[kFunctions];

void* succeed(...) { return nullptr; }
void nothing(void*) {}
const char* message(void*) { return "no room for an arena"; }
void* create_env(int, const char*, const void*, void** made) {
  *made = &environments;
  ++environments;
  return nullptr;
}
void release_env(void*) { --environments; }
void* create_memory(int, int, void** made) {
  *made = &memories;
  ++memories;
  return nullptr;
}
void release_memory(void*) { --memories; }
void* register_allocator(void*, const void*, const void*) {
  return failures-- > 0 ? &status : nullptr;
}

const void* const* get_api(uint32_t) {
  for (auto& one : table) one = reinterpret_cast<void*>(&succeed);
  table[kErrorMessage] = reinterpret_cast<void*>(&message);
  table[kReleaseStatus] = reinterpret_cast<void*>(&nothing);
  table[kCreateEnv] = reinterpret_cast<void*>(&create_env);
  table[kReleaseEnv] = reinterpret_cast<void*>(&release_env);
  table[kCreateMemoryInfo] = reinterpret_cast<void*>(&create_memory);
  table[kReleaseMemoryInfo] = reinterpret_cast<void*>(&release_memory);
  table[kRegisterAllocator] = reinterpret_cast<void*>(&register_allocator);
  return table;
}

const char* version() { return "1.99.0"; }

struct Base {
  const void* const* (*get_api)(uint32_t);
  const char* (*version)();
} base = {get_api, version};

}  // namespace

extern "C" __attribute__((visibility("default"))) const Base* OrtGetApiBase() { return &base; }
// Environments and descriptions of memory that were made and not released.
extern "C" __attribute__((visibility("default"))) int held() { return environments * 10 + memories; }
