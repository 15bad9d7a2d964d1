// The order in which the tensor-core attention kernels take an image's keys, made once for all heads: the keys that an
// ordinary row may attend come first, so that what the transferability test excludes for everyone is never fetched;
// the keys that only full rows (all bits set: a row that fell back) attend come after them, where warps without such a
// row skip; keys that nobody attends come last and are not visited.
#pragma once

#include "cuda/masked_attention_tile.cuh"
#include "masked_attention.h"

namespace tmt::cuda {

constexpr int kTileKeys = kWordKeys;

// Device pointers.
struct KeyPlan {
  const int32_t* order;   // (B, S), a permutation of each image's keys
  const int32_t* counts;  // (B,), how many keys at the front of the order are attended at all
  // (B, tiles, rows): bit j of word (tile, n) says whether row n may attend key order[64 tile + j]. Only tiles within
  // the count are written.
  const uint64_t* words;
  int64_t rows;  // N rounded up to a multiple of kFragmentRows; the words of rows that do not exist are 0
};

// A plan and the memory it lies in.
struct PlannedKeys {
  Tensor order, counts, words;
  KeyPlan plan;
};

// bits (B, N, ceil(S / 64)), contiguous, or absent: then every key is attended by every row. `like` is on the device.
PlannedKeys plan_keys(const Context& context, const AttentionShape& shape, const std::optional<Tensor>& bits,
                      const Tensor& like);

}  // namespace tmt::cuda
