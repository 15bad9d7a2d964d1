// What the tensor-core attention kernels share: the gather of keys by the plan's order, and how they are launched.
#pragma once

#include "cuda/masked_attention_plan.cuh"
#include "cuda/masked_attention_tile.cuh"

namespace tmt::cuda {

// The keys of a tile, two to a lane, the same in every warp; -1 beyond the count.
struct TileKeys {
  int keys[2];

  __device__ __forceinline__ void load(const int32_t* order, int tile, int count) {
    const int first = tile * kTileKeys + lane_index();
#pragma unroll
    for (int half = 0; half < 2; ++half)
      keys[half] = first + half * kWarpSize < count ? order[first + half * kWarpSize] : -1;
  }
  // The key at `row`; the rows of a warp are all in one half. Every lane calls.
  __device__ __forceinline__ int at(int row) const {
    return shuffle(row < kWarpSize ? keys[0] : keys[1], row % kWarpSize);
  }
};

// Starts to fetch the keys' rows of two matrices (S, dim), zeros beyond dim and for key -1. The block shares the work.
template <typename T, int kDim>
__device__ __forceinline__ void gather(MatrixTile<kTileKeys, kDim>& first_tile,
                                       MatrixTile<kTileKeys, kDim>& second_tile, const T* first, const T* second,
                                       const TileKeys& keys, int dim) {
  constexpr int kRowChunks = MatrixTile<kTileKeys, kDim>::kRowChunks;
  const int chunk = threadIdx.x % kRowChunks;
  const bool fits = chunk * kChunkElements < dim;
#pragma unroll 1
  for (int row = threadIdx.x / kRowChunks; row < kTileKeys; row += blockDim.x / kRowChunks) {
    const int key = keys.at(row);
    const bool inside = key >= 0 && fits;
    const int64_t offset = inside ? int64_t{key} * dim + chunk * kChunkElements : 0;
    copy_async(&first_tile.at(row, chunk), first + offset, inside);
    copy_async(&second_tile.at(row, chunk), second + offset, inside);
  }
}

// As many splits as the chip holds blocks at once: a few more would run after the others, with most of it idle.
inline int count_splits(const AttentionShape& s, int64_t blocks, int64_t resident) {
  const int64_t tiles = std::max<int64_t>(mask_words(s.keys), 1);
  return static_cast<int>(std::clamp<int64_t>(resident / std::max<int64_t>(blocks, 1), 1, tiles));
}

// Calls function(std::integral_constant<int, kDim>{}) with the head dimension of the tensor-core kernels that holds
// `dim`, at most 128; what lies between is zeros.
template <typename Function>
void dispatch_width(int64_t dim, const Function& function) {
  if (dim <= 16) return function(std::integral_constant<int, 16>{});
  if (dim <= 32) return function(std::integral_constant<int, 32>{});
  if (dim <= 64) return function(std::integral_constant<int, 64>{});
  function(std::integral_constant<int, 128>{});
}

}  // namespace tmt::cuda
