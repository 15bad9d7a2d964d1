// The backward attention in half precision. With p = 2^(scale log2(e) q.k - lse), dp = grad_output . v,
// delta = sum_d grad_output * output and ds = p (dp - delta):
//   dv = sum_queries p grad_output,   dk = scale sum_queries ds q,   dq = scale sum_keys ds k.
// A block holds the queries of a head and takes every splits-th tile of 64 keys in the plan's order, 16 keys to a warp.
// With the keys as rows, p and ds go from the sums of one product to the operand of the next within registers, and dk
// and dv of a tile are finished in one block, which alone writes them. Then ds crosses shared memory and the warps take
// 16 queries each for dq, which stays in registers over all the block's tiles; the blocks' parts are added in a fixed
// order afterwards. Five products a score against seven in two passes (keys, then queries), and key and value are read
// once against twice: 128 against 192 bytes a key and head at D = 32, besides the 128 of dk and dv.
#include "cuda/masked_attention_common.cuh"
#include "cuda/masked_attention_tensor.cuh"
#include "cuda/masked_attention_tensor_paths.cuh"

namespace tmt::cuda {
namespace {

constexpr int kKeyWarps = kTileKeys / kFragmentRows, kBackwardThreads = kKeyWarps * kWarpSize;

// What fits the registers and shared memory of every architecture at a head dimension.
// one_group: there are no more queries than fit at a time; then their dq stays in registers over all tiles of keys, where
// those suffice, and else it is kept in global memory.
template <int dim, bool one_group>
struct BackwardShape {
  static constexpr int kDim = dim;
  static constexpr int kGroup = dim <= 64 ? 128 : 64;  // queries in a block at a time
  static constexpr int kStages = dim <= 64 ? 2 : 1;    // tiles of keys in shared memory
  static constexpr int kResident = dim <= 32 ? 3 : dim <= 64 ? 2 : 1;  // blocks on a multiprocessor
  static constexpr bool kKeepsSums = dim <= 64 && one_group;
  static constexpr bool kHoldsRows = dim <= 64;  // a warp's keys and values stay in registers for a tile
  static constexpr int kWarpTiles = kGroup / kTileKeys;  // of 16 queries
  static constexpr int kSteps = dim / 16, kTiles = dim / 8;
};

struct BackwardPlace {
  int head, image, split;
};

template <typename S>
struct BackwardStage {
  MatrixTile<kTileKeys, S::kDim> key, value;
  uint64_t words[S::kGroup];
};

template <typename S>
struct BackwardShared {
  MatrixTile<S::kGroup, S::kDim> query, grad;
  BackwardStage<S> stage[S::kStages];
  MatrixTile<kTileKeys, S::kGroup> changes;  // ds, keys by queries
  float lse[S::kGroup], delta[S::kGroup];    // lse in powers of 2
  BackwardPlace place;
};

template <typename T>
struct BackwardInputs {
  const T *query, *grad, *key, *value;  // (B * heads, N or S, D)
  const float *lse, *delta;             // (B * heads, N)
  AttentionShape shape;
  KeyPlan plan;
  int splits, groups;
  float scale;

  __device__ int dim() const { return static_cast<int>(shape.dim); }
  __device__ int queries() const { return static_cast<int>(shape.queries); }
};

template <typename T>
struct BackwardOutputs {
  T *key, *value;  // (B * heads, S, D)
  float* partial;  // (splits, B * heads, N, D): dq / scale
};

// ---- what comes in --------------------------------------------------------------------------------------------------

// Starts to fetch a group of queries with what belongs to them.
template <typename S, typename T>
__device__ void fetch_group(BackwardShared<S>& shared, const BackwardInputs<T>& in, int group) {
  constexpr int kRowChunks = MatrixTile<S::kGroup, S::kDim>::kRowChunks;
  const int64_t head_rows = shared.place.head * in.shape.queries;
  const int first = group * S::kGroup, chunk = threadIdx.x % kRowChunks;
#pragma unroll 1
  for (int row = threadIdx.x / kRowChunks; row < S::kGroup; row += kBackwardThreads / kRowChunks) {
    const bool inside = first + row < in.queries() && chunk * kChunkElements < in.dim();
    const int64_t offset = inside ? (head_rows + first + row) * in.dim() + chunk * kChunkElements : 0;
    copy_async(&shared.query.at(row, chunk), in.query + offset, inside);
    copy_async(&shared.grad.at(row, chunk), in.grad + offset, inside);
  }
  for (int row = threadIdx.x; row < S::kGroup; row += kBackwardThreads) {
    const bool exists = first + row < in.queries();
    const float lse = exists ? in.lse[head_rows + first + row] : 0.f;
    shared.lse[row] = lse == -INFINITY ? 0.f : lse * static_cast<float>(kLog2E);  // such a row has no bit
    shared.delta[row] = exists ? in.delta[head_rows + first + row] : 0.f;
  }
}

// Starts to fetch a group's words of a tile, 0 for rows that do not exist.
template <typename S, typename T>
__device__ void fetch_group_words(BackwardStage<S>& stage, const BackwardShared<S>& shared, const BackwardInputs<T>& in,
                                  int tile, int group) {
  const int rows = static_cast<int>(in.plan.rows), row = 2 * threadIdx.x;
  if (row >= S::kGroup) return;
  const uint64_t* words = in.plan.words + (shared.place.image * mask_words(in.shape.keys) + tile) * rows;
  const bool exists = group * S::kGroup + row < rows;
  copy_async(stage.words + row, exists ? words + group * S::kGroup + row : words, exists);
}

// Starts to fetch a tile of keys with the first group's words; nothing beyond the count.
template <typename S, typename T>
__device__ void fetch_keys(BackwardStage<S>& stage, const BackwardShared<S>& shared, const BackwardInputs<T>& in,
                           int tile, int count) {
  if (tile * kTileKeys < count) {
    const AttentionShape& s = in.shape;
    const int64_t head_keys = shared.place.head * s.keys * s.dim;
    TileKeys keys;
    keys.load(in.plan.order + shared.place.image * s.keys, tile, count);
    gather<T, S::kDim>(stage.key, stage.value, in.key + head_keys, in.value + head_keys, keys, in.dim());
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

// Bits of the lane's four queries from `first` on: bit 0 and bit 8 of each stand for the lane's two keys. Returns, alike
// in the whole warp, whether any of the 16 x 16 pairs counts.
template <typename S>
__device__ __forceinline__ bool find_bits(uint32_t (&bits)[2][2], const BackwardStage<S>& stage, int first) {
  uint32_t all = 0;
#pragma unroll
  for (int tile = 0; tile < 2; ++tile)
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const uint64_t word = stage.words[first + tile * 8 + fragment_column() + e];
      const uint32_t keys = static_cast<uint32_t>(word >> (warp_index() * kFragmentRows)) & 0xffffu;
      all |= keys;
      bits[tile][e] = keys >> fragment_row();
    }
  return ballot(all != 0) != 0;
}

// Scores become p, and products ds / scale.
template <typename S>
__device__ __forceinline__ void differentiate(Square& scores, Square& products, const uint32_t (&bits)[2][2],
                                              const BackwardShared<S>& shared, int first, float scale) {
#pragma unroll
  for (int tile = 0; tile < 2; ++tile)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int query = first + tile * 8 + fragment_column() + e % 2;
      const bool counts = bits[tile][e % 2] >> (e / 2 * 8) & 1u;
      const float exponent = fminf(fmaf(scores[tile][e], scale, -shared.lse[query]), 0.f);  // p is at most 1
      const float weight = counts ? exp2_fast(exponent) : 0.f;
      products[tile][e] = counts ? weight * (products[tile][e] - shared.delta[query]) : 0.f;
      scores[tile][e] = weight;
    }
}

// The warp's keys against 16 queries: adds to dk and dv, and leaves ds in shared memory.
template <typename T, typename S>
__device__ __forceinline__ void differentiate_square(KeySums<S>& sums, const KeyRows<S>& keys, const KeyRows<S>& values,
                                                     BackwardShared<S>& shared, const BackwardStage<S>& stage,
                                                     int first, float scale) {
  uint32_t bits[2][2], changes[4] = {};
  if (find_bits(bits, stage, first)) {
    Square scores = {}, products = {};
    multiply_queries<T, S>(scores, keys, shared.query, first);
    multiply_queries<T, S>(products, values, shared.grad, first);
    differentiate(scores, products, bits, shared, first, scale);
    uint32_t weights[4];
    to_left<T>(weights, scores[0], scores[1]);
    to_left<T>(changes, products[0], products[1]);
    add_queries<T, S>(sums.value, weights, shared.grad, first);
    add_queries<T, S>(sums.key, changes, shared.query, first);
  }
  const int row = warp_index() * kFragmentRows + fragment_row();
#pragma unroll
  for (int i = 0; i < 4; ++i)
    shared.changes.at(row + i % 2 * 8, first / kChunkElements + i / 2).pairs[lane_index() % 4] = changes[i];
}

// Writes factor * sums to the gradients of the warp's keys, through the warp's rows of `scratch`.
template <typename T, typename S>
__device__ void store_keys(T* grad, MatrixTile<kTileKeys, S::kDim>& scratch, const float (&sums)[S::kTiles][4],
                           float factor, const int32_t* order, int left, int dim) {
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
#pragma unroll 1
  for (int i = lane_index(); i < kFragmentRows * kRowChunks; i += kWarpSize) {
    const int row = first + i / kRowChunks, chunk = i % kRowChunks;
    if (row < left && chunk * kChunkElements < dim)
      *reinterpret_cast<Chunk*>(grad + int64_t{order[row]} * dim + chunk * kChunkElements) = scratch.at(row, chunk);
  }
}

// Zeros for the keys of a tile that nobody attends.
template <typename T, typename S>
__device__ void store_zeros(T* grad_key, T* grad_value, const int32_t* order, int left, int dim) {
  constexpr int kRowChunks = S::kDim / kChunkElements;
  for (int i = threadIdx.x; i < kTileKeys * kRowChunks; i += kBackwardThreads) {
    const int row = i / kRowChunks, chunk = i % kRowChunks;
    if (row >= left || chunk * kChunkElements >= dim) continue;
    const int64_t offset = int64_t{order[row]} * dim + chunk * kChunkElements;
    *reinterpret_cast<Chunk*>(grad_key + offset) = Chunk{};
    *reinterpret_cast<Chunk*>(grad_value + offset) = Chunk{};
  }
}

// ---- queries as rows: dq --------------------------------------------------------------------------------------------

// dq / scale of a warp's tiles of 16 queries: tiles warp_index(), warp_index() + 4, ... of the group.
template <typename S>
struct QuerySums {
  float sums[S::kWarpTiles][S::kTiles][4] = {};
};

// sums += ds . key for a tile of keys.
template <typename T, typename S>
__device__ __forceinline__ void add_changes(QuerySums<S>& queries, const BackwardShared<S>& shared,
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
      for (int pair = 0; pair < S::kSteps; ++pair) {
        uint32_t right[4];
        load_right(right, stage.key, step * kFragmentRows, 2 * pair);
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
      const int row =
          group * S::kGroup + (i * kKeyWarps + warp_index()) * kFragmentRows + fragment_row() + half * 8;
#pragma unroll
      for (int tile = 0; tile < S::kTiles; ++tile) {
        const int column = tile * 8 + fragment_column();
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

// ---- the kernel -----------------------------------------------------------------------------------------------------

template <typename S, typename T>
__device__ float* partial_of_block(const BackwardShared<S>& shared, const BackwardInputs<T>& in, float* partial) {
  const AttentionShape& s = in.shape;
  return partial + (shared.place.split * s.batch * s.heads + shared.place.head) * s.queries * s.dim;
}

// Brings in another group of queries, when all are done with the one before.
template <typename S, typename T>
__device__ void change_group(BackwardShared<S>& shared, BackwardStage<S>& stage, const BackwardInputs<T>& in, int tile,
                             int group) {
  block_barrier();
  fetch_group(shared, in, group);
  fetch_group_words(stage, shared, in, tile, group);
  commit_copies();
  wait_copies<0>();
  block_barrier();
}

// A tile of keys against the group of queries that is there: adds to the gradients of both. Ends with the queries'.
template <typename T, typename S>
__device__ void differentiate_group(KeySums<S>& sums, BackwardShared<S>& shared, const BackwardStage<S>& stage,
                                    const BackwardInputs<T>& in, int group) {
  const float scale = in.scale * static_cast<float>(kLog2E);
  const int left = in.queries() - group * S::kGroup, rows = left < S::kGroup ? left : S::kGroup;
  const KeyRows<S> keys(stage.key), values(stage.value);
#pragma unroll 1
  for (int first = 0; first < rows; first += kFragmentRows)
    differentiate_square<T, S>(sums, keys, values, shared, stage, first, scale);
  block_barrier();
}

// A tile of keys against all groups of queries, whose dq so far is in `partial`. `fresh`: the first group is there.
template <typename T, typename S>
__device__ void differentiate_groups(KeySums<S>& sums, BackwardShared<S>& shared, BackwardStage<S>& stage,
                                     const BackwardInputs<T>& in, float* partial, int tile, bool fresh) {
  for (int group = 0; group < in.groups; ++group) {
    if (in.groups > 1 && !(fresh && group == 0)) change_group(shared, stage, in, tile, group);
    differentiate_group<T, S>(sums, shared, stage, in, group);
    float* own = partial_of_block(shared, in, partial);
    QuerySums<S> queries;
    load_queries(queries, own, group, in.queries(), in.dim());
    add_changes<T, S>(queries, shared, stage);
    store_queries(queries, own, group, in.queries(), in.dim());
  }
}

// Block = (split, head).
template <typename T, typename S>
__global__ void __launch_bounds__(kBackwardThreads, S::kResident)
    attend_keys(BackwardInputs<T> in, BackwardOutputs<T> out) {
  auto& shared = shared_tile<BackwardShared<S>>();
  const AttentionShape& s = in.shape;
  if (threadIdx.x == 0) {
    const unsigned heads = static_cast<unsigned>(s.batch * s.heads), head = blockIdx.x % heads;
    shared.place = {static_cast<int>(head), static_cast<int>(head / static_cast<unsigned>(s.heads)),
                    static_cast<int>(blockIdx.x / heads)};
  }
  block_barrier();
  const int split = shared.place.split, count = in.plan.counts[shared.place.image];
  const int tiles = static_cast<int>(mask_words(s.keys));
  const int32_t* order = in.plan.order + shared.place.image * s.keys;
  T *grad_key = out.key + shared.place.head * s.keys * s.dim, *grad_value = out.value + (grad_key - out.key);

  QuerySums<S> kept;
  fetch_group(shared, in, 0);
  fetch_keys(shared.stage[0], shared, in, split, count);
  if constexpr (!S::kKeepsSums)
    for (int group = 0; group < in.groups; ++group)
      store_queries(kept, partial_of_block(shared, in, out.partial), group, in.queries(), in.dim());
  int tile = split, at = 0;
  for (; tile * kTileKeys < count; tile += in.splits) {
    wait_copies<0>();
    block_barrier();
    BackwardStage<S>& stage = shared.stage[at];
    if (S::kStages > 1) fetch_keys(shared.stage[S::kStages - 1 - at], shared, in, tile + in.splits, count);
    KeySums<S> sums;
    if constexpr (S::kKeepsSums) {
      differentiate_group<T, S>(sums, shared, stage, in, 0);
      add_changes<T, S>(kept, shared, stage);
    } else {
      differentiate_groups<T, S>(sums, shared, stage, in, out.partial, tile, tile == split);
    }
    const int left = static_cast<int>(s.keys) - tile * kTileKeys;
    store_keys<T, S>(grad_value, stage.value, sums.value, 1.f, order + tile * kTileKeys, left, in.dim());
    store_keys<T, S>(grad_key, stage.value, sums.key, in.scale, order + tile * kTileKeys, left, in.dim());
    if (S::kStages > 1) {
      at = S::kStages - 1 - at;
    } else {
      block_barrier();
      fetch_keys(stage, shared, in, tile + in.splits, count);
    }
  }
  wait_copies<0>();
  for (; tile < tiles; tile += in.splits)
    store_zeros<T, S>(grad_key, grad_value, order + tile * kTileKeys, static_cast<int>(s.keys) - tile * kTileKeys,
                      in.dim());
  if constexpr (S::kKeepsSums)
    store_queries(kept, partial_of_block(shared, in, out.partial), 0, in.queries(), in.dim());
}

// grad = factor * the sum of `splits` parts of `count` elements. Thread = two elements.
template <typename T>
__global__ void __launch_bounds__(256)
    add_splits(const float* partial, T* grad, int64_t count, int64_t splits, float factor) {
  const int64_t i = 2 * (int64_t{blockIdx.x} * blockDim.x + threadIdx.x);
  if (i >= count) return;
  float2 sum = make_float2(0.f, 0.f);
  for (int64_t split = 0; split < splits; ++split) {
    const float2 part = *reinterpret_cast<const float2*>(partial + split * count + i);
    sum.x += part.x, sum.y += part.y;
  }
  store_pair(grad + i, factor * sum.x, factor * sum.y);
}

template <typename T, typename S>
void run(const Context& context, BackwardInputs<T> in, const Tensor& like, const AttentionGradients& result) {
  const AttentionShape& s = in.shape;
  const int64_t heads = s.batch * s.heads, elements = heads * s.queries * s.dim;
  if (heads == 0) return;
  constexpr size_t kShared = sizeof(BackwardShared<S>);
  in.groups = static_cast<int>((s.queries + S::kGroup - 1) / S::kGroup);
  in.splits =
      count_splits(s, heads, resident_blocks(context, attend_keys<T, S>, kBackwardThreads, kShared));
  const Tensor partial = torch::stable::new_empty(like, {in.splits, elements}, ScalarType::Float);
  const BackwardOutputs<T> out{output<T>(result.key), output<T>(result.value), output<float>(partial)};
  launch(context, {heads * in.splits, kBackwardThreads, kShared}, attend_keys<T, S>, in, out);
  launch(context, one_thread_each(elements / 2), add_splits<T>, input<float>(partial), output<T>(result.query),
         elements, int64_t{in.splits}, in.scale);
}

}  // namespace

void differentiate_with_tensor_cores(const AttentionShape& shape, const AttentionGiven& given,
                                     const std::optional<Tensor>& bits, const AttentionGradients& result) {
  const Context context(given.query);
  const Tensor query = aligned(given.query), key = aligned(given.key), value = aligned(given.value),
               grad = aligned(given.grad_output);
  const PlannedKeys planned = plan_keys(context, shape, bits, query);
  const int64_t rows = shape.batch * shape.heads * shape.queries;
  const Tensor delta = torch::stable::new_empty(given.lse, {rows}, ScalarType::Float);
  dispatch_half_precision(query, [&](auto type) {
    using T = typename decltype(type)::type;
    launch(context, {(rows + kWarps - 1) / kWarps, kThreads}, multiply_rows<T>, input<T>(grad), input<T>(given.output),
           output<float>(delta), rows, shape.dim);
    const BackwardInputs<T> in{input<T>(query),         input<T>(grad),      input<T>(key), input<T>(value),
                               input<float>(given.lse), input<float>(delta), shape,         planned.plan,
                               1,                       1,                   attention_scale(shape)};
    dispatch_width(shape.dim, [&](auto width) {
      constexpr int kDim = decltype(width)::value;
      if (kDim > 64 || shape.queries > BackwardShape<kDim, false>::kGroup)
        return run<T, BackwardShape<kDim, false>>(context, in, query, result);
      if constexpr (kDim <= 64) run<T, BackwardShape<kDim, true>>(context, in, query, result);
    });
  });
}

}  // namespace tmt::cuda
