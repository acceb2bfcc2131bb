// The predict API: MXNet's own predictors of models that have engines in them.
#include "bound.h"

namespace mxtrt {
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

// Tokens of the models in Python, by predictor.
Registry<int64_t> g_tokens;

Handle model_of(int64_t token) { return reinterpret_cast<Handle>(token); }

void drop(int64_t token) {
  ask([&] { return python().drop(model_of(token)), 0; });
}

// Makes predictors of a model with engines, or of the model as it is.
template <typename Create>
int predictors(const Model& model, Handle* out, int number, const Create& create) {
  if (!wants_engines()) return create(model.json, model.parameters, model.size);
  int64_t token = 0;
  Handed handed;
  const auto question = [&] {
    return python().predict(model.json, model.parameters, model.size, model.device, model.id,
                            static_cast<int>(model.num_inputs), model.keys, model.begins,
                            model.sizes, static_cast<int>(model.num_types), model.typed,
                            model.types, static_cast<int>(model.num_outputs), model.outputs,
                            &token);
  };
  const auto alone = [&](Text text, const void* bytes, int size) {
    const std::lock_guard<std::recursive_mutex> lock(subgraphs());
    return create(text, bytes, size);
  };
  if (ask(question, &handed) == 1) {
    const auto size = static_cast<int>(handed.parameters.size());
    if (!alone(handed.json.c_str(), handed.parameters.data(), size)) {
      for (int i = 0; i < number; ++i) g_tokens.put(out[i], token);
      return 0;
    }
    drop(token);
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

// Parameters are inputs like others, also those that the engines hold.
API int MXPredSetInput(Handle predictor, Text key, const float* values, uint32_t size) {
  REAL(MXPredSetInput);
  const int code = real_MXPredSetInput(predictor, key, values, size);
  const int64_t token = code ? g_tokens.find(predictor) : 0;
  if (!token) return code;
  const std::string told = MXGetLastError();
  const int answer = ask([&] { return python().write(model_of(token), key, values, size); });
  if (answer > 0) return 0;
  if (!answer) NNAPISetLastError(told.c_str());
  return code;
}

API int MXPredReshape(uint32_t num_inputs, Text* keys, const uint32_t* begins,
                      const uint32_t* sizes, Handle predictor, Handle* out) {
  REAL(MXPredReshape);
  const int code = real_MXPredReshape(num_inputs, keys, begins, sizes, predictor, out);
  const int64_t token = g_tokens.find(predictor);
  if (!token) return code;
  if (code) {  // tells of the engine's node; the caller's model has MXNet's words
    ask([&] {
      const auto number = static_cast<int>(num_inputs);
      return python().refuse(model_of(token), number, keys, begins, sizes);
    });
    return code;
  }
  g_tokens.put(*out, token);
  return 0;
}

API int MXPredFree(Handle predictor) {
  REAL(MXPredFree);
  const int64_t token = g_tokens.take(predictor);
  const int code = real_MXPredFree(predictor);
  if (token && !g_tokens.has(token)) drop(token);
  return code;
}

}  // namespace mxtrt
