// Small helpers of the CPU host functions.
#pragma once

#include <cstddef>
#include <new>

#include "../common.h"
#include "masked_attention_args.h"

namespace tmt::cpu {

inline Storage storage_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Double: return Storage::float64;
    case ScalarType::BFloat16: return Storage::bfloat16;
    case ScalarType::Half: return Storage::float16;
    default: return Storage::float32;
  }
}

// Uninitialised memory on a cache line's boundary, freed at the end of the scope.
class Scratch {
 public:
  explicit Scratch(size_t bytes) : memory_(::operator new(bytes, kAlignment)) {}
  ~Scratch() { ::operator delete(memory_, kAlignment); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  void* get() const { return memory_; }

 private:
  static constexpr std::align_val_t kAlignment{64};
  void* memory_;
};

}  // namespace tmt::cpu
