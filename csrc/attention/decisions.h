// Decisions and word layout of the masked attention, shared by every kernel on the CPU and in CUDA. No includes of
// torch: the SIMD kernels and device code use it.
#pragma once

#include <stdint.h>

#include "common/host_device.h"

namespace tmt::attention {

constexpr int kWordKeys = 64;  // keys per word of packed bits, and keys per tile of the CPU kernels
constexpr int kMaxHeadDim = 256;
constexpr double kLog2E = 1.4426950408889634;
constexpr double kLn2 = 0.6931471805599453;

// The numbers of tmt_ext._types.Rule and Fallback.
enum MaskRule : int { kRuleNone = 0, kRuleUncertain = 1, kRuleForeground = 2 };
enum MaskFallback : int { kFallbackAll = 0, kFallbackTransfer = 1 };

// Words that hold one bit per key.
TMT_HOST_DEVICE int64_t mask_words(int64_t keys) { return (keys + kWordKeys - 1) / kWordKeys; }

// The bits of word `word` that stand for existing keys; the rest is padding and stays 0.
TMT_HOST_DEVICE uint64_t valid_bits(int64_t word, int64_t keys) {
  const int64_t left = keys - word * kWordKeys;
  if (left <= 0) return 0;
  return left >= kWordKeys ? ~uint64_t{0} : (uint64_t{1} << left) - 1;
}

// The rows of one head; `stride` in elements.
template <typename T>
struct Rows {
  T* data;
  int64_t stride;

  TMT_HOST_DEVICE T* at(int64_t row) const { return data + row * stride; }
};

// A (B, heads, rows, D) tensor whose rows are contiguous; strides in elements.
template <typename T>
struct Heads {
  T* data;
  int64_t batch, head, row;

  TMT_HOST_DEVICE Rows<T> of(int64_t image, int64_t number) const {
    return {data + image * batch + number * head, row};
  }
};

// The mask test, in logit space: `threshold` is logit(lambda_M). A NaN logit never passes.
TMT_HOST_DEVICE bool mask_allows(float logit, float threshold, int rule) {
  return rule == kRuleUncertain ? logit <= threshold : rule == kRuleForeground ? logit >= threshold : true;
}

// The transferability test: only what is not transferable may be attended. A NaN never passes.
TMT_HOST_DEVICE bool transfer_allows(float transferability, float threshold) { return transferability <= threshold; }

}  // namespace tmt::attention
