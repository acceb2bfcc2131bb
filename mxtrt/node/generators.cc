// MXNet hands every operator of an extension a random generator, in turns one of a few that it
// keeps for each thread and GPU (ResourceParallelRandom in MXNet's src/resource.cc).  It seeds them
// with a kernel of its own, when a thread asks for the first one and at every mx.random.seed.  On a
// GPU that MXNet has no code for the kernel fails, and MXNet keeps the failure for the next
// operator that is handed the generator: an engine's, at a user's request.  Engines need no random
// numbers, so an operator that does nothing takes these failures before.
//
// An array that MXNet failed to fill with random numbers there, and that nobody has read yet,
// shares the failure: it is read without an error afterwards.
#include "generators.h"

#include <charconv>
#include <cstdlib>
#include <cstring>
#include <set>
#include <stdexcept>
#include <string>

#include "arrays.h"
#include "errors.h"
#include "export.h"
#include "process.h"
#include "tensor.h"

namespace mxtrt {
namespace {

constexpr const char* kSeeding = "rand_generator_seed_kernel";

// The GPUs whose generators of this thread are settled.
thread_local std::set<int> t_settled;

// Frees an array at the end of a block.
struct Owned {
  explicit Owned(void* given) : array(given) {}
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  ~Owned() { free_array(array); }
  void* const array;
};

// Records nothing for autograd in a block.
class Unrecorded {
 public:
  Unrecorded() { static_cast<void>(g_mxnet.set_recording(0, &before_)); }
  Unrecorded(const Unrecorded&) = delete;
  Unrecorded& operator=(const Unrecorded&) = delete;
  ~Unrecorded() { static_cast<void>(g_mxnet.set_recording(before_, &before_)); }

 private:
  int before_ = 0;
};

// How many generators MXNet keeps for each thread and GPU.
int generators() {
  const char* text = std::getenv("MXNET_GPU_PARALLEL_RAND_COPY");
  int count = 0;
  if (text) std::from_chars(text, text + std::strlen(text), count);
  return count > 0 ? count : 4;
}

// Runs the operator that does nothing with the next generator; MXNet's error, empty if it ran.
std::string error_of_next(void* operation, void* array) {
  int count = 0;
  void** outputs = nullptr;
  if (g_mxnet.invoke(operation, 1, &array, &count, &outputs, 0, nullptr, nullptr)) {
    return g_mxnet.get_last_error();
  }
  const Owned output{outputs[0]};
  return g_mxnet.wait_to_read(output.array) ? g_mxnet.get_last_error() : "";
}

// Returns whether the generators are settled: not where MXNet makes no array, which is not for want
// of a generator.
bool settle(const Context& context) {
  void* operation = nullptr;
  if (g_mxnet.find_operator(kIdleOperator, &operation)) {
    throw std::runtime_error(g_mxnet.get_last_error());
  }
  const Unrecorded unrecorded;
  const int64_t shape = 1;
  void* array = nullptr;
  if (g_mxnet.create(&shape, 1, context.device_type, context.device_id, 0,
                     static_cast<int>(MXType::kFloat32), &array)) {
    return false;
  }
  const Owned one{array};
  const int count = generators();
  bool failed = false;
  for (int turn = 0; turn < count; ++turn) {
    const std::string error = error_of_next(operation, one.array);
    if (error.empty()) continue;
    if (error.find(kSeeding) == std::string::npos) {
      throw std::runtime_error(error);  // somebody else's, who has to be told
    }
    failed = true;
  }
  for (int turn = 0; turn < count && failed; ++turn) {
    const std::string error = error_of_next(operation, one.array);
    if (!error.empty()) throw std::runtime_error(error);
  }
  return true;
}

}  // namespace

void settle_generators(int ordinal) {
  if (t_settled.count(ordinal)) return;
  if (settle({kGpu, ordinal})) t_settled.insert(ordinal);
}

// After this thread's generators were seeded anew: settles those that were before.
MXTRT_EXPORT int mxtrt_settle_generators() {
  if (forked()) return 1;
  return guarded([] {
    for (const int ordinal : t_settled) settle({kGpu, ordinal});
  });
}

// Tests: the same for the generators of a device type and ordinal, the CPU's too.
MXTRT_EXPORT int mxtrt_settle_generators_of(int device_type, int ordinal) {
  return guarded([=] { settle({device_type, ordinal}); });
}

}  // namespace mxtrt
