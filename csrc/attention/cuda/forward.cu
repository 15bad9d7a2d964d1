// tmt::packed_attention on CUDA (Eq. 12): softmax over the allowed keys, key tile by key tile with a running maximum,
// so that no N x S tensor exists. Few queries and many keys: the keys of a head are split over blocks, and a second
// kernel merges.
#include <cmath>

#include "attention/cuda/common.cuh"
#include "attention/cuda/tensor_paths.cuh"

namespace tmt::attention::cuda {
namespace {

constexpr int kBlocksPerMultiprocessor = 4;  // aimed at when the keys are split

// A head's keys, in `count` parts of `words` words of bits each.
struct Splits {
  int64_t count, words;
};

template <typename D>
struct ForwardTile {
  ResidentTile<D> query;
  StreamTile<D> stream;  // keys, then values
  WeightTile weight;
};

// Softmax state of the warp's rows.
struct Running {
  float largest[kWarpRows], total[kWarpRows];
};

// Turns a tile's scores into weights relative to the largest score so far, and `factor` by which earlier sums shrink.
__device__ void advance(Running& running, float (&factor)[kWarpRows], WeightTile& weights, const Scores& scores,
                        float scale, unsigned flags) {
#pragma unroll
  for (int i = 0; i < kWarpRows; ++i) {
    float score[kLaneColumns], largest = -INFINITY, total = 0.f;
#pragma unroll
    for (int e = 0; e < kLaneColumns; ++e) {
      score[e] = counts(flags, i, e) ? scores[i][e] * scale : -INFINITY;
      largest = fmaxf(largest, score[e]);
    }
    largest = fmaxf(running.largest[i], warp_max(largest));
    const float base = largest == -INFINITY ? 0.f : largest;  // nothing allowed yet: weights 0, not exp(-inf + inf)
#pragma unroll
    for (int e = 0; e < kLaneColumns; ++e) {
      const float weight = expf(score[e] - base);
      weights[warp_index() * kWarpRows + i][lane_index() + e * kWarpSize] = weight;
      total += weight;
    }
    factor[i] = expf(running.largest[i] - base);
    running.total[i] = running.total[i] * factor[i] + warp_sum(total);
    running.largest[i] = largest;
  }
}

template <typename D>
__device__ __forceinline__ void scale_sums(float (&sums)[kWarpRows][D::kLaneElements],
                                           const float (&factor)[kWarpRows]) {
#pragma unroll
  for (int i = 0; i < kWarpRows; ++i)
#pragma unroll
    for (int e = 0; e < D::kLaneElements; ++e) sums[i][e] *= factor[i];
}

// Writes a split's rows, `head` counted through all splits.
template <typename D>
__device__ void finish_split(const Parts& parts, const RowSums<D>& sums, const Running& running, int64_t head,
                             int64_t first_query, const AttentionShape& s) {
  float factor[kWarpRows];
#pragma unroll
  for (int i = 0; i < kWarpRows; ++i) {
    const bool empty = running.total[i] == 0.f;  // not where it is NaN
    factor[i] = empty ? 0.f : 1.f / running.total[i];
    const int64_t query = first_query + warp_index() * kWarpRows + i;
    if (lane_index() == 0 && query < s.queries)
      parts.lse[head * s.queries + query] = empty ? -INFINITY : running.largest[i] + logf(running.total[i]);
  }
  const Rows<float> to{parts.sums + head * s.queries * s.dim, s.dim};
  store_rows<D>(to, sums, factor, first_query, s.queries, s.dim);
}

// Partial attention over one split. Block = (split, head, 16 queries).
template <typename T, typename D>
__global__ void __launch_bounds__(kThreads, D::kBlocks)
    attend_split(Heads<const T> query, Heads<const T> key, Heads<const T> value, Attention attention, Splits splits,
                 Parts parts) {
  ForwardTile<D>& tile = shared_tile<ForwardTile<D>>();
  const AttentionShape& s = attention.shape;
  const int64_t tiles = (s.queries + kRows - 1) / kRows;
  const int64_t first_query = blockIdx.x % tiles * kRows, head = blockIdx.x / tiles % (s.batch * s.heads);
  const int64_t split = blockIdx.x / tiles / (s.batch * s.heads), image = head / s.heads, number = head % s.heads;
  const Rows<const T> keys = key.of(image, number), values = value.of(image, number);
  load_resident<D>(tile.query, query.of(image, number), first_query, s.queries, s.dim);

  RowSums<D> sums = {};
  Running running;
  for (int i = 0; i < kWarpRows; ++i) running.largest[i] = -INFINITY, running.total[i] = 0.f;
  const int64_t words = mask_words(s.keys), end = (split + 1) * splits.words;
  for (int64_t word = split * splits.words; word < (end < words ? end : words); ++word) {
    bool any;
    const unsigned flags = query_row_flags(attention, image, first_query, word, any);
    if (!any) continue;
    Scores scores = {};
    for (int part = 0; part < D::kParts; ++part) {
      block_barrier();
      load_stream<D>(tile.stream, keys, word * kColumns, s.keys, s.dim, part);
      block_barrier();
      add_products<D>(scores, tile.query, tile.stream, part);
    }
    float factor[kWarpRows];
    advance(running, factor, tile.weight, scores, attention.scale, flags);
#pragma unroll
    for (int part = 0; part < D::kParts; ++part) {
      block_barrier();
      load_stream<D>(tile.stream, values, word * kColumns, s.keys, s.dim, part);
      block_barrier();
      scale_sums<D>(sums[part], factor);
      add_weighted<D>(sums[part], tile.weight, tile.stream);
    }
  }
  finish_split<D>(parts, sums, running, split * s.batch * s.heads + head, first_query, s);
}

// As many splits as fill the chip, but none shorter than a word. It depends on the device only, so results repeat.
Splits split_keys(const AttentionShape& shape, int64_t blocks, int64_t multiprocessors) {
  const int64_t words = std::max<int64_t>(mask_words(shape.keys), 1);
  const int64_t wanted = (multiprocessors * kBlocksPerMultiprocessor + blocks - 1) / std::max<int64_t>(blocks, 1);
  const int64_t each = (words + wanted - 1) / std::max<int64_t>(wanted, 1);
  return {(words + each - 1) / each, each};
}

template <typename T, typename D>
void run(const Tensor& query, const Tensor& key, const Tensor& value, const Attention& attention, const Tensor& result,
         const Tensor& lse) {
  const Context context(query);
  const AttentionShape& s = attention.shape;
  const int64_t rows = s.batch * s.heads * s.queries, blocks = s.batch * s.heads * ((s.queries + kRows - 1) / kRows);
  const Splits splits = split_keys(s, blocks, context.multiprocessors());
  const Tensor memory = empty_parts(s, query, splits.count);
  const Parts parts = parts_in(s, memory, splits.count);
  launch(context, {blocks * splits.count, kThreads, sizeof(ForwardTile<D>)}, attend_split<T, D>,
         heads_to_read<T>(query), heads_to_read<T>(key), heads_to_read<T>(value), attention, splits, parts);
  launch(context, {(rows + kWarps - 1) / kWarps, kThreads}, merge_splits<T>, parts, heads_to_write<T>(result),
         output<float>(lse), s, splits.count);
}

// query (B, heads, N, D), key and value (B, heads, S, D), bits (B, N, ceil(S / 64))
// -> output (B, heads, N, D), lse (B, heads, N) float32, plan (B, words an image), of no words where none was made
std::tuple<Tensor, Tensor, Tensor> packed_attention(const Tensor& given_query, const Tensor& given_key,
                                                    const Tensor& given_value,
                                                    const std::optional<Tensor>& given_bits) {
  const AttentionShape shape = check_attention(given_query, given_key, given_value, given_bits);
  const auto bits = dense(given_bits);
  const Tensor result = empty_in_order_of(given_query);
  const Tensor lse = empty(given_query, ScalarType::Float, shape.batch, shape.heads, shape.queries);
  if (fits_tensor_cores(given_query)) {
    const Tensor plan = attend_with_tensor_cores(shape, given_query, given_key, given_value, bits, result, lse);
    return {result, lse, plan};
  }
  const Tensor query = with_dense_rows(given_query), key = with_dense_rows(given_key),
               value = with_dense_rows(given_value);
  dispatch_dtype("packed_attention", query, [&](auto type) {
    dispatch_depth(shape.dim, [&](auto depth) {
      run<typename decltype(type)::type, decltype(depth)>(query, key, value, attention_of(shape, bits), result, lse);
    });
  });
  return {result, lse, empty(query, ScalarType::Long, shape.batch, int64_t{0})};
}

}  // namespace
}  // namespace tmt::attention::cuda

STABLE_TORCH_LIBRARY_IMPL(TMT_CUDA_LIBRARY, TMT_CUDA_KEY, m) {
  m.impl("packed_attention", TORCH_BOX(&tmt::attention::cuda::packed_attention));
}
