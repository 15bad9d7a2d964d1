// The small matrix products of the masked attention, on tiles of 64 keys held in the first-level cache.
// Everything here is in the accumulate dtype A; rows of D values are padded with zeros to `padded` (a multiple of 16).
#pragma once

#include "attention/cpu/args.h"
#include "common/cpu/rows.h"
#include "common/cpu/simd_bits.h"

namespace tmt::attention::cpu::TMT_SIMD {

using namespace tmt::cpu::TMT_SIMD;

constexpr int kTile = kWordKeys;
constexpr int kRows = kGroupRows;
// Vectors of keys beside those rows: kRows * kPanel accumulators fill the register file.
constexpr int kPanel = kVectorBytes == 64 ? 4 : 2;

// ---- rows in and out ------------------------------------------------------------------------------------------------

// (64, D) rows to (64, padded); rows past `count` become 0.
template <typename T, typename A = Accumulate<T>>
TMT_INLINE void load_tile(const T* const* rows, int64_t count, int64_t dim, int64_t padded, A* to) {
  for (int64_t j = 0; j < count; ++j) load_row(rows[j], A{1}, dim, padded, to + j * padded);
  zero(to + count * padded, (kTile - count) * padded);
}

// (64, D) rows to (D, 64), so that a vector holds one component of consecutive keys; columns past `count` become 0.
template <typename T, typename A = Accumulate<T>>
TMT_INLINE void load_tile_transposed(const T* const* rows, int64_t count, int64_t dim, A* to) {
  constexpr int L = kLanes<A>;
  for (int64_t j = 0; j < kTile; j += L) {
    int64_t d = 0;
    for (; d + L <= dim; d += L) {
      Vector<A> square[L];
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) square[i] = j + i < count ? load(rows[j + i] + d) : Vector<A>{};
      transpose<A>(square);
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) store(to + (d + i) * kTile + j, square[i]);
    }
    for (; d < dim; ++d)
      for (int i = 0; i < L; ++i) to[d * kTile + j + i] = j + i < count ? load_one(rows[j + i] + d) : A{0};
  }
}

// ---- products -------------------------------------------------------------------------------------------------------

// scores[r][j] = sum_d rows[r][d] * tile[d][j] - less[r] for R rows and 64 keys.
template <int R, typename A>
TMT_INLINE void products_with_keys(const A* const* rows, const A* tile, int64_t dim, const A* less, A* scores) {
  constexpr int L = kLanes<A>;
  for (int j = 0; j < kTile; j += L * kPanel) {
    Vector<A> sums[R][kPanel] = {};
    for (int64_t d = 0; d < dim; ++d) {
      Vector<A> keys[kPanel];
#pragma GCC unroll 4
      for (int v = 0; v < kPanel; ++v) keys[v] = load(tile + d * kTile + j + v * L);
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < kPanel; ++v) sums[r][v] += keys[v] * rows[r][d];
      }
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kPanel; ++v) store(scores + r * kTile + j + v * L, sums[r][v] - less[r]);
    }
  }
}

// One panel of V vectors of add_products.
template <int R, int V, typename A>
TMT_INLINE void add_products_panel(A* const* to, const A* weights, int64_t by_row, int64_t by_term,
                                   const A* const* terms, int64_t count, int64_t d) {
  constexpr int L = kLanes<A>;
  Vector<A> sums[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sums[r][v] = load(to[r] + d + v * L);
  }
  for (int64_t k = 0; k < count; ++k) {
    Vector<A> term[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) term[v] = load(terms[k] + d + v * L);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sums[r][v] += term[v] * weights[r * by_row + k * by_term];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(to[r] + d + v * L, sums[r][v]);
  }
}

// to[r][:] += sum_k weights[r * by_row + k * by_term] * terms[k][:] for R rows of `padded` values.
template <int R, typename A>
TMT_INLINE void add_products(A* const* to, const A* weights, int64_t by_row, int64_t by_term, const A* const* terms,
                             int64_t count, int64_t padded) {
  constexpr int64_t step = 2 * kLanes<A>;
  int64_t d = 0;
  for (; d + step <= padded; d += step) add_products_panel<R, 2>(to, weights, by_row, by_term, terms, count, d);
  for (; d < padded; d += kLanes<A>) add_products_panel<R, 1>(to, weights, by_row, by_term, terms, count, d);
}

// ---- walking over rows and keys -------------------------------------------------------------------------------------

// Calls action(Size<R>, first) for groups of kRows of `count`, then once for the rest.
template <int R>
struct Size {
  static constexpr int value = R;
};
template <typename Action>
TMT_INLINE void for_row_groups(int64_t count, const Action& action) {
  int64_t first = 0;
  for (; first + kRows <= count; first += kRows) action(Size<kRows>{}, first);
  switch (count - first) {
    case 5: return action(Size<5>{}, first);
    case 4: return action(Size<4>{}, first);
    case 3: return action(Size<3>{}, first);
    case 2: return action(Size<2>{}, first);
    case 1: return action(Size<1>{}, first);
    default: return;
  }
}

template <typename T>
TMT_INLINE const T* head_of(const Heads<const void>& tensor, int64_t b, int64_t h) {
  return static_cast<const T*>(tensor.data) + b * tensor.batch + h * tensor.head;
}
template <typename T>
TMT_INLINE T* head_of(const Heads<void>& tensor, int64_t b, int64_t h) {
  return static_cast<T*>(tensor.data) + b * tensor.batch + h * tensor.head;
}

// Tiles of one image that a split owns, and what a tile holds.
struct TileRange {
  int64_t begin, end;
};
TMT_INLINE TileRange tile_range(const AttentionArgs& args, const KeyPlan& plan, int64_t split) {
  const int64_t all = (plan.count + kTile - 1) / kTile;
  return {all * split / args.splits, all * (split + 1) / args.splits};
}
TMT_INLINE int64_t tile_count(const KeyPlan& plan, int64_t tile) {
  const int64_t left = plan.count - tile * kTile;
  return left < kTile ? left : kTile;
}
TMT_INLINE int64_t plan_key(const KeyPlan& plan, int64_t i) { return plan.keys ? plan.keys[i] : i; }
template <typename T>
TMT_INLINE void tile_rows(const Heads<const void>& tensor, int64_t b, int64_t h, const KeyPlan& plan, int64_t tile,
                          const T** rows) {
  const T* base = head_of<T>(tensor, b, h);
  const int64_t count = tile_count(plan, tile);
  for (int64_t j = 0; j < count; ++j) rows[j] = base + plan_key(plan, tile * kTile + j) * tensor.row;
}

// Asks for the rows of a coming tile, a share of them with each group of rows of the present one: in the plan's order
// they follow no pattern that the processor would see, and all at once they would hold up what is loaded now.
template <typename T>
struct Prefetch {
  int64_t at, share, count;
  const T *keys[kTile], *values[kTile];
};

// For `tile`, while `active` rows are at work; nothing where the tile is `last`, the end of the range.
template <typename T>
TMT_INLINE void begin_prefetch(const AttentionArgs& args, int64_t b, int64_t h, const KeyPlan& plan, int64_t tile,
                               int64_t last, int64_t active, Prefetch<T>& to) {
  to.at = 0;
  to.count = tile < last ? tile_count(plan, tile) : 0;
  to.share = to.count * kRows / active + 1;
  if (to.count == 0) return;
  tile_rows(args.key, b, h, plan, tile, to.keys);
  tile_rows(args.value, b, h, plan, tile, to.values);
}

template <typename T>
TMT_INLINE void prefetch_share(Prefetch<T>& rows, int64_t dim) {
  const int64_t end = rows.at + rows.share < rows.count ? rows.at + rows.share : rows.count;
  for (; rows.at < end; ++rows.at) {
    for (int64_t d = 0; d < dim; d += 64 / static_cast<int64_t>(sizeof(T))) {
      __builtin_prefetch(rows.keys[rows.at] + d);
      __builtin_prefetch(rows.values[rows.at] + d);
    }
  }
}

// The rows of a block that attend to any key of a tile, counted from the block's first, and their words.
struct ActiveRows {
  int64_t tile, count;
  int32_t rows[kBlockRows];
  uint64_t words[kBlockRows];
};

TMT_INLINE void find_rows(const KeyPlan& plan, int64_t queries, int64_t tile, int64_t begin, int64_t end,
                          ActiveRows& to) {
  const uint64_t full = valid_bits(tile, plan.count);
  to.tile = tile;
  to.count = 0;
  for (int64_t n = begin; n < end; ++n) {
    const uint64_t word = plan.bits ? plan.bits[tile * queries + n] : full;
    to.rows[to.count] = static_cast<int32_t>(n - begin);
    to.words[to.count] = word;
    to.count += word != 0;
  }
}

}  // namespace tmt::attention::cpu::TMT_SIMD
