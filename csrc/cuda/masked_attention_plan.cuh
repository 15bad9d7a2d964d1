// The order in which the tensor-core attention kernels take an image's keys, made once for all heads: the keys that an
// ordinary row may attend come first, so that what the transferability test excludes for everyone is never fetched;
// the keys that only full rows (all bits set: a row that fell back) attend come after them, where warps without such a
// row skip; keys that nobody attends come last and are not visited.
#pragma once

#include "cuda/masked_attention_tile.cuh"
#include "masked_attention.h"

namespace tmt::cuda {

constexpr int kTileKeys = kWordKeys;

// The plans of a batch in the memory that packed_attention returns, (B, image_words()) int64. Of each image:
//   words  (tiles, rows): bit j of word (tile, n) says whether row n may attend the key at position 64 tile + j; only
//          tiles within the count are written, and rows that do not exist have 0
//   order  (tiles, 64) int32, of which the first S are a permutation of the keys
//   full   (rows) int32, scratch
//   count  int32, how many keys at the front of the order are attended at all
// Every part begins at a multiple of 16 bytes. tmt_ext/_register.py knows the size, too.
struct KeyPlan {
  uint64_t* memory;  // on the device; null where there are no bits: every key is attended, in its own order
  int64_t keys, tiles;
  int64_t rows;  // N rounded up to a multiple of kFragmentRows

  TMT_ATTENTION_MATH int64_t image_words() const { return tiles * (rows + kTileKeys / 2) + rows / 2 + 2; }
  TMT_ATTENTION_MATH bool exists() const { return memory != nullptr; }

  // The parts of an image; null where there is no plan.
  __device__ uint64_t* words(int64_t image) const { return exists() ? memory + image * image_words() : nullptr; }
  __device__ int32_t* order(int64_t image) const { return part(image, tiles * rows); }
  __device__ int32_t* full(int64_t image) const { return part(image, tiles * (rows + kTileKeys / 2)); }
  __device__ int32_t* count(int64_t image) const { return part(image, image_words() - 2); }
  __device__ int count_keys(int64_t image) const { return exists() ? *count(image) : static_cast<int>(keys); }

 private:
  __device__ int32_t* part(int64_t image, int64_t offset) const {
    return exists() ? reinterpret_cast<int32_t*>(words(image) + offset) : nullptr;
  }
};

// Makes the plan of bits (B, N, ceil(S / 64)), contiguous, on the device of `like`; (B, 0) where there are no bits.
Tensor plan_keys(const Context& context, const AttentionShape& shape, const std::optional<Tensor>& bits,
                 const Tensor& like);

// What plan_keys made.
KeyPlan planned_keys(const AttentionShape& shape, const Tensor& plan);

}  // namespace tmt::cuda
