// A block's group of cells: its shared memory, where its tiles and its halo's regions are, and its pixels' way in and
// out.
#pragma once

#include "superpixel/cuda/plan.cuh"

namespace tmt::superpixel::cuda {

// What a block works on, and its shared memory.
template <typename T>
struct Group {
  const Plan& plan;
  int lane;    // where the image's Parts are
  int number;  // of the group in the image

  // (padded_channels, tile_pixels), see pixel_address
  __device__ T* pixels(int tile) const {
    return at<T>(plan.shared.pixels) + tile * plan.padded_channels * plan.tile_pixels;
  }
  // (2, halves): unit vectors rounded to T, and what the rounding left
  __device__ T* centres() const { return at<T>(plan.shared.centres); }
  // likewise, of the regions' gradients; backward only
  __device__ T* gradients() const { return at<T>(plan.shared.gradients); }
  // (sums): what the group gives its halo's regions
  __device__ float* sums() const { return at<float>(plan.shared.sums); }
  // (kWeightRows, tile_pixels + kWeightPadding)
  __device__ T* weights(int tile) const {
    return at<T>(plan.shared.weights) + tile * kWeightRows * (plan.tile_pixels + kWeightPadding);
  }
  // (tile_pixels)
  __device__ float* inverse_norms(int tile) const {
    return at<float>(plan.shared.inverse_norms) + tile * plan.tile_pixels;
  }
  // (tiles, tile_pixels / kSlice, 9)
  __device__ float* slice_masses() const { return at<float>(plan.shared.slice_masses); }
  // (halo): of each region's gradient and its feature; backward only
  __device__ float* products() const { return at<float>(plan.shared.products); }

  __device__ TileInfo& tile(int number) const { return at<TileInfo>(plan.shared.tiles)[number]; }
  __device__ RegionInfo& region(int number) const { return at<RegionInfo>(plan.shared.regions)[number]; }
  // (tile_pixels / kPiece): where each piece begins in the image's plane; -1: outside of the image
  __device__ int* pieces(int tile) const { return at<int>(plan.shared.pieces) + tile * (plan.tile_pixels / kPiece); }

 private:
  template <typename Element>
  __device__ static Element* at(int offset) {
    return reinterpret_cast<Element*>(shared_memory() + offset);
  }
};

// ---- where everything is: once for all images and steps -------------------------------------------------------------

template <typename T>
__device__ void describe_tile(const Group<T>& group, int number) {
  const Plan& plan = group.plan;
  const int cell = number / plan.tiles_per_cell, first = number % plan.tiles_per_cell * plan.tile_pixels;
  const int y = cell / plan.group_columns, x = cell % plan.group_columns;
  const int row = group.number / plan.columns_of_groups * plan.group_rows + y;
  const int column = group.number % plan.columns_of_groups * plan.group_columns + x;
  const int top = row * plan.cell, left = column * plan.cell;
  const bool inside = row < plan.rows && column < plan.columns;
  const int width = inside ? smaller(plan.cell, plan.width - left) : kPiece;
  const int count = inside ? width * smaller(plan.cell, plan.height - top) : 0;
  for (int i = lane_index(); i < plan.tile_pixels / kPiece; i += kWarpSize) {
    const int p = first + i * kPiece;
    group.pieces(number)[i] = p < count ? (top + p / width) * plan.width + left + p % width : -1;
  }
  if (lane_index() != 0) return;
  unsigned exist = 0;
  for (int k = 0; k < kNeighbours; ++k)
    exist |= static_cast<unsigned>(neighbour_exists(k, row, column, plan.rows, plan.columns)) << k;
  group.tile(number) = {y, x, row * plan.columns + column, first < count ? exist : 0u};
}

// A group gives to the regions around it, so that a region has parts of at most nine groups.
template <typename T>
__device__ void describe_region(const Group<T>& group, int number) {
  const Plan& plan = group.plan;
  const int y = number / plan.halo_columns(), x = number % plan.halo_columns();
  const int row = group.number / plan.columns_of_groups * plan.group_rows + y - 1;
  const int column = group.number % plan.columns_of_groups * plan.group_columns + x - 1;
  const bool exists = row >= 0 && row < plan.rows && column >= 0 && column < plan.columns;
  const bool own = exists && y >= 1 && y <= plan.group_rows && x >= 1 && x <= plan.group_columns;
  if (lane_index() < kNeighbours) {
    const int down = larger(row - 1, 0) / plan.group_rows + lane_index() / 3;
    const int across = larger(column - 1, 0) / plan.group_columns + lane_index() % 3;
    const bool gives = exists && down * plan.group_rows <= smaller(row + 1, plan.rows - 1) &&
                       across * plan.group_columns <= smaller(column + 1, plan.columns - 1);
    const int in_its_halo =
        (row + 1 - down * plan.group_rows) * plan.halo_columns() + column + 1 - across * plan.group_columns;
    group.region(number).parts[lane_index()] =
        gives ? (down * plan.columns_of_groups + across) * plan.halo() + in_its_halo : -1;
  }
  if (lane_index() != 0) return;
  RegionInfo& info = group.region(number);
  info.y = y;
  info.x = x;
  info.region = exists ? row * plan.columns + column : -1;
  info.pixels =
      own ? smaller(plan.cell, plan.height - row * plan.cell) * smaller(plan.cell, plan.width - column * plan.cell) : 0;
}

// A warp per tile, then per region. A barrier must follow.
template <typename T>
__device__ void describe(const Group<T>& group) {
  for (int i = warp_index(); i < group.plan.tiles(); i += kGroupWarps) describe_tile(group, i);
  for (int i = warp_index(); i < group.plan.halo(); i += kGroupWarps) describe_region(group, i);
}

// ---- pixels ---------------------------------------------------------------------------------------------------------

// Where pixels 8 chunk .. 8 chunk + 7 of a channel are in a tile: the chunks of eight successive channels lie in
// different banks, so that ldmatrix reads them at once.
template <int kPixels>
__device__ __forceinline__ int pixel_address(int channel, int chunk) {
  constexpr int kChunks = kPixels / 8;
  return channel * kPixels + (chunk ^ (channel / (8 / kChunks) % kChunks)) * 8;
}

// Calls visit(piece in shared memory, channel, its offset in the image's plane or -1) for all pieces of all tiles.
// Thread mapping: tiles side by side first, so that a warp takes whole sectors of a pixel row, then pieces of a tile,
// then channels.
template <int kPixels, typename T, typename Visit>
__device__ __forceinline__ void for_pieces(const Group<T>& group, const Visit& visit) {
  const int tiles = group.plan.tiles(), each = tiles * (kPixels / kPiece), rows = larger(kGroupThreads / each, 1);
  const int thread = static_cast<int>(threadIdx.x), first = thread / each;
  if (first >= rows) return;
  for (int i = thread - first * each; i < each; i += kGroupThreads) {
    const int tile = i % tiles, piece = i / tiles;
    if (group.tile(tile).exist == 0) continue;
    const int offset = group.pieces(tile)[piece];
    T* at = group.pixels(tile) + piece * kPiece % 8;
#pragma unroll 4
    for (int channel = first; channel < group.plan.padded_channels; channel += rows)
      visit(at + pixel_address<kPixels>(channel, piece * kPiece / 8), channel, offset);
  }
}

// Starts to copy the group's pixels of an image of features (B, C, H, W).
template <int kPixels, typename T>
__device__ __forceinline__ void load_pixels(const Group<T>& group, const T* features, int image) {
  const Plan& plan = group.plan;
  const T* from = features + int64_t{image} * plan.channels * plan.pixels();
  for_pieces<kPixels>(group, [&](T* to, int channel, int offset) {
    const bool inside = offset >= 0 && channel < plan.channels;
    copy_async_8(to, inside ? from + channel * plan.pixels() + offset : from, inside);
  });
  commit_copies();
}

// Copies the group's pixels to an image of features (B, C, H, W).
template <int kPixels, typename T>
__device__ __forceinline__ void store_pixels(const Group<T>& group, T* features, int image) {
  const Plan& plan = group.plan;
  T* to = features + int64_t{image} * plan.channels * plan.pixels();
  for_pieces<kPixels>(group, [&](const T* from, int channel, int offset) {
    if (offset >= 0 && channel < plan.channels)
      *reinterpret_cast<uint2*>(to + channel * plan.pixels() + offset) = *reinterpret_cast<const uint2*>(from);
  });
}

}  // namespace tmt::superpixel::cuda
