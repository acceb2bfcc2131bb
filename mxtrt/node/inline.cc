// Running a node from the calling thread, without MXNet's engine threads.
//
// A run in host memory is done when the call returns; it is worth it where the run is shorter than
// handing it to MXNet's engine and back.  A run on a GPU is put on the GPU's stream; MXNet is
// told when it is done, by whoever notices first: a thread that waits for one of its outputs
// (mxtrt_finish), or a thread that looks every few microseconds.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "arrays.h"
#include "callbacks.h"
#include "device.h"
#include "errors.h"
#include "export.h"
#include "forward.h"
#include "nvtx.h"
#include "process.h"
#include "registry.h"
#include "tally.h"

namespace mxtrt {
namespace {

constexpr int kAsync = 4;          // mxnet::FnProperty::kAsync (include/mxnet/engine.h)
constexpr int kNotReady = 600;     // CUDA_ERROR_NOT_READY
constexpr unsigned kNoTiming = 2;  // CU_EVENT_DISABLE_TIMING
constexpr std::chrono::microseconds kLookEvery{50};

// mxnet::engine::CallbackOnComplete (include/mxnet/engine.h).
struct Completion {
  void (*function)(void* engine, void* parameter, const void* error);
  void* engine;
  void* parameter;

  // MXNet takes the error for a dmlc::Error, which is a std::runtime_error and nothing else.
  void operator()(const std::runtime_error* error = nullptr) const {
    function(engine, parameter, error);
  }
};

// Runs that are on a GPU's stream and that MXNet waits for, oldest first.
class Flights {
 public:
  // Of the process; never destroyed, because its thread never ends.
  static Flights& get() {
    static auto* flights = new Flights;
    return *flights;
  }

  // What was put on the device's stream last is a run with these outputs.
  void add(int64_t node, Device* device, std::vector<const Var*> outputs,
           const Completion& completion) {
    std::unique_lock<std::mutex> lock(mutex_);
    void* event = nullptr;
    if (events_.empty()) {
      check(g_cuda.event_create(&event, kNoTiming));
    } else {
      event = events_.back();
      events_.pop_back();
    }
    check(g_cuda.event_record(event, device->stream()));
    flights_.push_back({++last_, node, device, event, std::move(outputs), completion});
    count_.store(flights_.size(), std::memory_order_release);
    lock.unlock();
    wake_.notify_one();
  }

  // Returns when the run that writes this array is done, at once if there is none.
  void finish(const Var* output) {
    if (!count_.load(std::memory_order_acquire)) return;
    std::unique_lock<std::mutex> lock(mutex_);
    auto found = std::find_if(flights_.begin(), flights_.end(), [&](const Flight& flight) {
      return std::count(flight.outputs.begin(), flight.outputs.end(), output) > 0;
    });
    if (found == flights_.end()) return;
    const uint64_t number = found->number;
    const Device* device = found->device;
    void* event = found->event;
    lock.unlock();
    ++g_tally.waits;
    int code = device->try_current();
    if (!code) code = g_cuda.event_wait(event);
    complete(number, code);
  }

 private:
  struct Flight {
    uint64_t number;
    int64_t node;
    Device* device;
    void* event;
    std::vector<const Var*> outputs;
    Completion completion;
  };

  Flights() { std::thread(&Flights::look, this).detach(); }

  // Tells MXNet that the runs up to this one are done: the stream runs them in order.
  void complete(uint64_t number, int code) {
    std::deque<Flight> done;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      while (!flights_.empty() && flights_.front().number <= number) {
        events_.push_back(flights_.front().event);
        done.push_back(std::move(flights_.front()));
        flights_.pop_front();
      }
      count_.store(flights_.size(), std::memory_order_release);
    }
    for (const auto& flight : done) {
      if (!code) {
        flight.completion();
        continue;
      }
      const std::runtime_error error(words_of(code));
      report_failure(flight.node, error.what());
      flight.completion(&error);
    }
  }

  void look() {
    for (;;) {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [&] { return !flights_.empty(); });
      const uint64_t number = flights_.front().number;
      const Device* device = flights_.front().device;
      void* event = flights_.front().event;
      lock.unlock();
      int code = device->try_current();
      if (!code) {
        while ((code = g_cuda.event_query(event)) == kNotReady) {
          std::this_thread::sleep_for(kLookEvery);
        }
      }
      complete(number, code);
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Flight> flights_;
  std::vector<void*> events_;
  std::atomic<size_t> count_{0};
  uint64_t last_ = 0;
};

// A run that MXNet starts when its inputs are there.
struct Launch {
  std::shared_ptr<Node> node;
  std::shared_ptr<const Variant> variant;
  std::vector<void*> arrays;  // of the inputs; MXNet may not have allocated them yet
  std::vector<Tensor> inputs, outputs;
  std::vector<const Var*> written;

  Launch() = default;
  Launch(const Launch&) = delete;
  Launch& operator=(const Launch&) = delete;
  ~Launch() {
    if (shutting_down()) return;
    for (void* array : arrays) free_array(array);
  }
};

void launch(void*, void* completion, void* parameter) {
  static const bool synchronous = [] {
    const char* engine = std::getenv("MXNET_ENGINE_TYPE");
    return engine && !std::strcmp(engine, "NaiveEngine");
  }();
  auto* task = static_cast<Launch*>(parameter);
  auto& session = *task->variant->session;
  Device* device = session.device();
  auto bindings = session.bindings();
  for (size_t i = 0; i < task->inputs.size(); ++i) {
    task->inputs[i].data = data_of(task->arrays[i]);
  }
  const auto& done = *static_cast<Completion*>(completion);
  bool by_engine = false;
  {
    Range range(task->node->name.c_str());
    // MXNet catches what this throws.
    by_engine = run_or_take_over(*task->node, *task->variant, bindings.get(), task->inputs,
                                 task->outputs, device->stream());
  }
  if (!by_engine) {
    done();
  } else if (synchronous) {
    check(g_cuda.stream_wait(device->stream()));
    done();
  } else {
    Flights::get().add(task->node->key, device, std::move(task->written), done);
  }
}

// Arrays for the outputs of a run: ones that nobody else holds any more, or new ones.
void output_arrays(Node& node, const std::shared_ptr<const Variant>& variant,
                   const Context& context, std::vector<void*>* arrays) {
  arrays->reserve(variant->outputs.size());
  if (variant->spares.take(arrays)) return;
  size_t size = 0;
  for (size_t i = 0; i < variant->outputs.size(); ++i) {
    const auto& shape = variant->outputs[i];
    size += bytes({nullptr, shape.data(), static_cast<int>(shape.size()), node.output_types[i]});
  }
  node.make_room(variant, size);
  for (size_t i = 0; i < variant->outputs.size(); ++i) {
    const auto& shape = variant->outputs[i];
    void* array = nullptr;
    ++g_tally.allocations;
    if (g_mxnet.create(shape.data(), static_cast<int>(shape.size()), context.device_type,
                       context.device_id, 0, node.output_types[i], &array)) {
      throw std::runtime_error("MXNet could not allocate an output");
    }
    arrays->push_back(array);
  }
  variant->spares.offer(*arrays, size);
}

// Hands a run to MXNet's engine, which starts it at once if its inputs are there.
void start(std::unique_ptr<Launch> task, Context context, void* const* inputs,
           const std::vector<void*>& made) {
  std::vector<const Var*> read, written;  // each once
  task->arrays.reserve(task->inputs.size());
  for (size_t i = 0; i < task->inputs.size(); ++i) {
    task->arrays.push_back(another_handle(inputs[i]));
    const Var* var = chunk(inputs[i]).var;
    if (std::find(read.begin(), read.end(), var) == read.end()) read.push_back(var);
  }
  for (void* array : made) written.push_back(chunk(array).var);
  task->written = written;
  int property = kAsync;
  if (g_mxnet.push_async(
          launch, task.release(), [](void* given) { delete static_cast<Launch*>(given); }, &context,
          static_cast<void*>(read.data()), static_cast<int>(read.size()),
          static_cast<void*>(written.data()), static_cast<int>(written.size()), &property, 0,
          "mxtrt_run", false)) {
    throw std::runtime_error("MXNet's engine refused a run");
  }
}

}  // namespace

// What stays the same from run to run.  Python has the same structure.
struct Call {
  int64_t key;
  int64_t limit;  // nanoseconds; a run in host memory that took longer goes through MXNet
  Context context;
  int num_inputs, num_outputs;
};

// Runs a node from the calling thread.  Returns 1 when the outputs are there or on their way, 0
// after setting the error, -1 when the run has to go through MXNet (unknown shapes, no engine, a
// long run), and -2 when the inputs are other arrays than those of the bind: sparse, of another
// type or elsewhere.
MXTRT_EXPORT int mxtrt_run(const Call* call, void* const* inputs, void** outputs) {
  const int num_inputs = call->num_inputs, num_outputs = call->num_outputs;
  if (forked()) return -1;
  std::vector<void*> made;
  const auto free_made = [&] {
    for (void* array : made) free_array(array);
  };
  try {
    auto node = find_node(call->key);
    if (!node || node->input_types.size() != static_cast<size_t>(num_inputs) ||
        node->output_types.size() != static_cast<size_t>(num_outputs)) {
      return -1;
    }
    for (int i = 0; i < num_inputs; ++i) {
      if (!is_alike(inputs[i], node->input_types[i], call->context)) return -2;
    }
    if (node->retired) return -1;
    std::vector<Shape> shapes(num_inputs);
    for (int i = 0; i < num_inputs; ++i) {
      int ndim = 0;
      const int64_t* shape = nullptr;
      if (g_mxnet.get_shape(inputs[i], &ndim, &shape) || ndim < 0) return -1;
      shapes[i].assign(shape, shape + ndim);
    }
    auto variant = node->find(shapes);
    if (!variant || !variant->session) return -1;
    const bool later = variant->session->device() != nullptr;
    const int64_t last = variant->nanoseconds.load(std::memory_order_relaxed);
    if (!later && last > call->limit) return -1;

    std::vector<Tensor> in(num_inputs), out(num_outputs);
    for (int i = 0; i < num_inputs; ++i) {
      const auto& shape = variant->inputs[i];
      in[i] = {nullptr, shape.data(), static_cast<int>(shape.size()), node->input_types[i]};
      if (!later) ++g_tally.waits;
      if (!later && (!is_readable(inputs[i]) || g_mxnet.get_data(inputs[i], &in[i].data))) {
        return -1;
      }
    }
    output_arrays(*node, variant, call->context, &made);
    for (int i = 0; i < num_outputs; ++i) {
      const auto& shape = variant->outputs[i];
      out[i] = {nullptr, shape.data(), static_cast<int>(shape.size()), node->output_types[i]};
      if (g_mxnet.get_data(made[i], &out[i].data)) {
        free_made();
        return -1;
      }
    }
    if (!later) {
      Range range(node->name.c_str());
      auto bindings = variant->session->bindings();
      variant->run(bindings.get(), in, out, nullptr);
    } else {
      auto task = std::make_unique<Launch>();
      task->node = std::move(node);
      task->variant = std::move(variant);
      task->inputs = std::move(in);
      task->outputs = std::move(out);
      start(std::move(task), call->context, inputs, made);
    }
    std::copy(made.begin(), made.end(), outputs);
    return 1;
  } catch (const std::exception& error) {
    free_made();
    set_error(error.what());
    return 0;
  }
}

// Returns when the run that writes this array is done, at once if there is none.
MXTRT_EXPORT int mxtrt_finish(void* array) {
  if (forked()) return 1;
  return guarded([&] {
    if (static_cast<Array*>(array)->chunk) Flights::get().finish(chunk(array).var);
  });
}

}  // namespace mxtrt
