// MXNet hands every operator of an extension a random generator, in turns one of a few that it
// keeps for each thread and GPU (ResourceParallelRandom in MXNet's src/resource.cc).  It seeds them
// with a kernel of its own, when a thread asks for the first one and at every mx.random.seed.  On a
// GPU that MXNet has no code for the kernel fails, and MXNet keeps the failure for the next
// operator that is handed the generator: an engine's, at a user's request.  Engines need no random
// numbers, so an operator that does nothing takes these failures before.
//
// Two operations that fail at the same time, on two of MXNet's threads, may crash the process: both
// add to one list of failures, without a lock (AddToGlobalExceptions in MXNet's
// src/engine/threaded_engine.h).  So the generators are made while MXNet puts what is pushed into
// one operation (a bulk), which fails once; and where seeding is known to fail, all generators have
// one failure, in the list already, before they are seeded anew: MXNet then skips it.  simple_bind,
// which fills each of its arrays with a kernel, is called in such a block too.
//
// An array that MXNet failed to fill with random numbers there, and that nobody has read yet,
// shares the failure: it is read without an error afterwards.
#include "generators.h"

#include <charconv>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "arrays.h"
#include "errors.h"
#include "export.h"
#include "process.h"
#include "tensor.h"

namespace mxtrt {
namespace {

constexpr const char* kSeeding = "rand_generator_seed_kernel";
constexpr int kNoBulk = 0, kLargestBulk = 1 << 16;

// Held while seeding or filling may fail: MXNet has one list of failures for all threads and GPUs.
// Recursive, as a bind inside a block may settle generators.
std::recursive_mutex g_failing;

// The GPUs whose generators of this thread are settled, and whether seeding them fails.
thread_local std::map<int, bool> t_settled;

struct Free {
  void operator()(void* array) const { free_array(array); }
};
using Owned = std::unique_ptr<void, Free>;

// Tests: what holds the failure of generators that are spoiled.
thread_local std::vector<Owned> t_spoiled;

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

// What this thread has MXNet do in a block is one operation; it begins when an array is waited for
// or the block ends.  What the thread collected before for another one begins now.
class Bulk {
 public:
  Bulk() {
    int collected = 0;
    static_cast<void>(g_mxnet.set_bulk_size(kNoBulk, &before_));
    static_cast<void>(g_mxnet.set_bulk_size(kLargestBulk, &collected));
  }
  Bulk(const Bulk&) = delete;
  Bulk& operator=(const Bulk&) = delete;
  ~Bulk() {
    int collected = 0;
    static_cast<void>(g_mxnet.set_bulk_size(kNoBulk, &collected));
    static_cast<void>(g_mxnet.set_bulk_size(before_, &collected));
  }

 private:
  int before_ = 0;
};

// What this thread has MXNet do in a block fails at most once, and while no other block fails.
class Block {
 private:
  const Lock<std::recursive_mutex> lock_{g_failing};
  const Bulk bulk_;
};
thread_local std::vector<std::unique_ptr<const Block>> t_blocks;

// How many generators MXNet keeps for each thread and GPU.
int generators() {
  const char* text = std::getenv("MXNET_GPU_PARALLEL_RAND_COPY");
  int count = 0;
  if (text) std::from_chars(text, text + std::strlen(text), count);
  return count > 0 ? count : 4;
}

// The operator that does nothing, or fails, with the next generator; pushed, not awaited.
Owned next(void* operation, const Owned& array, bool fails) {
  void* input = array.get();
  int count = 0;
  void** outputs = nullptr;
  const char* key = kFails;
  const char* value = "1";
  if (g_mxnet.invoke(operation, 1, &input, &count, &outputs, fails ? 1 : 0, &key, &value)) {
    throw std::runtime_error(g_mxnet.get_last_error());
  }
  return Owned(outputs[0]);
}

// An array on a device, and the operator that does nothing; no array where MXNet makes none, which
// is not for want of a generator.
std::pair<void*, Owned> means(const Context& context) {
  void* operation = nullptr;
  if (g_mxnet.find_operator(kIdleOperator, &operation)) {
    throw std::runtime_error(g_mxnet.get_last_error());
  }
  const int64_t shape = 1;
  void* array = nullptr;
  if (g_mxnet.create(&shape, 1, context.device_type, context.device_id, 0,
                     static_cast<int>(MXType::kFloat32), &array)) {
    array = nullptr;
  }
  return {operation, Owned(array)};
}

// One operation with all generators, done when what was pushed for any of them is; MXNet's error,
// which no generator has any more, empty if it ran.
std::string error_of_all(void* operation, const Owned& array) {
  const Bulk bulk;
  std::vector<Owned> outputs;
  for (int turn = generators(); turn > 0; --turn) outputs.push_back(next(operation, array, false));
  std::string error;  // MXNet tells it once, whichever output is asked first
  for (const auto& output : outputs) {
    if (g_mxnet.wait_to_read(output.get())) error = g_mxnet.get_last_error();
  }
  return error;
}

// Settles the generators of a device, for t_settled.
void settle(const Context& context) {
  const auto [operation, array] = means(context);
  if (!array) return;
  const Unrecorded unrecorded;
  bool fails = false;
  if (const std::string error = error_of_all(operation, array); !error.empty()) {
    if (error.find(kSeeding) == std::string::npos &&
        error.find(kIdleOperator) == std::string::npos) {
      throw std::runtime_error(error);  // somebody else's, who has to be told
    }
    fails = true;
    const std::string another = error_of_all(operation, array);
    if (!another.empty()) throw std::runtime_error(another);
  }
  t_settled[context.device_id] = fails;
}

// Has all generators of a device have one failure, until they are settled: seeding is skipped.
// What is returned holds it until then.
std::vector<Owned> spoil(const Context& context) {
  const auto [operation, array] = means(context);
  std::vector<Owned> outputs;
  if (!array) return outputs;
  const Unrecorded unrecorded;
  const Bulk bulk;
  for (int turn = generators(); turn > 0; --turn) outputs.push_back(next(operation, array, false));
  outputs.push_back(next(operation, array, true));
  return outputs;
}

}  // namespace

void settle_generators(int ordinal) {
  if (t_settled.count(ordinal)) return;
  const Lock lock(g_failing);
  settle({kGpu, ordinal});
}

// MXRandomSeed, or with a device type MXRandomSeedContext, after which engines on a GPU go on.
// Returns MXNet's status.
MXTRT_EXPORT int mxtrt_seed(int seed, int device_type, int device_id) {
  const auto original = [=] {
    return device_type ? g_mxnet.seed_context(seed, device_type, device_id) : g_mxnet.seed(seed);
  };
  if (forked() || t_settled.empty()) return original();
  const Lock lock(g_failing);
  std::vector<std::vector<Owned>> spoiled;
  // What cannot be mended the next forward tells.
  static_cast<void>(guarded([&] {
    for (const auto& [ordinal, fails] : t_settled) {
      if (fails) spoiled.push_back(spoil({kGpu, ordinal}));
    }
  }));
  const int status = original();
  static_cast<void>(guarded([] {
    for (const auto& [ordinal, fails] : std::map<int, bool>(t_settled)) settle({kGpu, ordinal});
  }));
  return status;
}

// Begins a block of a thread in which what fails on a GPU fails as one operation; the generators
// are settled before.  Returns 0 after setting the error, and no block has begun.
MXTRT_EXPORT int mxtrt_block_begin(int ordinal) {
  return guarded([=] {
    settle_generators(ordinal);
    t_blocks.push_back(std::make_unique<const Block>());
  });
}

// Ends the thread's last block, once what it pushed was waited for.
MXTRT_EXPORT void mxtrt_block_end() { t_blocks.pop_back(); }

// Tests: the same steps for the generators of a device type and ordinal, the CPU's too.
MXTRT_EXPORT int mxtrt_settle_generators_of(int device_type, int ordinal) {
  return guarded([=] {
    settle({device_type, ordinal});
    t_settled.erase(ordinal);
    t_spoiled.clear();
  });
}

MXTRT_EXPORT int mxtrt_spoil_generators_of(int device_type, int ordinal) {
  return guarded([=] { t_spoiled = spoil({device_type, ordinal}); });
}

}  // namespace mxtrt
