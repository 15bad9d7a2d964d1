// The forward attention in half precision. A block holds up to 112 rows of a head, 16 to a warp with the queries in
// registers, and takes every splits-th tile of 64 keys in the plan's order; tiles stream through shared memory kStages
// deep. Weights go from the sums of one product to the operand of the next within registers. Splits are merged in a
// fixed order afterwards.
//
// Per warp and tile at D = 32: 32 products, 16 ldmatrix.x4 of 512 bytes and 32 exponentials a lane, which take about
// 200, 64 (of the multiprocessor's shared memory) and 256 cycles.
#include <cmath>

#include "attention/cuda/common.cuh"
#include "attention/cuda/tensor.cuh"
#include "attention/cuda/tensor_paths.cuh"

namespace tmt::attention::cuda {
namespace {

constexpr int kMaxRowWarps = 7;  // 112 rows hold the usual 100 queries
constexpr float kExactBase = 1 << 20;

template <int kDim>
constexpr int kStages = kDim <= 64 ? 3 : 2;
template <int kDim>
constexpr int kResident = kDim <= 64 ? 2 : 1;  // blocks on a multiprocessor, as their registers allow
template <int kDim>
constexpr int kScoreKeys = kDim <= 32 ? 64 : 32;  // keys of a tile whose scores are in registers at a time

template <int kDim>
struct ForwardStage {
  MatrixTile<kTileKeys, kDim> key, value;
  uint64_t words[kMaxRowWarps * kFragmentRows];
};

template <typename T, int kDim>
struct ForwardTile {
  ForwardStage<kDim> stage[kStages<kDim>];
  KeyPlace<T> place;
};

// What a launch is given.
template <typename T>
struct ForwardInputs {
  Heads<const T> query, key, value;
  AttentionShape shape;
  KeyPlan plan;
  int splits, row_blocks;
  float scale;
};

// Where results go: straight out where there is one split, else to the merge.
template <typename T>
struct ForwardOutputs {
  Heads<T> output;
  float* lse;   // (B * heads, N)
  Parts parts;  // null where there is one split
};

// A warp's 16 rows; the lane has rows fragment_row() and fragment_row() + 8.
template <int kDim>
struct RowState {
  uint32_t query[kDim / 16][4];
  float sums[kDim / 8][4] = {};
  float largest[2] = {-INFINITY, -INFINITY};  // of the scores so far, before scaling
  float base[2] = {-INFINITY, -INFINITY};     // the same after scaling: weights are 2^(score - base)
  float total[4] = {};                        // of the weights as products see them; [0] and [2] are the rows'
};

template <typename T>
__device__ __forceinline__ uint32_t load_pair(const T* row, int column, int64_t dim, bool exists) {
  return exists && column < dim ? *reinterpret_cast<const uint32_t*>(row + column) : 0u;
}

// Queries first.. of a head (N, dim) as left operands, zeros beyond.
template <typename T, int kDim>
__device__ void load_query(RowState<kDim>& state, const Rows<const T>& query, int first, int64_t count, int64_t dim) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = first + fragment_row() + half * 8;
#pragma unroll
    for (int step = 0; step < kDim / 16; ++step)
#pragma unroll
      for (int side = 0; side < 2; ++side)
        state.query[step][half + 2 * side] =
            load_pair(query.at(row), step * 16 + side * 8 + fragment_column(), dim, row < count);
  }
}

// scores = query . key for 16 rows and the keys from `first` on.
template <typename T, int kDim, int kTiles>
__device__ __forceinline__ void multiply_keys(float (&scores)[kTiles][4], const uint32_t (&query)[kDim / 16][4],
                                              const MatrixTile<kTileKeys, kDim>& keys, int first) {
#pragma unroll
  for (int pair = 0; pair < kTiles / 2; ++pair)
#pragma unroll
    for (int step = 0; step < kDim / 16; ++step) {
      uint32_t right[4];
      load_right_transposed(right, keys, first + pair * 16, step * 2);
      multiply_pair<T>(scores[2 * pair], scores[2 * pair + 1], query[step], right);
    }
}

// -inf where the bit is not set. `bits` begin with the first score's key.
template <int kTiles>
__device__ __forceinline__ void exclude(float (&scores)[kTiles][4], const uint32_t (&bits)[2]) {
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
      for (int e = 0; e < 2; ++e)
        if (!(bits[half] >> (tile * 2 + e) & 1u)) scores[tile][half * 2 + e] = -INFINITY;
}

// The largest score of each of the lane's rows so far, over the four lanes that share a row.
template <int kTiles>
__device__ __forceinline__ void raise_largest(float (&largest)[2], const float (&scores)[kTiles][4]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
      largest[half] = fmaxf(largest[half], fmaxf(scores[tile][half * 2], scores[tile][half * 2 + 1]));
    largest[half] = fmaxf(largest[half], shuffle_xor(largest[half], 1));
    largest[half] = fmaxf(largest[half], shuffle_xor(largest[half], 2));
  }
}

// Shrinks what was summed up with the base `before`.
template <int kDim>
__device__ __forceinline__ void rescale(RowState<kDim>& state, const float (&before)[2], const float (&base)[2]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float factor = exp2_fast(before[half] - base[half]);
    state.total[half * 2] *= factor;
#pragma unroll
    for (int tile = 0; tile < kDim / 8; ++tile)
#pragma unroll
      for (int e = 0; e < 2; ++e) state.sums[tile][half * 2 + e] *= factor;
  }
}

// Where one multiply-add of score and scale could miss the base by whole powers of 2, the largest score is taken off
// first.
template <int kTiles>
__device__ __forceinline__ void take_off(float (&scores)[kTiles][4], float (&base)[2], const float (&largest)[2]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (!(fabsf(base[half]) > kExactBase)) continue;
    base[half] = 0.f;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
      for (int e = 0; e < 2; ++e) scores[tile][half * 2 + e] -= largest[half];
  }
}

// Raises the largest scores so far and with them the base of the weights. Returns the base that the new weights have.
template <int kDim, int kTiles>
__device__ __forceinline__ void advance(RowState<kDim>& state, float (&base)[2], float (&scores)[kTiles][4],
                                        float scale) {
  const float before[2] = {state.base[0], state.base[1]};
  raise_largest(state.largest, scores);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    state.base[half] = state.largest[half] * scale;
    base[half] = state.largest[half] == -INFINITY ? 0.f : state.base[half];  // not -inf + inf where nothing is allowed
  }
  if (ballot(before[0] != state.base[0] || before[1] != state.base[1]) != 0) rescale<kDim>(state, before, base);
  take_off(scores, base, state.largest);
}

// Scores become weights, 2^(scale score - base).
__device__ __forceinline__ void weigh(float (&scores)[4], const float (&base)[2], float scale) {
#pragma unroll
  for (int e = 0; e < 4; ++e) scores[e] = exp2_fast(fmaf(scores[e], scale, -base[e / 2]));
}

// sums += weights . value, for the keys from `first` on, 16 at a time; the total is one more column, of a value of
// ones.
template <typename T, int kDim, int kTiles>
__device__ __forceinline__ void add_values(RowState<kDim>& state, float (&scores)[kTiles][4], const float (&base)[2],
                                           const MatrixTile<kTileKeys, kDim>& values, int first, float scale) {
  const uint32_t ones = pack_pair<T>(1.f, 1.f);
#pragma unroll
  for (int step = 0; step < kTiles / 2; ++step) {
    weigh(scores[2 * step], base, scale);
    weigh(scores[2 * step + 1], base, scale);
    uint32_t left[4];
    to_left<T>(left, scores[2 * step], scores[2 * step + 1]);
    mma_16x8x16<T>(state.total, left, {ones, ones});
#pragma unroll
    for (int pair = 0; pair < kDim / 16; ++pair) {
      uint32_t right[4];
      load_right(right, values, first + step * 16, pair * 2);
      multiply_pair<T>(state.sums[2 * pair], state.sums[2 * pair + 1], left, right);
    }
  }
}

// One tile of keys for the warp's rows; nothing where none of them has a bit in it.
template <typename T, int kDim>
__device__ __forceinline__ void attend_tile(RowState<kDim>& state, const ForwardStage<kDim>& stage, float scale) {
  constexpr int kKeys = kScoreKeys<kDim>;
  const int row = warp_index() * kFragmentRows + fragment_row();
  const int column = lane_index() % 4;
  uint32_t bits[2] = {bits_of_column(stage.words[row], column), bits_of_column(stage.words[row + 8], column)};
  if (ballot((bits[0] | bits[1]) != 0) == 0) return;
  const bool whole = ballot((bits[0] & bits[1]) != 0xffffu) == 0;
#pragma unroll 1
  for (int first = 0; first < kTileKeys; first += kKeys) {
    float scores[kKeys / 8][4] = {};
    multiply_keys<T, kDim>(scores, state.query, stage.key, first);
    if (!whole) exclude(scores, bits);
    float base[2];
    advance<kDim>(state, base, scores, scale);
    add_values<T, kDim>(state, scores, base, stage.value, first, scale);
    bits[0] >>= kKeys / 4, bits[1] >>= kKeys / 4;
  }
}

// Writes the warp's rows to a head's `output` and their lse in the natural logarithm.
template <typename Out, int kDim>
__device__ void finish_rows(const Rows<Out>& output, float* lse, RowState<kDim>& state, int first,
                            const AttentionShape& s) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float total = state.total[half * 2];
    const int row = first + fragment_row() + half * 8;
    if (row >= s.queries) continue;
    const bool empty = total == 0.f;  // not where it is NaN
    const float factor = empty ? 0.f : 1.f / total;
    if (fragment_column() == 0)
      lse[row] = empty ? -INFINITY : (state.base[half] + log2f(total)) * static_cast<float>(kLn2);
    Out* to = output.at(row);
#pragma unroll
    for (int tile = 0; tile < kDim / 8; ++tile) {
      const int column = tile * 8 + fragment_column();
      if (column < s.dim)
        store_pair(to + column, state.sums[tile][half * 2] * factor, state.sums[tile][half * 2 + 1] * factor);
    }
  }
}

template <typename T>
__device__ __forceinline__ int first_row_of_warp(const ForwardInputs<T>& in) {
  const int block = static_cast<int>(blockIdx.x % static_cast<unsigned>(in.row_blocks));
  return (block * static_cast<int>(blockDim.x / kWarpSize) + warp_index()) * kFragmentRows;
}

// Starts to fetch a tile and its words, and looks up the keys of the one that follows; nothing beyond the count.
template <typename T, int kDim>
__device__ __forceinline__ void fetch_tile(ForwardStage<kDim>& stage, TileKeys& keys, const ForwardInputs<T>& in,
                                           const KeyPlace<T>& place, int first_row, int tile, int count) {
  if (tile * kTileKeys < count) {
    gather<T, kDim>(stage.key, stage.value, place.key, place.value, keys, static_cast<int>(in.shape.dim));
    if (lane_index() < kFragmentRows / 2) {
      const int row = 2 * lane_index();
      fetch_words(stage.words + warp_index() * kFragmentRows + row, place, in.plan, tile, first_row + row,
                  in.shape.queries);
    }
    keys.load(in.plan, place.order_offset, tile + in.splits, count);
  }
  commit_copies();
}

// Block = (split, head, row block), the row block fastest.
template <typename T, int kDim>
__global__ void __launch_bounds__(kMaxRowWarps* kWarpSize, kResident<kDim>)
    attend_rows(ForwardInputs<T> in, ForwardOutputs<T> out) {
  constexpr int kDepth = kStages<kDim>;
  auto& shared = shared_tile<ForwardTile<T, kDim>>();
  const AttentionShape& s = in.shape;
  if (threadIdx.x == 0) {
    const unsigned part = blockIdx.x / in.row_blocks, heads = static_cast<unsigned>(s.batch * s.heads);
    shared.place = find_keys(s, in.plan, in.key, in.value, part % heads, part / heads);
  }
  block_barrier();
  const int split = shared.place.split, count = shared.place.count, first_row = first_row_of_warp(in);
  TileKeys keys;
  keys.load(in.plan, shared.place.order_offset, split, count);
#pragma unroll
  for (int i = 0; i < kDepth - 1; ++i)
    fetch_tile<T, kDim>(shared.stage[i], keys, in, shared.place, first_row, split + i * in.splits, count);
  RowState<kDim> state;
  load_query<T, kDim>(state, in.query.of(shared.place.image, shared.place.number), first_row, s.queries, s.dim);
  const float scale = in.scale * static_cast<float>(kLog2E);
  int at = 0;
  for (int tile = split; tile * kTileKeys < count; tile += in.splits) {
    wait_copies<kDepth - 2>();
    block_barrier();
    fetch_tile<T, kDim>(shared.stage[at == 0 ? kDepth - 1 : at - 1], keys, in, shared.place, first_row,
                        tile + (kDepth - 1) * in.splits, count);
    attend_tile<T, kDim>(state, shared.stage[at], scale);
    at = at + 1 == kDepth ? 0 : at + 1;
  }
  const int image = shared.place.image, number = shared.place.number;
  int64_t head = image * s.heads + number;
  if (out.parts.sums == nullptr)
    return finish_rows<T, kDim>(out.output.of(image, number), out.lse + head * s.queries, state, first_row, s);
  head += split * s.batch * s.heads;
  const Rows<float> sums{out.parts.sums + head * s.queries * s.dim, s.dim};
  finish_rows<float, kDim>(sums, out.parts.lse + head * s.queries, state, first_row, s);
}

// How the rows of a head are shared out: blocks of at most kMaxRowWarps warps, as equal as can be.
struct RowBlocks {
  int64_t count;
  int threads;
};
RowBlocks share_rows(int64_t queries) {
  const int64_t warps = (queries + kFragmentRows - 1) / kFragmentRows;
  const int64_t blocks = (warps + kMaxRowWarps - 1) / kMaxRowWarps;
  return {blocks, static_cast<int>((warps + blocks - 1) / std::max<int64_t>(blocks, 1)) * kWarpSize};
}

template <typename T, int kDim>
void run(const Context& context, ForwardInputs<T> in, const Tensor& result, const Tensor& lse) {
  const AttentionShape& s = in.shape;
  const RowBlocks rows = share_rows(s.queries);
  const int64_t blocks = s.batch * s.heads * rows.count, all_rows = s.batch * s.heads * s.queries;
  if (blocks == 0) return;
  constexpr size_t kShared = sizeof(ForwardTile<T, kDim>);
  in.row_blocks = static_cast<int>(rows.count);
  in.splits = count_splits(s, blocks, resident_blocks(context, attend_rows<T, kDim>, rows.threads, kShared));
  ForwardOutputs<T> out{heads_to_write<T>(result), output<float>(lse), {}};
  if (in.splits == 1) return launch(context, {blocks, rows.threads, kShared}, attend_rows<T, kDim>, in, out);
  const Tensor memory = empty_parts(s, result, in.splits);
  out.parts = parts_in(s, memory, in.splits);
  launch(context, {blocks * in.splits, rows.threads, kShared}, attend_rows<T, kDim>, in, out);
  launch(context, {(all_rows + kWarps - 1) / kWarps, kThreads}, merge_splits<T>, out.parts, out.output, out.lse, s,
         int64_t{in.splits});
}

}  // namespace

Tensor attend_with_tensor_cores(const AttentionShape& shape, const Tensor& given_query, const Tensor& given_key,
                                const Tensor& given_value, const std::optional<Tensor>& bits, const Tensor& result,
                                const Tensor& lse) {
  const Context context(given_query);
  const Tensor query = aligned_rows(given_query), key = aligned_rows(given_key), value = aligned_rows(given_value);
  const Tensor plan = plan_keys(context, shape, bits, query);
  dispatch_half_precision(query, [&](auto type) {
    using T = typename decltype(type)::type;
    const ForwardInputs<T> in{
        heads_to_read<T>(query), heads_to_read<T>(key), heads_to_read<T>(value), shape, planned_keys(shape, plan), 1, 1,
        attention_scale(shape)};
    dispatch_width(shape.dim, [&](auto width) { run<T, decltype(width)::value>(context, in, result, lse); });
  });
  return plan;
}

}  // namespace tmt::attention::cuda
