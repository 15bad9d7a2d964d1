// What the tensor-core attention kernels share: tiles of 16-bit rows in shared memory, their fragments, and the gather
// of keys by the plan's order.
#pragma once

#include "cuda/masked_attention_plan.cuh"

namespace tmt::cuda {

struct alignas(16) Chunk {
  uint32_t pairs[4];  // 8 elements
};
constexpr int kChunkElements = 8;

// kRows rows of kDim elements. The chunks of a row change places, so that the 8 rows of one ldmatrix phase, all at the
// same chunk, lie in different banks; the pattern repeats every 8 rows.
template <int kRows, int kDim>
struct MatrixTile {
  static constexpr int kRowChunks = kDim / kChunkElements;
  static constexpr int kLineRows = kRowChunks >= 8 ? 1 : 8 / kRowChunks;  // rows in the 128 bytes of all banks
  static constexpr int kSpread = kRowChunks >= 8 ? 8 : kRowChunks;

  Chunk chunks[kRows * kRowChunks];

  static __device__ __forceinline__ int index(int row, int chunk) {
    return row * kRowChunks + (chunk ^ (row / kLineRows % kSpread));
  }
  __device__ __forceinline__ Chunk& at(int row, int chunk) { return chunks[index(row, chunk)]; }
  // The same for a row that is `first`, a multiple of 8, plus the lane's, and an even chunk plus the lane's 0 or 1: what
  // depends on the lane is apart from the constants.
  __device__ __forceinline__ const Chunk* of_lane(int first, int lane_row, int chunk, int lane_chunk) const {
    return chunks + first * kRowChunks + lane_row * kRowChunks + (chunk ^ lane_chunk ^ (lane_row / kLineRows % kSpread));
  }
};

// Fragments of the 16 x 16 elements of `tile` that start at (row, 8 chunk), row a multiple of 8 and chunk even. "Left"
// and "right" are the operands of a product; a right fragment holds two of 8 columns each. Every lane calls.

// The elements as left operand.
template <typename Tile>
__device__ __forceinline__ void load_left(uint32_t (&to)[4], const Tile& tile, int row, int chunk) {
  load_matrices(to, tile.of_lane(row, lane_index() % 16, chunk, lane_index() / 16));
}
// Their transpose as left operand.
template <typename Tile>
__device__ __forceinline__ void load_left_transposed(uint32_t (&to)[4], const Tile& tile, int row, int chunk) {
  const int lane = lane_index();
  load_matrices_transposed(to, tile.of_lane(row, lane % 8 + lane / 16 * 8, chunk, lane / 8 % 2));
}
// The elements as right operand: the tile's rows are summed over.
template <typename Tile>
__device__ __forceinline__ void load_right(uint32_t (&to)[4], const Tile& tile, int row, int chunk) {
  load_matrices_transposed(to, tile.of_lane(row, lane_index() % 16, chunk, lane_index() / 16));
}
// Their transpose as right operand: the tile's rows are the columns.
template <typename Tile>
__device__ __forceinline__ void load_right_transposed(uint32_t (&to)[4], const Tile& tile, int row, int chunk) {
  const int lane = lane_index();
  load_matrices(to, tile.of_lane(row, lane % 8 + lane / 16 * 8, chunk, lane / 8 % 2));
}

// Two neighbouring sums of 16 x 8 += left (16 x 16) right (16 x 16).
template <typename T>
__device__ __forceinline__ void multiply_pair(float (&first)[4], float (&second)[4], const uint32_t (&left)[4],
                                              const uint32_t (&right)[4]) {
  mma_16x8x16<T>(first, left, {right[0], right[1]});
  mma_16x8x16<T>(second, left, {right[2], right[3]});
}

// Two neighbouring sums of 16 x 8, rounded, as the left operand of 16 x 16 of the next product: no lane gives anything
// to another.
template <typename T>
__device__ __forceinline__ void to_left(uint32_t (&left)[4], const float (&first)[4], const float (&second)[4]) {
  left[0] = pack_pair<T>(first[0], first[1]);
  left[1] = pack_pair<T>(first[2], first[3]);
  left[2] = pack_pair<T>(second[0], second[1]);
  left[3] = pack_pair<T>(second[2], second[3]);
}

// The lane's place in a fragment: rows kRow and kRow + 8, columns 2 kColumn and 2 kColumn + 1.
__device__ __forceinline__ int fragment_row() { return lane_index() / 4; }
__device__ __forceinline__ int fragment_column() { return lane_index() % 4 * 2; }

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
__device__ __forceinline__ void gather(MatrixTile<kTileKeys, kDim>& first_tile, MatrixTile<kTileKeys, kDim>& second_tile,
                                       const T* first, const T* second, const TileKeys& keys, int dim) {
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

__device__ __forceinline__ void store_pair(float* to, float low, float high) {
  *reinterpret_cast<float2*>(to) = make_float2(low, high);
}
template <typename T>
__device__ __forceinline__ void store_pair(T* to, float low, float high) {
  *reinterpret_cast<uint32_t*>(to) = pack_pair<T>(low, high);
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

// The tensor itself, or a copy where it does not start at a multiple of 16 bytes, as asynchronous copies must.
inline Tensor aligned(const Tensor& tensor) {
  const auto address = reinterpret_cast<uintptr_t>(tensor.const_data_ptr());
  return address % sizeof(Chunk) == 0 ? tensor : torch::stable::clone(tensor);
}

// Calls function(Type<T>{}) for the two dtypes of tensor cores.
template <typename Function>
void dispatch_half_precision(const Tensor& tensor, const Function& function) {
  if (tensor.scalar_type() == ScalarType::BFloat16) return function(Type<BFloat16>{});
  function(Type<Half>{});
}

}  // namespace tmt::cuda
