// The superpixel's arithmetic on one tile: at most 64 pixels of one cell, which share nine centres. Similarity and
// accumulation are small matrix products, 9 x C by C x pixels and 9 x pixels by pixels x C; each reads the tile in the
// layout it vectorises over.
#pragma once

#include <type_traits>

#include "common/cpu/simd_bits.h"
#include "superpixel/cpu/kernels.h"

#include "superpixel/definitions.h"

namespace tmt::superpixel::cpu::TMT_SIMD {

using namespace tmt::cpu::TMT_SIMD;

constexpr int64_t kTile = kTilePixels;
constexpr int64_t kLinesAhead = 48;  // cache lines of an image under way

// T is the features' dtype, A = Accumulate<T> what is computed in.
template <typename T>
struct Tile {
  int64_t y, x, height, width;  // pixels of the image
  int64_t column;               // cell column
  int64_t count;                // height * width
  int64_t first;                // place of its first pixel in tile order
  T* pixels;                    // (C, count); vectors may read up to kVectorPadding values beyond
};

// Tiles side by side, of equal height, their pixels one after another in memory.
template <typename T>
struct Strip {
  Tile<T> tiles[kStripTiles];
  int64_t size;

  // The width that all tiles have, 0 where they differ.
  int64_t width() const {
    for (int64_t t = 1; t < size; ++t)
      if (tiles[t].width != tiles[0].width) return 0;
    return tiles[0].width;
  }
};

// ---- reading and writing tiles --------------------------------------------------------------------------------------

// Calls visit(line, i) for every line of pixels that the strip covers, channel by channel: the i-th row of each tile.
// Channels are far apart in memory, and planes of a power of two share cache sets: hardware does not fetch ahead, and
// what is fetched too early is lost again.
template <int kWrite, typename Image, typename T, typename Visit>
TMT_INLINE void for_each_line(Image* image, const SuperpixelGrid& grid, const Strip<T>& strip, const Visit& visit) {
  const Tile<T>& first = strip.tiles[0];
  const int64_t height = first.height, width = grid.width, plane = grid.pixels();
  const int64_t channels = grid.channels, ahead = kLinesAhead / height;
  Image* top = image + first.y * width + first.x;
  for (int64_t c = 0, i = 0; c < channels; ++c, top += plane) {
    const int64_t next = c + ahead < channels ? ahead * plane : 0;
    Image* line = top;
    for (int64_t y = 0; y < height; ++y, ++i, line += width) {
      __builtin_prefetch(line + next, kWrite);
      visit(line, i);
    }
  }
}

// Between an image (C, H, W) and the pixels of the strip's tiles. kWidth is the width of every tile, so that a copy is
// one instruction or two; 0: of any widths.
template <bool kWrite, int kWidth, typename Image, typename T>
void copy_strip(Image* image, const SuperpixelGrid& grid, const Strip<T>& strip) {
  const auto copy = [](auto* line, T* run, int64_t width) {
    const auto bytes = static_cast<size_t>(width) * sizeof(T);
    if constexpr (kWrite)
      __builtin_memcpy(line, run, bytes);
    else
      __builtin_memcpy(run, line, bytes);
  };
  const int64_t size = strip.size, distance = strip.tiles[0].count * grid.channels;
  T* const pixels = strip.tiles[0].pixels;
  for_each_line<kWrite>(image, grid, strip, [&](auto* line, int64_t i) {
    if constexpr (kWidth != 0) {
      for (int64_t t = 0; t < size; ++t) copy(line + t * kWidth, pixels + t * distance + i * kWidth, kWidth);
    } else {
      for (int64_t t = 0; t < size; ++t) {
        const Tile<T>& tile = strip.tiles[t];
        copy(line + (tile.x - strip.tiles[0].x), tile.pixels + i * tile.width, tile.width);
      }
    }
  });
}

template <bool kWrite, typename Image, typename T>
void copy_strip(Image* image, const SuperpixelGrid& grid, const Strip<T>& strip) {
  switch (strip.width()) {
    case 4: return copy_strip<kWrite, 4>(image, grid, strip);
    case 8: return copy_strip<kWrite, 8>(image, grid, strip);
    case 16: return copy_strip<kWrite, 16>(image, grid, strip);
    default: return copy_strip<kWrite, 0>(image, grid, strip);
  }
}

// ---- similarity -----------------------------------------------------------------------------------------------------

// dots[n][p] = sum_c centres[n][c] pixels[c][p], for kWide vectors of pixels.
template <int kWide, typename T, typename A>
TMT_INLINE void dots_block(const T* pixels, int64_t stride, const A* centres, int64_t centre_stride, int64_t channels,
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
template <typename T, typename A>
void tile_dots(const Tile<T>& tile, const SuperpixelGrid& grid, const A* centres, A* dots) {
  const int64_t centre_stride = grid.channel_stride();
  int64_t p = 0;
  for (; p + (kWide - 1) * kLanes<A> < tile.count; p += kWide * kLanes<A>)
    dots_block<kWide>(tile.pixels + p, tile.count, centres, centre_stride, grid.channels, dots + p);
  for (; p < tile.count; p += kLanes<A>)
    dots_block<1>(tile.pixels + p, tile.count, centres, centre_stride, grid.channels, dots + p);
}

// ---- accumulation ---------------------------------------------------------------------------------------------------

// turned (kTile, kWidth * kLanes): pixel by pixel the channels c, c + 1, ...; 0 beyond C. Few enough at a time to stay
// in the nearest cache until they are summed.
template <int kWidth, typename T, typename A>
TMT_INLINE void turn_block(const Tile<T>& tile, int64_t c, int64_t channels, A* turned) {
  for (int v = 0; v < kWidth; ++v, c += kLanes<A>) {
    const T* from = tile.pixels + c * tile.count;
    const int64_t present = channels - c;
    for (int64_t p = 0; p < tile.count; p += kLanes<A>) {
      Vector<A> rows[kLanes<A>];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes<A>; ++i) rows[i] = i < present ? load(from + i * tile.count + p) : Vector<A>{};
      transpose<A>(rows);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes<A>; ++i) store(turned + ((p + i) * kWidth + v) * kLanes<A>, rows[i]);
    }
  }
}

// to[n][c] += sum_p weights[n][p] turned[p][c], for kWidth vectors of channels.
template <int kWidth, typename A>
TMT_INLINE void sums_block(const A* turned, const A* weights, int64_t count, A* const* to, int64_t c) {
  Vector<A> total[kNeighbours][kWidth];
#pragma GCC unroll 9
  for (int n = 0; n < kNeighbours; ++n)
#pragma GCC unroll 4
    for (int v = 0; v < kWidth; ++v) total[n][v] = load(to[n] + c + v * kLanes<A>);
  for (int64_t p = 0; p < count; ++p) {
    Vector<A> x[kWidth];
#pragma GCC unroll 4
    for (int v = 0; v < kWidth; ++v) x[v] = load(turned + (p * kWidth + v) * kLanes<A>);
#pragma GCC unroll 9
    for (int n = 0; n < kNeighbours; ++n) {
      const Vector<A> weight = broadcast(weights[n * kTile + p]);
#pragma GCC unroll 4
      for (int v = 0; v < kWidth; ++v) total[n][v] += weight * x[v];
    }
  }
#pragma GCC unroll 9
  for (int n = 0; n < kNeighbours; ++n)
#pragma GCC unroll 4
    for (int v = 0; v < kWidth; ++v) store(to[n] + c + v * kLanes<A>, total[n][v]);
}

// Adds weights (9, kTile) times the tile to the nine cells' sums (channel_stride each).
template <typename T, typename A>
void tile_sums(const Tile<T>& tile, const SuperpixelGrid& grid, const A* weights, A* turned, A* const* to) {
  int64_t c = 0;
  for (; c + (kWide - 1) * kLanes<A> < grid.channels; c += kWide * kLanes<A>) {
    turn_block<kWide>(tile, c, grid.channels, turned);
    sums_block<kWide>(turned, weights, tile.count, to, c);
  }
  for (; c < grid.channels; c += kLanes<A>) {
    turn_block<1>(tile, c, grid.channels, turned);
    sums_block<1>(turned, weights, tile.count, to, c);
  }
}

// Adds the tile's pixels to one cell's sums (channel_stride).
template <typename T, typename A>
void tile_total(const Tile<T>& tile, const SuperpixelGrid& grid, A* turned, A* to) {
  for (int64_t c = 0; c < grid.channels; c += kLanes<A>) {
    turn_block<1>(tile, c, grid.channels, turned);
    Vector<A> total = load(to + c);
    for (int64_t p = 0; p < tile.count; ++p) total += load(turned + p * kLanes<A>);
    store(to + c, total);
  }
}

// ---- norms ----------------------------------------------------------------------------------------------------------

// 1 / max(norm, eps).
template <typename A>
TMT_INLINE A inverse_norm(A norm) {
  const A eps = static_cast<A>(kNormEps);
  return 1 / (norm < eps ? eps : norm);
}

// The norm of x[0], x[stride], ..., scaled so that squares of huge values do not overflow.
template <typename T, typename A = Accumulate<T>>
A scaled_norm(const T* x, int64_t stride, int64_t size) {
  constexpr A kDown = sizeof(A) == 8 ? A(0x1p-600) : A(0x1p-80f);
  A total = 0;
  for (int64_t c = 0; c < size; ++c) {
    const A scaled = load_one(x + c * stride) * kDown;
    total += scaled * scaled;
  }
  return static_cast<A>(__builtin_sqrt(static_cast<double>(total))) / kDown;
}

template <typename T, typename A = Accumulate<T>>
TMT_INLINE A norm_from_square(A square, const T* x, int64_t stride, int64_t size) {
  constexpr A kLargest = sizeof(A) == 8 ? A(0x1p1000) : A(0x1p120f);
  if (square > kLargest) return scaled_norm(x, stride, size);
  return static_cast<A>(__builtin_sqrt(static_cast<double>(square)));
}

// inverse_norms[p] of every pixel of the tile.
template <typename T, typename A>
void tile_norms(const Tile<T>& tile, const SuperpixelGrid& grid, A* inverse_norms) {
  for (int64_t p = 0; p < tile.count; p += kLanes<A>) {
    Vector<A> square = {};
    for (int64_t c = 0; c < grid.channels; ++c) {
      const Vector<A> x = load(tile.pixels + c * tile.count + p);
      square += x * x;
    }
    for (int64_t i = 0; i < kLanes<A> && p + i < tile.count; ++i) {
      const A norm = norm_from_square(square[i], tile.pixels + p + i, tile.count, grid.channels);
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

// The largest exponent of the neighbours that exist; NaN ones do not count.
template <typename A>
TMT_INLINE Vector<A> largest_exponent(const Vector<A>* exponents, const bool* exists) {
  Vector<A> largest = broadcast(-static_cast<A>(__builtin_inf()));
#pragma GCC unroll 9
  for (int n = 0; n < kNeighbours; ++n)
    if (exists[n]) largest = exponents[n] > largest ? exponents[n] : largest;
  return largest;
}

// nearest_of the neighbours whose exponents are at most `tie` below the largest.
template <typename A>
TMT_INLINE Mask<A> nearest_neighbour(const Vector<A>* exponents, const bool* exists, A tie) {
  const Vector<A> least = largest_exponent<A>(exponents, exists) - tie;
  Mask<A> nearest = Mask<A>{} + kOwn;
#pragma GCC unroll 9
  for (int n = kNeighbours - 1; n >= 0; --n)
    if (exists[n]) nearest = exponents[n] >= least ? Mask<A>{} + n : nearest;
  return exponents[kOwn] >= least ? Mask<A>{} + kOwn : nearest;
}

// Softmax over the neighbours that exist, in place of the exponents. NaN exponents give NaN everywhere.
template <typename A>
TMT_INLINE void softmax_vector(Vector<A>* exponents, const bool* exists) {
  const Vector<A> largest = largest_exponent<A>(exponents, exists);
  Vector<A> total = {};
#pragma GCC unroll 9
  for (int n = 0; n < kNeighbours; ++n) {
    exponents[n] = exists[n] ? exp(exponents[n] - largest) : Vector<A>{};
    total += exponents[n];
  }
  const Vector<A> scale = 1 / total;
#pragma GCC unroll 9
  for (int n = 0; n < kNeighbours; ++n) exponents[n] = exists[n] ? exponents[n] * scale : Vector<A>{};
}

// weights (9, kTile), in place of the dots: the assignment, 0 beyond count; masses[n] += its sum over the tile.
// best (kTile), or null: the nearest neighbours.
template <typename T, typename A>
void tile_softmax(const Tile<T>& tile, const A* inverse_norms, A kappa, const bool* exists, A* weights,
                  A* const* masses, int8_t* best) {
  Vector<A> mass[kNeighbours] = {};
  for (int64_t p = 0; p < tile.count; p += kLanes<A>) {
    const Vector<A> scale = load(inverse_norms + p) * kappa;
    const Mask<A> inside = lanes_below<A>(p, tile.count);
    Vector<A> a[kNeighbours];
#pragma GCC unroll 9
    for (int n = 0; n < kNeighbours; ++n) a[n] = load(weights + n * kTile + p) * scale;
    if (best != nullptr) {
      const Mask<A> nearest = nearest_neighbour<A>(a, exists, kappa * static_cast<A>(kTie));
      for (int i = 0; i < kLanes<A>; ++i) best[p + i] = static_cast<int8_t>(nearest[i]);
    }
    softmax_vector<A>(a, exists);
#pragma GCC unroll 9
    for (int n = 0; n < kNeighbours; ++n) {
      a[n] = inside ? a[n] : Vector<A>{};
      mass[n] += a[n];
      store(weights + n * kTile + p, a[n]);
    }
  }
  for (int n = 0; n < kNeighbours; ++n) *masses[n] += sum<A>(mass[n]);
}

}  // namespace tmt::superpixel::cpu::TMT_SIMD
