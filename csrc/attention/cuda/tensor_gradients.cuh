// The pieces of the backward attention in half precision: what a block holds, and its two halves, with the keys as
// rows and with the queries as rows. attention/cuda/tensor_backward.cu says how they come together.
#pragma once

#include "attention/cuda/tensor.cuh"

namespace tmt::attention::cuda {

constexpr int kKeyWarps = kTileKeys / kFragmentRows, kBackwardThreads = kKeyWarps * kWarpSize;

// What fits the registers and shared memory of every architecture at a head dimension.
// one_group: there are no more queries than fit at a time; then their dq stays in registers over all tiles of keys,
// where those suffice, and else it is kept in global memory.
template <int dim, bool one_group>
struct BackwardShape {
  static constexpr int kDim = dim;
  static constexpr int kGroup = dim <= 64 ? 128 : 64;                  // queries in a block at a time
  static constexpr int kStages = dim <= 64 ? 2 : 1;                    // tiles of keys in shared memory
  static constexpr int kResident = dim <= 32 ? 3 : dim <= 64 ? 2 : 1;  // blocks on a multiprocessor
  static constexpr bool kKeepsSums = dim <= 64 && one_group;
  // A warp's keys and values stay in registers for a tile.
  static constexpr bool kHoldsRows = dim <= 32 || (dim <= 64 && !kKeepsSums);
  static constexpr int kWarpTiles = kGroup / kTileKeys;  // of 16 queries
  static constexpr int kSteps = dim / 16, kTiles = dim / 8;
  static constexpr int kSumTiles = kKeepsSums || dim <= 32 ? kTiles : 4;  // of dq, in registers at a time
};

template <typename S>
struct BackwardStage {
  MatrixTile<kTileKeys, S::kDim> key, value;
  uint64_t words[S::kGroup];
};

template <typename T, typename S>
struct BackwardShared {
  MatrixTile<S::kGroup, S::kDim> query, grad;
  BackwardStage<S> stage[S::kStages];
  MatrixTile<kTileKeys, S::kGroup> changes;  // ds, keys by queries
  float lse[S::kGroup], delta[S::kGroup];    // lse in powers of 2
  KeyPlace<T> place;
};

template <typename T>
struct BackwardInputs {
  Heads<const T> query, grad, output, key, value;
  const float* lse;  // (B * heads, N)
  AttentionShape shape;
  KeyPlan plan;
  int splits, groups;
  float scale;

  __device__ int dim() const { return static_cast<int>(shape.dim); }
  __device__ int queries() const { return static_cast<int>(shape.queries); }
};

template <typename T>
struct BackwardOutputs {
  Heads<T> key, value;
  float* partial;  // (splits, B * heads, N, D): dq / scale
};

// ---- what comes in --------------------------------------------------------------------------------------------------

// delta of a group's queries, a row to a thread. Every split computes it again: the rows are few.
template <typename T, typename S>
__device__ void find_deltas(BackwardShared<T, S>& shared, const Rows<const T>& grad, const Rows<const T>& output,
                            int first, int queries, int dim) {
  const int chunks = dim / kChunkElements;
  for (int row = threadIdx.x; row < S::kGroup; row += kBackwardThreads) {
    const auto *left = reinterpret_cast<const Chunk*>(grad.at(first + row)),
               *right = reinterpret_cast<const Chunk*>(output.at(first + row));
    float sum = 0.f;
#pragma unroll 1
    for (int chunk = 0; first + row < queries && chunk < chunks; ++chunk)
      sum += multiply_chunks<T>(left[chunk], right[chunk]);
    shared.delta[row] = sum;
  }
}

// Starts to fetch a group of queries with what belongs to them.
template <typename T, typename S>
__device__ void fetch_group(BackwardShared<T, S>& shared, const BackwardInputs<T>& in, int group) {
  constexpr unsigned kRowChunks = MatrixTile<S::kGroup, S::kDim>::kRowChunks;
  const int image = shared.place.image, number = shared.place.number;
  const Rows<const T> grads = in.grad.of(image, number);
  const unsigned first = group * S::kGroup, chunk = threadIdx.x % kRowChunks;
  const ChunkColumn<const T> query_chunks(in.query.of(image, number), chunk), grad_chunks(grads, chunk);
#pragma unroll 1
  for (unsigned row = threadIdx.x / kRowChunks; row < S::kGroup; row += kBackwardThreads / kRowChunks) {
    const bool exists = first + row < in.shape.queries;
    const bool inside = exists && static_cast<int>(chunk) * kChunkElements < in.dim();
    copy_async(&shared.query.at(row, chunk), query_chunks.at(exists ? first + row : 0), inside);
    copy_async(&shared.grad.at(row, chunk), grad_chunks.at(exists ? first + row : 0), inside);
  }
  const float* lses = in.lse + (image * in.shape.heads + number) * in.shape.queries + first;
  for (unsigned row = threadIdx.x; row < S::kGroup; row += kBackwardThreads) {
    const float lse = first + row < in.shape.queries ? lses[row] : 0.f;
    shared.lse[row] = lse == -INFINITY ? 0.f : lse * static_cast<float>(kLog2E);  // such a row has no bit
  }
  find_deltas(shared, grads, in.output.of(image, number), first, in.queries(), in.dim());
}

// Starts to fetch a group's words of a tile.
template <typename T, typename S>
__device__ void fetch_group_words(BackwardStage<S>& stage, const BackwardShared<T, S>& shared,
                                  const BackwardInputs<T>& in, int tile, int group) {
  const int row = 2 * threadIdx.x;
  if (row < S::kGroup)
    fetch_words(stage.words + row, shared.place, in.plan, tile, group * S::kGroup + row, in.shape.queries);
}

// Starts to fetch a tile of keys with the first group's words; nothing beyond the count.
template <typename T, typename S>
__device__ void fetch_keys(BackwardStage<S>& stage, const BackwardShared<T, S>& shared, const BackwardInputs<T>& in,
                           int tile) {
  const int count = shared.place.count;
  if (tile * kTileKeys < count) {
    TileKeys keys;
    keys.load(in.plan, shared.place.order_offset, tile, count);
    gather<T, S::kDim>(stage.key, stage.value, shared.place.key, shared.place.value, keys, in.dim());
    fetch_group_words(stage, shared, in, tile, 0);
  }
  commit_copies();
}

// ---- keys as rows: dk and dv ----------------------------------------------------------------------------------------

// A warp's 16 rows of a tile of keys or values as left operands, in registers where they fit.
template <typename S>
class KeyRows {
 public:
  using Tile = MatrixTile<kTileKeys, S::kDim>;

  __device__ explicit KeyRows(const Tile& tile) : tile_(tile) {
    if constexpr (S::kHoldsRows)
#pragma unroll
      for (int step = 0; step < S::kSteps; ++step) load_left(held_[step], tile, warp_index() * kFragmentRows, 2 * step);
  }
  __device__ __forceinline__ void get(uint32_t (&left)[4], int step) const {
    if constexpr (S::kHoldsRows)
      for (int i = 0; i < 4; ++i) left[i] = held_[step][i];
    else
      load_left(left, tile_, warp_index() * kFragmentRows, 2 * step);
  }

 private:
  const Tile& tile_;
  uint32_t held_[S::kHoldsRows ? S::kSteps : 1][4];
};

// The gradients of a warp's keys and values.
template <typename S>
struct KeySums {
  float key[S::kTiles][4] = {}, value[S::kTiles][4] = {};
};

using Square = float[2][4];  // 16 keys by 16 queries

// product = keys . rows^T for 16 rows of `tile`, the queries from `first` on.
template <typename T, typename S>
__device__ __forceinline__ void multiply_queries(Square& product, const KeyRows<S>& keys,
                                                 const MatrixTile<S::kGroup, S::kDim>& tile, int first) {
#pragma unroll
  for (int step = 0; step < S::kSteps; ++step) {
    uint32_t left[4], right[4];
    keys.get(left, step);
    load_right_transposed(right, tile, first, 2 * step);
    multiply_pair<T>(product[0], product[1], left, right);
  }
}

// sums += weights . rows.
template <typename T, typename S>
__device__ __forceinline__ void add_queries(float (&sums)[S::kTiles][4], const uint32_t (&weights)[4],
                                            const MatrixTile<S::kGroup, S::kDim>& tile, int first) {
#pragma unroll
  for (int pair = 0; pair < S::kSteps; ++pair) {
    uint32_t right[4];
    load_right(right, tile, first, 2 * pair);
    multiply_pair<T>(sums[2 * pair], sums[2 * pair + 1], weights, right);
  }
}

// Where a query's bits for the lane's two keys are.
struct LaneKeys {
  uint32_t first = 1u << (warp_index() * 4 + fragment_row() % 2);

  __device__ uint32_t second() const { return first << 2; }
  __device__ int column() const { return fragment_row() / 2; }
};

// Bits of the lane's four queries from `first` on. Returns, alike in the whole warp, whether any of the 16 x 16 pairs
// counts.
template <typename S>
__device__ __forceinline__ bool find_bits(uint32_t (&bits)[2][2], const BackwardStage<S>& stage, const LaneKeys& mine,
                                          int first) {
#pragma unroll
  for (int tile = 0; tile < 2; ++tile)
#pragma unroll
    for (int e = 0; e < 2; ++e)
      bits[tile][e] = bits_of_column(stage.words[first + tile * 8 + fragment_column() + e], mine.column());
  const uint32_t any = bits[0][0] | bits[0][1] | bits[1][0] | bits[1][1];
  return ballot((any & (mine.first | mine.second())) != 0) != 0;
}

// Scores become p, and products ds / scale.
template <typename T, typename S>
__device__ __forceinline__ void differentiate(Square& scores, Square& products, const uint32_t (&bits)[2][2],
                                              const BackwardShared<T, S>& shared, const LaneKeys& mine, int first,
                                              float scale) {
#pragma unroll
  for (int tile = 0; tile < 2; ++tile) {
    const int query = first + tile * 8 + fragment_column();
    const float2 lse = *reinterpret_cast<const float2*>(shared.lse + query);
    const float2 delta = *reinterpret_cast<const float2*>(shared.delta + query);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const bool counts = bits[tile][e % 2] & (e < 2 ? mine.first : mine.second());
      const float exponent = min_or_nan(fmaf(scores[tile][e], scale, e % 2 ? -lse.y : -lse.x), 0.f);  // p is at most 1
      scores[tile][e] = exp2_fast(counts ? exponent : -INFINITY);
      const float change = scores[tile][e] * (products[tile][e] - (e % 2 ? delta.y : delta.x));
      products[tile][e] = counts ? change : 0.f;  // not 0 times a NaN
    }
  }
}

// The warp's keys against 16 queries: adds to dk and dv, and leaves ds in shared memory.
template <typename T, typename S>
__device__ __forceinline__ void differentiate_square(KeySums<S>& sums, const KeyRows<S>& keys, const KeyRows<S>& values,
                                                     BackwardShared<T, S>& shared, const BackwardStage<S>& stage,
                                                     const LaneKeys& mine, int first, float scale) {
  uint32_t bits[2][2], changes[4] = {};
  if (find_bits(bits, stage, mine, first)) {
    Square scores = {}, products = {};
    multiply_queries<T, S>(scores, keys, shared.query, first);
    multiply_queries<T, S>(products, values, shared.grad, first);
    differentiate(scores, products, bits, shared, mine, first, scale);
    uint32_t weights[4];
    to_left<T>(weights, scores[0], scores[1]);
    to_left<T>(changes, products[0], products[1]);
    add_queries<T, S>(sums.value, weights, shared.grad, first);
    add_queries<T, S>(sums.key, changes, shared.query, first);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i)
    shared.changes.of_row(warp_index() * kFragmentRows + i % 2 * 8, fragment_row(), first / kChunkElements, i / 2)
        .pairs[lane_index() % 4] = changes[i];
}

// Writes factor * sums to the gradients of the warp's keys, of the `left` that the tile has from a position of the
// order on; through the warp's rows of `scratch`.
template <typename T, typename S>
__device__ void store_keys(const Heads<T>& grad, MatrixTile<kTileKeys, S::kDim>& scratch,
                           const float (&sums)[S::kTiles][4], float factor, const BackwardInputs<T>& in,
                           const KeyPlace<T>& place, int position, int left) {
  constexpr int kRowChunks = MatrixTile<kTileKeys, S::kDim>::kRowChunks;
  const int first = warp_index() * kFragmentRows;
  warp_barrier();
#pragma unroll
  for (int tile = 0; tile < S::kTiles; ++tile)
#pragma unroll
    for (int half = 0; half < 2; ++half)
      scratch.at(first + fragment_row() + half * 8, tile).pairs[lane_index() % 4] =
          pack_pair<T>(factor * sums[tile][half * 2], factor * sums[tile][half * 2 + 1]);
  warp_barrier();
  const int chunk = lane_index() % kRowChunks;
  if (chunk * kChunkElements >= in.dim()) return;
  const ChunkColumn<T> chunks(grad.of(place.image, place.number), chunk);
#pragma unroll 1
  for (int row = first + lane_index() / kRowChunks; row < first + kFragmentRows; row += kWarpSize / kRowChunks)
    if (row < left) *chunks.at(in.plan.key_at(place.order_offset, position + row)) = scratch.at(row, chunk);
}

// Zeros for the keys of a tile that nobody attends.
template <typename T, typename S>
__device__ void store_zeros(const BackwardOutputs<T>& out, const BackwardInputs<T>& in, const KeyPlace<T>& place,
                            int position, int left) {
  constexpr int kRowChunks = S::kDim / kChunkElements;
  const int chunk = threadIdx.x % kRowChunks;
  if (chunk * kChunkElements >= in.dim()) return;
  const ChunkColumn<T> key_chunks(out.key.of(place.image, place.number), chunk),
      value_chunks(out.value.of(place.image, place.number), chunk);
  for (int row = threadIdx.x / kRowChunks; row < kTileKeys && row < left; row += kBackwardThreads / kRowChunks) {
    const unsigned key = in.plan.key_at(place.order_offset, position + row);
    *key_chunks.at(key) = Chunk{};
    *value_chunks.at(key) = Chunk{};
  }
}

// ---- queries as rows: dq --------------------------------------------------------------------------------------------

// dq / scale of a warp's tiles of 16 queries, tiles warp_index(), warp_index() + 4, ... of the group: its columns from
// 8 first_tile on.
template <typename S>
struct QuerySums {
  float sums[S::kWarpTiles][S::kSumTiles][4] = {};
  int first_tile = 0;
};

// sums += ds . key for a tile of keys.
template <typename T, typename S>
__device__ __forceinline__ void add_changes(QuerySums<S>& queries, const BackwardShared<T, S>& shared,
                                            const BackwardStage<S>& stage) {
#pragma unroll
  for (int i = 0; i < S::kWarpTiles; ++i) {
    const int first = (i * kKeyWarps + warp_index()) * kFragmentRows;
    if (ballot(stage.words[first + lane_index() % kFragmentRows] != 0) == 0) continue;
#pragma unroll
    for (int step = 0; step < kKeyWarps; ++step) {
      uint32_t left[4];
      load_left_transposed(left, shared.changes, step * kFragmentRows, first / kChunkElements);
#pragma unroll
      for (int pair = 0; pair < S::kSumTiles / 2; ++pair) {
        uint32_t right[4];
        load_right(right, stage.key, step * kFragmentRows, queries.first_tile + 2 * pair);
        multiply_pair<T>(queries.sums[i][2 * pair], queries.sums[i][2 * pair + 1], left, right);
      }
    }
  }
}

// Calls visit(sum, pointer) for the lane's pairs of neighbouring sums that exist. `partial` (N, D) is the split's.
template <typename S, typename Visit>
__device__ void visit_queries(QuerySums<S>& queries, float* partial, int group, int count, int dim,
                              const Visit& visit) {
#pragma unroll
  for (int i = 0; i < S::kWarpTiles; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = group * S::kGroup + (i * kKeyWarps + warp_index()) * kFragmentRows + fragment_row() + half * 8;
#pragma unroll
      for (int tile = 0; tile < S::kSumTiles; ++tile) {
        const int column = (queries.first_tile + tile) * 8 + fragment_column();
        if (row < count && column < dim)
          visit(&queries.sums[i][tile][half * 2], reinterpret_cast<float2*>(partial + int64_t{row} * dim + column));
      }
    }
}
template <typename S>
__device__ void store_queries(QuerySums<S>& queries, float* partial, int group, int count, int dim) {
  visit_queries(queries, partial, group, count, dim,
                [](const float* sum, float2* to) { *to = make_float2(sum[0], sum[1]); });
}
template <typename S>
__device__ void load_queries(QuerySums<S>& queries, float* partial, int group, int count, int dim) {
  visit_queries(queries, partial, group, count, dim,
                [](float* sum, const float2* from) { sum[0] = from->x, sum[1] = from->y; });
}

}  // namespace tmt::attention::cuda
