// What the attention kernels share: tiles of 16 rows that stay in a block against tiles of 64 rows that stream by.
//
// Thread mapping of every kernel: four warps, four resident rows each; for scores, a lane has columns `lane` and `lane
// + 32` of the streaming tile, for sums over columns it has every 32nd element of the head dimension. The head
// dimension D goes through shared memory in kParts parts of kPart elements, zeros beyond D.
#pragma once

#include <cmath>

#include "attention/checks.h"
#include "common/cuda/launch.cuh"

namespace tmt::attention::cuda {

using namespace tmt::cuda;

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kRows = 16;            // of the resident tile
constexpr int kColumns = kWordKeys;  // of the streaming tile; where it runs over keys, one word of bits
constexpr int kWarpRows = kRows / kWarps;
constexpr int kLaneColumns = kColumns / kWarpSize;

// How a head dimension is cut: kParts parts of kPart.
template <int part, int parts>
struct Depth {
  static constexpr int kPart = part, kParts = parts, kWhole = part * parts;
  static constexpr int kLaneElements = part / kWarpSize;  // of a part, per lane
  static constexpr int kLoadsAhead = parts > 2 ? 1 : 4;   // of a thread, as registers allow
  static constexpr int kBlocks = parts > 2 ? 4 : 0;       // on a multiprocessor, at least; 0: the compiler chooses
};

// Calls function(Depth<...>{}) with the smallest cut that holds `dim`, which was checked to be at most kMaxHeadDim.
template <typename Function>
void dispatch_depth(int64_t dim, const Function& function) {
  if (dim <= 32) return function(Depth<32, 1>{});
  if (dim <= 64) return function(Depth<64, 1>{});
  if (dim <= 128) return function(Depth<64, 2>{});
  static_assert(kMaxHeadDim == 256);
  function(Depth<64, 4>{});
}

// Sizes of one call, and its bits (B, N, words).
struct Attention {
  AttentionShape shape;
  const int64_t* bits;  // null: every key is allowed
  float scale;          // 1 / sqrt(D)

  // The word of query `query` of image `image`, without what lies beyond S.
  __device__ uint64_t word(int64_t image, int64_t query, int64_t number) const {
    const uint64_t valid = valid_bits(number, shape.keys);
    if (bits == nullptr) return valid;
    return static_cast<uint64_t>(bits[(image * shape.queries + query) * mask_words(shape.keys) + number]) & valid;
  }
};

inline float attention_scale(const AttentionShape& shape) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape.dim)));
}

inline Attention attention_of(const AttentionShape& shape, const std::optional<Tensor>& bits) {
  return {shape, input<int64_t>(bits), attention_scale(shape)};
}

template <typename D>
using ResidentTile = float[kRows][D::kWhole];
// The odd row length keeps reading a column of it free of bank conflicts.
template <typename D>
using StreamTile = float[kColumns][D::kPart + 1];
using WeightTile = float[kRows][kColumns];

// Loads rows first..first+kRows of `matrix` (count, dim), whole; zeros beyond.
template <typename D, typename T>
__device__ void load_resident(ResidentTile<D>& tile, const Rows<const T>& matrix, int64_t first, int64_t count,
                              int64_t dim) {
#pragma unroll 4
  for (int i = threadIdx.x; i < kRows * D::kWhole; i += kThreads) {
    const int row = i / D::kWhole, d = i % D::kWhole;
    const bool inside = first + row < count && d < dim;
    tile[row][d] = inside ? static_cast<float>(matrix.at(first + row)[d]) : 0.f;
  }
}

// Loads part `part` of rows first..first+kColumns of `matrix` (count, dim); zeros beyond.
template <typename D, typename T>
__device__ void load_stream(StreamTile<D>& tile, const Rows<const T>& matrix, int64_t first, int64_t count, int64_t dim,
                            int part) {
#pragma unroll D::kLoadsAhead
  for (int i = threadIdx.x; i < kColumns * D::kPart; i += kThreads) {
    const int row = i / D::kPart, d = i % D::kPart;
    const bool inside = first + row < count && part * D::kPart + d < dim;
    tile[row][d] = inside ? static_cast<float>(matrix.at(first + row)[part * D::kPart + d]) : 0.f;
  }
}

// One value per resident row of the warp and streaming column of the lane.
using Scores = float[kWarpRows][kLaneColumns];

// scores += rows . columns over one part of the head dimension.
template <typename D>
__device__ __forceinline__ void add_products(Scores& scores, const ResidentTile<D>& rows, const StreamTile<D>& columns,
                                             int part) {
#pragma unroll 4
  for (int d = 0; d < D::kPart; ++d) {
    float column[kLaneColumns];
#pragma unroll
    for (int e = 0; e < kLaneColumns; ++e) column[e] = columns[lane_index() + e * kWarpSize][d];
#pragma unroll
    for (int i = 0; i < kWarpRows; ++i) {
      const float row = rows[warp_index() * kWarpRows + i][part * D::kPart + d];
#pragma unroll
      for (int e = 0; e < kLaneColumns; ++e) scores[i][e] += row * column[e];
    }
  }
}

// Sums per resident row of the warp, over the whole head dimension: element d of a part belongs to lane d % 32.
template <typename D>
using RowSums = float[D::kParts][kWarpRows][D::kLaneElements];

// sums[part] += weights . columns for one part of the head dimension.
template <typename D>
__device__ __forceinline__ void add_weighted(float (&sums)[kWarpRows][D::kLaneElements], const WeightTile& weights,
                                             const StreamTile<D>& columns) {
#pragma unroll 4
  for (int j = 0; j < kColumns; ++j) {
    float column[D::kLaneElements];
#pragma unroll
    for (int e = 0; e < D::kLaneElements; ++e) column[e] = columns[j][lane_index() + e * kWarpSize];
#pragma unroll
    for (int i = 0; i < kWarpRows; ++i) {
      const float weight = weights[warp_index() * kWarpRows + i][j];
#pragma unroll
      for (int e = 0; e < D::kLaneElements; ++e) sums[i][e] += weight * column[e];
    }
  }
}

// Writes factor[i] * sums to rows first..first+kRows of `matrix` (count, dim).
template <typename D, typename T>
__device__ void store_rows(const Rows<T>& matrix, const RowSums<D>& sums, const float (&factor)[kWarpRows],
                           int64_t first, int64_t count, int64_t dim) {
#pragma unroll
  for (int i = 0; i < kWarpRows; ++i) {
    const int64_t row = first + warp_index() * kWarpRows + i;
    if (row >= count) continue;
#pragma unroll
    for (int part = 0; part < D::kParts; ++part)
#pragma unroll
      for (int e = 0; e < D::kLaneElements; ++e) {
        const int64_t d = part * D::kPart + lane_index() + e * kWarpSize;
        if (d < dim) matrix.at(row)[d] = static_cast<T>(factor[i] * sums[part][i][e]);
      }
  }
}

// Which of the thread's scores count: bit i * kLaneColumns + e.
__device__ __forceinline__ bool counts(unsigned flags, int i, int e) { return flags >> (i * kLaneColumns + e) & 1u; }

// Flags where rows are queries first_query.. and columns the keys of word `number`. `any` tells, alike in the whole
// block, whether any score of the tile counts: every warp looks at all sixteen words.
__device__ inline unsigned query_row_flags(const Attention& attention, int64_t image, int64_t first_query,
                                           int64_t number, bool& any) {
  const int64_t query = first_query + lane_index();
  const bool mine = lane_index() < kRows && query < attention.shape.queries;
  const uint64_t word = mine ? attention.word(image, query, number) : 0;
  any = ballot(word != 0) != 0;
  unsigned flags = 0;
#pragma unroll
  for (int i = 0; i < kWarpRows; ++i) {
    const uint64_t row = broadcast_from(word, warp_index() * kWarpRows + i);
#pragma unroll
    for (int e = 0; e < kLaneColumns; ++e)
      flags |= static_cast<unsigned>(row >> (lane_index() + e * kWarpSize) & 1u) << (i * kLaneColumns + e);
  }
  return flags;
}

// Flags where rows are the keys first_key.. (kRows of them, within one word) and columns queries first_query..; as
// above.
__device__ inline unsigned key_row_flags(const Attention& attention, int64_t image, int64_t first_key,
                                         int64_t first_query, bool& any) {
  static_assert(kWordKeys % kRows == 0);
  unsigned flags = 0, rows = 0;
#pragma unroll
  for (int e = 0; e < kLaneColumns; ++e) {
    const int64_t query = first_query + lane_index() + e * kWarpSize;
    if (query >= attention.shape.queries) continue;
    const uint64_t word = attention.word(image, query, first_key / kWordKeys) >> (first_key % kWordKeys);
    rows |= static_cast<unsigned>(word) & ((1u << kRows) - 1);
#pragma unroll
    for (int i = 0; i < kWarpRows; ++i)
      flags |= static_cast<unsigned>(word >> (warp_index() * kWarpRows + i) & 1u) << (i * kLaneColumns + e);
  }
  any = ballot(rows != 0) != 0;
  return flags;
}

// What the blocks of several splits leave for merge_splits: `sums` (splits, B * heads, N, D), normalised within the
// split, and their lse (splits, B * heads, N), -inf where the split allows nothing.
struct Parts {
  float *sums, *lse;
};

// Memory for them, (splits * B * heads * N * (D + 1)) floats.
inline Tensor empty_parts(const AttentionShape& s, const Tensor& like, int64_t splits) {
  return empty(like, ScalarType::Float, splits * s.batch * s.heads * s.queries * (s.dim + 1));
}
inline Parts parts_in(const AttentionShape& s, const Tensor& memory, int64_t splits) {
  float* first = output<float>(memory);
  return {first, first + splits * s.batch * s.heads * s.queries * s.dim};
}

// lse and output of a row from its splits. Warp = row of (B * heads, N); lanes share the head dimension.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    merge_splits(Parts parts, Heads<T> output, float* lse, AttentionShape s, int64_t splits) {
  const int64_t row = int64_t{blockIdx.x} * kWarps + warp_index(), rows = s.batch * s.heads * s.queries;
  if (row >= rows) return;
  const int64_t head = row / s.queries;
  T* to = output.of(head / s.heads, head % s.heads).at(row % s.queries);
  float largest = -INFINITY, total = 0.f;
  for (int64_t split = 0; split < splits; ++split) largest = fmaxf(largest, parts.lse[split * rows + row]);
  const float base = largest == -INFINITY ? 0.f : largest;
  for (int64_t split = 0; split < splits; ++split) total += expf(parts.lse[split * rows + row] - base);
  for (int64_t d = lane_index(); d < s.dim; d += kWarpSize) {
    float sum = 0.f;
    for (int64_t split = 0; split < splits; ++split)
      sum += expf(parts.lse[split * rows + row] - base) * parts.sums[(split * rows + row) * s.dim + d];
    to[d] = static_cast<T>(total == 0.f ? 0.f : sum / total);
  }
  if (lane_index() == 0) lse[row] = base + logf(total);  // -inf where nothing was allowed
}

}  // namespace tmt::attention::cuda
