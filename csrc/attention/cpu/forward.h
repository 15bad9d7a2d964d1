// The forward walk of packed_attention. Included by attention/cpu/kernels.cpp alone.
#pragma once

#include "attention/cpu/tiles.h"

namespace tmt::attention::cpu::TMT_SIMD {
namespace {

// What one thread needs to walk over tiles forward: one tile, and the running softmax of a block of rows.
//
// A row's weights are 2^(score2 - shift), its shift the largest score2 of its first tile. The shift is raised only when
// a score exceeds it by kSlack: what that does to the size of the weights cancels when sums are divided by totals.
template <typename A>
struct ForwardScratch {
  A *keys, *values;  // (D, 64), (64, padded)
  A *query, *sums;   // (kBlockRows, padded) both; sums of weight * value
  A* totals;         // (kBlockRows, kLanes) partial sums of the weights
  A* scores;         // (kRows, 64)
  A shift[kBlockRows];
  A limit[kBlockRows];  // scores above it raise the shift: kSlack, and at first -inf
  const A* value_rows[kTile];
  ActiveRows active[2];  // of the tile at hand and of the next one

  ForwardScratch(void* memory, int64_t padded) {
    keys = static_cast<A*>(memory);
    values = keys + kTile * padded;
    query = values + kTile * padded;
    sums = query + kBlockRows * padded;
    totals = sums + kBlockRows * padded;
    scores = totals + kBlockRows * kLanes<A>;
    for (int j = 0; j < kTile; ++j) value_rows[j] = values + j * padded;
  }
};

template <typename A>
constexpr A kSlack = 8;

// The shift of one row becomes the largest of its scores so far; `tops` are the largest new ones, lane by lane.
template <typename A>
void raise_shift(const AttentionArgs& args, ForwardScratch<A>& scratch, int64_t row, Vector<A> tops, A* scores) {
  constexpr int L = kLanes<A>;
  A top = tops[0];
  for (int i = 1; i < L; ++i) top = tops[i] > top ? tops[i] : top;
  const bool first = scratch.limit[row] < 0;
  const A factor = first ? A{0} : exp2_one(-top);
  A* sums = scratch.sums + row * args.padded;
  for (int64_t d = 0; !first && d < args.padded; d += L) store(sums + d, load(sums + d) * factor);
  store(scratch.totals + row * L, load(scratch.totals + row * L) * factor);
  for (int j = 0; j < kTile; j += L) store(scores + j, load(scores + j) - top);
  scratch.shift[row] += top;
  scratch.limit[row] = kSlack<A>;
}

// scores (64) of one row, less its shift, become its weights: 0 where the bit is not set.
template <typename A>
TMT_INLINE void softmax_tile(const AttentionArgs& args, ForwardScratch<A>& scratch, int64_t row, uint64_t word,
                             A* scores) {
  constexpr int L = kLanes<A>;
  Vector<A> tops = broadcast(static_cast<A>(-__builtin_inf()));
#pragma GCC unroll 16
  for (int j = 0; j < kTile; j += L) tops = larger_where(word >> j, tops, load(scores + j));
  if (lane_bits<A>(tops > scratch.limit[row])) raise_shift(args, scratch, row, tops, scores);
  Vector<A> total = load(scratch.totals + row * L);
#pragma GCC unroll 16
  for (int j = 0; j < kTile; j += L) {
    const Vector<A> p = choose(word >> j, exp2(load(scores + j)), Vector<A>{});
    store(scores + j, p);
    total += p;
  }
  store(scratch.totals + row * L, total);
}

template <int R, typename A>
TMT_INLINE void forward_group(const AttentionArgs& args, ForwardScratch<A>& scratch, const ActiveRows& active,
                              int64_t first, int64_t count) {
  const int32_t* rows = active.rows + first;
  const A* query[R];
  A *sums[R], shift[R];
  for (int r = 0; r < R; ++r) {
    query[r] = scratch.query + rows[r] * args.padded;
    sums[r] = scratch.sums + rows[r] * args.padded;
    shift[r] = scratch.shift[rows[r]];
  }
  products_with_keys<R>(query, scratch.keys, args.dim, shift, scratch.scores);
  for (int r = 0; r < R; ++r) softmax_tile(args, scratch, rows[r], active.words[first + r], scratch.scores + r * kTile);
  add_products<R>(sums, scratch.scores, kTile, 1, scratch.value_rows, count, args.padded);
}

// Rows [block, end): their queries, scaled, and nothing attended yet.
template <typename T, typename A = Accumulate<T>>
void begin_block(const AttentionArgs& args, const T* queries, int64_t block, int64_t end, ForwardScratch<A>& scratch) {
  const A scale = static_cast<A>(kLog2E / __builtin_sqrt(static_cast<double>(args.dim)));
  for (int64_t n = block; n < end; ++n)
    load_row(queries + n * args.query.row, scale, args.dim, args.padded, scratch.query + (n - block) * args.padded);
  zero(scratch.sums, (end - block) * args.padded);
  zero(scratch.totals, (end - block) * kLanes<A>);
  for (int64_t n = 0; n < end - block; ++n) {
    scratch.shift[n] = 0;
    scratch.limit[n] = static_cast<A>(-__builtin_inf());
  }
}

template <typename T, typename A>
TMT_INLINE void load_forward_tile(const AttentionArgs& args, int64_t b, int64_t h, int64_t tile,
                                  ForwardScratch<A>& to) {
  const KeyPlan& plan = args.plans[b];
  const int64_t count = tile_count(plan, tile);
  const T* rows[kTile];
  tile_rows(args.key, b, h, plan, tile, rows);
  load_tile_transposed(rows, count, args.dim, to.keys);
  tile_rows(args.value, b, h, plan, tile, rows);
  load_tile(rows, count, args.dim, args.padded, to.values);
}

// One row's result: output (D) and lse, in powers of 2: the backward subtracts it from scores in powers of 2, and of
// huge ones the factor between the logarithms would lose the difference. `head` counts over (B, heads).
template <typename T, typename A = Accumulate<T>>
TMT_INLINE void store_result(const AttentionArgs& args, int64_t head, int64_t n, const A* sums, A total, A shift) {
  T* output = head_of<T>(args.output, head / args.heads, head % args.heads) + n * args.output.row;
  store_row(sums, total == 0 ? A{0} : 1 / total, args.dim, output);
  static_cast<A*>(args.lse)[head * args.queries + n] = shift + log2_one(total);
}

// Rows of the block are done for this split: results where it is the only one, else a part for forward_finish.
template <typename T, typename A>
void end_block(const AttentionArgs& args, int64_t head, int64_t split, int64_t block, int64_t end,
               const ForwardScratch<A>& scratch) {
  for (int64_t n = block; n < end; ++n) {
    const A* sums = scratch.sums + (n - block) * args.padded;
    const A total = sum<A>(load(scratch.totals + (n - block) * kLanes<A>)), shift = scratch.shift[n - block];
    if (args.splits == 1) {
      store_result<T>(args, head, n, sums, total, shift);
      continue;
    }
    A* part = static_cast<A*>(args.partial) + ((head * args.splits + split) * args.queries + n) * part_size(args);
    for (int64_t d = 0; d < args.padded; ++d) part[d] = sums[d];
    part[args.padded] = total;
    part[args.padded + 1] = shift;
  }
}

// The first tile from `tile` on that has active rows in [block, end), or the tile after the last.
TMT_INLINE void find_tile(const AttentionArgs& args, const KeyPlan& plan, int64_t tile, int64_t last, int64_t block,
                          int64_t end, ActiveRows& to) {
  to.tile = tile;
  for (; tile < last; ++tile) {
    find_rows(plan, args.queries, tile, block, end, to);
    if (to.count != 0) return;
    to.tile = last;
  }
}

template <typename T, typename A = Accumulate<T>>
void forward_block(const AttentionArgs& args, int64_t b, int64_t h, int64_t split, int64_t block,
                   ForwardScratch<A>& scratch) {
  const KeyPlan& plan = args.plans[b];
  const TileRange range = tile_range(args, plan, split);
  const int64_t end = block + kBlockRows < args.queries ? block + kBlockRows : args.queries;
  ActiveRows *active = &scratch.active[0], *next = &scratch.active[1];
  begin_block(args, head_of<T>(args.query, b, h), block, end, scratch);
  find_tile(args, plan, range.begin, range.end, block, end, *active);
  while (active->tile < range.end) {
    find_tile(args, plan, active->tile + 1, range.end, block, end, *next);
    load_forward_tile<T>(args, b, h, active->tile, scratch);
    Prefetch<T> prefetch;
    begin_prefetch(args, b, h, plan, next->tile, range.end, active->count, prefetch);
    const int64_t count = tile_count(plan, active->tile);
    for_row_groups(active->count, [&](auto group, int64_t first) __attribute__((always_inline)) {
      prefetch_share(prefetch, args.dim);
      forward_group<decltype(group)::value>(args, scratch, *active, first, count);
    });
    ActiveRows* done = active;
    active = next;
    next = done;
  }
  end_block<T>(args, b * args.heads + h, split, block, end, scratch);
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

// One row: merges its parts, `step` values apart, in order.
template <typename T, typename A = Accumulate<T>>
void finish_row(const AttentionArgs& args, int64_t head, int64_t n, const A* parts, int64_t step, A* sums) {
  A shift = static_cast<A>(-__builtin_inf()), total = 0;
  for (int64_t s = 0; s < args.splits; ++s) {
    const A* part = parts + s * step + args.padded;
    if (part[0] != 0 && part[1] > shift) shift = part[1];
  }
  zero(sums, args.padded);
  for (int64_t s = 0; s < args.splits; ++s) {
    const A* part = parts + s * step;
    if (part[args.padded] == 0) continue;  // nothing attended in this split
    const A factor = exp2_one(part[args.padded + 1] - shift);
    total += part[args.padded] * factor;
    for (int64_t d = 0; d < args.padded; ++d) sums[d] += part[d] * factor;
  }
  store_result<T>(args, head, n, sums, total, shift);
}

template <typename T, typename A = Accumulate<T>>
void forward_finish(const AttentionArgs& args, int64_t begin, int64_t end) {
  A sums[kMaxHeadDim];
  const int64_t size = part_size(args);
  for (int64_t row = begin * args.queries; row < end * args.queries; ++row) {
    const int64_t head = row / args.queries, n = row % args.queries;
    const A* parts = static_cast<const A*>(args.partial) + (head * args.splits * args.queries + n) * size;
    finish_row<T>(args, head, n, parts, args.queries * size, sums);
  }
}

}  // namespace
}  // namespace tmt::attention::cpu::TMT_SIMD
