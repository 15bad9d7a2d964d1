// The backward of one tile. With iteration k's assignment a(n, p), the cosines cos(n, p) = <f^_n, x^_p>, and g(n, p)
// the gradient of a(n, p), the gradients of the exponents' cosines are u(n, p) = kappa a (g - sum_m a g), and
//   dx(p) = sum_k sum_n (a pull_n + inverse_norm(p) u f^_n) - x(p) inverse_norm(p)^2 sum_k sum_n u cos.
// An iteration only keeps its a and inverse_norm(p) u; the sums over k are made at the end, in one product per tile.
#pragma once

#include "superpixel/cpu/rows.h"

namespace tmt::superpixel::cpu::TMT_SIMD {

// The first `size` lanes, at most all.
template <typename T>
TMT_INLINE void store_part(T* to, Vector<Accumulate<T>> v, int64_t size) {
  if (size >= kLanes<Accumulate<T>>) return store(to, v);
  for (int64_t i = 0; i < size; ++i) store_one(to + i, v[i]);
}

// From work.weights = <f^_n, x> and work.slopes = g without the masses' part: work.weights = a and
// work.slopes = u * inverse_norm. Adds the factor of x itself in dx to lengths (count).
template <typename T, typename A>
void tile_softmax_gradient(const Tile<T>& tile, const A* inverse_norms, A kappa, const bool* exists,
                           const Workspace<T>& work, A* lengths) {
  for (int64_t p = 0; p < tile.count; p += kLanes<A>) {
    const Vector<A> inverse = load(inverse_norms + p);
    const Mask<A> inside = lanes_below<A>(p, tile.count);
    Vector<A> a[kNeighbours], cosine[kNeighbours], gradient[kNeighbours];
    Vector<A> mean = {}, along = {};
#pragma GCC unroll 9
    for (int n = 0; n < kNeighbours; ++n) {
      cosine[n] = load(work.weights + n * kTile + p) * inverse;
      a[n] = cosine[n] * kappa;
    }
    softmax_vector<A>(a, exists);
#pragma GCC unroll 9
    for (int n = 0; n < kNeighbours; ++n) {
      gradient[n] = load(work.slopes + n * kTile + p) + work.mass_pulls[n];
      mean += a[n] * gradient[n];
    }
#pragma GCC unroll 9
    for (int n = 0; n < kNeighbours; ++n) {
      const Vector<A> u = kappa * a[n] * (gradient[n] - mean);
      along += u * cosine[n];
      store(work.weights + n * kTile + p, inside ? a[n] : Vector<A>{});
      store(work.slopes + n * kTile + p, inside ? u * inverse : Vector<A>{});
    }
    const Mask<A> clamped = inverse >= inverse_norm(A(0));  // a clamped norm has no gradient
    const Vector<A> length = clamped ? Vector<A>{} : -(along * inverse) * inverse;
    store_part(lengths + p, load(lengths + p) + length, tile.count - p);
  }
}

// Pixels p .. of channels c .. c + kRows - 1 of the tile become their gradient: x * lengths + means, plus
// the sum over `terms` of shares[term][p] factors[term][c].
template <int kWidth, int kRows, typename T, typename A>
TMT_INLINE void gradient_block(const Tile<T>& tile, int64_t c, int64_t p, const A* lengths, const A* means,
                               const A* shares, const A* factors, int64_t factor_stride, int64_t terms) {
  Vector<A> total[kRows][kWidth];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kWidth; ++v) {
      const int64_t place = p + v * kLanes<A>;
      total[r][v] = load(tile.pixels + (c + r) * tile.count + place) * load(lengths + place) + means[c + r];
    }
  for (int64_t term = 0; term < terms; ++term) {
    Vector<A> share[kWidth];
#pragma GCC unroll 4
    for (int v = 0; v < kWidth; ++v) share[v] = load(shares + term * tile.count + p + v * kLanes<A>);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vector<A> factor = broadcast(factors[term * factor_stride + c + r]);
#pragma GCC unroll 4
      for (int v = 0; v < kWidth; ++v) total[r][v] += factor * share[v];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kWidth; ++v) {
      const int64_t place = p + v * kLanes<A>;
      store_part(tile.pixels + (c + r) * tile.count + place, total[r][v], tile.count - place);
    }
}

template <int kWidth, typename T, typename A>
TMT_INLINE void gradient_channels(const Tile<T>& tile, int64_t channels, int64_t p, const A* lengths, const A* means,
                                  const A* shares, const A* factors, int64_t factor_stride, int64_t terms) {
  constexpr int kRows = kWidth > 1 ? 4 : 8;  // enough sums to hide a multiplication's latency
  int64_t c = 0;
  for (; c + kRows <= channels; c += kRows)
    gradient_block<kWidth, kRows>(tile, c, p, lengths, means, shares, factors, factor_stride, terms);
  for (; c < channels; ++c)
    gradient_block<kWidth, 1>(tile, c, p, lengths, means, shares, factors, factor_stride, terms);
}

// The tile's pixels become their gradient. lengths (count), means (C): gradient of every pixel of the cell;
// shares (terms, count), factors (terms, factor_stride).
template <typename T, typename A>
void tile_gradient(const Tile<T>& tile, const SuperpixelGrid& grid, const A* lengths, const A* means, const A* shares,
                   const A* factors, int64_t terms) {
  constexpr int kWidth = 2 * kWide;
  const int64_t stride = grid.factor_stride();
  int64_t p = 0;
  for (; p + (kWidth - 1) * kLanes<A> < tile.count; p += kWidth * kLanes<A>)
    gradient_channels<kWidth>(tile, grid.channels, p, lengths, means, shares, factors, stride, terms);
  for (; p < tile.count; p += kLanes<A>)
    gradient_channels<1>(tile, grid.channels, p, lengths, means, shares, factors, stride, terms);
}

}  // namespace tmt::superpixel::cpu::TMT_SIMD
