// Executors: MXNet's own, which the caller gets, with engines beside them that write to its
// outputs.
#include "bound.h"

namespace mxtrt {

API int MXExecutorForward(Handle executor, int is_train);

namespace {

struct ExecutorRun : Armed {
  std::vector<Handle> inputs;                   // of `call`
  std::vector<Handle> outputs, engine_outputs;  // of the caller's executor and of `partitioned`
};

Bounds<ExecutorRun> g_executors;

constexpr int kUint8 = 3, kInt8 = 5;  // mshadow::TypeFlag

// A copy into the caller's array in MXNet's order.
int copy(Handle from, Handle to) {
  static const Handle op = [] {
    Handle found = nullptr;
    NNGetOpHandle("_copyto", &found);
    return found;
  }();
  int type = 0, count = 1;
  void* data = nullptr;
  Handle* outputs = &to;
  // oneDNN may have it in an order of its own, see hooks/executor.py.
  const bool is_whole = !MXNDArrayGetDType(to, &type) && (type == kInt8 || type == kUint8);
  if (is_whole && MXNDArrayGetData(to, &data)) return -1;
  const int* stypes = nullptr;
  return MXImperativeInvokeEx(op, 1, &from, &count, &outputs, 0, nullptr, nullptr, &stypes);
}

bool any(Handle* handles, uint32_t number) {
  return handles && std::any_of(handles, handles + number, [](Handle one) { return one; });
}

// Whether this forward was done as Python armed it.
bool run_armed(const ExecutorRun& armed, int* code) {
  if (armed.changed()) return false;
  if (armed.call) {
    static thread_local std::vector<Handle> inputs, outputs;
    inputs = armed.inputs;
    outputs = armed.outputs;
    const int done = node().run(armed.call, inputs.data(), outputs.data());
    if (done == 1) return *code = 0, true;
    if (done != -1) return false;
  }
  if (armed.retired()) return false;
  REAL(MXExecutorForward);
  *code = real_MXExecutorForward(armed.partitioned, 0);
  for (size_t i = 0; i < armed.outputs.size() && !*code; ++i) {
    *code = copy(armed.engine_outputs[i], armed.outputs[i]);
  }
  return true;
}

}  // namespace

// As arms.py has it.
struct ExecutorArms {
  Arms arms;
  Handle const* inputs;
  Handle const* outputs;  // the caller's, then those of `partitioned`
  int num_inputs, num_outputs;
};

API void mxtrt_front_arm_executor(Handle handle, const ExecutorArms* given) {
  const auto bound = g_executors.find(handle);
  if (!bound) return;
  const auto middle = given->outputs + given->num_outputs;
  ExecutorRun run{Armed(given->arms), {}, {}, {}};
  run.inputs.assign(given->inputs, given->inputs + given->num_inputs);
  run.outputs.assign(given->outputs, middle);
  run.engine_outputs.assign(middle, middle + given->num_outputs);
  bound->arm(std::move(run));
}

API int MXExecutorForward(Handle executor, int is_train) {
  REAL(MXExecutorForward);
  if (is_train || !may_have_engines()) return real_MXExecutorForward(executor, is_train);
  const auto bound = g_executors.find(executor);
  if (!bound) return real_MXExecutorForward(executor, is_train);
  int code = 0;
  if (bound->run([&](const ExecutorRun& armed) { return run_armed(armed, &code); })) return code;
  const int answer = bound->ask([&] { return python().forward(executor); });
  if (answer) return answer < 0 ? -1 : 0;
  return real_MXExecutorForward(executor, 0);
}

// MXExecutorBind and MXExecutorBindX of MXNet call this one.
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
    const std::lock_guard<std::recursive_mutex> lock(subgraphs());
    if (const int code = bind()) return code;
  }
  bool trains = num_groups > 0;
  for (uint32_t i = 0; gradients && requests && i < num_arguments; ++i) {
    trains = trains || (gradients[i] && requests[i]);
  }
  if (trains) return 0;
  const Handle executor = *out;
  adopt(&g_executors, executor, [&] {
    return python().bind(executor, symbol, device, id, static_cast<int>(num_arguments), arguments,
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
      const std::lock_guard<std::recursive_mutex> lock(subgraphs());                              \
      if (const int code = bind()) return code;                                                   \
    }                                                                                             \
    if (num_groups || any(*gradients, *num_arguments)) return 0;                                  \
    const Handle executor = *out;                                                                 \
    adopt(&g_executors, executor, [&] {                                                           \
      return python().bind(executor, symbol, device, id, static_cast<int>(*num_arguments),        \
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
      const std::lock_guard<std::recursive_mutex> lock(subgraphs());                           \
      if (const int code =                                                                     \
              real_##name(partial, larger, device, id, num_groups, groups, group_devices,      \
                          group_ids, num_shapes, shape_names, sizes, begins, num_arguments,    \
                          arguments, gradients, num_states, states, shared, out)) {            \
        return code;                                                                           \
      }                                                                                        \
    }                                                                                          \
    if (!may_have_engines() || !g_executors.find(shared)) return 0;                            \
    const Handle executor = *out;                                                              \
    adopt(&g_executors, executor, [&] {                                                        \
      return python().share(executor, shared, static_cast<int>(*num_arguments), *arguments,    \
                            static_cast<int>(*num_states), *states);                           \
    });                                                                                        \
    return 0;                                                                                  \
  }

RESHAPE(MXExecutorReshape, uint32_t)
RESHAPE(MXExecutorReshapeEx, int)

// A monitor sees MXNet's own operators.

using Monitor = void (*)(Text name, Handle array, void* data);

API int MXExecutorSetMonitorCallback(Handle executor, Monitor monitor, void* data) {
  REAL(MXExecutorSetMonitorCallback);
  if (may_have_engines()) forget(&g_executors, executor);
  return real_MXExecutorSetMonitorCallback(executor, monitor, data);
}

API int MXExecutorSetMonitorCallbackEX(Handle executor, Monitor monitor, void* data, bool all) {
  REAL(MXExecutorSetMonitorCallbackEX);
  if (may_have_engines()) forget(&g_executors, executor);
  return real_MXExecutorSetMonitorCallbackEX(executor, monitor, data, all);
}

API int MXExecutorFree(Handle executor) {
  REAL(MXExecutorFree);
  if (may_have_engines()) forget(&g_executors, executor);
  return real_MXExecutorFree(executor);
}

}  // namespace mxtrt
