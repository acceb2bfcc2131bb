// A run of a node, on a thread of MXNet's or on the calling one.
#pragma once

#include <memory>
#include <vector>

#include "node.h"

namespace mxtrt {

// The variant of a node for these input shapes, by way of Python if the node has none (or, outside
// of a forward, none that is built); null after setting the error.
std::shared_ptr<const Variant> variant_of(const Node& node, const std::vector<Shape>& inputs,
                                          bool in_forward);

// Computes the outputs of a node with the session of a variant, which has one; with MXNet's
// operators where that fails or the node is retired: returns false then.  Throws where these fail
// too.
bool run_or_take_over(const Node& node, const Variant& variant, Bindings* bindings,
                      const std::vector<Tensor>& inputs, const std::vector<Tensor>& outputs,
                      Place* place);

}  // namespace mxtrt
