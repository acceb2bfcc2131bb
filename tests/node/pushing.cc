// Threads that push operations to MXNet's engine at once, each of which writes to two arrays.
#include <atomic>
#include <thread>
#include <vector>

namespace {

struct Context {
  int device_type, device_id;
};
using Operation = void (*)(void* run_context, void* parameter);
// MXEnginePushSyncND (include/mxnet/c_api.h)
using Push = int (*)(Operation, void* parameter, void (*free)(void*), Context*, void** read,
                     int num_read, void** written, int num_written, int* property, int priority,
                     const char* name);

std::atomic<long> g_done{0};

}  // namespace

// Pushes so many operations from each of so many threads; returns how many have run.
extern "C" __attribute__((visibility("default"))) long push_at_once(Push push, int (*wait)(),
                                                                    void** arrays, int threads,
                                                                    int times) {
  std::vector<std::thread> pushing;
  for (int i = 0; i < threads; ++i) {
    pushing.emplace_back([=] {
      for (int k = 0; k < times; ++k) {
        Context cpu{1, 0};
        push([](void*, void*) { ++g_done; }, nullptr, nullptr, &cpu, nullptr, 0, arrays, 2, nullptr,
             0, "both");
      }
    });
  }
  for (auto& thread : pushing) thread.join();
  wait();  // for all of them
  return g_done;
}
