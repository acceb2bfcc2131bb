// What this library calls of MXNet's C API; some of it is answered here.
#pragma once

#include <cstdint>

#include "real.h"

#define API extern "C" __attribute__((visibility("default")))

namespace mxtrt {

using Handle = void*;
using Text = const char*;

API int MXNDArrayGetShapeEx64(Handle array, int* ndim, const int64_t** shape);
API int MXSymbolCopy(Handle symbol, Handle* out);
API int MXSymbolFree(Handle symbol);
API int MXSymbolListAuxiliaryStates(Handle symbol, uint32_t* number, Text** names);
API int MXShallowCopyNDArray(Handle array, Handle* out);
API int MXNDArrayFree(Handle array);
API int MXNDArrayGetDType(Handle array, int* type);
API int MXNDArrayGetData(Handle array, void** data);
API void NNAPISetLastError(Text message);
API Text MXGetLastError();
API int MXAutogradIsRecording(bool* is);
API int MXAutogradIsTraining(bool* is);
API int NNSymbolListInputNames(Handle symbol, int option, uint32_t* number, Text** names);
API int NNGetOpHandle(Text name, Handle* op);
API int MXImperativeInvokeEx(Handle op, int num_inputs, Handle* inputs, int* num_outputs,
                             Handle** outputs, int num_params, Text* keys, Text* values,
                             const int** stypes);

}  // namespace mxtrt
