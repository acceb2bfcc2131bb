// MXNet's C API with engines: the calls that bind and run, in front of MXNet's own library.
//
// This library is named libmxnet.so and links MXNet's own, whose other functions are found behind
// it.  A bind is MXNet's own bind, whose executor the caller gets, and then a question to mxtrt in
// Python (embedded.py), which binds engines beside it as it does for Python programs.  A forward
// of an executor with engines takes no Python while its weights stay what they are: then Python
// has armed it.  All others are asked of Python, or are MXNet's own.
#include <strings.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "python.h"
#include "real.h"

#define API extern "C" __attribute__((visibility("default")))

namespace mxtrt {

using Handle = void*;
using Text = const char*;

// What is called of MXNet; two of these are below.
API int MXNDArrayGetShapeEx64(Handle array, int* ndim, const int64_t** shape);
API int MXSymbolCopy(Handle symbol, Handle* out);
API int MXSymbolFree(Handle symbol);
API void MXAPISetLastError(Text message);
API int MXExecutorForward(Handle executor, int is_train);
API int MXInvokeCachedOp(Handle op, int num_inputs, Handle* inputs, int* num_outputs,
                         Handle** outputs);
API int MXAutogradIsRecording(bool* is);
API int MXAutogradIsTraining(bool* is);
API int NNGetOpHandle(Text name, Handle* op);
API int MXImperativeInvokeEx(Handle op, int num_inputs, Handle* inputs, int* num_outputs,
                             Handle** outputs, int num_params, Text* keys, Text* values,
                             const int** stypes);

namespace {

// What Python does; embedded.py has the same structure.  Each says 1 for done, 0 for "MXNet's own",
// and -1 for an error, whose message is `message`.
struct Python {
  int (*bind)(Handle executor, Handle symbol, int device, int id, int num_arguments,
              Handle* arguments, int num_states, Handle* states, int num_data, Text* data,
              int lazily);
  int (*share)(Handle executor, Handle from, int num_arguments, Handle* arguments, int num_states,
               Handle* states);
  int (*forward)(Handle executor);
  void (*drop)(Handle handle);
  int (*create)(Handle op, Handle symbol, int num_flags, Text* keys, Text* values, int num_inputs,
                Handle* inputs);
  int (*invoke)(Handle op, int num_inputs, Handle* inputs);
  int (*predict)(Text json, const void* parameters, int size, int device, int id, int num_inputs,
                 Text* keys, const uint32_t* begins, const uint32_t* sizes, int num_types,
                 Text* typed, const int* types, int num_outputs, Text* outputs, int64_t* token);
  void (*end)();
};

// Functions of the engine node.
struct Node {
  int (*run)(const void* call, Handle* inputs, Handle* outputs);
  int (*changed)(void* watch);
  int (*any_retired)(const int64_t* keys, int number);
};

Python g_python;
Node g_node;
std::atomic<bool> g_installed{false};

// What Python hands over in a call.
std::string g_message, g_json, g_parameters;
std::vector<Handle> g_outputs;

// Held while MXNet looks for subgraphs, see hooks/partitioned.py.  Never while Python is asked: its
// binds take it too.
std::recursive_mutex g_subgraphs;

bool enabled() {
  const char* value = std::getenv("USE_TENSORRT");
  return value && *value && std::strcmp(value, "0") != 0 && strcasecmp(value, "false") != 0 &&
         strcasecmp(value, "off") != 0 && strcasecmp(value, "no") != 0;
}

// Whether this call may get engines: not one of Python's own, and there is a Python.
bool wants_engines() { return enabled() && !in_python() && python_is_there(); }

// An executor or CachedOp with engines.
struct Bound {
  std::shared_mutex mutex;  // shared by runs; alone for who arms
  bool armed = false;
  std::vector<void*> watches;    // of its weights
  const void* call = nullptr;    // a graph of one node
  Handle partitioned = nullptr;  // MXNet's executor or CachedOp with the engine nodes
  std::vector<int64_t> nodes;
  std::vector<Handle> inputs;                      // of an executor's node
  std::vector<Handle> outputs, engine_outputs;     // of the two executors
  std::vector<int> places;                         // of a CachedOp's inputs among the caller's
  std::vector<std::pair<int, Handle>> parameters;  // of a CachedOp: place and array
  std::vector<std::vector<int64_t>> shapes;        // of a CachedOp's data
};

// A CachedOp as it was created.
struct Op {
  Handle symbol = nullptr;
  std::vector<std::string> keys, values;
  std::mutex mutex;
  bool asked = false;
  Op() = default;
  Op(const Op&) = delete;
  Op& operator=(const Op&) = delete;
  ~Op() { MXSymbolFree(symbol); }
};

std::shared_mutex g_mutex;
std::unordered_map<Handle, std::shared_ptr<Bound>> g_bound;
std::unordered_map<Handle, std::shared_ptr<Op>> g_ops;
std::unordered_map<Handle, int64_t> g_predictors;

template <typename Key, typename Value>
Value find(const std::unordered_map<Key, Value>& among, Key key) {
  std::shared_lock<std::shared_mutex> lock(g_mutex);
  const auto found = among.find(key);
  return found == among.end() ? Value{} : found->second;
}

template <typename Key, typename Value>
Value take(std::unordered_map<Key, Value>* from, Key key) {
  std::unique_lock<std::shared_mutex> lock(g_mutex);
  const auto found = from->find(key);
  if (found == from->end()) return Value{};
  Value value = std::move(found->second);
  from->erase(found);
  return value;
}

// Asks Python.  The error is MXNet's last error then, as from MXNet's own function.
template <typename Question>
int ask(const Question& question) {
  int answer = 0;
  std::string message;
  if (!python_is_there()) return 0;
  in_interpreter([&] {
    answer = question();
    message = g_message;
  });
  if (answer < 0) MXAPISetLastError(message.c_str());
  return answer;
}

// Whether a weight was written to since it was armed.
bool changed(const Bound& bound) {
  return std::any_of(bound.watches.begin(), bound.watches.end(),
                     [](void* watch) { return g_node.changed(watch) != 0; });
}

void disarm(Bound* bound) {
  std::unique_lock<std::shared_mutex> lock(bound->mutex);
  bound->armed = false;
}

void forget(Handle handle) {
  const auto bound = take(&g_bound, handle);
  if (!bound) return;
  disarm(bound.get());
  ask([&] { return g_python.drop(handle), 0; });
}

// A copy into the caller's array in MXNet's order.
int copy(Handle from, Handle to) {
  static const Handle op = [] {
    Handle found = nullptr;
    NNGetOpHandle("_copyto", &found);
    return found;
  }();
  int count = 1;
  Handle* outputs = &to;
  const int* stypes = nullptr;
  return MXImperativeInvokeEx(op, 1, &from, &count, &outputs, 0, nullptr, nullptr, &stypes);
}

bool is_inference() {
  bool recording = false, training = false;
  return !MXAutogradIsRecording(&recording) && !MXAutogradIsTraining(&training) && !recording &&
         !training;
}

bool has_shape(Handle array, const std::vector<int64_t>& shape) {
  int ndim = 0;
  const int64_t* sizes = nullptr;
  return !MXNDArrayGetShapeEx64(array, &ndim, &sizes) &&
         static_cast<size_t>(std::max(ndim, 0)) == shape.size() &&
         std::equal(shape.begin(), shape.end(), sizes);
}

}  // namespace

bool installed() { return g_installed; }

// ---- Python's side ------------------------------------------------------------------------------

API void mxtrt_front_install(const Python* python, const Node* node) {
  g_python = *python;
  g_node = *node;
  g_installed = true;
  // Python's own handlers of the end: they stop what builds in the background, and the engine node.
  std::atexit([] { ask([] { return g_python.end(), 0; }); });
}

API void mxtrt_front_lock() { g_subgraphs.lock(); }
API void mxtrt_front_unlock() { g_subgraphs.unlock(); }
API void mxtrt_front_message(Text message) { g_message = message; }

API void mxtrt_front_model(Text json, Text parameters, int size) {
  g_json = json;
  g_parameters.assign(parameters, size);
}

API void mxtrt_front_outputs(Handle const* outputs, int number) {
  g_outputs.assign(outputs, outputs + number);
}

// Lets runs of an executor or CachedOp take no Python.  Python keeps what is named here until the
// handle is dropped or armed anew.
struct Arms {
  void* const* watches;
  const void* call;
  Handle partitioned;
  int num_watches, num_nodes, num_inputs, num_outputs, num_parameters;
  const int64_t* nodes;
  Handle const* inputs;   // of an executor
  Handle const* outputs;  // of an executor: the caller's, then those of `partitioned`
  const int* places;      // of a CachedOp: of the inputs among the caller's
  const int* parameter_places;
  Handle const* parameters;
  const int* ndims;  // of a CachedOp: of the inputs; 0 for a parameter
  const int64_t* sizes;
};

API void mxtrt_front_arm(Handle handle, const Arms* arms) {
  const auto bound = find(g_bound, handle);
  if (!bound) return;
  std::unique_lock<std::shared_mutex> lock(bound->mutex);
  bound->watches.assign(arms->watches, arms->watches + arms->num_watches);
  bound->call = arms->call;
  bound->partitioned = arms->partitioned;
  bound->nodes.assign(arms->nodes, arms->nodes + arms->num_nodes);
  bound->inputs.clear();
  bound->outputs.clear();
  bound->engine_outputs.clear();
  bound->places.clear();
  bound->parameters.clear();
  bound->shapes.clear();
  if (arms->outputs) {
    const auto middle = arms->outputs + arms->num_outputs;
    bound->inputs.assign(arms->inputs, arms->inputs + arms->num_inputs);
    bound->outputs.assign(arms->outputs, middle);
    bound->engine_outputs.assign(middle, middle + arms->num_outputs);
  } else {
    bound->outputs.resize(arms->num_outputs);
    bound->places.assign(arms->places, arms->places + arms->num_inputs);
    for (int i = 0; i < arms->num_parameters; ++i) {
      bound->parameters.emplace_back(arms->parameter_places[i], arms->parameters[i]);
    }
    const int64_t* sizes = arms->sizes;
    for (int i = 0; i < arms->num_inputs; ++i) {
      bound->shapes.emplace_back(sizes, sizes + arms->ndims[i]);
      sizes += arms->ndims[i];
    }
  }
  bound->armed = true;
}

// ---- executors ----------------------------------------------------------------------------------

namespace {

// Gives an executor engines, after MXNet's own bind.
void adopt(Handle executor, const std::function<int()>& bind) {
  {
    std::unique_lock<std::shared_mutex> lock(g_mutex);
    g_bound[executor] = std::make_shared<Bound>();
  }
  if (ask(bind) != 1) take(&g_bound, executor);
}

bool any(Handle* handles, uint32_t number) {
  return handles && std::any_of(handles, handles + number, [](Handle one) { return one; });
}

// What Python armed does this forward; false where it does not.
bool run_armed(Bound* bound, int* code) {
  std::shared_lock<std::shared_mutex> lock(bound->mutex);
  if (!bound->armed || is_forked_child() || changed(*bound)) return false;
  if (bound->call) {
    static thread_local std::vector<Handle> outputs;
    outputs = bound->outputs;
    const int done = g_node.run(bound->call, bound->inputs.data(), outputs.data());
    if (done == 1) return *code = 0, true;
    if (done != -1) return false;
  }
  if (g_node.any_retired(bound->nodes.data(), static_cast<int>(bound->nodes.size()))) return false;
  REAL(MXExecutorForward);
  *code = real_MXExecutorForward(bound->partitioned, 0);
  for (size_t i = 0; i < bound->outputs.size() && !*code; ++i) {
    *code = copy(bound->engine_outputs[i], bound->outputs[i]);
  }
  return true;
}

}  // namespace

API int MXExecutorForward(Handle executor, int is_train) {
  REAL(MXExecutorForward);
  if (is_train || !g_installed || in_python()) return real_MXExecutorForward(executor, is_train);
  const auto bound = find(g_bound, executor);
  if (!bound) return real_MXExecutorForward(executor, is_train);
  int code = 0;
  if (run_armed(bound.get(), &code)) return code;
  disarm(bound.get());
  const int answer = ask([&] { return g_python.forward(executor); });
  if (answer) return answer < 0 ? -1 : 0;
  return real_MXExecutorForward(executor, 0);
}

API int MXExecutorBindEX(Handle symbol, int device, int id, uint32_t num_groups, Text* groups,
                         const int* group_devices, const int* group_ids, uint32_t num_arguments,
                         Handle* arguments, Handle* gradients, uint32_t* requests,
                         uint32_t num_states, Handle* states, Handle shared, Handle* out) {
  REAL(MXExecutorBindEX);
  const auto bind = [&] {
    return real_MXExecutorBindEX(symbol, device, id, num_groups, groups, group_devices, group_ids,
                                 num_arguments, arguments, gradients, requests, num_states, states,
                                 shared, out);
  };
  if (!wants_engines()) return bind();
  {
    const std::lock_guard<std::recursive_mutex> lock(g_subgraphs);
    if (const int code = bind()) return code;
  }
  bool trains = num_groups > 0;
  for (uint32_t i = 0; gradients && requests && i < num_arguments; ++i) {
    trains = trains || (gradients[i] && requests[i]);
  }
  if (trains) return 0;
  const Handle executor = *out;
  adopt(executor, [&] {
    return g_python.bind(executor, symbol, device, id, static_cast<int>(num_arguments), arguments,
                         static_cast<int>(num_states), states, 0, nullptr, 0);
  });
  return 0;
}

#define SIMPLE_BIND(name, Size)                                                                   \
  API int name(Handle symbol, int device, int id, uint32_t num_groups, Text* groups,              \
               const int* group_devices, const int* group_ids, uint32_t num_requests,             \
               Text* request_names, Text* request_types, uint32_t num_shapes, Text* shape_names,  \
               const Size* sizes, const uint32_t* begins, uint32_t num_types, Text* typed,        \
               const int* types, uint32_t num_stypes, Text* stype_names, const int* stypes,       \
               uint32_t num_shared, Text* shared_names, int* buffer_size, Text* buffer_names,     \
               Handle* buffer, Text** new_names, Handle** new_buffer, uint32_t* num_arguments,    \
               Handle** arguments, Handle** gradients, uint32_t* num_states, Handle** states,     \
               Handle shared, Handle* out) {                                                      \
    REAL(name);                                                                                   \
    const auto bind = [&] {                                                                       \
      return real_##name(symbol, device, id, num_groups, groups, group_devices, group_ids,        \
                         num_requests, request_names, request_types, num_shapes, shape_names,     \
                         sizes, begins, num_types, typed, types, num_stypes, stype_names, stypes, \
                         num_shared, shared_names, buffer_size, buffer_names, buffer, new_names,  \
                         new_buffer, num_arguments, arguments, gradients, num_states, states,     \
                         shared, out);                                                            \
    };                                                                                            \
    if (!wants_engines()) return bind();                                                          \
    {                                                                                             \
      const std::lock_guard<std::recursive_mutex> lock(g_subgraphs);                              \
      if (const int code = bind()) return code;                                                   \
    }                                                                                             \
    if (num_groups || any(*gradients, *num_arguments)) return 0;                                  \
    const Handle executor = *out;                                                                 \
    adopt(executor, [&] {                                                                         \
      return g_python.bind(executor, symbol, device, id, static_cast<int>(*num_arguments),        \
                           *arguments, static_cast<int>(*num_states), *states,                    \
                           static_cast<int>(num_shapes), shape_names, 1);                         \
    });                                                                                           \
    return 0;                                                                                     \
  }

SIMPLE_BIND(MXExecutorSimpleBind, uint32_t)
SIMPLE_BIND(MXExecutorSimpleBindEx, int)
SIMPLE_BIND(MXExecutorSimpleBindEx64, int64_t)

#define RESHAPE(name, Size)                                                                    \
  API int name(int partial, int larger, int device, int id, uint32_t num_groups, Text* groups, \
               const int* group_devices, const int* group_ids, uint32_t num_shapes,            \
               Text* shape_names, const Size* sizes, const uint32_t* begins,                   \
               uint32_t* num_arguments, Handle** arguments, Handle** gradients,                \
               uint32_t* num_states, Handle** states, Handle shared, Handle* out) {            \
    REAL(name);                                                                                \
    {                                                                                          \
      const std::lock_guard<std::recursive_mutex> lock(g_subgraphs);                           \
      if (const int code =                                                                     \
              real_##name(partial, larger, device, id, num_groups, groups, group_devices,      \
                          group_ids, num_shapes, shape_names, sizes, begins, num_arguments,    \
                          arguments, gradients, num_states, states, shared, out)) {            \
        return code;                                                                           \
      }                                                                                        \
    }                                                                                          \
    if (!g_installed || in_python() || !find(g_bound, shared)) return 0;                       \
    const Handle executor = *out;                                                              \
    adopt(executor, [&] {                                                                      \
      return g_python.share(executor, shared, static_cast<int>(*num_arguments), *arguments,    \
                            static_cast<int>(*num_states), *states);                           \
    });                                                                                        \
    return 0;                                                                                  \
  }

RESHAPE(MXExecutorReshape, uint32_t)
RESHAPE(MXExecutorReshapeEx, int)

using Monitor = void (*)(Text name, Handle array, void* data);

API int MXExecutorSetMonitorCallback(Handle executor, Monitor monitor, void* data) {
  REAL(MXExecutorSetMonitorCallback);
  if (g_installed && !in_python()) forget(executor);  // a monitor sees MXNet's own operators
  return real_MXExecutorSetMonitorCallback(executor, monitor, data);
}

API int MXExecutorSetMonitorCallbackEX(Handle executor, Monitor monitor, void* data, bool all) {
  REAL(MXExecutorSetMonitorCallbackEX);
  if (g_installed && !in_python()) forget(executor);
  return real_MXExecutorSetMonitorCallbackEX(executor, monitor, data, all);
}

API int MXExecutorFree(Handle executor) {
  REAL(MXExecutorFree);
  if (g_installed && !in_python()) forget(executor);
  return real_MXExecutorFree(executor);
}

// ---- CachedOp -----------------------------------------------------------------------------------

namespace {

int note(int code, Handle symbol, int num_flags, Text* keys, Text* values, Handle* out) {
  if (code || !wants_engines()) return code;
  auto op = std::make_shared<Op>();
  if (MXSymbolCopy(symbol, &op->symbol)) return 0;
  op->keys.assign(keys, keys + num_flags);
  op->values.assign(values, values + num_flags);
  std::unique_lock<std::shared_mutex> lock(g_mutex);
  g_ops[*out] = std::move(op);
  return 0;
}

// What Python armed does this call; false where it does not.
bool invoke_armed(Bound* bound, Handle* inputs, int* num_outputs, Handle** outputs, int* code) {
  static thread_local std::vector<Handle> made, data;
  std::shared_lock<std::shared_mutex> lock(bound->mutex);
  if (!bound->armed || is_forked_child()) return false;
  for (const auto& [place, array] : bound->parameters) {
    if (inputs[place] != array) return false;
  }
  if (changed(*bound)) return false;
  data.clear();
  for (int place : bound->places) data.push_back(inputs[place]);
  if (bound->call) {
    made.assign(bound->outputs.size(), nullptr);
    const int done = g_node.run(bound->call, data.data(), made.data());
    if (done == 1) {
      *num_outputs = static_cast<int>(made.size());
      *outputs = made.data();
      return *code = 0, true;
    }
    if (done != -1) return false;
  }
  for (size_t i = 0; i < data.size(); ++i) {
    if (!bound->shapes[i].empty() && !has_shape(data[i], bound->shapes[i])) return false;
  }
  if (g_node.any_retired(bound->nodes.data(), static_cast<int>(bound->nodes.size()))) return false;
  REAL(MXInvokeCachedOp);
  *code = real_MXInvokeCachedOp(bound->partitioned, static_cast<int>(data.size()), data.data(),
                                num_outputs, outputs);
  return true;
}

}  // namespace

API int MXCreateCachedOp(Handle symbol, Handle* out) {
  REAL(MXCreateCachedOp);
  return note(real_MXCreateCachedOp(symbol, out), symbol, 0, nullptr, nullptr, out);
}

API int MXCreateCachedOpEx(Handle symbol, int num_flags, Text* keys, Text* values, Handle* out) {
  REAL(MXCreateCachedOpEx);
  return note(real_MXCreateCachedOpEx(symbol, num_flags, keys, values, out), symbol, num_flags,
              keys, values, out);
}

API int MXCreateCachedOpEX(Handle symbol, int num_flags, Text* keys, Text* values, Handle* out,
                           bool thread_safe) {
  REAL(MXCreateCachedOpEX);
  return note(real_MXCreateCachedOpEX(symbol, num_flags, keys, values, out, thread_safe), symbol,
              num_flags, keys, values, out);
}

API int MXFreeCachedOp(Handle op) {
  REAL(MXFreeCachedOp);
  if (g_installed && !in_python()) {
    forget(op);
    take(&g_ops, op);
  }
  return real_MXFreeCachedOp(op);
}

API int MXInvokeCachedOp(Handle op, int num_inputs, Handle* inputs, int* num_outputs,
                         Handle** outputs) {
  REAL(MXInvokeCachedOp);
  const auto plain = [&] {
    return real_MXInvokeCachedOp(op, num_inputs, inputs, num_outputs, outputs);
  };
  if (!g_installed || *outputs || in_python() || !is_inference()) return plain();
  auto bound = find(g_bound, op);
  if (!bound) {
    const auto known = find(g_ops, op);
    if (!known) return plain();
    const std::lock_guard<std::mutex> lock(known->mutex);
    if (!known->asked) {
      known->asked = true;
      std::vector<Text> keys, values;
      for (const auto& key : known->keys) keys.push_back(key.c_str());
      for (const auto& value : known->values) values.push_back(value.c_str());
      adopt(op, [&] {
        return g_python.create(op, known->symbol, static_cast<int>(keys.size()), keys.data(),
                               values.data(), num_inputs, inputs);
      });
    }
    bound = find(g_bound, op);
    if (!bound) return plain();
  }
  int code = 0;
  if (invoke_armed(bound.get(), inputs, num_outputs, outputs, &code)) return code;
  disarm(bound.get());
  std::vector<Handle> given;
  const int answer = ask([&] {
    const int done = g_python.invoke(op, num_inputs, inputs);
    given.swap(g_outputs);
    return done;
  });
  if (answer < 0) return -1;
  if (!answer) return plain();
  static thread_local std::vector<Handle> made;  // until the thread's next call
  made.swap(given);
  *num_outputs = static_cast<int>(made.size());
  *outputs = made.data();
  return 0;
}

// MXInvokeCachedOpEx of MXNet calls MXInvokeCachedOp, which is the one above, and MXExecutorBind
// and MXExecutorBindX call MXExecutorBindEX likewise.

// ---- the predict API ----------------------------------------------------------------------------

namespace {

// What a predictor is made of.
struct Model {
  Text json;
  const void* parameters;
  int size, device, id;
  uint32_t num_inputs;
  Text* keys;
  const uint32_t *begins, *sizes;
  uint32_t num_types = 0;
  Text* typed = nullptr;
  const int* types = nullptr;
  uint32_t num_outputs = 0;
  Text* outputs = nullptr;
};

void keep(Handle predictor, int64_t token) {
  std::unique_lock<std::shared_mutex> lock(g_mutex);
  g_predictors[predictor] = token;
}

// Makes predictors of a model with engines, or of the model as it is.
template <typename Create>
int predictors(const Model& model, Handle* out, int number, const Create& create) {
  if (!wants_engines()) return create(model.json, model.parameters, model.size);
  int64_t token = 0;
  std::string json, parameters;
  const int answer = ask([&] {
    const int done =
        g_python.predict(model.json, model.parameters, model.size, model.device, model.id,
                         static_cast<int>(model.num_inputs), model.keys, model.begins, model.sizes,
                         static_cast<int>(model.num_types), model.typed, model.types,
                         static_cast<int>(model.num_outputs), model.outputs, &token);
    json.swap(g_json);
    parameters.swap(g_parameters);
    return done;
  });
  const auto alone = [&](Text text, const void* bytes, int size) {
    const std::lock_guard<std::recursive_mutex> lock(g_subgraphs);
    return create(text, bytes, size);
  };
  if (answer == 1) {
    const auto size = static_cast<int>(parameters.size());
    if (!alone(json.c_str(), parameters.data(), size)) {
      for (int i = 0; i < number; ++i) keep(out[i], token);
      return 0;
    }
    ask([&] { return g_python.drop(reinterpret_cast<Handle>(token)), 0; });
  }
  return alone(model.json, model.parameters, model.size);
}

}  // namespace

API int MXPredCreate(Text json, const void* parameters, int size, int device, int id,
                     uint32_t num_inputs, Text* keys, const uint32_t* begins, const uint32_t* sizes,
                     Handle* out) {
  REAL(MXPredCreate);
  const Model model{json, parameters, size, device, id, num_inputs, keys, begins, sizes};
  return predictors(model, out, 1, [&](Text text, const void* bytes, int length) {
    return real_MXPredCreate(text, bytes, length, device, id, num_inputs, keys, begins, sizes, out);
  });
}

API int MXPredCreateEx(Text json, const void* parameters, int size, int device, int id,
                       uint32_t num_inputs, Text* keys, const uint32_t* begins,
                       const uint32_t* sizes, uint32_t num_types, Text* typed, const int* types,
                       Handle* out) {
  REAL(MXPredCreateEx);
  Model model{json, parameters, size, device, id, num_inputs, keys, begins, sizes};
  model.num_types = num_types;
  model.typed = typed;
  model.types = types;
  return predictors(model, out, 1, [&](Text text, const void* bytes, int length) {
    return real_MXPredCreateEx(text, bytes, length, device, id, num_inputs, keys, begins, sizes,
                               num_types, typed, types, out);
  });
}

API int MXPredCreatePartialOut(Text json, const void* parameters, int size, int device, int id,
                               uint32_t num_inputs, Text* keys, const uint32_t* begins,
                               const uint32_t* sizes, uint32_t num_outputs, Text* outputs,
                               Handle* out) {
  REAL(MXPredCreatePartialOut);
  Model model{json, parameters, size, device, id, num_inputs, keys, begins, sizes};
  model.num_outputs = num_outputs;
  model.outputs = outputs;
  return predictors(model, out, 1, [&](Text text, const void* bytes, int length) {
    // A model with engines has these outputs only.
    const bool whole = text == json;
    return real_MXPredCreatePartialOut(text, bytes, length, device, id, num_inputs, keys, begins,
                                       sizes, whole ? num_outputs : 0, whole ? outputs : nullptr,
                                       out);
  });
}

API int MXPredCreateMultiThread(Text json, const void* parameters, int size, int device, int id,
                                uint32_t num_inputs, Text* keys, const uint32_t* begins,
                                const uint32_t* sizes, int num_threads, Handle* out) {
  REAL(MXPredCreateMultiThread);
  const Model model{json, parameters, size, device, id, num_inputs, keys, begins, sizes};
  return predictors(model, out, num_threads, [&](Text text, const void* bytes, int length) {
    return real_MXPredCreateMultiThread(text, bytes, length, device, id, num_inputs, keys, begins,
                                        sizes, num_threads, out);
  });
}

API int MXPredReshape(uint32_t num_inputs, Text* keys, const uint32_t* begins,
                      const uint32_t* sizes, Handle predictor, Handle* out) {
  REAL(MXPredReshape);
  const int code = real_MXPredReshape(num_inputs, keys, begins, sizes, predictor, out);
  const int64_t token = code ? 0 : find(g_predictors, predictor);
  if (token) keep(*out, token);
  return code;
}

API int MXPredFree(Handle predictor) {
  REAL(MXPredFree);
  const int64_t token = take(&g_predictors, predictor);
  const int code = real_MXPredFree(predictor);
  if (token) {
    bool last = false;
    {
      std::shared_lock<std::shared_mutex> lock(g_mutex);
      last = std::none_of(g_predictors.begin(), g_predictors.end(),
                          [&](const auto& other) { return other.second == token; });
    }
    if (last) ask([&] { return g_python.drop(reinterpret_cast<Handle>(token)), 0; });
  }
  return code;
}

}  // namespace mxtrt
