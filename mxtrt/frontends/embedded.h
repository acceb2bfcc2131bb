// mxtrt in Python, which decides and builds: embedded.py.
#pragma once

#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "api.h"
#include "python.h"

namespace mxtrt {

// What Python does; embedded.py has the same structure.  Each says 1 for done, 0 for "MXNet's own",
// and -1 for an error, of which it gave the message.
struct Python {
  int (*bind)(Handle executor, Handle symbol, int device, int id, int num_arguments,
              Handle* arguments, int num_states, Handle* states, int num_data, Text* data,
              int lazily);
  int (*share)(Handle executor, Handle from, int num_arguments, Handle* arguments, int num_states,
               Handle* states);
  int (*forward)(Handle executor);
  void (*drop)(Handle handle);
  int (*create)(Handle op, Handle symbol, int num_flags, Text* keys, Text* values, int num_inputs,
                Handle* inputs);
  int (*invoke)(Handle op, int num_inputs, Handle* inputs);
  int (*predict)(Text json, const void* parameters, int size, int device, int id, int num_inputs,
                 Text* keys, const uint32_t* begins, const uint32_t* sizes, int num_types,
                 Text* typed, const int* types, int num_outputs, Text* outputs, int64_t* token);
  int (*write)(Handle token, Text name, const float* values, uint32_t size);
  int (*refuse)(Handle token, int num_inputs, Text* keys, const uint32_t* begins,
                const uint32_t* sizes);
  int (*optimize)(Handle symbol, int num_options, Text* keys, Text* values, Handle* out);
  void (*end)();
};

// Functions of the engine node.
struct Node {
  int (*run)(const void* call, Handle* inputs, Handle* outputs);
  int (*changed)(void* watch);
  int (*any_retired)(const int64_t* keys, int number);
  int (*is_same)(const void* array, const void* other);
  void (*count_write)(Handle const* arrays, int number);
};

// What Python hands over beside its answer.
struct Handed {
  std::string json, parameters;
  std::vector<Handle> outputs;
};

// Both are there once mxtrt is installed.
const Python& python();
const Node& node();

// Whether this call is one of the program's own, and engines may be there.
bool may_have_engines();

// Whether this call, which binds, may get engines.  The first one starts Python.
bool wants_engines();

// Asks Python.  The error is MXNet's last error then, as from MXNet's own function.
int ask(const std::function<int()>& question, Handed* handed = nullptr);

// Held while MXNet looks for subgraphs, see hooks/partitioned.py.  Never while Python is asked: its
// binds take it too.
std::recursive_mutex& subgraphs();

}  // namespace mxtrt
