// The superpixel's arithmetic on one tile: at most 64 pixels of one cell, which share nine centres. Similarity and
// accumulation are small matrix products, 9 x C by C x pixels and 9 x pixels by pixels x C; each reads the tile in the
// layout it vectorises over, so a tile is kept in both.
#pragma once

#include <utility>

#include "simd.h"
#include "superpixel_kernels.h"

#include "../superpixel.h"

namespace tmt::cpu::TMT_SIMD {

using superpixel::kNeighbours;
using superpixel::kOwn;

constexpr int64_t kTile = kTilePixels;

template <typename A>
struct Tile {
  int64_t y, x, height, width;  // pixels of the image
  int64_t column;               // cell column
  int64_t count;                // height * width
  int64_t first;                // place of its first pixel in tile order
  A* pixels;                    // (C, tile_stride): channel-major, zero beyond count
};

template <typename A>
struct Strip {
  Tile<A> tiles[kStripTiles];
  int64_t size;
};

// ---- reading and writing tiles --------------------------------------------------------------------------------------

// By way of registers: the compiler must not fear that `to` and `from` overlap.
template <int kWidth, typename To, typename From>
TMT_INLINE void copy_fixed(To* to, const From* from) {
  To run[kWidth];
  for (int i = 0; i < kWidth; ++i) store_one(run + i, load_one(from + i));
  __builtin_memcpy(to, run, sizeof(run));
}

template <typename To, typename From>
TMT_INLINE void copy_run(To* to, const From* from, int64_t size) {
  if (size == 8) return copy_fixed<8>(to, from);
  if (size == 4) return copy_fixed<4>(to, from);
  for (int64_t i = 0; i < size; ++i) store_one(to + i, load_one(from + i));
}

template <int kWidth, typename A>
TMT_INLINE void add_fixed(A* to, const A* from) {
  A run[kWidth];
  for (int i = 0; i < kWidth; ++i) run[i] = to[i] + from[i];
  __builtin_memcpy(to, run, sizeof(run));
}

template <typename A>
TMT_INLINE void add_run(A* to, const A* from, int64_t size) {
  if (size == 8) return add_fixed<8>(to, from);
  if (size == 4) return add_fixed<4>(to, from);
  for (int64_t i = 0; i < size; ++i) to[i] += from[i];
}

// Channels are far apart in memory, and planes of a power of two share cache sets: hardware does not fetch ahead, and
// what is fetched too early is lost again.
template <int kWrite, typename T>
TMT_INLINE void fetch_ahead(const T* row, int64_t c, const SuperpixelGrid& grid) {
  const int64_t ahead = 48 / grid.tile_height();  // about 48 cache lines
  __builtin_prefetch(row + (c + ahead < grid.channels ? ahead * grid.pixels() : 0), kWrite);
}

// Reads every tile of the strip from an image (C, H, W), whole cache lines at a time, into `pixels`.
template <typename T, typename A>
void read_strip(const T* image, const SuperpixelGrid& grid, Strip<A>& strip) {
  const int64_t stride = grid.tile_stride();
  for (int64_t c = 0; c < grid.channels; ++c) {
    for (int64_t y = 0; y < strip.tiles[0].height; ++y) {
      const T* row = image + (c * grid.height + strip.tiles[0].y + y) * grid.width;
      fetch_ahead<0>(row + strip.tiles[0].x, c, grid);
      for (int64_t t = 0; t < strip.size; ++t) {
        const Tile<A>& tile = strip.tiles[t];
        copy_run(tile.pixels + c * stride + y * tile.width, row + tile.x, tile.width);
      }
    }
    for (int64_t t = 0; t < strip.size; ++t)
      for (int64_t p = strip.tiles[t].count; p < stride; ++p) strip.tiles[t].pixels[c * stride + p] = 0;
  }
}

// Writes (kAdd: adds) `pixels` of every tile into an image (C, H, W).
template <bool kAdd, typename A>
void write_strip(const Strip<A>& strip, const SuperpixelGrid& grid, A* image) {
  for (int64_t c = 0; c < grid.channels; ++c)
    for (int64_t y = 0; y < strip.tiles[0].height; ++y) {
      A* row = image + (c * grid.height + strip.tiles[0].y + y) * grid.width;
      fetch_ahead<1>(row + strip.tiles[0].x, c, grid);
      for (int64_t t = 0; t < strip.size; ++t) {
        const Tile<A>& tile = strip.tiles[t];
        const A* from = tile.pixels + c * grid.tile_stride() + y * tile.width;
        kAdd ? add_run(row + tile.x, from, tile.width) : copy_run(row + tile.x, from, tile.width);
      }
    }
}

// ---- transposition --------------------------------------------------------------------------------------------------

#if defined(__clang__)
#define TMT_SHUFFLE(A, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define TMT_SHUFFLE(A, a, b, ...) __builtin_shuffle(a, b, (typename VectorOf<A>::mask){__VA_ARGS__})
#endif

// a0 b0 a1 b1 ..., from the lower (kFrom 0) or the upper halves.
template <typename A, int kFrom, int... kLane>
TMT_INLINE Vector<A> interleave(Vector<A> a, Vector<A> b, std::integer_sequence<int, kLane...>) {
  return TMT_SHUFFLE(A, a, b, (kFrom * kLanes<A> / 2 + kLane / 2 + (kLane % 2) * kLanes<A>)...);
}

// Transposes a square of kLanes x kLanes: log2 rounds of a perfect shuffle of its rows.
template <typename A>
TMT_INLINE void transpose_square(const A* from, int64_t from_stride, A* to, int64_t to_stride) {
  constexpr int kSize = kLanes<A>;
  constexpr auto lanes = std::make_integer_sequence<int, kSize>{};
  Vector<A> rows[kSize], next[kSize];
#pragma GCC unroll 16
  for (int i = 0; i < kSize; ++i) rows[i] = load(from + i * from_stride);
#pragma GCC unroll 4
  for (int round = 1; round < kSize; round *= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < kSize / 2; ++i) {
      next[2 * i] = interleave<A, 0>(rows[i], rows[i + kSize / 2], lanes);
      next[2 * i + 1] = interleave<A, 1>(rows[i], rows[i + kSize / 2], lanes);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kSize; ++i) rows[i] = next[i];
  }
#pragma GCC unroll 16
  for (int i = 0; i < kSize; ++i) store(to + i * to_stride, rows[i]);
}

// channels (count, channel_stride), pixel-major, from the tile's `pixels`, whose rows beyond C must be zero.
template <typename A>
void transpose_tile(const Tile<A>& tile, const SuperpixelGrid& grid, A* channels) {
  const int64_t stride = grid.tile_stride(), channel_stride = grid.channel_stride();
  for (int64_t c = 0; c < channel_stride; c += kLanes<A>)
    for (int64_t p = 0; p < tile.count; p += kLanes<A>)
      transpose_square(tile.pixels + c * stride + p, stride, channels + p * channel_stride + c, channel_stride);
}

// ---- similarity -----------------------------------------------------------------------------------------------------

// dots[n][p] = sum_c centres[n][c] pixels[c][p], for kWide vectors of pixels.
template <int kWide, typename A>
TMT_INLINE void dots_block(const A* pixels, int64_t stride, const A* centres, int64_t centre_stride, int64_t channels,
                           A* dots) {
  Vector<A> total[kNeighbours][kWide] = {};
  for (int64_t c = 0; c < channels; ++c) {
    Vector<A> x[kWide];
#pragma GCC unroll 4
    for (int v = 0; v < kWide; ++v) x[v] = load(pixels + c * stride + v * kLanes<A>);
#pragma GCC unroll 9
    for (int n = 0; n < kNeighbours; ++n) {
      const Vector<A> centre = broadcast(centres[n * centre_stride + c]);
#pragma GCC unroll 4
      for (int v = 0; v < kWide; ++v) total[n][v] += centre * x[v];
    }
  }
#pragma GCC unroll 9
  for (int n = 0; n < kNeighbours; ++n)
#pragma GCC unroll 4
    for (int v = 0; v < kWide; ++v) store(dots + n * kTile + v * kLanes<A>, total[n][v]);
}

// Vectors that fit beside nine accumulators each: two where there are 32 registers.
#if defined(TMT_SIMD_avx512) || defined(__aarch64__)
constexpr int kWide = 2;
#else
constexpr int kWide = 1;
#endif

// dots (9, kTile) = centres (9, channel_stride) times the tile.
template <typename A>
void tile_dots(const Tile<A>& tile, const SuperpixelGrid& grid, const A* centres, A* dots) {
  const int64_t stride = grid.tile_stride(), centre_stride = grid.channel_stride();
  int64_t p = 0;
  for (; p + (kWide - 1) * kLanes<A> < tile.count; p += kWide * kLanes<A>)
    dots_block<kWide>(tile.pixels + p, stride, centres, centre_stride, grid.channels, dots + p);
  for (; p < tile.count; p += kLanes<A>)
    dots_block<1>(tile.pixels + p, stride, centres, centre_stride, grid.channels, dots + p);
}

// ---- accumulation ---------------------------------------------------------------------------------------------------

// to[n][c] += sum_p weights[n][p] channels[p][c], for kWide vectors of channels.
template <int kWide, typename A>
TMT_INLINE void sums_block(const A* channels, int64_t stride, const A* weights, int64_t count, A* const* to,
                           int64_t c) {
  Vector<A> total[kNeighbours][kWide];
#pragma GCC unroll 9
  for (int n = 0; n < kNeighbours; ++n)
#pragma GCC unroll 4
    for (int v = 0; v < kWide; ++v) total[n][v] = load(to[n] + c + v * kLanes<A>);
  for (int64_t p = 0; p < count; ++p) {
    Vector<A> x[kWide];
#pragma GCC unroll 4
    for (int v = 0; v < kWide; ++v) x[v] = load(channels + p * stride + c + v * kLanes<A>);
#pragma GCC unroll 9
    for (int n = 0; n < kNeighbours; ++n) {
      const Vector<A> weight = broadcast(weights[n * kTile + p]);
#pragma GCC unroll 4
      for (int v = 0; v < kWide; ++v) total[n][v] += weight * x[v];
    }
  }
#pragma GCC unroll 9
  for (int n = 0; n < kNeighbours; ++n)
#pragma GCC unroll 4
    for (int v = 0; v < kWide; ++v) store(to[n] + c + v * kLanes<A>, total[n][v]);
}

// Adds weights (9, kTile) times the tile's channels (count, channel_stride) to the nine cells' sums.
template <typename A>
void tile_sums(const Tile<A>& tile, const SuperpixelGrid& grid, const A* channels, const A* weights, A* const* to) {
  const int64_t stride = grid.channel_stride();
  int64_t c = 0;
  for (; c + (kWide - 1) * kLanes<A> < stride; c += kWide * kLanes<A>)
    sums_block<kWide>(channels, stride, weights, tile.count, to, c);
  for (; c < stride; c += kLanes<A>) sums_block<1>(channels, stride, weights, tile.count, to, c);
}

// ---- norms ----------------------------------------------------------------------------------------------------------

// 1 / max(norm, eps).
template <typename A>
TMT_INLINE A inverse_norm(A norm) {
  const A eps = static_cast<A>(superpixel::kNormEps);
  return 1 / (norm < eps ? eps : norm);
}

// The norm of x[0], x[stride], ..., scaled so that squares of huge values do not overflow.
template <typename A>
A scaled_norm(const A* x, int64_t stride, int64_t size) {
  constexpr A kDown = sizeof(A) == 8 ? A(0x1p-600) : A(0x1p-80f);
  A total = 0;
  for (int64_t c = 0; c < size; ++c) total += (x[c * stride] * kDown) * (x[c * stride] * kDown);
  return static_cast<A>(__builtin_sqrt(static_cast<double>(total))) / kDown;
}

template <typename A>
TMT_INLINE A norm_from_square(A square, const A* x, int64_t stride, int64_t size) {
  constexpr A kLargest = sizeof(A) == 8 ? A(0x1p1000) : A(0x1p120f);
  if (square > kLargest) return scaled_norm(x, stride, size);
  return static_cast<A>(__builtin_sqrt(static_cast<double>(square)));
}

// inverse_norms[p] of every pixel of the tile.
template <typename A>
void tile_norms(const Tile<A>& tile, const SuperpixelGrid& grid, A* inverse_norms) {
  const int64_t stride = grid.tile_stride();
  for (int64_t p = 0; p < tile.count; p += kLanes<A>) {
    Vector<A> square = {};
    for (int64_t c = 0; c < grid.channels; ++c) {
      const Vector<A> x = load(tile.pixels + c * stride + p);
      square += x * x;
    }
    for (int64_t i = 0; i < kLanes<A> && p + i < tile.count; ++i) {
      const A norm = norm_from_square<A>(square[i], tile.pixels + p + i, stride, grid.channels);
      inverse_norms[p + i] = inverse_norm(norm);
    }
  }
}

// ---- softmax --------------------------------------------------------------------------------------------------------

template <typename A>
using Mask = typename VectorOf<A>::mask;

// Lanes p, p+1, ... that are pixels of the tile.
template <typename A>
TMT_INLINE Mask<A> lanes_below(int64_t p, int64_t count) {
  Mask<A> lane;
  for (int i = 0; i < kLanes<A>; ++i) lane[i] = i;
  using Index = std::remove_reference_t<decltype(lane[0])>;
  return lane < static_cast<Index>(count - p);
}

// Softmax over the neighbours that exist, in place of the exponents; returns the first neighbour with the largest one.
// NaN exponents give NaN everywhere, and neighbour kOwn.
template <typename A>
TMT_INLINE Mask<A> softmax_vector(Vector<A>* exponents, const bool* exists) {
  Vector<A> largest = broadcast(-static_cast<A>(__builtin_inf()));
  Mask<A> best = Mask<A>{} + kOwn;
#pragma GCC unroll 9
  for (int n = 0; n < kNeighbours; ++n) {
    if (!exists[n]) continue;
    const Mask<A> larger = exponents[n] > largest;
    largest = larger ? exponents[n] : largest;
    best = larger ? Mask<A>{} + n : best;
  }
  Vector<A> total = {};
#pragma GCC unroll 9
  for (int n = 0; n < kNeighbours; ++n) {
    exponents[n] = exists[n] ? exp(exponents[n] - largest) : Vector<A>{};
    total += exponents[n];
  }
  const Vector<A> scale = 1 / total;
#pragma GCC unroll 9
  for (int n = 0; n < kNeighbours; ++n) exponents[n] = exists[n] ? exponents[n] * scale : Vector<A>{};
  return best;
}

// weights (9, kTile), in place of the dots: the assignment, 0 beyond count. best (kTile): its argmax.
// masses[n] += the assignment's sum over the tile.
template <typename A>
void tile_softmax(const Tile<A>& tile, const A* inverse_norms, A kappa, const bool* exists, A* weights,
                  A* const* masses, int8_t* best) {
  Vector<A> mass[kNeighbours] = {};
  for (int64_t p = 0; p < tile.count; p += kLanes<A>) {
    const Vector<A> scale = load(inverse_norms + p) * kappa;
    const Mask<A> inside = lanes_below<A>(p, tile.count);
    Vector<A> a[kNeighbours];
#pragma GCC unroll 9
    for (int n = 0; n < kNeighbours; ++n) a[n] = load(weights + n * kTile + p) * scale;
    const Mask<A> nearest = softmax_vector<A>(a, exists);
#pragma GCC unroll 9
    for (int n = 0; n < kNeighbours; ++n) {
      a[n] = inside ? a[n] : Vector<A>{};
      mass[n] += a[n];
      store(weights + n * kTile + p, a[n]);
    }
    if (best != nullptr)
      for (int i = 0; i < kLanes<A>; ++i) best[p + i] = static_cast<int8_t>(nearest[i]);
  }
  for (int n = 0; n < kNeighbours; ++n) *masses[n] += sum<A>(mass[n]);
}

}  // namespace tmt::cpu::TMT_SIMD
