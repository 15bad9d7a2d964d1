// The backward walk of packed_attention. Included by attention/cpu/kernels.cpp alone.
#pragma once

#include "attention/cpu/tiles.h"

namespace tmt::attention::cpu::TMT_SIMD {
namespace {

// What one thread needs backward: one tile, and all rows of the item.
template <typename A>
struct BackwardScratch {
  A *keys_transposed, *values_transposed, *keys, *grad_keys, *grad_values;  // (64, padded) each
  A *weights, *grad_scores;                                                 // (kBlockRows, 64) each
  A *query, *grad_output, *lse, *delta;  // (N, padded) twice, (N) twice, a vector more
  const A* key_rows[kTile];
  A *grad_key_rows[kTile], *grad_value_rows[kTile];
  const A *query_rows[kBlockRows], *grad_output_rows[kBlockRows];  // of the active rows
  ActiveRows active;

  BackwardScratch(void* memory, int64_t padded, int64_t queries) {
    keys_transposed = static_cast<A*>(memory);
    values_transposed = keys_transposed + kTile * padded;
    keys = values_transposed + kTile * padded;
    grad_keys = keys + kTile * padded;
    grad_values = grad_keys + kTile * padded;
    weights = grad_values + kTile * padded;
    grad_scores = weights + kBlockRows * kTile;
    query = grad_scores + kBlockRows * kTile;
    grad_output = query + queries * padded;
    lse = grad_output + queries * padded;
    delta = lse + queries;
    for (int j = 0; j < kTile; ++j) {
      key_rows[j] = keys + j * padded;
      grad_key_rows[j] = grad_keys + j * padded;
      grad_value_rows[j] = grad_values + j * padded;
    }
  }
};

// delta[n] = grad_output[n] . output[n] for up to 64 rows. Every row is summed as products_with_keys sums, so that the
// difference between the two is exactly 0 where a row attends to a single key.
template <typename T, typename A = Accumulate<T>>
void load_deltas(const T* const* grads, const T* const* outputs, int64_t count, int64_t dim,
                 BackwardScratch<A>& scratch, A* delta) {
  load_tile_transposed(grads, count, dim, scratch.keys_transposed);
  load_tile_transposed(outputs, count, dim, scratch.values_transposed);
  for (int64_t j = 0; j < count; j += kLanes<A>) {
    Vector<A> total = {};
    for (int64_t d = 0; d < dim; ++d)
      total += load(scratch.keys_transposed + d * kTile + j) * load(scratch.values_transposed + d * kTile + j);
    store(delta + j, total);
  }
}

template <typename T, typename A = Accumulate<T>>
void load_queries(const AttentionArgs& args, int64_t b, int64_t h, BackwardScratch<A>& scratch) {
  const A scale = static_cast<A>(kLog2E / __builtin_sqrt(static_cast<double>(args.dim)));
  const A* lse = static_cast<const A*>(args.lse) + (b * args.heads + h) * args.queries;
  const T *grads[kTile], *outputs[kTile];
  for (int64_t n = 0; n < args.queries; ++n) {
    const T* grad = head_of<T>(args.grad_output, b, h) + n * args.grad_output.row;
    load_row(head_of<T>(args.query, b, h) + n * args.query.row, scale, args.dim, args.padded,
             scratch.query + n * args.padded);
    load_row(grad, A{1}, args.dim, args.padded, scratch.grad_output + n * args.padded);
    scratch.lse[n] = lse[n];
    grads[n % kTile] = grad;
    outputs[n % kTile] = head_of<T>(args.output, b, h) + n * args.output.row;
    const int64_t first = n / kTile * kTile;
    if (n % kTile == kTile - 1 || n == args.queries - 1)
      load_deltas(grads, outputs, n - first + 1, args.dim, scratch, scratch.delta + first);
  }
}

template <typename T, typename A = Accumulate<T>>
void load_keys(const AttentionArgs& args, int64_t b, int64_t h, int64_t tile, BackwardScratch<A>& scratch) {
  const KeyPlan& plan = args.plans[b];
  const int64_t count = tile_count(plan, tile);
  const T* rows[kTile];
  tile_rows(args.value, b, h, plan, tile, rows);
  load_tile_transposed(rows, count, args.dim, scratch.values_transposed);
  tile_rows(args.key, b, h, plan, tile, rows);
  load_tile_transposed(rows, count, args.dim, scratch.keys_transposed);
  load_tile(rows, count, args.dim, args.padded, scratch.keys);
  zero(scratch.grad_keys, kTile * args.padded);
  zero(scratch.grad_values, kTile * args.padded);
}

// weights: score2 - lse becomes p, at most 1 however lse was rounded.
// grads: grad_output . value - delta becomes the gradient with respect to the score.
template <typename A>
TMT_INLINE void softmax_backward(uint64_t word, A* weights, A* grads) {
  constexpr int L = kLanes<A>;
#pragma GCC unroll 16
  for (int j = 0; j < kTile; j += L) {
    const Vector<A> p = choose(word >> j, exp2(smaller(Vector<A>{}, load(weights + j))), Vector<A>{});
    store(weights + j, p);
    store(grads + j, choose(word >> j, p * load(grads + j), Vector<A>{}));
  }
}

// `grad_query` is that of the block's first row, `block`.
template <int R, typename A>
TMT_INLINE void backward_group(const AttentionArgs& args, BackwardScratch<A>& scratch, A* grad_query, int64_t block,
                               int64_t first, int64_t count) {
  A* weights = scratch.weights + first * kTile;
  A* grads = scratch.grad_scores + first * kTile;
  A *to[R], lse[R], delta[R];
  for (int r = 0; r < R; ++r) {
    const int32_t n = scratch.active.rows[first + r];
    to[r] = grad_query + n * args.padded;
    lse[r] = scratch.lse[block + n];
    delta[r] = scratch.delta[block + n];
  }
  products_with_keys<R>(scratch.query_rows + first, scratch.keys_transposed, args.dim, lse, weights);
  products_with_keys<R>(scratch.grad_output_rows + first, scratch.values_transposed, args.dim, delta, grads);
  for (int r = 0; r < R; ++r) softmax_backward(scratch.active.words[first + r], weights + r * kTile, grads + r * kTile);
  add_products<R>(to, grads, kTile, 1, scratch.key_rows, count, args.padded);
}

// The active rows of a block against one tile: their grad_query, and their part of the tile's grad_keys, grad_values.
template <typename T, typename A = Accumulate<T>>
void backward_rows(const AttentionArgs& args, BackwardScratch<A>& scratch, A* grad_query, int64_t block, int64_t count,
                   Prefetch<T>& prefetch) {
  const int64_t active = scratch.active.count;
  for (int64_t i = 0; i < active; ++i) {
    scratch.query_rows[i] = scratch.query + (block + scratch.active.rows[i]) * args.padded;
    scratch.grad_output_rows[i] = scratch.grad_output + (block + scratch.active.rows[i]) * args.padded;
  }
  for_row_groups(active, [&](auto group, int64_t first) __attribute__((always_inline)) {
    prefetch_share(prefetch, args.dim);
    backward_group<decltype(group)::value>(args, scratch, grad_query + block * args.padded, block, first, count);
  });
  for_row_groups(count, [&](auto group, int64_t j) __attribute__((always_inline)) {
    constexpr int R = decltype(group)::value;
    add_products<R>(scratch.grad_value_rows + j, scratch.weights + j, 1, kTile, scratch.grad_output_rows, active,
                    args.padded);
    add_products<R>(scratch.grad_key_rows + j, scratch.grad_scores + j, 1, kTile, scratch.query_rows, active,
                    args.padded);
  });
}

template <typename T, typename A = Accumulate<T>>
void store_grads(const AttentionArgs& args, int64_t b, int64_t h, int64_t tile, const BackwardScratch<A>& scratch) {
  const KeyPlan& plan = args.plans[b];
  T *grad_keys = head_of<T>(args.grad_key, b, h), *grad_values = head_of<T>(args.grad_value, b, h);
  for (int64_t j = 0; j < tile_count(plan, tile); ++j) {
    const int64_t key = plan_key(plan, tile * kTile + j);
    // The queries carry log2(e) / sqrt(D) already; only log2(e) is too much.
    store_row(scratch.grad_key_rows[j], static_cast<A>(kLn2), args.dim, grad_keys + key * args.grad_key.row);
    store_row(scratch.grad_value_rows[j], A{1}, args.dim, grad_values + key * args.grad_value.row);
  }
}

// Keys [begin, end) in the plan's order, which no row attends.
template <typename T>
void zero_grads(const AttentionArgs& args, int64_t b, int64_t h, int64_t begin, int64_t end) {
  T *grad_keys = head_of<T>(args.grad_key, b, h), *grad_values = head_of<T>(args.grad_value, b, h);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t key = plan_key(args.plans[b], i);
    __builtin_memset(grad_keys + key * args.grad_key.row, 0, args.dim * sizeof(T));
    __builtin_memset(grad_values + key * args.grad_value.row, 0, args.dim * sizeof(T));
  }
}

template <typename T, typename A = Accumulate<T>>
void backward_item(const AttentionArgs& args, int64_t b, int64_t h, int64_t split, BackwardScratch<A>& scratch) {
  const KeyPlan& plan = args.plans[b];
  const TileRange range = tile_range(args, plan, split);
  A* grad_query =
      static_cast<A*>(args.partial) + ((b * args.heads + h) * args.splits + split) * args.queries * args.padded;
  zero(grad_query, args.queries * args.padded);
  load_queries<T>(args, b, h, scratch);
  for (int64_t tile = range.begin; tile < range.end; ++tile) {
    Prefetch<T> prefetch;
    bool loaded = false;
    for (int64_t block = 0; block < args.queries; block += kBlockRows) {
      const int64_t end = block + kBlockRows < args.queries ? block + kBlockRows : args.queries;
      find_rows(plan, args.queries, tile, block, end, scratch.active);
      if (scratch.active.count == 0) continue;
      if (!loaded) {
        load_keys<T>(args, b, h, tile, scratch);
        begin_prefetch(args, b, h, plan, tile + 1, range.end, scratch.active.count, prefetch);
        loaded = true;
      }
      backward_rows(args, scratch, grad_query, block, tile_count(plan, tile), prefetch);
    }
    if (loaded)
      store_grads<T>(args, b, h, tile, scratch);
    else
      zero_grads<T>(args, b, h, tile * kTile, tile * kTile + tile_count(plan, tile));
  }
  const int64_t left_out = args.keys - plan.count;
  zero_grads<T>(args, b, h, plan.count + left_out * split / args.splits,
                plan.count + left_out * (split + 1) / args.splits);
}

template <typename T>
void backward(const AttentionArgs& args, int64_t begin, int64_t end, void* memory) {
  BackwardScratch<Accumulate<T>> scratch(memory, args.padded, args.queries);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t b = item % args.batch, h = item / args.batch % args.heads, split = item / args.batch / args.heads;
    backward_item<T>(args, b, h, split, scratch);
  }
}

// Sums the splits of grad_query in order.
template <typename T, typename A = Accumulate<T>>
void backward_finish(const AttentionArgs& args, int64_t begin, int64_t end) {
  const A scale = static_cast<A>(1 / __builtin_sqrt(static_cast<double>(args.dim)));
  const int64_t step = args.queries * args.padded;
  for (int64_t row = begin * args.queries; row < end * args.queries; ++row) {
    const int64_t head = row / args.queries, n = row % args.queries;
    A* sums = static_cast<A*>(args.partial) + head * args.splits * step + n * args.padded;
    for (int64_t s = 1; s < args.splits; ++s)
      for (int64_t d = 0; d < args.padded; ++d) sums[d] += sums[s * step + d];
    store_row(sums, scale, args.dim,
              head_of<T>(args.grad_query, head / args.heads, head % args.heads) + n * args.grad_query.row);
  }
}

}  // namespace
}  // namespace tmt::attention::cpu::TMT_SIMD
