// What the tensor-core attention kernels share: the gather of keys by the plan's order, and how they are launched.
#pragma once

#include "attention/cuda/plan.cuh"
#include "attention/cuda/tile.cuh"

namespace tmt::attention::cuda {

// The keys of a tile, two to a lane, the same in every warp; -1 beyond the count.
struct TileKeys {
  int keys[2];

  __device__ __forceinline__ void load(const KeyPlan& plan, int64_t order_offset, int tile, int count) {
    const int first = tile * kTileKeys + lane_index();
#pragma unroll
    for (int half = 0; half < 2; ++half)
      keys[half] = first + half * kWarpSize < count ? plan.key_at(order_offset, first + half * kWarpSize) : -1;
  }
  // The key at `row`; the rows of a warp are all in one half. Every lane calls.
  __device__ __forceinline__ int at(unsigned row) const {
    return shuffle(row < kWarpSize ? keys[0] : keys[1], static_cast<int>(row % kWarpSize));
  }
};

// One chunk of every row: an address is one multiplication, for aligned_rows lets only strides of 31 bits pass.
template <typename T>
class ChunkColumn {
 public:
  __device__ __forceinline__ ChunkColumn(const Rows<T>& rows, unsigned chunk)
      : first_(rows.data + chunk * kChunkElements), stride_(static_cast<uint32_t>(rows.stride) * sizeof(T)) {}

  __device__ __forceinline__ Chunk* at(unsigned row) const {
    return reinterpret_cast<Chunk*>(reinterpret_cast<uintptr_t>(first_) + uint64_t{row} * stride_);
  }

 private:
  T* first_;
  uint32_t stride_;
};

// Starts to fetch the keys' rows of two matrices (S, dim), zeros beyond dim and for key -1. The block shares the work.
template <typename T, int kDim>
__device__ __forceinline__ void gather(MatrixTile<kTileKeys, kDim>& first_tile,
                                       MatrixTile<kTileKeys, kDim>& second_tile, const Rows<const T>& first,
                                       const Rows<const T>& second, const TileKeys& keys, int dim) {
  constexpr unsigned kRowChunks = MatrixTile<kTileKeys, kDim>::kRowChunks;
  const unsigned chunk = threadIdx.x % kRowChunks;
  const bool fits = static_cast<int>(chunk) * kChunkElements < dim;
  const ChunkColumn<const T> firsts(first, chunk), seconds(second, chunk);
#pragma unroll 1
  for (unsigned row = threadIdx.x / kRowChunks; row < kTileKeys; row += blockDim.x / kRowChunks) {
    const int key = keys.at(row);
    const unsigned number = key >= 0 ? key : 0;
    copy_async(&first_tile.at(row, chunk), firsts.at(number), key >= 0 && fits);
    copy_async(&second_tile.at(row, chunk), seconds.at(number), key >= 0 && fits);
  }
}

inline bool has_short_strides(const Tensor& tensor) { return tensor.stride(2) <= std::numeric_limits<int>::max(); }

// `tensor` (B, heads, rows, D) as the kernels read it: itself, or a copy where not every row begins at a multiple of 16
// bytes, as asynchronous copies must.
inline Tensor aligned_rows(const Tensor& tensor) {
  bool fits = tensor.stride(3) == 1 && is_aligned(tensor);
  for (int d = 0; d < 3; ++d) fits = fits && (tensor.size(d) == 1 || tensor.stride(d) % kChunkElements == 0);
  if (fits && has_short_strides(tensor)) return tensor;
  return tensor.is_contiguous() ? torch::stable::clone(tensor) : torch::stable::contiguous(tensor);
}

// Where a block works, kept in shared memory while the tiles of keys go by: registers are short.
template <typename T>
struct KeyPlace {
  int image, number, split, count;  // number: of the head in its image; count: of keys that are attended
  Rows<const T> key, value;
  const uint64_t* words;  // of the image's plan, or null
  int64_t order_offset;   // of its order in the plans' memory
  uint64_t last_word;     // without a plan: of every row in the last tile
};

// `head` counts over (B, heads).
template <typename T>
__device__ KeyPlace<T> find_keys(const AttentionShape& s, const KeyPlan& plan, const Heads<const T>& key,
                                 const Heads<const T>& value, unsigned head, unsigned split) {
  const int image = static_cast<int>(head / static_cast<unsigned>(s.heads));
  const int number = static_cast<int>(head % static_cast<unsigned>(s.heads));
  return {image,
          number,
          static_cast<int>(split),
          plan.count_keys(image),
          key.of(image, number),
          value.of(image, number),
          plan.words(image),
          plan.order_offset(image),
          first_keys(plan.keys - (plan.tiles - 1) * kTileKeys)};
}

// Starts to fetch the words of rows `row` and `row` + 1 for a tile of keys, 0 for rows that do not exist. `row` is
// even.
template <typename T>
__device__ __forceinline__ void fetch_words(uint64_t* to, const KeyPlace<T>& place, const KeyPlan& plan, int tile,
                                            int row, int64_t queries) {
  if (!plan.exists()) {
    const uint64_t word = tile + 1 < static_cast<int>(plan.tiles) ? ~uint64_t{0} : place.last_word;
    for (int i = 0; i < 2; ++i) to[i] = row + i < queries ? word : 0;
    return;
  }
  const int rows = static_cast<int>(plan.rows);
  copy_async(to, row < rows ? place.words + int64_t{tile} * rows + row : place.words, row < rows);
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

}  // namespace tmt::attention::cuda
