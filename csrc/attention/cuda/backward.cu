// tmt::packed_attention_backward on CUDA. Weights are computed again from lse: with p = exp(q.k / sqrt(D) - lse) where
// the bit is set, dp = grad_output . v and delta = sum_d grad_output * output,
//   ds = p (dp - delta) / sqrt(D),   dq = sum_keys ds k,   dk = sum_queries ds q,   dv = sum_queries p grad_output.
// One kernel, two ways round: keys resident and queries streaming for dk and dv, queries resident and keys streaming
// for dq. Every block owns what it writes: no atomics, the same bits every time.
#include <cmath>

#include "attention/cuda/common.cuh"
#include "attention/cuda/tensor_paths.cuh"

namespace tmt::attention::cuda {
namespace {

// The two matrices of one head of a side, each (count, D): queries and grad_output, or keys and values.
template <typename T>
struct HeadSide {
  Rows<const T> first, second;
  int64_t count;
};
template <typename T>
struct Side {
  Heads<const T> first, second;
  int64_t count;

  __device__ HeadSide<T> of(int64_t image, int64_t number) const {
    return {first.of(image, number), second.of(image, number), count};
  }
};

// Per row of (B * heads, N).
struct Softmax {
  const float *lse, *delta;
};

template <typename D>
struct BackwardTile {
  ResidentTile<D> first, second;
  StreamTile<D> stream_first, stream_second;
  WeightTile weight, change;  // p and ds
};

// p and ds of the thread's scores into shared memory. kKeyRows: rows are keys and columns queries.
template <bool kKeyRows>
__device__ void differentiate(WeightTile& weights, WeightTile& changes, const Scores& scores, const Scores& products,
                              const Softmax& softmax, int64_t first_softmax, float scale, unsigned flags) {
#pragma unroll
  for (int i = 0; i < kWarpRows; ++i) {
    const int row = warp_index() * kWarpRows + i;
#pragma unroll
    for (int e = 0; e < kLaneColumns; ++e) {
      const int column = lane_index() + e * kWarpSize;
      const int64_t query = first_softmax + (kKeyRows ? column : row);
      float weight = 0.f, change = 0.f;
      if (counts(flags, i, e)) {  // which also says that the query exists
        weight = expf(min_or_nan(scores[i][e] * scale - softmax.lse[query], 0.f));  // lse is rounded: p is at most 1
        change = weight * (products[i][e] - softmax.delta[query]) * scale;
      }
      weights[row][column] = weight;
      changes[row][column] = change;
    }
  }
}

template <typename D, typename T>
__device__ void load_streams(BackwardTile<D>& tile, const HeadSide<T>& side, int64_t first, int64_t dim, int part) {
  load_stream<D>(tile.stream_first, side.first, first, side.count, dim, part);
  load_stream<D>(tile.stream_second, side.second, first, side.count, dim, part);
}

// One resident tile against one streaming tile that starts at `first`: adds ds . stream_first to `changes` and, for
// keys, p . stream_second to `weights`.
template <bool kKeyRows, typename D, typename T>
__device__ void add_tile(RowSums<D>& changes, RowSums<D>& weights, BackwardTile<D>& tile, const HeadSide<T>& stream,
                         const Softmax& softmax, int64_t first, int64_t first_softmax, const Attention& attention,
                         unsigned flags) {
  Scores scores = {}, products = {};
  for (int part = 0; part < D::kParts; ++part) {
    block_barrier();
    load_streams(tile, stream, first, attention.shape.dim, part);
    block_barrier();
    add_products<D>(scores, tile.first, tile.stream_first, part);
    add_products<D>(products, tile.second, tile.stream_second, part);
  }
  differentiate<kKeyRows>(tile.weight, tile.change, scores, products, softmax, first_softmax, attention.scale, flags);
#pragma unroll
  for (int part = 0; part < D::kParts; ++part) {
    block_barrier();
    if (D::kParts > 1) {  // otherwise the only part is still there
      load_streams(tile, stream, first, attention.shape.dim, part);
      block_barrier();
    }
    add_weighted<D>(changes[part], tile.change, tile.stream_first);
    if (kKeyRows) add_weighted<D>(weights[part], tile.weight, tile.stream_second);
  }
}

// Block = (head, 16 resident rows); the other side streams by in tiles of 64, those without an allowed pair skipped.
// kKeyRows: writes the gradients of key and value; otherwise that of query, and grad_second is not touched.
template <bool kKeyRows, typename T, typename D>
__global__ void __launch_bounds__(kThreads)
    attend_backward(Side<T> residents, Side<T> streams, Softmax softmax, Attention attention, Heads<T> grad_first,
                    Heads<T> grad_second) {
  BackwardTile<D>& tile = shared_tile<BackwardTile<D>>();
  const AttentionShape& s = attention.shape;
  const int64_t tiles = (residents.count + kRows - 1) / kRows;
  const int64_t first_row = blockIdx.x % tiles * kRows, head = blockIdx.x / tiles;
  const int64_t image = head / s.heads, number = head % s.heads;
  const HeadSide<T> resident = residents.of(image, number), stream = streams.of(image, number);
  load_resident<D>(tile.first, resident.first, first_row, resident.count, s.dim);
  load_resident<D>(tile.second, resident.second, first_row, resident.count, s.dim);

  RowSums<D> changes = {}, weights = {};
  for (int64_t first = 0; first < stream.count; first += kColumns) {
    bool any;
    const int64_t first_query = kKeyRows ? first : first_row;
    const unsigned flags = kKeyRows ? key_row_flags(attention, image, first_row, first, any)
                                    : query_row_flags(attention, image, first_row, first / kWordKeys, any);
    if (any)
      add_tile<kKeyRows>(changes, weights, tile, stream, softmax, first, head * s.queries + first_query, attention,
                         flags);
  }
  const float ones[kWarpRows] = {1.f, 1.f, 1.f, 1.f};
  store_rows<D>(grad_first.of(image, number), changes, ones, first_row, resident.count, s.dim);
  if (kKeyRows) store_rows<D>(grad_second.of(image, number), weights, ones, first_row, resident.count, s.dim);
}

// delta of every row of (B * heads, N). Warp = row.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    multiply_rows(Heads<const T> grad_output, Heads<const T> output, float* delta, AttentionShape s) {
  const int64_t row = int64_t{blockIdx.x} * kWarps + warp_index();
  if (row >= s.batch * s.heads * s.queries) return;
  const int64_t head = row / s.queries, image = head / s.heads, number = head % s.heads;
  const T *left = grad_output.of(image, number).at(row % s.queries),
          *right = output.of(image, number).at(row % s.queries);
  float sum = 0.f;
  for (int64_t d = lane_index(); d < s.dim; d += kWarpSize)
    sum += static_cast<float>(left[d]) * static_cast<float>(right[d]);
  sum = warp_sum(sum);
  if (lane_index() == 0) delta[row] = sum;
}

template <typename T, typename D>
void run(const AttentionGiven& given, const Attention& attention, const AttentionGradients& result) {
  const Context context(given.query);
  const AttentionShape& s = attention.shape;
  const int64_t heads = s.batch * s.heads, rows = heads * s.queries;
  const Tensor delta = empty(given.lse, ScalarType::Float, rows);
  const Softmax softmax{input<float>(given.lse), input<float>(delta)};
  const Side<T> queries{heads_to_read<T>(given.query), heads_to_read<T>(given.grad_output), s.queries};
  const Side<T> keys{heads_to_read<T>(given.key), heads_to_read<T>(given.value), s.keys};
  const auto blocks = [&](int64_t count) {
    return Blocks{heads * ((count + kRows - 1) / kRows), kThreads, sizeof(BackwardTile<D>)};
  };
  launch(context, {(rows + kWarps - 1) / kWarps, kThreads}, multiply_rows<T>, queries.second,
         heads_to_read<T>(given.output), output<float>(delta), s);
  launch(context, blocks(s.keys), attend_backward<true, T, D>, keys, queries, softmax, attention,
         heads_to_write<T>(result.key), heads_to_write<T>(result.value));
  launch(context, blocks(s.queries), attend_backward<false, T, D>, queries, keys, softmax, attention,
         heads_to_write<T>(result.query), Heads<T>{});
}

// grad_output, query, output (B, heads, N, D), key, value (B, heads, S, D), lse (B, heads, N), plan as packed_attention
// returned it, bits (B, N, ceil(S / 64))
// -> gradients of query, key and value
std::tuple<Tensor, Tensor, Tensor> packed_attention_backward(const Tensor& grad_output, const Tensor& query,
                                                             const Tensor& key, const Tensor& value,
                                                             const Tensor& output, const Tensor& lse,
                                                             const Tensor& plan, const std::optional<Tensor>& bits) {
  const AttentionShape shape = check_attention_backward(grad_output, query, key, value, output, lse, plan, bits);
  const Tensor dense_lse = dense(lse);
  const AttentionGradients result{empty_in_order_of(query), empty_in_order_of(key), empty_in_order_of(value)};
  if (fits_tensor_cores(query)) {
    TMT_CHECK(bits.has_value() == (plan.size(1) > 0) || shape.batch == 0,
              "packed_attention: bits must be those that plan was made of");
    differentiate_with_tensor_cores(shape, {grad_output, query, key, value, output, dense_lse}, plan, result);
    return {result.query, result.key, result.value};
  }
  const AttentionGiven given{with_dense_rows(grad_output), with_dense_rows(query),  with_dense_rows(key),
                             with_dense_rows(value),       with_dense_rows(output), dense_lse};
  const auto dense_bits = dense(bits);
  dispatch_dtype("packed_attention", query, [&](auto type) {
    dispatch_depth(shape.dim, [&](auto depth) {
      run<typename decltype(type)::type, decltype(depth)>(given, attention_of(shape, dense_bits), result);
    });
  });
  return {result.query, result.key, result.value};
}

}  // namespace
}  // namespace tmt::attention::cuda

STABLE_TORCH_LIBRARY_IMPL(TMT_CUDA_LIBRARY, TMT_CUDA_KEY, m) {
  m.impl("packed_attention_backward", TORCH_BOX(&tmt::attention::cuda::packed_attention_backward));
}
