// The backward attention in half precision. With p = 2^(scale log2(e) q.k - lse), dp = grad_output . v,
// delta = sum_d grad_output * output and ds = p (dp - delta):
//   dv = sum_queries p grad_output,   dk = scale sum_queries ds q,   dq = scale sum_keys ds k.
// A block holds the queries of a head and takes every splits-th tile of 64 keys in the plan's order, 16 keys to a warp.
// With the keys as rows, p and ds go from the sums of one product to the operand of the next within registers, and dk
// and dv of a tile are finished in one block, which alone writes them. Then ds crosses shared memory and the warps take
// 16 queries each for dq, which stays in registers over all the block's tiles; the blocks' parts are added in a fixed
// order afterwards. Five products a score against seven in two passes (keys, then queries), and key and value are read
// once against twice: 128 against 192 bytes a key and head at D = 32, besides the 128 of dk and dv.
#include "attention/cuda/common.cuh"
#include "attention/cuda/tensor_gradients.cuh"
#include "attention/cuda/tensor_paths.cuh"

namespace tmt::attention::cuda {
namespace {

template <typename T, typename S>
__device__ float* partial_of_block(const BackwardShared<T, S>& shared, const BackwardInputs<T>& in, float* partial) {
  const AttentionShape& s = in.shape;
  const int64_t head = shared.place.image * s.heads + shared.place.number;
  return partial + (shared.place.split * s.batch * s.heads + head) * s.queries * s.dim;
}

// Brings in another group of queries, when all are done with the one before.
template <typename T, typename S>
__device__ void change_group(BackwardShared<T, S>& shared, BackwardStage<S>& stage, const BackwardInputs<T>& in,
                             int tile, int group) {
  block_barrier();
  fetch_group(shared, in, group);
  fetch_group_words(stage, shared, in, tile, group);
  commit_copies();
  wait_copies<0>();
  block_barrier();
}

// A tile of keys against the group of queries that is there: adds to the gradients of both. Ends with the queries'.
template <typename T, typename S>
__device__ void differentiate_group(KeySums<S>& sums, BackwardShared<T, S>& shared, const BackwardStage<S>& stage,
                                    const BackwardInputs<T>& in, int group) {
  const float scale = in.scale * static_cast<float>(kLog2E);
  const int left = in.queries() - group * S::kGroup, rows = left < S::kGroup ? left : S::kGroup;
  const KeyRows<S> keys(stage.key), values(stage.value);
  const LaneKeys mine;
#pragma unroll 1
  for (int first = 0; first < rows; first += kFragmentRows)
    differentiate_square<T, S>(sums, keys, values, shared, stage, mine, first, scale);
  block_barrier();
}

// A tile of keys against all groups of queries, whose dq so far is in `partial`. `fresh`: the first group is there.
template <typename T, typename S>
__device__ void differentiate_groups(KeySums<S>& sums, BackwardShared<T, S>& shared, BackwardStage<S>& stage,
                                     const BackwardInputs<T>& in, float* partial, int tile, bool fresh) {
  for (int group = 0; group < in.groups; ++group) {
    if (in.groups > 1 && !(fresh && group == 0)) change_group(shared, stage, in, tile, group);
    differentiate_group<T, S>(sums, shared, stage, in, group);
    float* own = partial_of_block(shared, in, partial);
#pragma unroll 1
    for (int first = 0; first < S::kTiles; first += S::kSumTiles) {
      QuerySums<S> queries;
      queries.first_tile = first;
      load_queries(queries, own, group, in.queries(), in.dim());
      add_changes<T, S>(queries, shared, stage);
      store_queries(queries, own, group, in.queries(), in.dim());
    }
  }
}

// The beginning of differentiate_groups' sums.
template <typename T, typename S>
__device__ void clear_groups(const BackwardShared<T, S>& shared, const BackwardInputs<T>& in, float* partial) {
  for (int group = 0; group < in.groups; ++group)
    for (int first = 0; first < S::kTiles; first += S::kSumTiles) {
      QuerySums<S> zeros;
      zeros.first_tile = first;
      store_queries(zeros, partial_of_block(shared, in, partial), group, in.queries(), in.dim());
    }
}

// Block = (split, head).
template <typename T, typename S>
__global__ void __launch_bounds__(kBackwardThreads, S::kResident)
    attend_keys(BackwardInputs<T> in, BackwardOutputs<T> out) {
  auto& shared = shared_tile<BackwardShared<T, S>>();
  const AttentionShape& s = in.shape;
  if (threadIdx.x == 0) {
    const unsigned heads = static_cast<unsigned>(s.batch * s.heads);
    shared.place = find_keys(s, in.plan, in.key, in.value, blockIdx.x % heads, blockIdx.x / heads);
  }
  block_barrier();
  const int split = shared.place.split, tiles = static_cast<int>(in.plan.tiles);

  QuerySums<S> kept;
  fetch_group(shared, in, 0);
  fetch_keys(shared.stage[0], shared, in, split);
  if constexpr (!S::kKeepsSums) clear_groups<T, S>(shared, in, out.partial);
  int tile = split, at = 0;
  for (; tile * kTileKeys < shared.place.count; tile += in.splits) {
    wait_copies<0>();
    block_barrier();
    BackwardStage<S>& stage = shared.stage[at];
    if (S::kStages > 1) fetch_keys(shared.stage[S::kStages - 1 - at], shared, in, tile + in.splits);
    KeySums<S> sums;
    if constexpr (S::kKeepsSums) {
      differentiate_group<T, S>(sums, shared, stage, in, 0);
      add_changes<T, S>(kept, shared, stage);
    } else {
      differentiate_groups<T, S>(sums, shared, stage, in, out.partial, tile, tile == split);
    }
    const int first = tile * kTileKeys, left = static_cast<int>(s.keys) - first;
    store_keys<T, S>(out.value, stage.value, sums.value, 1.f, in, shared.place, first, left);
    store_keys<T, S>(out.key, stage.value, sums.key, in.scale, in, shared.place, first, left);
    if (S::kStages > 1) {
      at = S::kStages - 1 - at;
    } else {
      block_barrier();
      fetch_keys(stage, shared, in, tile + in.splits);
    }
  }
  wait_copies<0>();
  for (; tile < tiles; tile += in.splits)
    store_zeros<T, S>(out, in, shared.place, tile * kTileKeys, static_cast<int>(s.keys) - tile * kTileKeys);
  if constexpr (S::kKeepsSums)
    store_queries(kept, partial_of_block(shared, in, out.partial), 0, in.queries(), in.dim());
}

// grad_query (B, heads, N, D) = factor * the sum of the splits' parts. Thread = two elements.
template <typename T>
__global__ void __launch_bounds__(256)
    add_splits(const float* partial, Heads<T> grad, AttentionShape s, int64_t splits, float factor) {
  const int64_t count = s.batch * s.heads * s.queries * s.dim;
  const int64_t i = 2 * (int64_t{blockIdx.x} * blockDim.x + threadIdx.x);
  if (i >= count) return;
  float2 sum = make_float2(0.f, 0.f);
  for (int64_t split = 0; split < splits; ++split) {
    const float2 part = *reinterpret_cast<const float2*>(partial + split * count + i);
    sum.x += part.x, sum.y += part.y;
  }
  const int64_t row = i / s.dim, head = row / s.queries;
  T* to = grad.of(head / s.heads, head % s.heads).at(row % s.queries) + i % s.dim;
  store_pair(to, factor * sum.x, factor * sum.y);
}

template <typename T, typename S>
void run(const Context& context, BackwardInputs<T> in, const AttentionGradients& result) {
  const AttentionShape& s = in.shape;
  const int64_t heads = s.batch * s.heads, elements = heads * s.queries * s.dim;
  if (heads == 0) return;
  constexpr size_t kShared = sizeof(BackwardShared<T, S>);
  in.groups = static_cast<int>((s.queries + S::kGroup - 1) / S::kGroup);
  in.splits = count_splits(s, heads, resident_blocks(context, attend_keys<T, S>, kBackwardThreads, kShared));
  const Tensor partial = empty(result.query, ScalarType::Float, in.splits * elements);
  const BackwardOutputs<T> out{heads_to_write<T>(result.key), heads_to_write<T>(result.value), output<float>(partial)};
  launch(context, {heads * in.splits, kBackwardThreads, kShared}, attend_keys<T, S>, in, out);
  launch(context, one_thread_each(elements / 2), add_splits<T>, out.partial, heads_to_write<T>(result.query), s,
         int64_t{in.splits}, in.scale);
}

}  // namespace

void differentiate_with_tensor_cores(const AttentionShape& shape, const AttentionGiven& given, const Tensor& plan,
                                     const AttentionGradients& result) {
  TMT_CHECK(has_short_strides(result.key) && has_short_strides(result.value),
            "packed_attention: key and value must have rows at most 2^31 - 1 elements apart; split the batch");
  const Context context(given.query);
  const Tensor query = aligned_rows(given.query), grad = aligned_rows(given.grad_output),
               output = aligned_rows(given.output), key = aligned_rows(given.key), value = aligned_rows(given.value);
  dispatch_half_precision(query, [&](auto type) {
    using T = typename decltype(type)::type;
    const BackwardInputs<T> in{heads_to_read<T>(query),
                               heads_to_read<T>(grad),
                               heads_to_read<T>(output),
                               heads_to_read<T>(key),
                               heads_to_read<T>(value),
                               input<float>(given.lse),
                               shape,
                               planned_keys(shape, plan),
                               1,
                               1,
                               attention_scale(shape)};
    dispatch_width(shape.dim, [&](auto width) {
      constexpr int kDim = decltype(width)::value;
      if (kDim > 64 || shape.queries > BackwardShape<kDim, false>::kGroup)
        return run<T, BackwardShape<kDim, false>>(context, in, result);
      if constexpr (kDim <= 64) run<T, BackwardShape<kDim, true>>(context, in, result);
    });
  });
}

}  // namespace tmt::attention::cuda
