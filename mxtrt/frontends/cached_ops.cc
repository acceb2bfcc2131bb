// CachedOps, which the networks of Gluon and DJL are run by.
#include <atomic>
#include <set>
#include <string>

#include "bound.h"

namespace mxtrt {

API int MXInvokeCachedOp(Handle op, int num_inputs, Handle* inputs, int* num_outputs,
                         Handle** outputs);

namespace {

struct CachedOpRun : Armed {
  struct Parameter {
    int place;  // among the caller's inputs
    Handle array;
  };
  std::vector<int> places;  // of its inputs among the caller's
  std::vector<Parameter> parameters;
  std::vector<std::vector<int64_t>> shapes;  // of its inputs; empty for parameters
  int num_outputs = 0;
};

// A CachedOp as it was created.
struct Op {
  Handle symbol = nullptr;
  uint32_t num_inputs = 0;
  std::vector<std::string> keys, values;
  std::vector<uint32_t> states;  // places of those that training writes to uncounted
  std::vector<Handle> trained;   // the arrays of the last training call at these places
  std::mutex mutex;
  bool asked = false;
  // MXNet looks for dynamic shapes in the first call, without a lock: that one is alone.
  std::recursive_mutex first;
  std::atomic<bool> was_called{false};
  Op() = default;
  Op(const Op&) = delete;
  Op& operator=(const Op&) = delete;
  ~Op() {
    MXSymbolFree(symbol);
    for (Handle array : trained) MXNDArrayFree(array);
  }
};

Bounds<CachedOpRun> g_bound;
Registry<std::shared_ptr<Op>> g_ops;

// Those that were called for training, whose backward may be yet to come.
std::mutex g_training;
std::vector<std::weak_ptr<Op>> g_trained;

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

bool is_true(const std::string& value) {
  return value == "1" || value == "true" || value == "True";
}

// Places of the auxiliary states among the inputs.
std::vector<uint32_t> states_of(const Op& op) {
  uint32_t num_states = 0, num_inputs = 0;
  Text *states = nullptr, *inputs = nullptr;
  if (MXSymbolListAuxiliaryStates(op.symbol, &num_states, &states)) return {};
  const std::set<std::string> names(states, states + num_states);
  if (NNSymbolListInputNames(op.symbol, 0, &num_inputs, &inputs)) return {};
  std::vector<uint32_t> places;
  for (uint32_t i = 0; i < num_inputs; ++i) {
    if (names.count(inputs[i])) places.push_back(i);
  }
  return places;
}

// Counts writes that MXNet does not count; see hooks/training.py.
void count_writes(Op* op) {
  const std::lock_guard<std::mutex> lock(op->mutex);
  node().count_write(op->trained.data(), static_cast<int>(op->trained.size()));
}

// Takes note of a call for training.
void note_training(const std::shared_ptr<Op>& op, int num_inputs, Handle* inputs) {
  if (op->states.empty() || static_cast<int>(op->num_inputs) != num_inputs) return;
  {
    const std::lock_guard<std::mutex> lock(op->mutex);
    for (Handle array : op->trained) MXNDArrayFree(array);
    op->trained.clear();
    for (uint32_t place : op->states) {
      Handle array = nullptr;
      if (!MXShallowCopyNDArray(inputs[place], &array)) op->trained.push_back(array);
    }
  }
  count_writes(op.get());
  const std::lock_guard<std::mutex> lock(g_training);
  const auto is_same = [&](const auto& one) { return one.lock() == op; };
  if (std::none_of(g_trained.begin(), g_trained.end(), is_same)) g_trained.push_back(op);
}

// The backward of what was called for training.
int after_backward(int code) {
  if (!may_have_engines()) return code;
  const std::lock_guard<std::mutex> lock(g_training);
  const auto is_gone = [](const auto& one) { return one.expired(); };
  g_trained.erase(std::remove_if(g_trained.begin(), g_trained.end(), is_gone), g_trained.end());
  for (const auto& one : g_trained) {
    if (const auto op = one.lock()) count_writes(op.get());
  }
  return code;
}

// A call of MXNet's own.
template <typename Call>
int in_mxnet(const std::shared_ptr<Op>& op, const Call& call) {
  if (!op || op->was_called) return call();
  const std::lock_guard<std::recursive_mutex> lock(op->first);
  const int code = call();
  if (!code) op->was_called = true;
  return code;
}

int note(int code, Handle symbol, int num_flags, Text* keys, Text* values, Handle* out) {
  if (code || !wants_engines()) return code;
  auto op = std::make_shared<Op>();
  Text* names = nullptr;
  if (MXSymbolCopy(symbol, &op->symbol)) return 0;
  if (NNSymbolListInputNames(op->symbol, 0, &op->num_inputs, &names)) return 0;
  for (int i = 0; i < num_flags; ++i) {
    op->keys.emplace_back(keys[i]);
    op->values.emplace_back(values[i]);
    if (op->keys.back() == "static_alloc" && is_true(op->values.back()))
      op->states = states_of(*op);
  }
  g_ops.put(*out, std::move(op));
  return 0;
}

// Whether this call was done as Python armed it.
bool run_armed(const CachedOpRun& armed, Handle* inputs, int* num_outputs, Handle** outputs,
               int* code) {
  static thread_local std::vector<Handle> made, data;
  for (const auto& [place, array] : armed.parameters) {
    if (!node().is_same(inputs[place], array)) return false;  // its handle may be another's by now
  }
  if (armed.changed()) return false;
  data.clear();
  for (int place : armed.places) data.push_back(inputs[place]);
  if (armed.call) {
    made.assign(armed.num_outputs, nullptr);
    const int done = node().run(armed.call, data.data(), made.data());
    if (done == 1) {
      *num_outputs = armed.num_outputs;
      *outputs = made.data();
      return *code = 0, true;
    }
    if (done != -1) return false;
  }
  for (size_t i = 0; i < data.size(); ++i) {
    if (!armed.shapes[i].empty() && !has_shape(data[i], armed.shapes[i])) return false;
  }
  if (armed.retired()) return false;
  REAL(MXInvokeCachedOp);
  *code = real_MXInvokeCachedOp(armed.partitioned, static_cast<int>(data.size()), data.data(),
                                num_outputs, outputs);
  return true;
}

// The CachedOp with engines, of which Python is asked at the first call; none if it has none.
std::shared_ptr<Bound<CachedOpRun>> bound_of(Handle op, const std::shared_ptr<Op>& known,
                                             int num_inputs, Handle* inputs) {
  if (!known || static_cast<int>(known->num_inputs) != num_inputs) return nullptr;
  if (auto bound = g_bound.find(op)) return bound;
  const std::lock_guard<std::mutex> lock(known->mutex);
  if (known->asked) return g_bound.find(op);
  known->asked = true;
  std::vector<Text> keys, values;
  for (const auto& key : known->keys) keys.push_back(key.c_str());
  for (const auto& value : known->values) values.push_back(value.c_str());
  return adopt(&g_bound, op, [&] {
    return python().create(op, known->symbol, static_cast<int>(keys.size()), keys.data(),
                           values.data(), num_inputs, inputs);
  });
}

}  // namespace

// As arms.py has it.
struct CachedOpArms {
  Arms arms;
  const int* places;
  const int* parameter_places;
  Handle const* parameters;
  const int* ndims;
  const int64_t* sizes;
  int num_inputs, num_outputs, num_parameters;
};

API void mxtrt_front_arm_cached_op(Handle handle, const CachedOpArms* given) {
  const auto bound = g_bound.find(handle);
  if (!bound) return;
  CachedOpRun run{Armed(given->arms), {}, {}, {}, given->num_outputs};
  run.places.assign(given->places, given->places + given->num_inputs);
  for (int i = 0; i < given->num_parameters; ++i) {
    run.parameters.push_back({given->parameter_places[i], given->parameters[i]});
  }
  const int64_t* sizes = given->sizes;
  for (int i = 0; i < given->num_inputs; ++i) {
    run.shapes.emplace_back(sizes, sizes + given->ndims[i]);
    sizes += given->ndims[i];
  }
  bound->arm(std::move(run));
}

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
  if (may_have_engines()) {
    forget(&g_bound, op);
    g_ops.take(op);
  }
  return real_MXFreeCachedOp(op);
}

// MXInvokeCachedOpEx of MXNet calls this one.
API int MXInvokeCachedOp(Handle op, int num_inputs, Handle* inputs, int* num_outputs,
                         Handle** outputs) {
  REAL(MXInvokeCachedOp);
  const auto known = may_have_engines() ? g_ops.find(op) : nullptr;
  const auto plain = [&] {
    return in_mxnet(
        known, [&] { return real_MXInvokeCachedOp(op, num_inputs, inputs, num_outputs, outputs); });
  };
  if (!known || *outputs) return plain();
  if (!is_inference()) {
    const int trained = plain();
    if (!trained) note_training(known, num_inputs, inputs);
    return trained;
  }
  const auto bound = bound_of(op, known, num_inputs, inputs);
  if (!bound) return plain();
  int code = 0;
  if (bound->run([&](const CachedOpRun& armed) {
        return run_armed(armed, inputs, num_outputs, outputs, &code);
      })) {
    return code;
  }
  Handed handed;
  const auto question = [&] { return python().invoke(op, num_inputs, inputs); };
  const int answer = bound->ask(question, &handed);
  if (answer < 0) return -1;
  if (!answer) return plain();
  static thread_local std::vector<Handle> made;  // until the thread's next call
  made.swap(handed.outputs);
  *num_outputs = static_cast<int>(made.size());
  *outputs = made.data();
  return 0;
}

// MXAutogradBackward and MXAutogradComputeGradient of MXNet call this one.
API int MXAutogradBackwardEx(uint32_t num_heads, Handle* heads, Handle* gradients,
                             uint32_t num_variables, Handle* variables, int retain_graph,
                             int create_graph, int is_train, Handle** made, int** stypes) {
  REAL(MXAutogradBackwardEx);
  return after_backward(real_MXAutogradBackwardEx(num_heads, heads, gradients, num_variables,
                                                  variables, retain_graph, create_graph, is_train,
                                                  made, stypes));
}

using Hook = void (*)(Text name, Text operator_name, Handle array);

// A monitor sees MXNet's own operators.
API int MXCachedOpRegisterOpHook(Handle op, Hook hook, bool all) {
  REAL(MXCachedOpRegisterOpHook);
  if (may_have_engines()) {
    forget(&g_bound, op);
    g_ops.take(op);
  }
  return real_MXCachedOpRegisterOpHook(op, hook, all);
}

}  // namespace mxtrt
