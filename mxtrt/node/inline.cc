// Running a node from the calling thread, without MXNet's engine threads.
//
// A short run in host memory is done when the call returns; it is worth it where the run is shorter
// than handing it to MXNet's engine and back.  A run of a GPU is put on a lane, see flights.h:
// where the arrays are on the GPU, and where a run in host memory is not short.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "arrays.h"
#include "callbacks.h"
#include "device.h"
#include "errors.h"
#include "export.h"
#include "flights.h"
#include "forward.h"
#include "nvtx.h"
#include "process.h"
#include "registry.h"
#include "tally.h"

namespace mxtrt {
namespace {

constexpr int kAsync = 4;  // mxnet::FnProperty::kAsync (include/mxnet/engine.h)

// A run that MXNet starts when its inputs are there.
struct Launch {
  std::shared_ptr<Node> node;
  std::shared_ptr<const Variant> variant;
  std::vector<void*> arrays;  // of the inputs; MXNet may not have allocated them yet
  std::vector<Tensor> inputs, outputs;
  std::vector<const Var*> written;
  const Caller caller = this_caller();
  std::chrono::steady_clock::time_point begun;

  Launch() = default;
  Launch(const Launch&) = delete;
  Launch& operator=(const Launch&) = delete;
  ~Launch() {
    if (shutting_down()) return;
    for (void* array : arrays) free_array(array);
  }
};

// Ends a run in host memory; with MXNet's operators where it failed.
void land_or_take_over(const Launch& task, const std::function<void(int)>& land, int code) {
  try {
    land(code);
    task.variant->note_time_since(task.begun);
  } catch (const std::exception& error) {
    take_over(task.node->key, task.inputs, task.outputs, error.what(), nullptr);
  }
}

void launch(void*, void* completion, void* parameter) {
  static const bool synchronous = [] {
    const char* engine = std::getenv("MXNET_ENGINE_TYPE");
    return engine && !std::strcmp(engine, "NaiveEngine");
  }();
  auto* task = static_cast<Launch*>(parameter);
  auto& session = *task->variant->session;
  const Restored restored;  // MXNet may call this on the thread that pushes it
  auto bindings = session.bindings();
  for (size_t i = 0; i < task->inputs.size(); ++i) {
    task->inputs[i].data = data_of(task->arrays[i]);
  }
  const auto& done = *static_cast<Completion*>(completion);
  bool by_engine = false;
  task->begun = std::chrono::steady_clock::now();
  Place place;
  place.later = true;
  place.caller = task->caller;
  {
    Range range(task->node->name.c_str());
    // MXNet catches what this throws.
    by_engine = run_or_take_over(*task->node, *task->variant, bindings.get(), task->inputs,
                                 task->outputs, &place);
  }
  if (!by_engine || !place.lane) {
    done();
    return;
  }
  std::function<void(int)> land;
  if (place.land) {
    land = [=, land = std::move(place.land)](int code) { land_or_take_over(*task, land, code); };
  }
  if (synchronous) {
    const int code = g_cuda.stream_wait(place.lane->stream());
    place.lane->leave();
    land ? land(code) : check(code);
    done();
  } else {
    Flights::of(*place.lane).add(task->node->key, std::move(task->written), done, std::move(land));
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

// Runs a node from the calling thread.  The outputs are arrays of its own where `outputs` has none.
// Returns 1 when they are there or on their way, 0 after setting the error, -1 when the run has to
// go through MXNet (unknown shapes, no engine, a long run), and -2 when the arrays are others than
// those of the bind: sparse, of another type or elsewhere.
MXTRT_EXPORT int mxtrt_run(const Call* call, void* const* inputs, void** outputs) {
  const int num_inputs = call->num_inputs, num_outputs = call->num_outputs;
  if (forked()) return -1;
  const bool given = num_outputs && outputs[0];
  std::vector<void*> made;
  const auto free_made = [&] {
    for (void* array : made) {
      if (!given) free_array(array);
    }
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
    for (int i = 0; given && i < num_outputs; ++i) {
      if (!is_alike(outputs[i], node->output_types[i], call->context)) return -2;
    }
    if (node->retired) return -1;
    std::vector<Shape> shapes(num_inputs);
    for (int i = 0; i < num_inputs; ++i) {
      if (!get_shape(inputs[i], &shapes[i])) return -1;
    }
    auto variant = node->find(shapes);
    if (!variant || !variant->session) return -1;
    const bool is_long = variant->nanoseconds.load(std::memory_order_relaxed) > call->limit;
    const bool later =
        variant->session->device() || (is_long && variant->session->may_come_later());
    if (is_long && !later) return -1;

    std::vector<Tensor> in(num_inputs), out(num_outputs);
    for (int i = 0; i < num_inputs; ++i) {
      const auto& shape = variant->inputs[i];
      in[i] = {nullptr, shape.data(), static_cast<int>(shape.size()), node->input_types[i]};
      if (!later) ++g_tally.waits;
      if (!later && (!is_readable(inputs[i]) || g_mxnet.get_data(inputs[i], &in[i].data))) {
        return -1;
      }
    }
    if (given) {
      Shape shape;
      for (int i = 0; i < num_outputs; ++i) {
        if (!get_shape(outputs[i], &shape) || shape != variant->outputs[i]) return -1;
        if (!later) ++g_tally.waits;
        if (!later && g_mxnet.wait_to_write(outputs[i])) return -1;
      }
      made.assign(outputs, outputs + num_outputs);
    } else {
      output_arrays(*node, variant, call->context, &made);
    }
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
      Place place;
      variant->run(bindings.get(), in, out, &place);
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
    if (static_cast<Array*>(array)->chunk) Flights::finish(chunk(array).var);
  });
}

}  // namespace mxtrt
