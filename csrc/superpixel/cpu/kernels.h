// What the superpixel's host functions (superpixel/cpu/superpixel.cpp) and its kernels (superpixel/cpu/kernels.cpp) say
// to each other.
//
// Work is done on a group of images, cell row by cell row; `begin, end` count the group's cell rows. No two rows write
// the same memory in one call, and what a row adds to its neighbours' cells it keeps apart (`sums`) until the next call
// adds the parts in a fixed order: the result does not depend on the number of threads.
#pragma once

#include <cstdint>

#include "common/cpu/dispatch.h"
#include "common/cpu/element.h"
#include "superpixel/definitions.h"

namespace tmt::superpixel::cpu {

using namespace tmt::cpu;

constexpr int64_t kTilePixels = 64;     // a tile is at most this many pixels of one cell
constexpr int64_t kVectorPadding = 16;  // values that a vector of any SIMD level may reach beyond the last pixel
constexpr int64_t kStripTiles = 16;     // tiles read side by side
constexpr int64_t kTurned = 32;         // channels of a tile that are transposed at a time, at most

TMT_ALWAYS_INLINE static int64_t padded(int64_t size) {
  return (size + kVectorPadding - 1) / kVectorPadding * kVectorPadding;
}

struct SuperpixelGrid {
  int64_t channels, height, width;
  int64_t cell, rows, columns;
  int64_t iterations;
  double kappa;

  TMT_ALWAYS_INLINE int64_t regions() const { return rows * columns; }
  TMT_ALWAYS_INLINE int64_t pixels() const { return height * width; }
  TMT_ALWAYS_INLINE int64_t channel_stride() const { return padded(channels); }
  TMT_ALWAYS_INLINE int64_t tile_width() const { return cell < kTilePixels ? cell : kTilePixels; }
  TMT_ALWAYS_INLINE int64_t tile_height() const {
    return cell < kTilePixels / tile_width() ? cell : kTilePixels / tile_width();
  }
  TMT_ALWAYS_INLINE int64_t tile_values() const { return channels * tile_width() * tile_height(); }
  // Tiles side by side that make up whole cache lines of the features.
  TMT_ALWAYS_INLINE int64_t strip_tiles(int64_t element_size) const {
    const int64_t tiles = 64 / (tile_width() * element_size);
    return tiles < 1 ? 1 : (tiles > kStripTiles ? kStripTiles : tiles);
  }
  // Bytes of one thread's scratch: a strip of the features' dtype, then numbers of the accumulate dtype (Workspace).
  TMT_ALWAYS_INLINE int64_t strip_bytes(int64_t element_size) const {
    return padded((strip_tiles(element_size) * tile_values() + kVectorPadding) * element_size);
  }
  TMT_ALWAYS_INLINE int64_t workspace(int64_t element_size, int64_t accumulate_size) const {
    return strip_bytes(element_size) + accumulate_size * (kTilePixels * kTurned + 18 * channel_stride() + padded(9) +
                                                          18 * kTilePixels + 18 * iterations * factor_stride());
  }
  TMT_ALWAYS_INLINE int64_t sums_per_row() const { return 3 * (columns + 2) * channel_stride(); }
  TMT_ALWAYS_INLINE int64_t masses_per_row() const { return 3 * (columns + 2); }
  // One cache line more than channel_stride, so that rows below each other do not share cache sets.
  TMT_ALWAYS_INLINE int64_t factor_stride() const { return channel_stride() + kVectorPadding; }
  // Numbers per pixel that an iteration of the backward keeps: two for each neighbour.
  TMT_ALWAYS_INLINE int64_t shares_per_pixel() const { return iterations * 2 * kNeighbours; }
};

// Scratch is of the accumulate dtype A, for the G images of the group. B is the whole batch.
struct SuperpixelImages {
  SuperpixelGrid grid;
  Element element;
  int64_t first;         // image of the batch that is the group's first
  const void* features;  // (B, C, H, W)
  void* history;         // (B, L+1, h*w, C) of A; only read by the backward, as masses; null where none will follow
  void* masses;          // (B, L, h*w) of A: sum_p a_k(p, r); null with history
  void* inverse_norms;   // (G, H*W), tile order: 1 / max(|x|, eps)
  int64_t unit_maps;     // M: 1 in the forward, which needs the last alone; L in the backward
  void* units;           // (G, M, h*w, channel_stride): f^_k at k % M
  void* sums;            // (G, h, 3, w+2, channel_stride): what each cell row adds to the cells above, in and below it
  void* row_masses;      // (G, h, 3, w+2): the same of the assignment
};

struct SuperpixelForward : SuperpixelImages {
  void* region_features;  // (B, C, h, w)
  void* assignment;       // (B, 9, H, W)
  int64_t* labels;        // (B, H, W)
};

struct SuperpixelBackward : SuperpixelImages {
  const void* grad_region_features;  // (B, C, h, w) or null
  const void* grad_assignment;       // (B, 9, H, W) or null
  void* grad_features;               // (B, C, H, W)
  void* centre_norms;                // (G, L, h*w): 1 / max(|f_k|, eps)
  void* pulls;                       // (G, L+1, h*w, channel_stride): gradient of the sum_p a_k(p, r) x(p), a_0 = 1 / N
  void* mass_pulls;                  // (G, h*w): gradient of the present iteration's mass
  void* shares;   // (G, H*W, L, 2, 9), tile by tile: what each pixel's gradient has of each pull and f^
  void* lengths;  // (G, H*W), tile order: what it has of the pixel itself
};

#define TMT_SUPERPIXEL_KERNELS(LEVEL)                                                                                \
  namespace LEVEL {                                                                                                  \
  /* f_0 and the pixels' norms. */                                                                                   \
  void superpixel_means(const SuperpixelForward& task, int64_t begin, int64_t end, void* workspace);                 \
  /* a_k from f_(k-1), and its weighted sums; the last iteration writes assignment and labels. */                    \
  void superpixel_accumulate(const SuperpixelForward& task, int64_t k, int64_t begin, int64_t end, void* workspace); \
  /* f_k from the sums; the last iteration writes region_features. */                                                \
  void superpixel_combine(const SuperpixelForward& task, int64_t k, int64_t begin, int64_t end, void* workspace);    \
  /* f^_0 .. f^_(L-1), and the pulls of the last iteration from grad_region_features. */                             \
  void superpixel_start(const SuperpixelBackward& task, int64_t begin, int64_t end, void* workspace);                \
  /* Iteration k's shares, and the sums that are the gradient of f^_(k-1). */                                        \
  void superpixel_gradient(const SuperpixelBackward& task, int64_t k, int64_t begin, int64_t end, void* workspace);  \
  /* The pulls of iteration k-1 from those sums; for k = 1 the gradient of the cell means. */                        \
  void superpixel_pull(const SuperpixelBackward& task, int64_t k, int64_t begin, int64_t end, void* workspace);      \
  /* grad_features from everybody's shares. */                                                                       \
  void superpixel_finish(const SuperpixelBackward& task, int64_t begin, int64_t end, void* workspace);               \
  }
TMT_FOR_EACH_SIMD(TMT_SUPERPIXEL_KERNELS)
#undef TMT_SUPERPIXEL_KERNELS

}  // namespace tmt::superpixel::cpu
