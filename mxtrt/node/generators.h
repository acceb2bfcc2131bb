// The random generators that MXNet hands to operators of extensions.
#pragma once

namespace mxtrt {

// An operator that does nothing with one array of any kind, and fails where it has this attribute.
constexpr const char* kIdleOperator = "_mxtrt_idle";
constexpr const char* kFails = "fails";

// Has this thread's generators on a GPU fail no operator, as far as they can be mended; throws
// std::runtime_error where they cannot.  Done once per thread and GPU.
void settle_generators(int ordinal);

}  // namespace mxtrt
