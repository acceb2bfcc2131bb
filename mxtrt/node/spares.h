// Output arrays that are used again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

namespace mxtrt {

// Output arrays of earlier runs, to be used again when nobody else holds them: what runs in a
// steady state allocates nothing.
class Spares {
 public:
  Spares() = default;
  Spares(const Spares&) = delete;
  Spares& operator=(const Spares&) = delete;
  ~Spares();
  // Appends handles of a set of arrays that nobody holds; false if there is none.
  bool take(std::vector<void*>* arrays);
  // Keeps a set of arrays that are in use now, and take so many bytes.
  void offer(const std::vector<void*>& arrays, size_t bytes);
  // Keeps none.
  void clear();
  // Bytes of the spares of the process, whoever holds them too.
  static int64_t held();

 private:
  std::mutex mutex_;
  std::vector<std::vector<void*>> sets_;
  size_t bytes_ = 0;
};

}  // namespace mxtrt
