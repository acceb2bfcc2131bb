// The random generators that MXNet hands to operators of extensions.
#pragma once

namespace mxtrt {

// An operator that does nothing with one array of any kind.
constexpr const char* kIdleOperator = "_mxtrt_idle";

// Has this thread's generators on a GPU fail no operator, as far as they can be mended; throws
// std::runtime_error where they cannot.  Done once per thread and GPU.
void settle_generators(int ordinal);

}  // namespace mxtrt
