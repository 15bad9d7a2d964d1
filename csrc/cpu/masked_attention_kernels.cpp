// The kernels of packed_attention, compiled once per SIMD level.
//
// An item is (image, head, split of the keys). It walks over its tiles of 64 keys; of each, keys and values
// are brought into the first-level cache once, and every query row that attends to some key of the tile is processed
// there, kRows at a time. Rows with no bit in the tile cost nothing; tiles with no such row are not even loaded.
// Scores are kept in units of log2, so that exp2 serves: score2 = q.k * log2(e) / sqrt(D).
#include "masked_attention_tiles.h"

namespace tmt::cpu::TMT_SIMD {
namespace {

// ---- attention forward ----------------------------------------------------------------------------------------------

TMT_INLINE int64_t state_size(int64_t padded) { return padded + kStateExtra; }

// Running softmax of one row: padded sums of p * v, then kLanes partial sums of p, then the largest score2 so far.
template <typename A>
struct RowState {
  A* sums;
  int64_t padded;
  A* total() const { return sums + padded; }
  A& top() const { return sums[padded + 16]; }
};

template <typename A>
TMT_INLINE A* partial_of(const AttentionArgs& args, int64_t size, int64_t b, int64_t h, int64_t split) {
  return static_cast<A*>(args.partial) + ((b * args.heads + h) * args.splits + split) * args.queries * size;
}

template <typename A>
TMT_INLINE void raise_top(const RowState<A>& state, Vector<A> tops) {
  A top = tops[0];
  for (int i = 1; i < kLanes<A>; ++i) top = tops[i] > top ? tops[i] : top;
  const A factor = exp2_one(state.top() - top);  // 0 on the row's first tile
  for (int64_t d = 0; d < state.padded + kLanes<A>; d += kLanes<A>)
    store(state.sums + d, load(state.sums + d) * factor);
  state.top() = top;
}

// scores (64) of one row become the weights 2^(score2 - top), 0 where the bit is not set.
template <typename A>
TMT_INLINE void softmax_tile(const RowState<A>& state, uint64_t word, A* scores) {
  constexpr int L = kLanes<A>;
  const Vector<A> least = broadcast(static_cast<A>(-__builtin_inf()));
  Vector<A> tops = least;
#pragma GCC unroll 16
  for (int j = 0; j < kTile; j += L) tops = larger(tops, choose(word >> j, load(scores + j), least));
  if (lane_bits(tops > state.top())) raise_top(state, tops);
  Vector<A> total = load(state.total());
#pragma GCC unroll 16
  for (int j = 0; j < kTile; j += L) {
    const Vector<A> p = choose(word >> j, exp2(load(scores + j) - state.top()), Vector<A>{});
    store(scores + j, p);
    total += p;
  }
  store(state.total(), total);
}

// What one thread needs to walk over tiles forward. Sizes in values of A.
template <typename A>
struct ForwardScratch {
  A *keys, *values, *query, *scores;
  const A* value_rows[kTile];
  int32_t rows[kBlockRows];
  uint64_t words[kBlockRows];

  ForwardScratch(void* memory, int64_t padded) {
    keys = static_cast<A*>(memory);
    values = keys + kTile * padded;
    query = values + kTile * padded;
    scores = query + kBlockRows * padded;
    for (int j = 0; j < kTile; ++j) value_rows[j] = values + j * padded;
  }
};

template <int R, typename A>
TMT_INLINE void forward_group(const AttentionArgs& args, ForwardScratch<A>& scratch, A* states, int64_t block,
                              int64_t first, int64_t count) {
  const int64_t size = state_size(args.padded);
  const A* query[R];
  A* sums[R];
  for (int r = 0; r < R; ++r) {
    query[r] = scratch.query + (scratch.rows[first + r] - block) * args.padded;
    sums[r] = states + scratch.rows[first + r] * size;
  }
  products_with_keys<R>(query, scratch.keys, args.dim, scratch.scores);
  for (int r = 0; r < R; ++r)
    softmax_tile(RowState<A>{sums[r], args.padded}, scratch.words[first + r], scratch.scores + r * kTile);
  add_products<R>(sums, scratch.scores, kTile, 1, scratch.value_rows, count, args.padded);
}

template <typename T, typename A = Accumulate<T>>
void forward_block(const AttentionArgs& args, int64_t b, int64_t h, int64_t split, int64_t block,
                   ForwardScratch<A>& scratch) {
  const KeyPlan& plan = args.plans[b];
  const TileRange range = tile_range(args, plan, split);
  const int64_t end = block + kBlockRows < args.queries ? block + kBlockRows : args.queries;
  const int64_t size = state_size(args.padded);
  A* states = partial_of<A>(args, size, b, h, split);
  const T* queries = static_cast<const T*>(args.query.data) + b * args.query.batch + h * args.query.head;
  const A scale = static_cast<A>(kLog2E / __builtin_sqrt(static_cast<double>(args.dim)));
  for (int64_t n = block; n < end; ++n) {
    load_row(queries + n * args.query.row, scale, args.dim, args.padded, scratch.query + (n - block) * args.padded);
    zero(states + n * size, size);
    RowState<A>{states + n * size, args.padded}.top() = static_cast<A>(-__builtin_inf());
  }
  const T* rows[kTile];
  for (int64_t tile = range.begin; tile < range.end; ++tile) {
    const int64_t active = active_rows(plan, tile, range.all, block, end, scratch.rows, scratch.words);
    if (active == 0) continue;
    const int64_t count = tile_count(plan, tile);
    tile_rows(args.key, b, h, plan, tile, rows);
    load_tile_transposed(rows, count, args.dim, scratch.keys);
    tile_rows(args.value, b, h, plan, tile, rows);
    load_tile(rows, count, args.dim, args.padded, scratch.values);
    if (tile + 1 < range.end) {
      prefetch_rows<T>(args.key, b, h, plan, tile + 1, args.dim);
      prefetch_rows<T>(args.value, b, h, plan, tile + 1, args.dim);
    }
    for_row_groups(active, [&](auto group, int64_t first) __attribute__((always_inline)) {
      forward_group<decltype(group)::value>(args, scratch, states, block, first, count);
    });
  }
}

template <typename T>
void forward(const AttentionArgs& args, int64_t begin, int64_t end, void* memory) {
  ForwardScratch<Accumulate<T>> scratch(memory, args.padded);
  for (int64_t item = begin; item < end; ++item) {
    // Images innermost: they differ in how many keys they keep, and neighbouring items go to the same thread.
    const int64_t b = item % args.batch, h = item / args.batch % args.heads, split = item / args.batch / args.heads;
    for (int64_t block = 0; block < args.queries; block += kBlockRows)
      forward_block<T>(args, b, h, split, block, scratch);
  }
}

// One row: merges the splits in order, writes output (D) and lse.
template <typename T, typename A = Accumulate<T>>
void finish_row(const AttentionArgs& args, const A* states, int64_t step, A* sums, T* output, A* lse) {
  A top = static_cast<A>(-__builtin_inf()), total = 0;
  for (int64_t s = 0; s < args.splits; ++s) {
    const A other = states[s * step + args.padded + 16];
    top = other > top ? other : top;
  }
  zero(sums, args.padded);
  for (int64_t s = 0; s < args.splits; ++s) {
    const A* state = states + s * step;
    const Vector<A> totals = load(state + args.padded);
    const A part = sum<A>(totals);
    if (part == 0) continue;  // nothing attended in this split
    const A factor = exp2_one(state[args.padded + 16] - top);
    total += part * factor;
    for (int64_t d = 0; d < args.padded; ++d) sums[d] += state[d] * factor;
  }
  store_row(sums, total == 0 ? A{0} : 1 / total, args.dim, output);
  *lse = static_cast<A>(kLn2) * (top + log2_one(total));
}

template <typename T, typename A = Accumulate<T>>
void forward_finish(const AttentionArgs& args, int64_t begin, int64_t end) {
  A sums[kMaxHeadDim];
  const int64_t size = state_size(args.padded);
  for (int64_t row = begin * args.queries; row < end * args.queries; ++row) {
    const int64_t head = row / args.queries, n = row % args.queries;
    const A* states = static_cast<const A*>(args.partial) + (head * args.splits * args.queries + n) * size;
    finish_row(args, states, args.queries * size, sums, static_cast<T*>(args.output) + row * args.dim,
               static_cast<A*>(args.lse) + row);
  }
}

// ---- attention backward ---------------------------------------------------------------------------------------------

// What one thread needs backward: one tile, and all rows of the item.
template <typename A>
struct BackwardScratch {
  A *keys_transposed, *values_transposed, *keys, *grad_keys, *grad_values;  // (64, padded) each
  A *weights, *grad_scores;                                                 // (kBlockRows, 64) each
  A *query, *grad_output, *lse, *delta;                                     // (N, padded) twice, (N) twice
  const A* key_rows[kTile];
  A *grad_key_rows[kTile], *grad_value_rows[kTile];
  const A *query_rows[kBlockRows], *grad_output_rows[kBlockRows];  // of the active rows
  int32_t rows[kBlockRows];
  uint64_t words[kBlockRows];

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

template <typename T>
TMT_INLINE const T* head_of(const Strided& tensor, int64_t b, int64_t h) {
  return static_cast<const T*>(tensor.data) + b * tensor.batch + h * tensor.head;
}

template <typename T, typename A = Accumulate<T>>
void load_queries(const AttentionArgs& args, int64_t b, int64_t h, BackwardScratch<A>& scratch) {
  const A scale = static_cast<A>(kLog2E / __builtin_sqrt(static_cast<double>(args.dim)));
  const int64_t head = (b * args.heads + h) * args.queries;
  for (int64_t n = 0; n < args.queries; ++n) {
    A* grad = scratch.grad_output + n * args.padded;
    load_row(head_of<T>(args.query, b, h) + n * args.query.row, scale, args.dim, args.padded,
             scratch.query + n * args.padded);
    load_row(head_of<T>(args.grad_output, b, h) + n * args.grad_output.row, A{1}, args.dim, args.padded, grad);
    scratch.lse[n] = static_cast<const A*>(args.lse)[head + n] * static_cast<A>(kLog2E);
    const T* output = static_cast<const T*>(args.output) + (head + n) * args.dim;
    A delta = 0;
    for (int64_t d = 0; d < args.dim; ++d) delta += grad[d] * load_one(output + d);
    scratch.delta[n] = delta;
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

// weights: score2 becomes p. grads: grad_output . value becomes the gradient with respect to the natural-log score.
template <typename A>
TMT_INLINE void softmax_backward(A lse, A delta, uint64_t word, A* weights, A* grads) {
  constexpr int L = kLanes<A>;
#pragma GCC unroll 16
  for (int j = 0; j < kTile; j += L) {
    const Vector<A> p = choose(word >> j, exp2(load(weights + j) - lse), Vector<A>{});
    store(weights + j, p);
    store(grads + j, p * (load(grads + j) - delta));
  }
}

template <int R, typename A>
TMT_INLINE void backward_group(const AttentionArgs& args, BackwardScratch<A>& scratch, A* grad_query, int64_t first,
                               int64_t count) {
  A* weights = scratch.weights + first * kTile;
  A* grads = scratch.grad_scores + first * kTile;
  A* to[R];
  for (int r = 0; r < R; ++r) to[r] = grad_query + scratch.rows[first + r] * args.padded;
  products_with_keys<R>(scratch.query_rows + first, scratch.keys_transposed, args.dim, weights);
  products_with_keys<R>(scratch.grad_output_rows + first, scratch.values_transposed, args.dim, grads);
  for (int r = 0; r < R; ++r) {
    const int32_t n = scratch.rows[first + r];
    softmax_backward(scratch.lse[n], scratch.delta[n], scratch.words[first + r], weights + r * kTile,
                     grads + r * kTile);
  }
  add_products<R>(to, grads, kTile, 1, scratch.key_rows, count, args.padded);
}

// Up to kBlockRows active rows against one tile: their grad_query, and their part of the tile's grad_keys, grad_values.
template <typename A>
void backward_rows(const AttentionArgs& args, BackwardScratch<A>& scratch, A* grad_query, int64_t active,
                   int64_t count) {
  for (int64_t i = 0; i < active; ++i) {
    scratch.query_rows[i] = scratch.query + scratch.rows[i] * args.padded;
    scratch.grad_output_rows[i] = scratch.grad_output + scratch.rows[i] * args.padded;
  }
  for_row_groups(active, [&](auto group, int64_t first) __attribute__((always_inline)) {
    backward_group<decltype(group)::value>(args, scratch, grad_query, first, count);
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
  const int64_t head = (b * args.heads + h) * args.keys;
  for (int64_t j = 0; j < tile_count(plan, tile); ++j) {
    const int64_t at = (head + tile_key(plan, tile, j)) * args.dim;
    // The queries carry log2(e) / sqrt(D) already; only log2(e) is too much.
    store_row(scratch.grad_key_rows[j], static_cast<A>(kLn2), args.dim, static_cast<T*>(args.grad_key) + at);
    store_row(scratch.grad_value_rows[j], A{1}, args.dim, static_cast<T*>(args.grad_value) + at);
  }
}

template <typename T, typename A = Accumulate<T>>
void backward_item(const AttentionArgs& args, int64_t b, int64_t h, int64_t split, BackwardScratch<A>& scratch) {
  const KeyPlan& plan = args.plans[b];
  const TileRange range = tile_range(args, plan, split);
  A* grad_query = partial_of<A>(args, args.padded, b, h, split);
  zero(grad_query, args.queries * args.padded);
  load_queries<T>(args, b, h, scratch);
  for (int64_t tile = range.begin; tile < range.end; ++tile) {
    bool loaded = false;
    for (int64_t block = 0; block < args.queries; block += kBlockRows) {
      const int64_t end = block + kBlockRows < args.queries ? block + kBlockRows : args.queries;
      const int64_t active = active_rows(plan, tile, range.all, block, end, scratch.rows, scratch.words);
      if (active == 0) continue;
      if (!loaded) {
        load_keys<T>(args, b, h, tile, scratch);
        if (tile + 1 < range.end) {
          prefetch_rows<T>(args.key, b, h, plan, tile + 1, args.dim);
          prefetch_rows<T>(args.value, b, h, plan, tile + 1, args.dim);
        }
        loaded = true;
      }
      backward_rows(args, scratch, grad_query, active, tile_count(plan, tile));
    }
    if (loaded) store_grads<T>(args, b, h, tile, scratch);
  }
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
    A* sums =
        static_cast<A*>(args.partial) + row / args.queries * args.splits * step + row % args.queries * args.padded;
    for (int64_t s = 1; s < args.splits; ++s)
      for (int64_t d = 0; d < args.padded; ++d) sums[d] += sums[s * step + d];
    store_row(sums, scale, args.dim, static_cast<T*>(args.grad_query) + row * args.dim);
  }
}

}  // namespace

// ---- entry points ---------------------------------------------------------------------------------------------------

void attention_forward(const AttentionArgs& args, int64_t begin, int64_t end, void* scratch) {
  TMT_BY_STORAGE(forward, args, begin, end, scratch)
}
void attention_forward_finish(const AttentionArgs& args, int64_t begin, int64_t end) {
  TMT_BY_STORAGE(forward_finish, args, begin, end)
}
void attention_backward(const AttentionArgs& args, int64_t begin, int64_t end, void* scratch) {
  TMT_BY_STORAGE(backward, args, begin, end, scratch)
}
void attention_backward_finish(const AttentionArgs& args, int64_t begin, int64_t end) {
  TMT_BY_STORAGE(backward_finish, args, begin, end)
}

}  // namespace tmt::cpu::TMT_SIMD
