#include "errors.h"

#include "export.h"

namespace mxtrt {
namespace {

thread_local std::string t_error, t_error_shown;

}  // namespace

void set_error(const std::string& message) { t_error = message; }

std::string take_error(const char* otherwise) {
  std::string message;
  message.swap(t_error);
  return message.empty() ? otherwise : message;
}

bool has_error() { return !t_error.empty(); }

const char* show_error() {
  t_error_shown.swap(t_error);
  t_error.clear();
  return t_error_shown.c_str();
}

MXTRT_EXPORT void mxtrt_set_error(const char* message) { set_error(message); }

// The last error of this thread, then forgotten; empty when there is none.
MXTRT_EXPORT const char* mxtrt_take_error() { return show_error(); }

}  // namespace mxtrt
