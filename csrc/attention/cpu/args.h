// What the host functions hand to the SIMD kernels of pack_mask and packed_attention: plain structs.
#pragma once

#include <cstdint>

#include "attention/decisions.h"
#include "common/cpu/dispatch.h"
#include "common/cpu/element.h"

namespace tmt::attention::cpu {

using namespace tmt::cpu;

// The keys of one image in the order the kernels visit them, 64 to a tile. Keys that no query attends are left out.
struct KeyPlan {
  int64_t count;         // keys to visit
  const int32_t* keys;   // (S) key indices, after `count` those that are left out; or null: 0, 1, 2, ...
  const uint64_t* bits;  // (tiles, N): bit i of word (t, n) = query n attends the i-th key of tile t; null: every key
};

struct AttentionArgs {
  Element element;
  int64_t batch, heads, queries, keys, dim;
  int64_t padded;  // dim rounded up to 16, the row length of all scratch in the accumulate dtype
  int64_t splits;  // parts that an image's tiles are divided into; a function of the shapes alone
  Heads<const void> query, key, value;
  const KeyPlan* plans;  // (B)
  void* partial;         // forward: (B, heads, splits, N, part_size), unused for one split; backward: (..., padded)
  Heads<void> output;    // written forward, read backward
  void* lse;             // (B, heads, N) in the accumulate dtype, in powers of 2; written forward, read backward
  Heads<const void> grad_output;  // backward only, as what follows
  Heads<void> grad_query, grad_key, grad_value;
};

// What every packer of masks is told, and where it writes.
struct MaskArgs {
  int64_t batch, queries, keys, words;
  int rule, fallback;
  float mask_threshold;
  Element transfer_element;
  const void* transfer;             // (B, S) or null
  const float* transfer_threshold;  // (B)
  uint64_t* transfer_bits;          // (B, words): written by pack_transfer, read by the others
  uint64_t* bits;                   // (B, N, words)
  int32_t* allowed;                 // (B, N)
};

struct PackArgs : MaskArgs {
  Element element;
  const void* mask;  // (B, N, S) or null
};

struct PredictArgs : MaskArgs {
  Element element;
  int64_t channels;        // E
  const void* embeddings;  // (B, N, E)
  const void* features;    // (B, E, S)
  void* packed;            // (B, row groups, E, kGroupRows) in the accumulate dtype: see pack_embeddings
};

// Sizes that host and kernels agree on, in values of the accumulate dtype.
constexpr int64_t kGroupRows = 6;    // query rows that one pass of the products handles in registers
constexpr int64_t kBlockRows = 128;  // query rows that take turns at a tile while it is in the first-level cache

constexpr int64_t kStripWords = 4;  // words of consecutive keys whose logits are predicted together
constexpr int64_t kStripKeys = kStripWords * kWordKeys;

inline __attribute__((always_inline)) int64_t row_groups(int64_t queries) {
  return (queries + kGroupRows - 1) / kGroupRows;
}
inline __attribute__((always_inline)) int64_t strips(int64_t words) { return (words + kStripWords - 1) / kStripWords; }
// Channels by kept keys of a strip; a vector may be stored past the last row's end.
inline __attribute__((always_inline)) int64_t predict_scratch(int64_t channels) { return channels * kStripKeys + 16; }
// A split's part of one row forward: its sums, the total of its weights and their shift.
inline __attribute__((always_inline)) int64_t part_size(const AttentionArgs& args) { return args.padded + 2; }
inline __attribute__((always_inline)) int64_t forward_scratch(int64_t padded) {
  return 2 * (kWordKeys + kBlockRows) * padded + kBlockRows * 16 + kGroupRows * kWordKeys;
}
inline __attribute__((always_inline)) int64_t backward_scratch(int64_t padded, int64_t queries) {
  return 5 * kWordKeys * padded + 2 * kBlockRows * kWordKeys + 2 * queries * (padded + 1) + 16;
}

// Entry points, for every SIMD level. Each handles the items [begin, end):
//   pack_transfer                          images, B
//   pack_rows, finish_rows                 rows, B * N
//   pack_embeddings                        B * row_groups(N)
//   predict_strips                         B * strips(words); scratch of the size above, aligned to 64 bytes
//   attention_forward, attention_backward  B * heads * splits; scratch of the size above, aligned to 64 bytes
//   attention_..._finish                   B * heads
#define TMT_DECLARE_ATTENTION(level)                                                             \
  namespace level {                                                                              \
  void pack_transfer(const MaskArgs& args, int64_t begin, int64_t end);                          \
  void pack_rows(const PackArgs& args, int64_t begin, int64_t end);                              \
  void finish_rows(const MaskArgs& args, int64_t begin, int64_t end);                            \
  void pack_embeddings(const PredictArgs& args, int64_t begin, int64_t end);                     \
  void predict_strips(const PredictArgs& args, int64_t begin, int64_t end, void* scratch);       \
  void attention_forward(const AttentionArgs& args, int64_t begin, int64_t end, void* scratch);  \
  void attention_forward_finish(const AttentionArgs& args, int64_t begin, int64_t end);          \
  void attention_backward(const AttentionArgs& args, int64_t begin, int64_t end, void* scratch); \
  void attention_backward_finish(const AttentionArgs& args, int64_t begin, int64_t end);         \
  }
TMT_FOR_EACH_SIMD(TMT_DECLARE_ATTENTION)
#undef TMT_DECLARE_ATTENTION

}  // namespace tmt::attention::cpu
