// What the library shows to Python and to MXNet.
#pragma once

#define MXTRT_EXPORT extern "C" __attribute__((visibility("default")))
