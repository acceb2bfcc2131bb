#include "tally.h"

#include <initializer_list>

#include "export.h"

namespace mxtrt {

Tally g_tally;

// What forwards did since the process began, in the order of `Tally`.
MXTRT_EXPORT void mxtrt_tally(int64_t* values) {
  for (const auto* value :
       {&g_tally.runs, &g_tally.copies, &g_tally.copied, &g_tally.waits, &g_tally.allocations}) {
    *values++ = value->load();
  }
}

}  // namespace mxtrt
