#include "tensor.h"

#include <iterator>
#include <stdexcept>
#include <string>

namespace mxtrt {

size_t bytes(const Tensor& tensor) {
  static constexpr size_t kSize[] = {4, 8, 2, 1, 4, 1, 8, 1};
  if (tensor.type < 0 || static_cast<size_t>(tensor.type) >= std::size(kSize)) {
    throw std::runtime_error("a tensor of type " + std::to_string(tensor.type));
  }
  size_t size = kSize[tensor.type];
  for (int i = 0; i < tensor.ndim; ++i) {
    if (tensor.shape[i] < 0 || __builtin_mul_overflow(size, tensor.shape[i], &size)) {
      throw std::runtime_error("a tensor that is larger than memory");
    }
  }
  return size;
}

}  // namespace mxtrt
