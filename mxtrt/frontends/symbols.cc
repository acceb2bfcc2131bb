// MXNet's graph passes for backends, where the backend is "TensorRT": the engines come where the
// symbol is bound.
#include <cstring>

#include "embedded.h"

namespace mxtrt {
namespace {

constexpr Text kBackend = "TensorRT";  // hooks/partitioned.py

// A copy of the symbol that has the options; false where that is MXNet's to answer.
bool optimized(Text backend, Handle symbol, uint32_t num_options, Text* keys, Text* values,
               Handle* out, int* code) {
  if (std::strcmp(backend, kBackend) != 0 || !wants_engines()) return false;
  const int answer = ask(
      [&] { return python().optimize(symbol, static_cast<int>(num_options), keys, values, out); });
  *code = answer == 1 ? 0 : -1;
  return answer != 0;
}

}  // namespace

API int MXGenBackendSubgraph(Handle symbol, Text backend, Handle* out) {
  REAL(MXGenBackendSubgraph);
  int code = 0;
  if (optimized(backend, symbol, 0, nullptr, nullptr, out, &code)) return code;
  return real_MXGenBackendSubgraph(symbol, backend, out);
}

API int MXOptimizeForBackend(Handle symbol, Text backend, int device, Handle* out,
                             uint32_t num_arguments, Handle* arguments, uint32_t num_states,
                             Handle* states, uint32_t num_options, Text* keys, Text* values,
                             uint32_t num_shapes, Text* shape_names, const int64_t* sizes,
                             const uint32_t* begins, uint32_t num_types, Text* typed,
                             const int* types, uint32_t num_stypes, Text* stype_names,
                             const int* stypes, bool skip_infer, int* num_new_arguments,
                             Handle** new_arguments, char*** new_argument_names,
                             int* num_new_states, Handle** new_states, char*** new_state_names) {
  REAL(MXOptimizeForBackend);
  int code = 0;
  if (optimized(backend, symbol, num_options, keys, values, out, &code)) {
    *num_new_arguments = *num_new_states = 0;
    return code;
  }
  const std::lock_guard<std::recursive_mutex> lock(subgraphs());
  return real_MXOptimizeForBackend(
      symbol, backend, device, out, num_arguments, arguments, num_states, states, num_options, keys,
      values, num_shapes, shape_names, sizes, begins, num_types, typed, types, num_stypes,
      stype_names, stypes, skip_infer, num_new_arguments, new_arguments, new_argument_names,
      num_new_states, new_states, new_state_names);
}

}  // namespace mxtrt
