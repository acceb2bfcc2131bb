#include "embedded.h"

#include <strings.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace mxtrt {
namespace {

Python g_python;
Node g_node;
std::atomic<bool> g_installed{false};

// Of the question that is being answered.
std::string g_message;
Handed g_handed;

// As config.py reads it: what is none of these is an option that Python tells the user about.
bool is_off(Text value) {
  for (Text off : {"", "0", "false", "off", "no"}) {
    if (!strcasecmp(value, off)) return true;
  }
  return false;
}

bool is_enabled() {
  Text value = std::getenv("USE_TENSORRT");
  if (!value) value = std::getenv("MXNET_USE_TENSORRT");
  return value && !is_off(value);
}

// Python's own handlers of the end: they stop what builds in the background, and the engine node.
void end_python() {
  ask([] { return g_python.end(), 0; });
}

}  // namespace

const Python& python() { return g_python; }
const Node& node() { return g_node; }

bool installed() { return g_installed; }

bool may_have_engines() { return g_installed && !in_python(); }

bool wants_engines() { return is_enabled() && !in_python() && python_is_there(); }

int ask(const std::function<int()>& question, Handed* handed) {
  int answer = 0;
  std::string message;
  if (!python_is_there()) return 0;
  in_interpreter([&] {
    answer = question();
    message = g_message;
    if (handed) *handed = std::move(g_handed);
    g_handed = {};
  });
  if (answer < 0) NNAPISetLastError(message.c_str());
  return answer;
}

std::recursive_mutex& subgraphs() {
  static auto* one = new std::recursive_mutex;  // Python's threads may hold it at the exit
  return *one;
}

// ---- what embedded.py calls ---------------------------------------------------------------------

API void mxtrt_front_install(const Python* python, const Node* node) {
  g_python = *python;
  g_node = *node;
  g_installed = true;
  std::atexit(end_python);
}

// MXNet computes nothing from here on, and what builds in the background would wait for it.
API int MXNotifyShutdown() {
  REAL(MXNotifyShutdown);
  if (may_have_engines()) end_python();
  return real_MXNotifyShutdown();
}

API void mxtrt_front_lock() { subgraphs().lock(); }
API void mxtrt_front_unlock() { subgraphs().unlock(); }
API void mxtrt_front_message(Text message) { g_message = message; }

API void mxtrt_front_model(Text json, Text parameters, int size) {
  g_handed.json = json;
  g_handed.parameters.assign(parameters, size);
}

API void mxtrt_front_outputs(Handle const* outputs, int number) {
  g_handed.outputs.assign(outputs, outputs + number);
}

}  // namespace mxtrt
