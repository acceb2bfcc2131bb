// What Python is asked.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tensor.h"

namespace mxtrt {

// The graph pass: the partitioned symbol's JSON; throws where Python raises.
std::string partition(const char* graph, const char* const* keys, const char* const* values,
                      int num_options);

// Has Python add the variant of a node for these input shapes; false after setting the error.  In
// a forward it builds no engine and waits for nothing.
bool add_variant(int64_t key, const std::vector<Shape>& inputs, bool in_forward);

// Has MXNet's operators compute the outputs of a node, or throws.  `stream` is the one on which
// MXNet, or the node itself, works on the GPU of these tensors.
void take_over(int64_t key, const std::vector<Tensor>& inputs, const std::vector<Tensor>& outputs,
               const std::string& message, void* stream);

// Tells Python that the engine of a node failed.
void report_failure(int64_t key, const std::string& message);

}  // namespace mxtrt
