// Small helpers of the CPU host functions.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

#include "common/cpu/element.h"
#include "common/tensor.h"

namespace tmt::cpu {

inline Element element_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Double: return Element::float64;
    case ScalarType::BFloat16: return Element::bfloat16;
    case ScalarType::Half: return Element::float16;
    default: return Element::float32;
  }
}

// Parts to divide the `rows` (queries, keys) of each of `heads` heads into, of at least 1024 rows, so that there is
// work for 16 threads even where there is one head. It must not depend on the number of threads, or results would.
inline int64_t split_count(int64_t heads, int64_t rows) {
  heads = std::max<int64_t>(heads, 1);
  return std::min((15 + heads) / heads, std::max<int64_t>(rows / 1024, 1));
}

// Uninitialised memory on a cache line's boundary, freed at the end of the scope.
class Scratch {
 public:
  explicit Scratch(size_t bytes) : memory_(::operator new(bytes, kAlignment)) {}
  template <typename T = void>
  T* get() const {
    return static_cast<T*>(memory_.get());
  }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(void* memory) const { ::operator delete(memory, kAlignment); }
  };
  std::unique_ptr<void, Free> memory_;
};

}  // namespace tmt::cpu
