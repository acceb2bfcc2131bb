// Tensors as MXNet hands them over.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace mxtrt {

using Shape = std::vector<int64_t>;

// MXNet's type flags, as in mshadow/base.h.
enum class MXType : int { kFloat32, kFloat64, kFloat16, kUint8, kInt32, kInt8, kInt64, kBool };

// One tensor of a forward: memory that MXNet owns.
struct Tensor {
  void* data;
  const int64_t* shape;
  int ndim;
  int type;  // MXType
};

// Throws std::runtime_error for a type or size that MXNet does not have.
size_t bytes(const Tensor& tensor);

}  // namespace mxtrt
