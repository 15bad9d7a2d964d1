// The backward of one tile. With the assignment a(n, p), the cosines cos(n, p) = <f^_n, x^_p>, and g(n, p) the gradient
// of a(n, p), the gradients of the exponents' cosines are u(n, p) = kappa a (g - sum_m a g), and
//   dx(p) = sum_n a pull_n + inverse_norm(p) (sum_n u f^_n - x^(p) sum_n u cos).
#pragma once

#include "superpixel_rows.h"

namespace tmt::cpu::TMT_SIMD {

// From work.weights = <f^_n, x> and work.slopes = g without the masses' part: work.weights = a,
// work.slopes = u * inverse_norm, and work.lengths, the factor of x itself in dx.
template <typename A>
void tile_softmax_gradient(const Tile<A>& tile, const A* inverse_norms, A kappa, const bool* exists,
                           const A* mass_pulls, const Workspace<A>& work) {
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
      gradient[n] = load(work.slopes + n * kTile + p) + mass_pulls[n];
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
    store(work.lengths + p, clamped ? Vector<A>{} : -(along * inverse) * inverse);
  }
}

// The tile's `pixels` become this iteration's part of their gradient.
template <typename A>
void tile_gradient(const Tile<A>& tile, const SuperpixelGrid& grid, const Workspace<A>& work) {
  const int64_t stride = grid.tile_stride(), centre_stride = grid.channel_stride();
  for (int64_t p = 0; p < tile.count; p += kLanes<A>) {
    const Vector<A> length = load(work.lengths + p);
    Vector<A> a[kNeighbours], u[kNeighbours];
#pragma GCC unroll 9
    for (int n = 0; n < kNeighbours; ++n) {
      a[n] = load(work.weights + n * kTile + p);
      u[n] = load(work.slopes + n * kTile + p);
    }
    for (int64_t c = 0; c < grid.channels; ++c) {
      A* x = tile.pixels + c * stride + p;
      Vector<A> pulled = {}, turned = load(x) * length;
#pragma GCC unroll 9
      for (int n = 0; n < kNeighbours; ++n) {
        pulled += a[n] * work.pulls[n * centre_stride + c];
        turned += u[n] * work.centres[n * centre_stride + c];
      }
      store(x, pulled + turned);
    }
  }
}

}  // namespace tmt::cpu::TMT_SIMD
