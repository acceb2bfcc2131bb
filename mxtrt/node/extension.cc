// MXNet's extension interface, version 11 (mxnet/include/mxnet/lib_api.h): one graph pass,
// "TensorRT", one stateful operator, "_mxtrt_engine", and one that does nothing, "_mxtrt_idle".
#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "callbacks.h"
#include "errors.h"
#include "export.h"
#include "forward.h"
#include "generators.h"
#include "nvtx.h"
#include "process.h"
#include "registry.h"

namespace mxtrt {
namespace {

constexpr int kLibraryVersion = 11;
constexpr int kFirstMXNet = 10900, kLastMXNet = 10999;
constexpr const char* kEngineOperator = "_mxtrt_engine";
constexpr const char* kPass = "TensorRT";
constexpr const char* kExtraInputs = "__ext_extra_inputs__";  // MX_STR_EXTRA_INPUTS
constexpr const char* kUnread = "num_unread";
constexpr int64_t kMostTensors = 1 << 20;  // inputs or outputs of an engine

// MXNet hands the function pointers that an operator is registered with back to the _opCall...
// functions below and never calls them itself: they tell the operators apart.
void* const kEngine = reinterpret_cast<void*>(&find_node);
void* const kIdle = reinterpret_cast<void*>(&settle_generators);

const char* look_up(const char* const* keys, const char* const* values, int num, const char* key) {
  for (int i = 0; i < num; ++i) {
    if (!std::strcmp(keys[i], key)) return values[i];
  }
  return nullptr;
}

const char* attribute(const char* const* keys, const char* const* values, int num,
                      const char* key) {
  if (const char* value = look_up(keys, values, num, key)) return value;
  throw std::runtime_error(std::string("the engine node has no attribute ") + key);
}

// The number that an attribute of an engine node is.
int64_t number(const char* const* keys, const char* const* values, int num, const char* key) {
  const std::string text = attribute(keys, values, num, key);
  int64_t value = -1;
  const char* end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, value);
  if (parsed.ec != std::errc() || parsed.ptr != end || value < 0) {
    throw std::runtime_error(std::string("the attribute ") + key + " of an engine node is \"" +
                             text + "\", which is no number of this kind");
  }
  return value;
}

// How many of its last inputs an engine node does not read: arguments that the symbol is to keep.
int64_t unread_of(const char* const* keys, const char* const* values, int num) {
  return look_up(keys, values, num, kUnread) ? number(keys, values, num, kUnread) : 0;
}

// The node that attributes name; JSON that somebody changed may say anything.
std::shared_ptr<Node> node_of(const char* const* keys, const char* const* values, int num) {
  // Other processes have an engine of this number too.
  const bool own = is_own(attribute(keys, values, num, "process"));
  auto node = own ? find_node(number(keys, values, num, "engine")) : nullptr;
  if (!node) {
    throw std::runtime_error(
        std::string("engine ") + attribute(keys, values, num, "engine") +
        " does not exist in this process (the symbol is JSON of another process, or outlived its "
        "engine); partition the original symbol again, or keep the partitioned one with "
        "Symbol.save or pickle");
  }
  node->check_counts(number(keys, values, num, "num_inputs"),
                     number(keys, values, num, "num_outputs"));
  return node;
}

// Begins like mxnet::ext::CustomStatefulOp, which MXNet reads `created` from.
struct State {
  State(std::shared_ptr<Node> of, std::vector<Shape> inputs)
      : node(std::move(of)), bound(std::move(inputs)) {
    node->enter(bound);
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  virtual ~State() { node->leave(bound); }
  bool ignore_warn = true;
  bool created = true;
  const std::shared_ptr<Node> node;
  const std::vector<Shape> bound;  // input shapes of the bind
  uint64_t generation = ~uint64_t{0};
  std::shared_ptr<const Variant> variant;
  std::unique_ptr<Bindings> bindings;
  std::vector<Tensor> inputs, outputs;
};

template <typename T>
T* allocate(size_t count) {
  auto* memory = static_cast<T*>(std::malloc(std::max<size_t>(count, 1) * sizeof(T)));
  if (!memory) throw std::bad_alloc();
  return memory;
}

// Shapes in the form that MXNet frees through _opCallFree.
void give_shapes(const std::vector<Shape>& shapes, unsigned*** dims, int** ndims) {
  *dims = allocate<unsigned*>(shapes.size());
  *ndims = allocate<int>(shapes.size());
  for (size_t i = 0; i < shapes.size(); ++i) {
    (*ndims)[i] = static_cast<int>(shapes[i].size());
    (*dims)[i] = allocate<unsigned>(shapes[i].size());
    std::copy(shapes[i].begin(), shapes[i].end(), (*dims)[i]);
  }
}

// The shapes that MXNet hands over, -1 for a size that it does not know.
std::vector<Shape> taken_shapes(const unsigned* const* dims, const int* ndims, int count) {
  std::vector<Shape> shapes;
  for (int i = 0; i < count; ++i) {
    bool known = ndims[i] >= 0;
    for (int axis = 0; axis < ndims[i]; ++axis) known = known && dims[i][axis] != ~0u;
    if (!known) throw std::runtime_error("an input shape of the engine is unknown");
    shapes.emplace_back(dims[i], dims[i] + ndims[i]);
  }
  return shapes;
}

bool same_types(const std::vector<int>& types, const std::vector<Tensor>& tensors) {
  return std::equal(types.begin(), types.end(), tensors.begin(), tensors.end(),
                    [](int type, const Tensor& tensor) { return type == tensor.type; });
}

bool same_shapes(const std::vector<Shape>& shapes, const std::vector<Tensor>& tensors) {
  if (shapes.size() != tensors.size()) return false;
  for (size_t i = 0; i < shapes.size(); ++i) {
    if (static_cast<int>(shapes[i].size()) != tensors[i].ndim ||
        !std::equal(shapes[i].begin(), shapes[i].end(), tensors[i].shape)) {
      return false;
    }
  }
  return true;
}

void fill(std::vector<Tensor>* tensors, void** data, const int64_t** shapes, const int* ndims,
          const int* types, int count) {
  tensors->resize(count);
  for (int i = 0; i < count; ++i) (*tensors)[i] = {data[i], shapes[i], ndims[i], types[i]};
}

void forward(State* state, void* stream) {
  Range range(state->node->name.c_str());
  if (forked()) {
    throw std::runtime_error(
        "this engine was built before the process forked and its threads are gone; "
        "bind the symbol again in the child process");
  }
  state->node->check_counts(static_cast<int64_t>(state->inputs.size()),
                            static_cast<int64_t>(state->outputs.size()));
  if (!same_types(state->node->input_types, state->inputs) ||
      !same_types(state->node->output_types, state->outputs)) {
    throw std::runtime_error("the tensors of a forward have other types than those of the engine");
  }
  const uint64_t generation = state->node->generation();
  if (generation != state->generation || !same_shapes(state->variant->inputs, state->inputs)) {
    std::vector<Shape> shapes;
    shapes.reserve(state->inputs.size());
    for (const auto& t : state->inputs) shapes.emplace_back(t.shape, t.shape + t.ndim);
    auto variant = variant_of(*state->node, shapes, true);
    if (variant && variant->session) {
      if (!state->variant || variant->session != state->variant->session) {
        state->bindings = variant->session->bindings();
      }
      state->variant = std::move(variant);
    } else if (!variant || !state->variant || state->variant->inputs != shapes) {
      // A session that was given up stays with the states that already run it.
      take_error("");
      take_over(state->node->key, state->inputs, state->outputs,
                "the engine is not built for the shapes of this forward", stream);
      return;
    }
    state->generation = generation;
  }
  if (!same_shapes(state->variant->outputs, state->outputs)) {
    throw std::runtime_error("the outputs of a forward have other shapes than those of the engine");
  }
  Place place;
  place.stream = stream;
  run_or_take_over(*state->node, *state->variant, state->bindings.get(), state->inputs,
                   state->outputs, &place);
}

}  // namespace

MXTRT_EXPORT int _opVersion() { return kLibraryVersion; }

MXTRT_EXPORT int initialize(int version) {
  if (version >= kFirstMXNet && version <= kLastMXNet) return 1;
  set_error("mxtrt's engine node is made for MXNet 1.9, this is version code " +
            std::to_string(version) + "; install mxnet 1.9.1");
  return 0;
}

MXTRT_EXPORT int _msgSize() { return has_error(); }
MXTRT_EXPORT void _msgGet(int, const char** message) { *message = show_error(); }
MXTRT_EXPORT void _opCallFree(void* memory) { std::free(memory); }

MXTRT_EXPORT int _opRegSize() { return 2; }

MXTRT_EXPORT void _opRegGet(int index, const char** name, int* is_subgraph_op,
                            const char*** forward_ctx, void*** forward, int* forward_count,
                            const char*** backward_ctx, void*** backward, int* backward_count,
                            const char*** create_ctx, void*** create, int* create_count,
                            void** parse, void** type, void** stype, void** shape, void** mutate) {
  static const char* contexts[] = {"cpu", "gpu"};
  static void* markers[2][2] = {{kEngine, kEngine}, {kIdle, kIdle}};
  *name = index ? kIdleOperator : kEngineOperator;
  *is_subgraph_op = 0;
  *forward_ctx = *backward_ctx = *create_ctx = nullptr;
  *forward = *backward = *create = nullptr;
  *forward_count = *backward_count = *create_count = 0;
  *(index ? forward_ctx : create_ctx) = contexts;
  *(index ? forward : create) = markers[index];
  *(index ? forward_count : create_count) = 2;
  *parse = *type = *shape = markers[index][0];
  *stype = *mutate = nullptr;
}

MXTRT_EXPORT int _opCallParseAttrs(void* marker, const char* const* keys, const char* const* values,
                                   int num, int* num_inputs, int* num_outputs) {
  return guarded([&] {
    if (marker == kIdle) {
      *num_inputs = *num_outputs = 1;
      return;
    }
    const int64_t read = number(keys, values, num, "num_inputs");
    const int64_t unread = unread_of(keys, values, num);
    const int64_t outputs = number(keys, values, num, "num_outputs");
    if (look_up(keys, values, num, kExtraInputs)) {
      throw std::runtime_error("an engine node has no inputs beyond those of its engine");
    }
    if (read > kMostTensors || unread > kMostTensors || outputs > kMostTensors) {
      throw std::runtime_error("an engine node has more tensors than any engine takes");
    }
    *num_inputs = static_cast<int>(read + unread);
    *num_outputs = static_cast<int>(outputs);
  });
}

MXTRT_EXPORT int _opCallInferShape(void* marker, const char* const* keys, const char* const* values,
                                   int num, unsigned** in_dims, int* in_ndims, int num_inputs,
                                   unsigned*** mod_in_dims, int** mod_in_ndims,
                                   unsigned*** out_dims, int** out_ndims, int num_outputs) {
  return guarded([&] {
    const auto all = taken_shapes(in_dims, in_ndims, num_inputs);
    if (marker == kIdle) {
      give_shapes(all, mod_in_dims, mod_in_ndims);
      give_shapes(all, out_dims, out_ndims);
      return;
    }
    auto node = node_of(keys, values, num);
    const auto read = static_cast<int>(num_inputs - unread_of(keys, values, num));
    node->check_counts(read, num_outputs);
    auto variant = variant_of(*node, {all.begin(), all.begin() + read}, false);
    if (!variant) throw std::runtime_error(take_error("the engine refused these shapes"));
    give_shapes(all, mod_in_dims, mod_in_ndims);
    give_shapes(variant->outputs, out_dims, out_ndims);
  });
}

MXTRT_EXPORT int _opCallInferType(void* marker, const char* const* keys, const char* const* values,
                                  int num, int* in_types, int num_inputs, int* out_types,
                                  int num_outputs) {
  return guarded([&] {
    if (marker == kIdle) {
      out_types[0] = in_types[0];
      return;
    }
    auto node = node_of(keys, values, num);
    const auto read = static_cast<int>(num_inputs - unread_of(keys, values, num));
    node->check_counts(read, num_outputs);
    std::copy_n(node->input_types.begin(), read, in_types);
    for (int i = read; i < num_inputs; ++i) in_types[i] = std::max(in_types[i], 0);
    std::copy_n(node->output_types.begin(), num_outputs, out_types);
  });
}

MXTRT_EXPORT int _opCallInferSType(void*, const char* const*, const char* const*, int, int*, int,
                                   int*, int) {
  set_error("the engine node infers no storage types");
  return 0;
}

// The idle operator's: engines are stateful.
MXTRT_EXPORT int _opCallFCompute(void*, const char* const* keys, const char* const* values, int num,
                                 ...) {
  return look_up(keys, values, num, kFails) == nullptr;
}

MXTRT_EXPORT int _opCallMutateInputs(void*, const char* const*, const char* const*, int, int**,
                                     int* size) {
  *size = 0;
  return 1;
}

MXTRT_EXPORT int _opCallCreateOpState(void*, const char* const* keys, const char* const* values,
                                      int num, const char* context, int ordinal, unsigned** in_dims,
                                      int* in_ndims, int num_inputs, const int*, void** state) {
  return guarded([&] {
    auto node = node_of(keys, values, num);
    if (node->gpu != (std::strcmp(context, "gpu") ? -1 : ordinal)) {
      throw std::runtime_error(
          "the engine was built for " +
          (node->gpu < 0 ? std::string("the CPU") : "GPU " + std::to_string(node->gpu)) +
          " and is bound on " + context + "(" + std::to_string(ordinal) +
          "); partition the original symbol for that context");
    }
    const auto read = static_cast<int>(num_inputs - unread_of(keys, values, num));
    node->check_counts(read, static_cast<int64_t>(node->output_types.size()));
    // MXNet asks for the node's generator next, on this thread.
    if (node->gpu >= 0) settle_generators(ordinal);
    *state = new State(std::move(node), taken_shapes(in_dims, in_ndims, read));
  });
}

MXTRT_EXPORT void _opCallDestroyOpState(void* state) {
  if (!shutting_down() && !forked()) delete static_cast<State*>(state);
}

MXTRT_EXPORT int _opCallFStatefulCompute(
    int is_forward, void* state_op, const int64_t** in_shapes, int* in_ndims, void** in_data,
    int* in_types, size_t*, const char**, int*, int num_inputs, const int64_t** out_shapes,
    int* out_ndims, void** out_data, int* out_types, size_t*, const char**, int*, int num_outputs,
    void*, void*, void*, void*, void* stream, void*, void*, int*, int*, void**, void**, void**,
    void**, int64_t*, int64_t*, int64_t*, int64_t*, void*, void*) {
  return guarded([&] {
    if (!is_forward) {
      throw std::runtime_error(
          "an engine has no gradient; bind the original symbol for training "
          "(set USE_TENSORRT=0 before the bind)");
    }
    auto* state = static_cast<State*>(state_op);
    // Those that the engine does not read come last.
    const int read = std::min(num_inputs, static_cast<int>(state->node->input_types.size()));
    fill(&state->inputs, in_data, in_shapes, in_ndims, in_types, read);
    fill(&state->outputs, out_data, out_shapes, out_ndims, out_types, num_outputs);
    forward(state, state->node->gpu < 0 ? nullptr : stream);
  });
}

MXTRT_EXPORT int _passRegSize() { return 1; }

MXTRT_EXPORT void _passRegGet(int, void** pass, const char** name) {
  *pass = reinterpret_cast<void*>(&find_node);
  *name = kPass;
}

MXTRT_EXPORT int _passCallGraphPass(void*, const char* graph, char** out_graph,
                                    const char* const* keys, const char* const* values,
                                    int num_options, const char*, const char* const*, int,
                                    void* const*, const int64_t* const*, const int*, const int*,
                                    const size_t*, const char* const*, const int*,
                                    const char* const*, int, void* const*, const int64_t* const*,
                                    const int*, const int*, const size_t*, const char* const*,
                                    const int*, void*, const void*) {
  return guarded([&] {
    const std::string partitioned = partition(graph, keys, values, num_options);
    *out_graph = allocate<char>(partitioned.size() + 1);
    std::memcpy(*out_graph, partitioned.c_str(), partitioned.size() + 1);
  });
}

// MXNet looks these up even though the library registers no partitioner.
MXTRT_EXPORT int _partRegSize() { return 0; }
MXTRT_EXPORT int _partRegGetCount(int, const char**) { return 0; }
MXTRT_EXPORT void _partRegGet() {}
MXTRT_EXPORT int _partCallSupportedOps() { return 0; }
MXTRT_EXPORT int _partCallCreateSelector() { return 0; }
MXTRT_EXPORT void _partCallSelect() {}
MXTRT_EXPORT void _partCallSelectInput() {}
MXTRT_EXPORT void _partCallSelectOutput() {}
MXTRT_EXPORT void _partCallFilter() {}
MXTRT_EXPORT void _partCallReset() {}
MXTRT_EXPORT int _partCallReviewSubgraph() { return 0; }

}  // namespace mxtrt
