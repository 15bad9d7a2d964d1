// The order in which the tensor-core attention kernels take an image's keys, made once for all heads: the keys that an
// ordinary row may attend come first, so that what the transferability test excludes for everyone is never fetched;
// the keys that only full rows (all bits set: a row that fell back) attend come after them, where warps without such a
// row skip; keys that nobody attends come last and are not visited.
#pragma once

#include "attention/checks.h"
#include "attention/cuda/tile.cuh"

namespace tmt::attention::cuda {

using namespace tmt::cuda;

constexpr int kTileKeys = kWordKeys;

// The bits of a tile's word are in the order in which the lanes of a product have its columns: the four lanes of a row
// have keys 8 t + 2 c and 8 t + 2 c + 1 for every t, c = 0..3 theirs, and find the 16 bits of those side by side.
// Here, the key of bit 16 c + 2 t + e.
__device__ __forceinline__ int key_of_bit(int bit) { return bit % 16 / 2 * 8 + bit / 16 * 2 + bit % 2; }
// The lane's 16 bits of a word.
__device__ __forceinline__ uint32_t bits_of_column(const uint64_t& word, int column) {
  return reinterpret_cast<const uint16_t*>(&word)[column];
}
// The word whose first `count` keys are set.
__device__ __forceinline__ uint64_t first_keys(int64_t count) {
  if (count >= kTileKeys) return ~uint64_t{0};
  uint64_t word = 0;
  for (int64_t column = 0; column < 4; ++column) {
    const int64_t rest = count % 8 - 2 * column;  // of the last 8 keys, those from the column's on
    const int64_t bits = count / 8 * 2 + (rest < 0 ? 0 : rest > 2 ? 2 : rest);
    word |= ((uint64_t{1} << bits) - 1) << (16 * column);
  }
  return word;
}

// The plans of a batch in the memory that packed_attention returns, (B, image_words()) int64. Of each image:
//   words  (tiles, rows): the bits of word (tile, n), in the order of key_of_bit, say whether row n may attend the keys
//          at positions 64 tile ..; only tiles within the count are written, and rows that do not exist have 0
//   order  (tiles, 64) int32, of which the first S are a permutation of the keys
//   full   (rows) int32, scratch
//   count  int32, how many keys at the front of the order are attended at all
// Every part begins at a multiple of 16 bytes. tmt_ext/_register.py knows the size, too.
struct KeyPlan {
  uint64_t* memory;  // on the device; null where there are no bits: every key is attended, in its own order
  int64_t keys, tiles;
  int64_t rows;  // N rounded up to a multiple of kFragmentRows

  TMT_HOST_DEVICE int64_t image_words() const { return tiles * (rows + kTileKeys / 2) + rows / 2 + 2; }
  TMT_HOST_DEVICE bool exists() const { return memory != nullptr; }

  // Where the order of an image begins, in int32 from the memory's beginning.
  __device__ int64_t order_offset(int64_t image) const { return 2 * (image * image_words() + tiles * rows); }
  // The key at a position of the order that begins there.
  __device__ __forceinline__ int key_at(int64_t offset, int position) const {
    return exists() ? reinterpret_cast<const int32_t*>(memory)[offset + position] : position;
  }

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

}  // namespace tmt::attention::cuda
