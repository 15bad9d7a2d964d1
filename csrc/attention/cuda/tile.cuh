// Tiles of 16-bit rows in shared memory, and their 16 x 16 pieces as operands of tensor-core products.
#pragma once

#include "common/cuda/launch.cuh"

namespace tmt::attention::cuda {

using namespace tmt::cuda;

constexpr int kFragmentRows = 16;  // rows of a tensor-core operand

struct alignas(16) Chunk {
  uint32_t pairs[4];  // 8 elements
};
constexpr int kChunkElements = 8;

// kRows rows of kDim elements. The chunks of a row change places, so that the 8 rows of one ldmatrix phase, all at the
// same chunk, lie in different banks; the pattern repeats every 8 rows.
template <int kRows, int kDim>
struct MatrixTile {
  static constexpr unsigned kRowChunks = kDim / kChunkElements;
  static constexpr unsigned kLineRows = kRowChunks >= 8 ? 1 : 8 / kRowChunks;  // rows in the 128 bytes of all banks
  static constexpr unsigned kSpread = kRowChunks >= 8 ? 8 : kRowChunks;

  Chunk chunks[kRows * kRowChunks];

  static __device__ __forceinline__ unsigned index(unsigned row, unsigned chunk) {
    return row * kRowChunks + (chunk ^ (row / kLineRows % kSpread));
  }
  __device__ __forceinline__ Chunk& at(unsigned row, unsigned chunk) { return chunks[index(row, chunk)]; }
  // The same for a row that is `first`, a multiple of 8, plus the lane's 0..7, and an even chunk plus 0 or 1: what the
  // four places of a fragment share is apart.
  __device__ __forceinline__ Chunk& of_row(unsigned first, unsigned lane_row, unsigned chunk, unsigned odd) {
    return chunks[first * kRowChunks + lane_row * kRowChunks + (chunk ^ (lane_row / kLineRows % kSpread) ^ odd)];
  }
  // The same for a row that is `first`, a multiple of 8, plus the lane's, and an even chunk plus the lane's 0 or 1:
  // what depends on the lane is apart from the constants.
  __device__ __forceinline__ const Chunk* of_lane(unsigned first, unsigned lane_row, unsigned chunk,
                                                  unsigned lane_chunk) const {
    const unsigned spread = chunk % kSpread ^ lane_chunk ^ (lane_row / kLineRows % kSpread);
    return chunks + first * kRowChunks + chunk / kSpread * kSpread + lane_row * kRowChunks + spread;
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

// The sum of the products of their elements.
template <typename T>
__device__ __forceinline__ float multiply_chunks(const Chunk& left, const Chunk& right) {
  float sum = 0.f;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 a = unpack_pair<T>(left.pairs[i]), b = unpack_pair<T>(right.pairs[i]);
    sum += a.x * b.x + a.y * b.y;
  }
  return sum;
}

// The lane's place in a fragment: rows kRow and kRow + 8, columns 2 kColumn and 2 kColumn + 1.
__device__ __forceinline__ int fragment_row() { return lane_index() / 4; }
__device__ __forceinline__ int fragment_column() { return lane_index() % 4 * 2; }

__device__ __forceinline__ void store_pair(float* to, float low, float high) {
  *reinterpret_cast<float2*>(to) = make_float2(low, high);
}
template <typename T>
__device__ __forceinline__ void store_pair(T* to, float low, float high) {
  *reinterpret_cast<uint32_t*>(to) = pack_pair<T>(low, high);
}

// Whether the tensor starts at a multiple of 16 bytes, as asynchronous copies must.
inline bool is_aligned(const Tensor& tensor) {
  return reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % sizeof(Chunk) == 0;
}
// The tensor itself, or a copy where it does not.
inline Tensor aligned(const Tensor& tensor) { return is_aligned(tensor) ? tensor : torch::stable::clone(tensor); }

// Calls function(Type<T>{}) for the two dtypes of tensor cores.
template <typename Function>
void dispatch_half_precision(const Tensor& tensor, const Function& function) {
  if (tensor.scalar_type() == ScalarType::BFloat16) return function(Type<BFloat16>{});
  function(Type<Half>{});
}

}  // namespace tmt::attention::cuda
