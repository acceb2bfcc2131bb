#include "forward.h"

#include <exception>
#include <string>

#include "callbacks.h"
#include "device.h"
#include "nvtx.h"

namespace mxtrt {

std::shared_ptr<const Variant> variant_of(const Node& node, const std::vector<Shape>& inputs,
                                          bool in_forward) {
  auto variant = node.find(inputs);
  if (variant && (in_forward || variant->session)) return variant;
  return add_variant(node.key, inputs, in_forward) ? node.find(inputs) : nullptr;
}

// The stream behind which the outputs of a run may be written, null in host memory.
static void* stream_of(const Variant& variant, const Place& place) {
  const Device* device = variant.session->device();
  if (place.stream || !place.later || !device) return place.stream;
  return place.lane ? place.lane->stream() : device->stream();
}

bool run_or_take_over(const Node& node, const Variant& variant, Bindings* bindings,
                      const std::vector<Tensor>& inputs, const std::vector<Tensor>& outputs,
                      Place* place) {
  std::string message = "the engine was retired";
  if (!node.retired) {
    try {
      variant.run(bindings, inputs, outputs, place);
      return true;
    } catch (const std::exception& error) {
      message = error.what();
    }
  }
  take_over(node.key, inputs, outputs, message, stream_of(variant, *place));
  return false;
}

}  // namespace mxtrt
