// The nodes and sessions of the process, by the numbers that Python knows them by.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "node.h"

namespace mxtrt {

// Nodes by key; null when the key is unknown.
std::shared_ptr<Node> find_node(int64_t key);

// Sessions by handle; null when the handle is unknown.
std::shared_ptr<Session> find_session(int64_t handle);
int64_t add_session(std::shared_ptr<Session> session);

// Whether this is the `process` attribute of this process's nodes.
bool is_own(const std::string& token);

}  // namespace mxtrt
