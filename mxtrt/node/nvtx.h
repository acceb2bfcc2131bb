// Ranges that NVIDIA's profilers show on the timeline of a thread, where libnvToolsExt.so.1 is.
#pragma once

#include "export.h"

// Begins a range of this thread.
MXTRT_EXPORT void mxtrt_range_push(const char* name);
// Ends the range of this thread that began last.
MXTRT_EXPORT void mxtrt_range_pop();

namespace mxtrt {

// A range from construction to destruction.
class Range {
 public:
  explicit Range(const char* name) { mxtrt_range_push(name); }
  Range(const Range&) = delete;
  Range& operator=(const Range&) = delete;
  ~Range() { mxtrt_range_pop(); }
};

}  // namespace mxtrt
