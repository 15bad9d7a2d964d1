// What the packers of masks share: eight keys at a time make a byte of bits.
#pragma once

#include "attention/checks.h"
#include "common/cuda/launch.cuh"

namespace tmt::attention::cuda {

using namespace tmt::cuda;

constexpr int kByteKeys = 8;

template <typename T>
struct alignas(16) Eight {
  T values[kByteKeys];
};

// Whether eight keys can be read at once wherever a row (keys,) of a contiguous tensor is cut by eight.
inline bool reads_eight(const void* pointer, int64_t keys) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0 && keys % kByteKeys == 0;
}

// Elements first.. of `row` (count,), NaN beyond; `at_once`: as reads_eight says.
template <typename T>
__device__ __forceinline__ void load_eight(float (&to)[kByteKeys], const T* row, int64_t first, int64_t count,
                                           bool at_once) {
  if (at_once && first < count) {
    const Eight<T> eight = *reinterpret_cast<const Eight<T>*>(row + first);
#pragma unroll
    for (int i = 0; i < kByteKeys; ++i) to[i] = static_cast<float>(eight.values[i]);
    return;
  }
#pragma unroll
  for (int i = 0; i < kByteKeys; ++i) to[i] = first + i < count ? static_cast<float>(row[first + i]) : NAN;
}

// Bit i: decide(values[i]).
template <typename Decide>
__device__ __forceinline__ unsigned byte_of(const float (&values)[kByteKeys], const Decide& decide) {
  unsigned byte = 0;
#pragma unroll
  for (int i = 0; i < kByteKeys; ++i) byte |= decide(values[i]) ? 1u << i : 0u;
  return byte;
}

// The bits of the keys first.. that exist.
__device__ __forceinline__ unsigned valid_byte(int64_t first, int64_t keys) {
  return static_cast<unsigned>(valid_bits(first / kWordKeys, keys) >> (first % kWordKeys)) & 0xffu;
}

// T's test for one image: transferability (S,) and its threshold; null: every key passes.
template <typename T>
struct TransferTest {
  const T* transferability;
  float threshold;
  bool at_once;

  // The keys first.. that pass.
  __device__ __forceinline__ unsigned byte(int64_t first, int64_t keys) const {
    if (transferability == nullptr) return valid_byte(first, keys);
    float values[kByteKeys];
    load_eight(values, transferability, first, keys, at_once);
    return byte_of(values, [&](float value) { return transfer_allows(value, threshold); });
  }
};

// transferability (B, S), transfer_threshold (B,)
template <typename T>
struct Transfers {
  const T* transferability;
  const float* threshold;
  bool at_once;

  __device__ TransferTest<T> of_image(int64_t image, int64_t keys) const {
    if (transferability == nullptr) return {nullptr, 0.f, false};
    return {transferability + image * keys, threshold[image], at_once};
  }
};

template <typename T>
Transfers<T> transfers_of(const std::optional<Tensor>& transferability, const std::optional<Tensor>& threshold,
                          int64_t keys) {
  const T* values = input<T>(transferability);
  return {values, input<float>(threshold), reads_eight(values, keys)};
}

// Calls function(Type<T>{}) with the element type; a tensor that is absent is a null pointer of whatever type.
template <typename Function>
void dispatch_optional(const char* where, const std::optional<Tensor>& tensor, const Function& function) {
  if (tensor) return dispatch_dtype(where, *tensor, function);
  function(Type<float>{});
}

// Sum over the warp, in every lane; every lane must call.
__device__ __forceinline__ int sum_over_lanes(int value) {
#pragma unroll
  for (int bit = kWarpSize / 2; bit > 0; bit /= 2) value += shuffle_xor(value, bit);
  return value;
}

}  // namespace tmt::attention::cuda
