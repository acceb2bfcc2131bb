// MXNet's extension interface, version 11 (mxnet/include/mxnet/lib_api.h): one graph pass,
// "TensorRT", and one stateful operator, "_mxtrt_engine".
#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <stdexcept>
#include <unordered_map>

#include "node.h"
#include "nvtx.h"

namespace mxtrt {
namespace {

constexpr int kLibraryVersion = 11;
constexpr int kFirstMXNet = 10900, kLastMXNet = 10999;
constexpr const char* kOperator = "_mxtrt_engine";
constexpr const char* kPass = "TensorRT";
constexpr const char* kExtraInputs = "__ext_extra_inputs__";  // MX_STR_EXTRA_INPUTS
constexpr const char* kUnread = "num_unread";
constexpr int64_t kMostTensors = 1 << 20;  // inputs or outputs of an engine

std::mutex g_mutex;
std::unordered_map<int64_t, std::shared_ptr<Node>> g_nodes;
std::unordered_map<int64_t, std::shared_ptr<Session>> g_sessions;
int64_t g_next = 1;
std::atomic<bool> g_shutting_down{false};
std::atomic<pid_t> g_process{0};  // in which engines have threads, 0 before they have any
std::string g_token;  // of this process, set before the first node

thread_local std::string t_error, t_error_shown, t_pass_result;

// Python: returns 1 after calling mxtrt_pass_result, 0 after calling mxtrt_set_error.
using PassCallback = int (*)(const char* graph, const char* const* keys,
                             const char* const* values, int num_options);
// Python: adds the variant for these shapes and returns 1, or 0 after mxtrt_set_error.  In a
// forward it builds no engine and waits for nothing.
using ShapeCallback = int (*)(int64_t key, const int64_t* dims, const int* ndims, int num_inputs,
                              int in_forward);
// Python: a node has no engine that works.  With tensors, where MXNet has them, and the stream on
// which it works there, it computes the outputs by other means: returns 1, or 0 after
// mxtrt_set_error.  Without (null) it takes note and returns 0.
using FailureCallback = int (*)(int64_t key, const char* message, const int64_t* dims,
                                const int* ndims, void* const* data, void* stream);
PassCallback g_pass = nullptr;
ShapeCallback g_shape = nullptr;
FailureCallback g_failure = nullptr;

const char* look_up(const char* const* keys, const char* const* values, int num,
                    const char* key) {
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
  const bool own = g_token == attribute(keys, values, num, "process");
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

// The variant of a node for these input shapes, by way of Python if the node has none (or, outside
// of a forward, none that is built); null after setting the error.
std::shared_ptr<const Variant> variant_of(const Node& node, const std::vector<Shape>& inputs,
                                          bool in_forward) {
  auto variant = node.find(inputs);
  if (variant && (in_forward || variant->session)) return variant;
  std::vector<int64_t> dims;
  std::vector<int> ndims;
  for (const auto& shape : inputs) {
    dims.insert(dims.end(), shape.begin(), shape.end());
    ndims.push_back(static_cast<int>(shape.size()));
  }
  const int count = static_cast<int>(ndims.size());
  if (!g_shape || !g_shape(node.key, dims.data(), ndims.data(), count, in_forward)) return nullptr;
  return node.find(inputs);
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
  state->node->check_counts(state->inputs.size(), state->outputs.size());
  if (!same_types(state->node->input_types, state->inputs) ||
      !same_types(state->node->output_types, state->outputs)) {
    throw std::runtime_error("the tensors of a forward have other types than those of the engine");
  }
  const uint64_t generation = state->node->generation();
  if (generation != state->generation || !same_shapes(state->variant->inputs, state->inputs)) {
    std::vector<Shape> shapes;
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
  std::string message = "the engine was retired";
  if (!state->node->retired) {
    try {
      state->variant->run(state->bindings.get(), state->inputs, state->outputs, stream);
      return;
    } catch (const std::exception& error) {
      message = error.what();
    }
  }
  take_over(state->node->key, state->inputs, state->outputs, message, stream);
}

}  // namespace

Tally g_tally;

void take_over(int64_t key, const std::vector<Tensor>& inputs, const std::vector<Tensor>& outputs,
               const std::string& message, void* stream) {
  std::vector<int64_t> dims;
  std::vector<int> ndims;
  std::vector<void*> data;
  for (const auto* tensors : {&inputs, &outputs}) {
    for (const auto& tensor : *tensors) {
      dims.insert(dims.end(), tensor.shape, tensor.shape + tensor.ndim);
      ndims.push_back(tensor.ndim);
      data.push_back(tensor.data);
    }
  }
  if (!g_failure || shutting_down() ||
      !g_failure(key, message.c_str(), dims.data(), ndims.data(), data.data(), stream)) {
    throw std::runtime_error(take_error(message.c_str()));
  }
}

void report_failure(int64_t key, const std::string& message) {
  if (!g_failure || shutting_down()) return;
  g_failure(key, message.c_str(), nullptr, nullptr, nullptr, nullptr);
  take_error("");
}

size_t bytes(const Tensor& tensor) {
  static constexpr size_t kSize[] = {4, 8, 2, 1, 4, 1, 8, 1};
  if (tensor.type < 0 || static_cast<size_t>(tensor.type) >= std::size(kSize)) {
    throw std::runtime_error("a tensor of type " + std::to_string(tensor.type));
  }
  size_t size = kSize[tensor.type];
  for (int i = 0; i < tensor.ndim; ++i) {
    if (tensor.shape[i] < 0 || __builtin_mul_overflow(size, tensor.shape[i], &size)) {
      throw std::runtime_error("a tensor that is larger than memory");
    }
  }
  return size;
}

void Node::check_counts(int64_t inputs, int64_t outputs) const {
  const auto mine_in = static_cast<int64_t>(input_types.size());
  const auto mine_out = static_cast<int64_t>(output_types.size());
  if (inputs == mine_in && outputs == mine_out) return;
  throw std::runtime_error("an engine node has " + std::to_string(inputs) + " inputs and " +
                           std::to_string(outputs) + " outputs in the symbol, its engine has " +
                           std::to_string(mine_in) + " and " + std::to_string(mine_out) +
                           "; partition the original symbol again");
}

std::shared_ptr<const Variant> Node::find(const std::vector<Shape>& inputs) const {
  Lock lock(mutex_);
  auto found = variants_.find(inputs);
  if (found == variants_.end()) return nullptr;
  found->second->last_use.store(++uses_, std::memory_order_relaxed);
  return found->second;
}

void Node::drop(const std::vector<Shape>& inputs) {
  std::shared_ptr<const Variant> dropped;  // destroyed without the lock
  {
    std::lock_guard<std::mutex> lock(mutex_);
    auto found = variants_.find(inputs);
    if (found == variants_.end()) return;
    dropped.swap(found->second);
    variants_.erase(found);
  }
  generation_.fetch_add(1, std::memory_order_release);
}

int64_t Node::last_use(const std::vector<Shape>& inputs) const {
  std::lock_guard<std::mutex> lock(mutex_);
  auto found = variants_.find(inputs);
  return found == variants_.end() || users_.count(inputs) ? -1 : found->second->last_use.load();
}

void Node::enter(const std::vector<Shape>& inputs) {
  if (forked()) return;
  std::lock_guard<std::mutex> lock(mutex_);
  ++users_[inputs];
}

void Node::leave(const std::vector<Shape>& inputs) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (--users_[inputs] == 0) users_.erase(inputs);
}

int Node::users(const std::vector<Shape>& inputs) const {
  std::lock_guard<std::mutex> lock(mutex_);
  auto found = users_.find(inputs);
  return found == users_.end() ? 0 : found->second;
}

void Variant::run(Bindings* bindings, const std::vector<Tensor>& in,
                  const std::vector<Tensor>& out, void* stream) const {
  const auto begin = std::chrono::steady_clock::now();
  if (session->run(bindings, in, out, stream)) {
    nanoseconds.store((std::chrono::steady_clock::now() - begin) / std::chrono::nanoseconds(1),
                      std::memory_order_relaxed);
  }
  ++g_tally.runs;
}

void Node::put(std::shared_ptr<const Variant> added) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    added->last_use = ++uses_;
    variants_[added->inputs].swap(added);
  }
  // What was replaced is destroyed without the lock.
  generation_.fetch_add(1, std::memory_order_release);
}

std::shared_ptr<Node> find_node(int64_t key) {
  Lock lock(g_mutex);
  auto found = g_nodes.find(key);
  return found == g_nodes.end() ? nullptr : found->second;
}

std::shared_ptr<Session> find_session(int64_t handle) {
  Lock lock(g_mutex);
  auto found = g_sessions.find(handle);
  return found == g_sessions.end() ? nullptr : found->second;
}

int64_t add_session(std::shared_ptr<Session> session) {
  std::lock_guard<std::mutex> lock(g_mutex);
  g_sessions[g_next] = std::move(session);
  return g_next++;
}

void threads_begin() {
  pid_t none = 0;
  g_process.compare_exchange_strong(none, getpid());
}

bool forked() {
  const pid_t process = g_process.load(std::memory_order_relaxed);
  return process && process != getpid();
}

bool shutting_down() { return g_shutting_down; }
void set_error(const std::string& message) { t_error = message; }

std::string take_error(const char* otherwise) {
  std::string message;
  message.swap(t_error);
  return message.empty() ? otherwise : message;
}

}  // namespace mxtrt

using namespace mxtrt;

// ---- Called by Python ----------------------------------------------------------------------

MXTRT_EXPORT void mxtrt_set_callbacks(PassCallback pass, ShapeCallback shape,
                                      FailureCallback failure) {
  g_pass = pass;
  g_shape = shape;
  g_failure = failure;
}

MXTRT_EXPORT void mxtrt_set_error(const char* message) { set_error(message); }
MXTRT_EXPORT void mxtrt_pass_result(const char* graph) { t_pass_result = graph; }

// The last error of this thread, then forgotten; empty when there is none.
MXTRT_EXPORT const char* mxtrt_take_error() {
  t_error_shown.swap(t_error);
  t_error.clear();
  return t_error_shown.c_str();
}

// What the `process` attribute of nodes says.
MXTRT_EXPORT void mxtrt_set_token(const char* token) { g_token = token; }

// A node with these types; `gpu` is the GPU that its tensors are on, -1 for host memory.  Returns
// its key, or 0 after setting the error.
MXTRT_EXPORT int64_t mxtrt_node_create(int num_inputs, const int* input_types, int num_outputs,
                                       const int* output_types, int gpu) {
  int64_t key = 0;
  guarded([&] {
    auto node =
        std::make_shared<Node>(std::vector<int>(input_types, input_types + num_inputs),
                               std::vector<int>(output_types, output_types + num_outputs), gpu);
    std::lock_guard<std::mutex> lock(g_mutex);
    node->key = g_next;
    node->name = "mxtrt" + std::to_string(node->key);
    g_nodes[g_next] = std::move(node);
    key = g_next++;
  });
  return key;
}

// Has a node run its engines no more.
MXTRT_EXPORT void mxtrt_retire(int64_t key) {
  if (auto node = find_node(key)) node->retired = true;
}

static std::vector<Shape> input_shapes(const Node& node, const int64_t* dims, const int* ndims) {
  std::vector<Shape> shapes;
  for (size_t i = 0; i < node.input_types.size(); ++i) {
    shapes.emplace_back(dims, dims + ndims[i]);
    dims += ndims[i];
  }
  return shapes;
}

// Adds or replaces the variant of a node for these input shapes; session 0 means "not built".
MXTRT_EXPORT int mxtrt_node_put(int64_t key, const int64_t* dims, const int* ndims,
                                int64_t session) {
  return guarded([&] {
    auto node = find_node(key);
    if (!node) throw std::runtime_error("no such engine node");
    auto variant = std::make_shared<Variant>();
    for (size_t i = 0; i < node->input_types.size() + node->output_types.size(); ++i) {
      auto& shapes = i < node->input_types.size() ? variant->inputs : variant->outputs;
      shapes.emplace_back(dims, dims + ndims[i]);
      dims += ndims[i];
    }
    if (session) {
      variant->session = find_session(session);
      if (!variant->session) throw std::runtime_error("no such session");
    }
    node->put(std::move(variant));
  });
}

// How many operator states were made for these input shapes of a node.
MXTRT_EXPORT int mxtrt_node_users(int64_t key, const int64_t* dims, const int* ndims) {
  int users = 0;
  guarded([&] {
    if (auto node = find_node(key)) users = node->users(input_shapes(*node, dims, ndims));
  });
  return users;
}

// See Node::last_use.
MXTRT_EXPORT int64_t mxtrt_node_last_use(int64_t key, const int64_t* dims, const int* ndims) {
  int64_t last = -1;
  guarded([&] {
    if (auto node = find_node(key)) last = node->last_use(input_shapes(*node, dims, ndims));
  });
  return last;
}

// Forgets the variant of a node for these input shapes.
MXTRT_EXPORT int mxtrt_node_drop(int64_t key, const int64_t* dims, const int* ndims) {
  return guarded([&] {
    if (auto node = find_node(key)) node->drop(input_shapes(*node, dims, ndims));
  });
}

// Bytes of the output arrays that the process keeps for later runs, in use or not.
MXTRT_EXPORT int64_t mxtrt_spare_bytes() { return Spares::held(); }

// Forgets a node or a session; what is running keeps its own reference.
MXTRT_EXPORT void mxtrt_release(int64_t key) {
  if (shutting_down() || forked()) return;
  std::shared_ptr<Node> node;
  std::shared_ptr<Session> session;  // destroyed after the lock is given back
  std::lock_guard<std::mutex> lock(g_mutex);
  if (auto found = g_nodes.find(key); found != g_nodes.end()) {
    node = std::move(found->second);
    g_nodes.erase(found);
  }
  if (auto found = g_sessions.find(key); found != g_sessions.end()) {
    session = std::move(found->second);
    g_sessions.erase(found);
  }
}

// How many nodes and sessions Python holds.
MXTRT_EXPORT void mxtrt_counts(int64_t* nodes, int64_t* sessions) {
  Lock lock(g_mutex);
  *nodes = static_cast<int64_t>(g_nodes.size());
  *sessions = static_cast<int64_t>(g_sessions.size());
}

// What forwards did since the process began, in the order of `Tally`.
MXTRT_EXPORT void mxtrt_tally(int64_t* values) {
  for (const auto* value : {&g_tally.runs, &g_tally.copies, &g_tally.copied, &g_tally.waits,
                            &g_tally.allocations}) {
    *values++ = value->load();
  }
}

MXTRT_EXPORT int mxtrt_forked() { return forked(); }

MXTRT_EXPORT void mxtrt_shutdown() { g_shutting_down = true; }

// ---- Called by MXNet -----------------------------------------------------------------------

MXTRT_EXPORT int _opVersion() { return kLibraryVersion; }

MXTRT_EXPORT int initialize(int version) {
  if (version >= kFirstMXNet && version <= kLastMXNet) return 1;
  set_error("mxtrt's engine node is made for MXNet 1.9, this is version code " +
            std::to_string(version) + "; install mxnet 1.9.1");
  return 0;
}

MXTRT_EXPORT int _msgSize() { return t_error.empty() ? 0 : 1; }
MXTRT_EXPORT void _msgGet(int, const char** message) { *message = mxtrt_take_error(); }
MXTRT_EXPORT void _opCallFree(void* memory) { std::free(memory); }

MXTRT_EXPORT int _opRegSize() { return 1; }

// MXNet hands the function pointers back to the _opCall... functions below and never calls
// them itself, so any pointer that is not null serves.
MXTRT_EXPORT void _opRegGet(int, const char** name, int* is_subgraph_op, const char*** forward_ctx,
                            void*** forward, int* forward_count, const char*** backward_ctx,
                            void*** backward, int* backward_count, const char*** create_ctx,
                            void*** create, int* create_count, void** parse, void** type,
                            void** stype, void** shape, void** mutate) {
  static const char* contexts[] = {"cpu", "gpu"};
  static void* marker[] = {reinterpret_cast<void*>(&find_node),
                           reinterpret_cast<void*>(&find_node)};
  *name = kOperator;
  *is_subgraph_op = 0;
  *forward_ctx = *backward_ctx = nullptr;
  *forward = *backward = nullptr;
  *forward_count = *backward_count = 0;
  *create_ctx = contexts;
  *create = marker;
  *create_count = 2;
  *parse = *type = *shape = marker[0];
  *stype = *mutate = nullptr;
}

MXTRT_EXPORT int _opCallParseAttrs(void*, const char* const* keys, const char* const* values,
                                   int num, int* num_inputs, int* num_outputs) {
  return guarded([&] {
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

MXTRT_EXPORT int _opCallInferShape(void*, const char* const* keys, const char* const* values,
                                   int num, unsigned** in_dims, int* in_ndims, int num_inputs,
                                   unsigned*** mod_in_dims, int** mod_in_ndims,
                                   unsigned*** out_dims, int** out_ndims, int num_outputs) {
  return guarded([&] {
    auto node = node_of(keys, values, num);
    const auto read = static_cast<int>(num_inputs - unread_of(keys, values, num));
    node->check_counts(read, num_outputs);
    const auto all = taken_shapes(in_dims, in_ndims, num_inputs);
    auto variant = variant_of(*node, {all.begin(), all.begin() + read}, false);
    if (!variant) throw std::runtime_error(take_error("the engine refused these shapes"));
    give_shapes(all, mod_in_dims, mod_in_ndims);
    give_shapes(variant->outputs, out_dims, out_ndims);
  });
}

MXTRT_EXPORT int _opCallInferType(void*, const char* const* keys, const char* const* values,
                                  int num, int* in_types, int num_inputs, int* out_types,
                                  int num_outputs) {
  return guarded([&] {
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

MXTRT_EXPORT int _opCallFCompute(...) {
  set_error("the engine node is stateful");
  return 0;
}

MXTRT_EXPORT int _opCallMutateInputs(void*, const char* const*, const char* const*, int, int**,
                                     int* size) {
  *size = 0;
  return 1;
}

MXTRT_EXPORT int _opCallCreateOpState(void*, const char* const* keys, const char* const* values,
                                      int num, const char* context, int ordinal,
                                      unsigned** in_dims, int* in_ndims, int num_inputs,
                                      const int*, void** state) {
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
    if (!g_pass || !g_pass(graph, keys, values, num_options)) {
      throw std::runtime_error(take_error("the TensorRT pass failed"));
    }
    *out_graph = allocate<char>(t_pass_result.size() + 1);
    std::memcpy(*out_graph, t_pass_result.c_str(), t_pass_result.size() + 1);
    t_pass_result.clear();
    t_pass_result.shrink_to_fit();
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
