// Tiles of pixels between global and shared memory, in pieces of 16 bytes where the image allows it.
#pragma once

#include "cuda/superpixel_group.cuh"

namespace tmt::cuda {

// Where pixels 8 chunk .. 8 chunk + 7 of a channel are in a tile: the chunks of eight successive channels lie in
// different banks, so that ldmatrix reads them at once.
template <int kPixels>
__device__ __forceinline__ int pixel_address(int channel, int chunk) {
  constexpr int kChunks = kPixels / 8;
  return channel * kPixels + (chunk ^ (channel / (8 / kChunks) % kChunks)) * 8;
}

template <int kPiece>
using PieceWord =
    std::conditional_t<kPiece == 8, float4,
                       std::conditional_t<kPiece == 4, uint64_t, std::conditional_t<kPiece == 2, uint32_t, uint16_t>>>;

// Calls visit(piece in shared memory, channel, pixel's offset in the image's plane, whether it is in the image) for the
// pieces of `plan.round` tiles from `first` on, in the slots from `slot` on. Thread mapping: tiles side by side first,
// so that a warp takes whole sectors of a pixel row, then pieces of a tile, then channels.
template <typename T, int kPixels, int kPiece, typename Visit>
__device__ __forceinline__ void for_pieces(T* pixels, const Plan& plan, const Group& group, int first, int slot,
                                           const Visit& visit) {
  constexpr int kPieces = kPixels / kPiece;
  const int each = plan.round * kPieces, rows = larger(kGroupThreads / each, 1);
  for (int i = threadIdx.x % smaller(each, kGroupThreads); i < each; i += kGroupThreads) {
    const int number = i % plan.round, p = i / plan.round * kPiece;
    const Tile tile(plan, group, first + number);
    if (tile.empty()) continue;
    const bool inside = tile.first + p < tile.count;
    const int64_t offset = inside ? tile.offset(plan, p) : 0;
    T* at = pixels + (slot + number) * plan.padded_channels * kPixels + p % 8;
#pragma unroll 4
    for (int channel = threadIdx.x / each; channel < plan.padded_channels; channel += rows)
      visit(at + pixel_address<kPixels>(channel, p / 8), channel, offset, inside && channel < plan.channels);
  }
}

template <typename T, int kPixels, int kPiece>
__device__ void load_pieces(T* pixels, const T* image, const Plan& plan, const Group& group, int first, int slot) {
  using Word = PieceWord<kPiece>;
  for_pieces<T, kPixels, kPiece>(
      pixels, plan, group, first, slot, [&](T* to, int channel, int64_t offset, bool inside) {
        const T* from = inside ? image + channel * plan.pixels() + offset : image;
        if constexpr (kPiece == 8)
          copy_async(to, from, inside);
        else
          *reinterpret_cast<Word*>(to) = inside ? *reinterpret_cast<const Word*>(from) : Word{0};
      });
}

template <typename T, int kPixels, int kPiece>
__device__ void store_pieces(T* pixels, T* image, const Plan& plan, const Group& group, int first, int slot) {
  using Word = PieceWord<kPiece>;
  for_pieces<T, kPixels, kPiece>(
      pixels, plan, group, first, slot, [&](T* at, int channel, int64_t offset, bool inside) {
        if (inside)
          *reinterpret_cast<Word*>(image + channel * plan.pixels() + offset) = *reinterpret_cast<const Word*>(at);
      });
}

// Starts to copy a round of tiles of features (B, C, H, W) to the slots from `slot` on, and closes the group of copies.
template <typename T, int kPixels>
__device__ __forceinline__ void load_tiles(T* pixels, const T* features, const Plan& plan, const Group& group,
                                           int first, int slot) {
  const T* image = features + group.image * plan.channels * plan.pixels();
  switch (plan.piece) {
    case 8: load_pieces<T, kPixels, 8>(pixels, image, plan, group, first, slot); break;
    case 4: load_pieces<T, kPixels, 4>(pixels, image, plan, group, first, slot); break;
    case 2: load_pieces<T, kPixels, 2>(pixels, image, plan, group, first, slot); break;
    default: load_pieces<T, kPixels, 1>(pixels, image, plan, group, first, slot);
  }
  commit_copies();
}

// Copies a round of tiles from shared memory to features (B, C, H, W).
template <typename T, int kPixels>
__device__ __forceinline__ void store_tiles(T* pixels, T* features, const Plan& plan, const Group& group, int first,
                                            int slot) {
  T* image = features + group.image * plan.channels * plan.pixels();
  switch (plan.piece) {
    case 8: store_pieces<T, kPixels, 8>(pixels, image, plan, group, first, slot); break;
    case 4: store_pieces<T, kPixels, 4>(pixels, image, plan, group, first, slot); break;
    case 2: store_pieces<T, kPixels, 2>(pixels, image, plan, group, first, slot); break;
    default: store_pieces<T, kPixels, 1>(pixels, image, plan, group, first, slot);
  }
}

}  // namespace tmt::cuda
