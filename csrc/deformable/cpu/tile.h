// The samples of a tile of queries: where they lie in the slab, and how much of each corner they take. Plain loops over
// samples, which compilers turn into vectors.
#pragma once

#include "deformable/cpu/slab.h"
#include "deformable/definitions.h"

namespace tmt::deformable::cpu::TMT_SIMD {

constexpr int64_t kPadding = 16;  // samples that a vector may reach beyond the last
constexpr int64_t kMostSamples = 1024;
constexpr int64_t kTileRoom = (kTileSamples > kMostSamples ? kTileSamples : kMostSamples) + kPadding;

// The pixel at or before a place along an axis of `size` pixels, counted from the frame's first: 0 to size. Places that
// the sum rounds up lie a rounding before the pixel; NaN and what is outside: any of them.
template <typename A>
TMT_INLINE int32_t frame_index(A place, A size) {
  const A inside = place > A(-1) ? place : A(-1);
  return static_cast<int32_t>((inside < size - 1 ? inside : size - 1) + A(1));
}

// One entry per sample of the tile, queries one after another.
template <typename A>
struct alignas(64) Tile {
  A width[kTileRoom], height[kTileRoom];        // of the sample's level
  int32_t first[kTileRoom], stride[kTileRoom];  // row of the level's frame, rows from one line to the next
  int32_t row[kTileRoom];                       // of the upper left corner
  A along_x[kTileRoom], along_y[kTileRoom];     // place between the corners
  A weight[kTileRoom];
  A corner[kCorners][kTileRoom];  // the corners' shares of the sample
  A dot[kCorners][kTileRoom];     // backward: <gradient of the output, the corner's values>
  A xy[2 * kTileRoom];            // locations, or their gradients

  // What depends on a sample's level only, for a full tile.
  void set_levels(const DeformableArgs& args) {
    const int64_t samples = args.samples(), count = args.tile() * samples;
    int32_t at = 0;
    for (int64_t l = 0; l < args.levels; ++l) {
      const int64_t rows = args.shapes[2 * l], columns = args.shapes[2 * l + 1];
      for (int64_t p = 0; p < args.points; ++p)
        for (int64_t i = l * args.points + p; i < count; i += samples) {
          height[i] = static_cast<A>(rows);
          width[i] = static_cast<A>(columns);
          first[i] = at;
          stride[i] = static_cast<int32_t>(columns + 2);
        }
      at += static_cast<int32_t>((rows + 2) * (columns + 2));
    }
  }

  // Reads locations and weights of `queries` queries of one head; consecutive queries lie `heads` entries apart.
  void read(const DeformableArgs& args, const A* locations, const A* weights, int64_t queries) {
    const int64_t samples = args.samples();
    for (int64_t q = 0; q < queries; ++q) {
      const int64_t from = q * args.heads * samples, to = q * samples;
      for (int64_t i = 0; i < 2 * samples; ++i) xy[2 * to + i] = locations[2 * from + i];
      for (int64_t i = 0; i < samples; ++i) weight[to + i] = weights[from + i];
    }
    place(queries * samples);
  }

  // A sample outside its level lies on the frame: right end of the first line, whose neighbours on the next line are on
  // the frame, too.
  void place(int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      const A x = pixel_place(xy[2 * i], width[i]), y = pixel_place(xy[2 * i + 1], height[i]);
      const int without_x = is_outside(x, width[i]), without_y = is_outside(y, height[i]), number = (x == x) & (y == y);
      const bool outside = (without_x | without_y) & number;
      const int32_t column = frame_index(x, width[i]), line = frame_index(y, height[i]);
      row[i] = first[i] + (outside ? stride[i] - 1 : line * stride[i] + column);
      along_x[i] = outside ? A(0) : x - static_cast<A>(column - 1);
      along_y[i] = outside ? A(0) : y - static_cast<A>(line - 1);
    }
    for (int64_t i = 0; i < count; ++i) {
      const A right = along_x[i], below = along_y[i] * weight[i], above = weight[i] - below;
      corner[1][i] = above * right;
      corner[0][i] = above - corner[1][i];
      corner[3][i] = below * right;
      corner[2][i] = below - corner[3][i];
    }
  }

  // From the dots to the gradients of locations (in xy) and weights (in weight).
  void finish(int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      const A right = along_x[i], below = along_y[i];
      const A upper = dot[1][i] - dot[0][i], lower = dot[3][i] - dot[2][i];
      const A left_down = dot[2][i] - dot[0][i], right_down = dot[3][i] - dot[1][i];
      xy[2 * i] = weight[i] * width[i] * (upper + below * (lower - upper));
      xy[2 * i + 1] = weight[i] * height[i] * (left_down + right * (right_down - left_down));
      const A above_mean = dot[0][i] + right * upper, below_mean = dot[2][i] + right * lower;
      weight[i] = above_mean + below * (below_mean - above_mean);
    }
  }

  // Writes what `finish` left, as `read` reads.
  void write(const DeformableArgs& args, A* locations, A* weights, int64_t queries) const {
    const int64_t samples = args.samples();
    for (int64_t q = 0; q < queries; ++q) {
      const int64_t to = q * args.heads * samples, from = q * samples;
      for (int64_t i = 0; i < 2 * samples; ++i) locations[2 * to + i] = xy[2 * from + i];
      for (int64_t i = 0; i < samples; ++i) weights[to + i] = weight[from + i];
    }
  }
};

}  // namespace tmt::deformable::cpu::TMT_SIMD
