// How long a node takes its runs to take.
#include "../../mxtrt/node/node.h"

extern "C" __attribute__((visibility("default"))) long usual_time(long before, long now) {
  return mxtrt::usual_time(before, now);
}
