// tmt::packed_attention_backward on CUDA. Weights are computed again from lse: with p = exp(q.k / sqrt(D) - lse) where
// the bit is set, dp = grad_output . v and delta = sum_d grad_output * output,
//   ds = p (dp - delta) / sqrt(D),   dq = sum_keys ds k,   dk = sum_queries ds q,   dv = sum_queries p grad_output.
// One kernel, two ways round: keys resident and queries streaming for dk and dv, queries resident and keys streaming
// for dq. Every block owns what it writes: no atomics, the same bits every time.
#include <cmath>

#include "cuda/masked_attention_common.cuh"
#include "cuda/masked_attention_tensor_paths.cuh"

namespace tmt::cuda {
namespace {

// The two matrices of a side, each (B * heads, count, D): queries and grad_output, or keys and values.
template <typename T>
struct Side {
  const T *first, *second;
  int64_t count;

  __device__ Side head(int64_t index, int64_t dim) const {
    return {first + index * count * dim, second + index * count * dim, count};
  }
};

// Per query, (B * heads, N).
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
                              const Softmax& softmax, int64_t first_query, float scale, unsigned flags) {
#pragma unroll
  for (int i = 0; i < kWarpRows; ++i) {
    const int row = warp_index() * kWarpRows + i;
#pragma unroll
    for (int e = 0; e < kLaneColumns; ++e) {
      const int column = lane_index() + e * kWarpSize;
      const int64_t query = first_query + (kKeyRows ? column : row);
      float weight = 0.f, change = 0.f;
      if (counts(flags, i, e)) {  // which also says that the query exists
        weight = expf(scores[i][e] * scale - softmax.lse[query]);
        change = weight * (products[i][e] - softmax.delta[query]) * scale;
      }
      weights[row][column] = weight;
      changes[row][column] = change;
    }
  }
}

template <typename D, typename T>
__device__ void load_streams(BackwardTile<D>& tile, const Side<T>& side, int64_t first, int64_t dim, int part) {
  load_stream<D>(tile.stream_first, side.first, first, side.count, dim, part);
  load_stream<D>(tile.stream_second, side.second, first, side.count, dim, part);
}

// One resident tile against one streaming tile that starts at `first`: adds ds . stream_first to `changes` and, for
// keys, p . stream_second to `weights`.
template <bool kKeyRows, typename D, typename T>
__device__ void add_tile(RowSums<D>& changes, RowSums<D>& weights, BackwardTile<D>& tile, const Side<T>& stream,
                         const Softmax& softmax, int64_t first, int64_t first_query, const Attention& attention,
                         unsigned flags) {
  Scores scores = {}, products = {};
  for (int part = 0; part < D::kParts; ++part) {
    block_barrier();
    load_streams(tile, stream, first, attention.shape.dim, part);
    block_barrier();
    add_products<D>(scores, tile.first, tile.stream_first, part);
    add_products<D>(products, tile.second, tile.stream_second, part);
  }
  differentiate<kKeyRows>(tile.weight, tile.change, scores, products, softmax, first_query, attention.scale, flags);
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
__global__ void __launch_bounds__(kThreads) attend_backward(Side<T> residents, Side<T> streams, Softmax softmax,
                                                            Attention attention, T* grad_first, T* grad_second) {
  BackwardTile<D>& tile = shared_tile<BackwardTile<D>>();
  const AttentionShape& s = attention.shape;
  const int64_t tiles = (residents.count + kRows - 1) / kRows;
  const int64_t first_row = blockIdx.x % tiles * kRows, head = blockIdx.x / tiles, image = head / s.heads;
  const Side<T> resident = residents.head(head, s.dim), stream = streams.head(head, s.dim);
  const Softmax of_head{softmax.lse + head * s.queries, softmax.delta + head * s.queries};
  load_resident<D>(tile.first, resident.first, first_row, resident.count, s.dim);
  load_resident<D>(tile.second, resident.second, first_row, resident.count, s.dim);

  RowSums<D> changes = {}, weights = {};
  for (int64_t first = 0; first < stream.count; first += kColumns) {
    bool any;
    const int64_t first_query = kKeyRows ? first : first_row;
    const unsigned flags = kKeyRows ? key_row_flags(attention, image, first_row, first, any)
                                    : query_row_flags(attention, image, first_row, first / kWordKeys, any);
    if (any) add_tile<kKeyRows>(changes, weights, tile, stream, of_head, first, first_query, attention, flags);
  }
  const float ones[kWarpRows] = {1.f, 1.f, 1.f, 1.f};
  store_rows<D>(grad_first + head * resident.count * s.dim, changes, ones, first_row, resident.count, s.dim);
  if (kKeyRows)
    store_rows<D>(grad_second + head * resident.count * s.dim, weights, ones, first_row, resident.count, s.dim);
}

template <typename T, typename D>
void run(const AttentionGiven& given, const Attention& attention, const AttentionGradients& result) {
  const Context context(given.query);
  const AttentionShape& s = attention.shape;
  const int64_t heads = s.batch * s.heads, rows = heads * s.queries;
  const Tensor delta = torch::stable::new_empty(given.lse, {rows}, ScalarType::Float);
  const Softmax softmax{input<float>(given.lse), input<float>(delta)};
  const Side<T> queries{input<T>(given.query), input<T>(given.grad_output), s.queries};
  const Side<T> keys{input<T>(given.key), input<T>(given.value), s.keys};
  const auto blocks = [&](int64_t count) {
    return Blocks{heads * ((count + kRows - 1) / kRows), kThreads, sizeof(BackwardTile<D>)};
  };
  launch(context, {(rows + kWarps - 1) / kWarps, kThreads}, multiply_rows<T>, queries.second, input<T>(given.output),
         output<float>(delta), rows, s.dim);
  launch(context, blocks(s.keys), attend_backward<true, T, D>, keys, queries, softmax, attention, output<T>(result.key),
         output<T>(result.value));
  launch(context, blocks(s.queries), attend_backward<false, T, D>, queries, keys, softmax, attention,
         output<T>(result.query), nullptr);
}

// grad_output, query, output (B, heads, N, D), key, value (B, heads, S, D), lse (B, heads, N), bits (B, N, ceil(S /
// 64))
// -> gradients of query, key and value
std::tuple<Tensor, Tensor, Tensor> packed_attention_backward(const Tensor& grad_output, const Tensor& query,
                                                             const Tensor& key, const Tensor& value,
                                                             const Tensor& output, const Tensor& lse,
                                                             const std::optional<Tensor>& bits) {
  const AttentionShape shape = check_attention_backward(grad_output, query, key, value, output, lse, bits);
  const auto dense = [](const Tensor& tensor) { return torch::stable::contiguous(tensor); };
  const AttentionGiven given{dense(grad_output), dense(query), dense(key), dense(value), dense(output), dense(lse)};
  const auto dense_bits = contiguous(bits);
  const AttentionGradients result{torch::stable::new_empty(query, {shape.batch, shape.heads, shape.queries, shape.dim}),
                                  torch::stable::new_empty(key, {shape.batch, shape.heads, shape.keys, shape.dim}),
                                  torch::stable::new_empty(value, {shape.batch, shape.heads, shape.keys, shape.dim})};
  if (fits_tensor_cores(query)) {
    differentiate_with_tensor_cores(shape, given, dense_bits, result);
    return {result.query, result.key, result.value};
  }
  dispatch_dtype("masked_attention", query, [&](auto type) {
    dispatch_depth(shape.dim, [&](auto depth) {
      run<typename decltype(type)::type, decltype(depth)>(given, attention_of(shape, dense_bits), result);
    });
  });
  return {result.query, result.key, result.value};
}

}  // namespace
}  // namespace tmt::cuda

STABLE_TORCH_LIBRARY_IMPL(TMT_CUDA_LIBRARY, TMT_CUDA_KEY, m) {
  m.impl("packed_attention_backward", TORCH_BOX(&tmt::cuda::packed_attention_backward));
}
