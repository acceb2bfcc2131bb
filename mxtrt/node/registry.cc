#include "registry.h"

#include <algorithm>
#include <mutex>
#include <stdexcept>
#include <unordered_map>
#include <utility>

#include "errors.h"
#include "export.h"
#include "process.h"

namespace mxtrt {
namespace {

std::mutex g_mutex;
std::unordered_map<int64_t, std::shared_ptr<Node>> g_nodes;
std::unordered_map<int64_t, std::shared_ptr<Session>> g_sessions;
int64_t g_next = 1;
std::string g_token;  // of this process

std::vector<Shape> input_shapes(const Node& node, const int64_t* dims, const int* ndims) {
  std::vector<Shape> shapes;
  for (size_t i = 0; i < node.input_types.size(); ++i) {
    shapes.emplace_back(dims, dims + ndims[i]);
    dims += ndims[i];
  }
  return shapes;
}

}  // namespace

std::shared_ptr<Node> find_node(int64_t key) {
  Lock lock(g_mutex);
  auto found = g_nodes.find(key);
  return found == g_nodes.end() ? nullptr : found->second;
}

std::shared_ptr<Session> find_session(int64_t handle) {
  Lock lock(g_mutex);
  auto found = g_sessions.find(handle);
  return found == g_sessions.end() ? nullptr : found->second;
}

int64_t add_session(std::shared_ptr<Session> session) {
  std::lock_guard<std::mutex> lock(g_mutex);
  g_sessions[g_next] = std::move(session);
  return g_next++;
}

bool is_own(const std::string& token) {
  Lock lock(g_mutex);
  return g_token == token;
}

// What the `process` attribute of nodes says.
MXTRT_EXPORT void mxtrt_set_token(const char* token) {
  Lock lock(g_mutex);
  g_token = token;
}

// A node with these types; `gpu` is the GPU that its tensors are on, -1 for host memory.  Returns
// its key, or 0 after setting the error.
MXTRT_EXPORT int64_t mxtrt_node_create(int num_inputs, const int* input_types, int num_outputs,
                                       const int* output_types, int gpu) {
  int64_t key = 0;
  guarded([&] {
    auto node =
        std::make_shared<Node>(std::vector<int>(input_types, input_types + num_inputs),
                               std::vector<int>(output_types, output_types + num_outputs), gpu);
    std::lock_guard<std::mutex> lock(g_mutex);
    node->key = g_next;
    node->name = "mxtrt" + std::to_string(node->key);
    g_nodes[g_next] = std::move(node);
    key = g_next++;
  });
  return key;
}

// Has a node run its engines no more.
MXTRT_EXPORT void mxtrt_retire(int64_t key) {
  if (auto node = find_node(key)) node->retired = true;
}

// Whether one of these nodes runs its engines no more.
MXTRT_EXPORT int mxtrt_any_retired(const int64_t* keys, int number) {
  return std::any_of(keys, keys + number, [](int64_t key) {
    const auto node = find_node(key);
    return !node || node->retired;
  });
}

// Adds or replaces the variant of a node for these input shapes; session 0 means "not built".
MXTRT_EXPORT int mxtrt_node_put(int64_t key, const int64_t* dims, const int* ndims,
                                int64_t session) {
  return guarded([&] {
    auto node = find_node(key);
    if (!node) throw std::runtime_error("no such engine node");
    auto variant = std::make_shared<Variant>();
    for (size_t i = 0; i < node->input_types.size() + node->output_types.size(); ++i) {
      auto& shapes = i < node->input_types.size() ? variant->inputs : variant->outputs;
      shapes.emplace_back(dims, dims + ndims[i]);
      dims += ndims[i];
    }
    if (session) {
      variant->session = find_session(session);
      if (!variant->session) throw std::runtime_error("no such session");
    }
    node->put(std::move(variant));
  });
}

// How many operator states were made for these input shapes of a node.
MXTRT_EXPORT int mxtrt_node_users(int64_t key, const int64_t* dims, const int* ndims) {
  int users = 0;
  guarded([&] {
    if (auto node = find_node(key)) users = node->users(input_shapes(*node, dims, ndims));
  });
  return users;
}

// See Node::last_use.
MXTRT_EXPORT int64_t mxtrt_node_last_use(int64_t key, const int64_t* dims, const int* ndims) {
  int64_t last = -1;
  guarded([&] {
    if (auto node = find_node(key)) last = node->last_use(input_shapes(*node, dims, ndims));
  });
  return last;
}

// See Node::last_run.
MXTRT_EXPORT int64_t mxtrt_node_last_run(int64_t key) {
  int64_t last = -1;
  guarded([&] {
    if (auto node = find_node(key)) last = node->last_run();
  });
  return last;
}

// Forgets the variant of a node for these input shapes.
MXTRT_EXPORT int mxtrt_node_drop(int64_t key, const int64_t* dims, const int* ndims) {
  return guarded([&] {
    if (auto node = find_node(key)) node->drop(input_shapes(*node, dims, ndims));
  });
}

// Forgets a node or a session; what is running keeps its own reference.
MXTRT_EXPORT void mxtrt_release(int64_t key) {
  if (shutting_down() || forked()) return;
  std::shared_ptr<Node> node;
  std::shared_ptr<Session> session;  // destroyed after the lock is given back
  std::lock_guard<std::mutex> lock(g_mutex);
  if (auto found = g_nodes.find(key); found != g_nodes.end()) {
    node = std::move(found->second);
    g_nodes.erase(found);
  }
  if (auto found = g_sessions.find(key); found != g_sessions.end()) {
    session = std::move(found->second);
    g_sessions.erase(found);
  }
}

// How many nodes and sessions Python holds.
MXTRT_EXPORT void mxtrt_counts(int64_t* nodes, int64_t* sessions) {
  Lock lock(g_mutex);
  *nodes = static_cast<int64_t>(g_nodes.size());
  *sessions = static_cast<int64_t>(g_sessions.size());
}

}  // namespace mxtrt
