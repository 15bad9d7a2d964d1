// What the backward pass keeps of every step, and the product at its end that makes the gradient of the pixels of it.
#pragma once

#include "superpixel/cuda/exchange.cuh"
#include "superpixel/cuda/products.cuh"

namespace tmt::superpixel::cuda {

constexpr int kColumns = 2 * kNeighbours;  // per step: a and v of neighbours 0 .. 7, then a and v of neighbour 8
constexpr int kProductDepth = 16;          // columns of one matrix product

// Both halves of a value in one word, the high half in the lower bits.
template <typename T>
__device__ __forceinline__ uint32_t pack_halves(float value) {
  const uint32_t high = pack_pair<T>(value, 0.f);
  return pack_pair<T>(value, value - unpack_pair<T>(high).x);
}

// Columns and rows of the product, per image or per team of blocks. `columns` is 18 L rounded up.
template <typename T>
struct Kept {
  uint32_t* operands;    // (lanes, L, 2, h * w, padded_channels): halves of G_t and of f^_(t-1), t = L .. 1
  uint32_t* vectors[2];  // (lanes, groups, tiles, tile_pixels, columns / 2) pairs: high, then low halves of a and v
  float* turns;          // (lanes, groups, tiles, tile_pixels)
  float* means;          // (lanes, h * w, padded_channels): g_0 / pixels of the cell
  int columns;

  __device__ uint32_t* operand(const Plan& plan, int lane, int iterations, int step, int which, int region) const {
    const int64_t map = (int64_t{lane} * iterations + iterations - step) * 2 + which;
    return operands + (map * plan.regions() + region) * plan.padded_channels;
  }
  __device__ float* mean(const Plan& plan, int lane, int region) const {
    return means + (int64_t{lane} * plan.regions() + region) * plan.padded_channels;
  }
  // Number of a tile's first pixel.
  __device__ int64_t row(const Group<T>& group, int tile) const {
    const Plan& plan = group.plan;
    return ((int64_t{group.lane} * plan.groups() + group.number) * plan.tiles() + tile) * plan.tile_pixels;
  }
};

// Keeps a pixel's a, v and turn of a step; `step` counts from 0. Each of the pixel's four lanes keeps its neighbours.
template <typename T>
__device__ __forceinline__ void keep_pixel(const Kept<T>& kept, const PixelValues& a, const PixelValues& v, float turn,
                                           int64_t row, int step) {
  const int t = lane_index() % 4;
  const int64_t at = row * (kept.columns / 2) + step * (kColumns / 2);
  const auto keep = [&](int64_t pair, float first, float second) {
    const uint32_t high = pack_pair<T>(first, second);
    const float2 rounded = unpack_pair<T>(high);
    kept.vectors[0][pair] = high;
    kept.vectors[1][pair] = pack_pair<T>(first - rounded.x, second - rounded.y);
  };
  keep(at + t, a.value[0], a.value[1]);
  keep(at + 4 + t, v.value[0], v.value[1]);
  if (t != 0) return;
  keep(at + 8, a.value[2], v.value[2]);
  kept.turns[row] = turn + (step == 0 ? 0.f : kept.turns[row]);
}

// The region's vector of a column, or null: beyond the last column, or where there is no neighbour.
template <typename T>
__device__ __forceinline__ const uint32_t* column_of(const Kept<T>& kept, const Group<T>& group, const TileInfo& tile,
                                                     int iterations, int column) {
  const int step = column / kColumns, i = column % kColumns;
  const int which = i < 16 ? i / 8 : i - 16, k = i < 16 ? i % 8 : kNeighbours - 1;
  if (step >= iterations || (tile.exist >> k & 1u) == 0) return nullptr;
  const int region = tile.region + neighbour_row(k) * group.plan.columns + neighbour_column(k);
  return kept.operand(group.plan, group.lane, iterations, iterations - step, which, region);
}

// Left operand: channels first + g and first + g + 8, columns 2t, 2t + 1, 2t + 8, 2t + 9, whose vectors are given.
__device__ __forceinline__ void load_columns(uint32_t (&high)[4], uint32_t (&low)[4],
                                             const uint32_t* const (&vectors)[4], int first) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t *left = vectors[i / 2 * 2], *right = vectors[i / 2 * 2 + 1];
    const int channel = first + i % 2 * 8 + lane_index() / 4;
    const uint32_t x = left == nullptr ? 0u : left[channel], y = right == nullptr ? 0u : right[channel];
    high[i] = (x & 0xffffu) | y << 16;
    low[i] = x >> 16 | (y & 0xffff0000u);
  }
}

// The columns' sum for a tile: channels first .. first + 31 and all its pixels. A warp's work.
template <typename T, int kPixels>
__device__ __forceinline__ void add_columns(float (&sums)[2][kPixels / 8][4], const Kept<T>& kept,
                                            const Group<T>& group, const TileInfo& tile, int64_t row, int iterations,
                                            int first) {
  const int g = lane_index() / 4, t = lane_index() % 4, last = iterations * kColumns / 2;
#pragma unroll 1
  for (int column = 0; column < kept.columns; column += kProductDepth) {
    const uint32_t* vectors[4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
      vectors[i] = column_of(kept, group, tile, iterations, column + i / 2 * 8 + 2 * t + i % 2);
    uint32_t high[2][4], low[2][4];
#pragma unroll
    for (int m = 0; m < 2; ++m) load_columns(high[m], low[m], vectors, first + m * kSlice);
    const int pair = column / 2 + t;
#pragma unroll
    for (int n = 0; n < kPixels / 8; ++n) {
      const int64_t at = (row + n * 8 + g) * (kept.columns / 2) + pair;
      const uint32_t b_high[2] = {pair < last ? kept.vectors[0][at] : 0u,
                                  pair + 4 < last ? kept.vectors[0][at + 4] : 0u};
      const uint32_t b_low[2] = {pair < last ? kept.vectors[1][at] : 0u,
                                 pair + 4 < last ? kept.vectors[1][at + 4] : 0u};
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        mma_16x8x16<T>(sums[m][n], high[m], b_high);
        mma_16x8x16<T>(sums[m][n], low[m], b_high);
        mma_16x8x16<T>(sums[m][n], high[m], b_low);
      }
    }
  }
}

// Turns a tile of pixels into their gradient. Every warp on its own channels.
template <int kPixels, typename T>
__device__ __forceinline__ void finish_tile(const Kept<T>& kept, const Group<T>& group, int number,
                                            const TileInfo& tile, int iterations) {
  const Plan& plan = group.plan;
  const int g = lane_index() / 4, t = lane_index() % 4;
  const int64_t row = kept.row(group, number);
  const float* mean = kept.mean(plan, group.lane, tile.region);
  T* pixels = group.pixels(number);
  for (int first = warp_index() * kChannelStep; first < plan.padded_channels; first += kGroupWarps * kChannelStep) {
    float sums[2][kPixels / 8][4] = {};
    add_columns<T, kPixels>(sums, kept, group, tile, row, iterations, first);
#pragma unroll
    for (int n = 0; n < kPixels / 8; ++n) {
      const float2 turn = *reinterpret_cast<const float2*>(kept.turns + row + n * 8 + 2 * t);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int channel = first + i * 8 + g;
        T* at = pixels + pixel_address<kPixels>(channel, n) + 2 * t;
        const float2 x = unpack_pair<T>(*reinterpret_cast<const uint32_t*>(at));
        const float* sum = sums[i / 2][n] + i % 2 * 2;
        const float first_pixel = sum[0] - turn.x * x.x + mean[channel];
        const float second_pixel = sum[1] - turn.y * x.y + mean[channel];
        *reinterpret_cast<uint32_t*>(at) = pack_pair<T>(first_pixel, second_pixel);
      }
    }
  }
}

// Turns all pixels into their gradient.
template <int kPixels, typename T>
__device__ void finish_pixels(const Kept<T>& kept, const Group<T>& group, int iterations) {
  for (int i = 0; i < group.plan.tiles(); ++i) {
    const TileInfo tile = group.tile(i);
    if (tile.exist != 0) finish_tile<kPixels>(kept, group, i, tile, iterations);
  }
}

// Memory for `lanes` images; it lives in `memory`.
template <typename T>
Kept<T> new_kept(const Tensor& like, const Plan& plan, int64_t lanes, int iterations, std::array<Tensor, 4>& memory) {
  const int columns = (iterations * kColumns + kProductDepth - 1) / kProductDepth * kProductDepth;
  const int64_t rows = lanes * plan.groups() * plan.tiles() * plan.tile_pixels, regions = lanes * plan.regions();
  const int64_t channels = plan.padded_channels;
  memory = {torch::stable::new_empty(like, {regions * 2 * iterations, channels}, ScalarType::Int),
            torch::stable::new_empty(like, {2, rows, columns / 2}, ScalarType::Int),
            torch::stable::new_empty(like, {rows}, ScalarType::Float),
            torch::stable::new_empty(like, {regions, channels}, ScalarType::Float)};
  uint32_t* vectors = static_cast<uint32_t*>(memory[1].mutable_data_ptr());
  return {static_cast<uint32_t*>(memory[0].mutable_data_ptr()),
          {vectors, vectors + rows * (columns / 2)},
          output<float>(memory[2]),
          output<float>(memory[3]),
          columns};
}

}  // namespace tmt::superpixel::cuda
