// How the tensor-core superpixel kernels cut an image. A block works on a group of cells, a rectangle of them, and on
// the regions of its halo: the group's own and the ones around it, which its pixels may join. A cell's pixels come in
// tiles of kPixels. Group and halo are numbered row-major.
#pragma once

#include <array>

#include "cuda/superpixel_common.cuh"

namespace tmt::cuda {

constexpr int kGroupThreads = 256;
constexpr int kGroupWarps = kGroupThreads / kWarpSize;
constexpr int kChannelStep = 32;  // channels in shared memory are padded to this with zeros
constexpr int kRowPadding = 8;    // elements after each row of a table, so that rows begin in different banks
constexpr int kWeightRows =
    24;                     // of eight neighbours the high, then the low halves; then both of the ninth, six unused
constexpr int kSlice = 16;  // pixels of one matrix product

// Bytes of dynamic shared memory at which each piece begins.
struct SharedOffsets {
  int pixels, centres, gradients, sums, weights, inverse_norms, slice_masses, masses, bytes;
};

struct Plan {
  int batch, height, width, cell, rows, columns;  // of the image, in pixels and in cells
  int channels, padded_channels, stride;          // stride: of a region's row in shared memory
  int group_rows, group_columns;                  // cells of a group
  int rows_of_groups, columns_of_groups;
  int tile_pixels, tiles_per_cell;
  int round;  // tiles worked on together; a power of two
  int slots;  // tiles in shared memory: all of the group's, or two rounds
  int piece;  // pixels that one copy moves: they lie side by side and are aligned, in the image and in the cell
  SharedOffsets shared;

  __host__ __device__ int groups() const { return rows_of_groups * columns_of_groups; }
  __host__ __device__ int tiles() const { return group_rows * group_columns * tiles_per_cell; }
  __host__ __device__ int halo_columns() const { return group_columns + 2; }
  __host__ __device__ int halo() const { return (group_rows + 2) * halo_columns(); }
  __host__ __device__ int regions() const { return rows * columns; }
  __host__ __device__ int64_t pixels() const { return int64_t{height} * width; }
};

__host__ __device__ inline int smaller(int a, int b) { return a < b ? a : b; }
__host__ __device__ inline int larger(int a, int b) { return a > b ? a : b; }

// The block's rectangle of cells.
struct Group {
  int image;                    // of the batch
  int first_row, first_column;  // its first cell

  __device__ Group(const Plan& plan, int image_, int number)
      : image(image_),
        first_row(number / plan.columns_of_groups * plan.group_rows),
        first_column(number % plan.columns_of_groups * plan.group_columns) {}
};

// A region of a group's halo.
struct HaloRegion {
  int row, column;  // on the grid of regions
  bool exists, own;

  __device__ HaloRegion(const Plan& plan, const Group& group, int number) {
    const int y = number / plan.halo_columns(), x = number % plan.halo_columns();
    row = group.first_row + y - 1;
    column = group.first_column + x - 1;
    exists = row >= 0 && row < plan.rows && column >= 0 && column < plan.columns;
    own = exists && y >= 1 && y <= plan.group_rows && x >= 1 && x <= plan.group_columns;
  }
  __device__ int index(const Plan& plan) const { return row * plan.columns + column; }
};

// A tile of a cell of the group. A tile beyond the image has no pixels.
struct Tile {
  int row, column;              // the cell, on the grid
  int top, left, width, count;  // of the whole cell
  int first;                    // number of the tile's first pixel in the cell
  int corner;                   // number in the halo of the cell's neighbour 0

  __device__ Tile(const Plan& plan, const Group& group, int number) {
    const int cell = number / plan.tiles_per_cell, y = cell / plan.group_columns, x = cell % plan.group_columns;
    row = group.first_row + y;
    column = group.first_column + x;
    first = number % plan.tiles_per_cell * plan.tile_pixels;
    corner = y * plan.halo_columns() + x;
    const bool exists = row < plan.rows && column < plan.columns && y < plan.group_rows;
    top = row * plan.cell;
    left = column * plan.cell;
    width = exists ? smaller(plan.cell, plan.width - left) : 1;
    count = exists ? width * smaller(plan.cell, plan.height - top) : 0;
  }

  __device__ bool empty() const { return first >= count; }
  // Offset in the image's plane of the tile's pixel p.
  __device__ int64_t offset(const Plan& plan, int p) const {
    return int64_t{top + (first + p) / width} * plan.width + left + (first + p) % width;
  }
  // Number in the halo of neighbour k, and whether there is one.
  __device__ int neighbour(const Plan& plan, int k) const { return corner + k / 3 * plan.halo_columns() + k % 3; }
  __device__ bool has(const Plan& plan, int k) const {
    return superpixel::neighbour_exists(k, row, column, plan.rows, plan.columns);
  }
};

// The block's shared memory.
template <typename T>
class GroupMemory {
 public:
  __device__ explicit GroupMemory(const Plan& plan) : plan_(plan) {}

  // (slots, padded_channels, tile_pixels), see pixel_address
  __device__ T* pixels(int slot) const {
    return at<T>(plan_.shared.pixels) + slot * plan_.padded_channels * plan_.tile_pixels;
  }
  // (2, halo, stride): unit vectors rounded to T, and what the rounding left
  __device__ T* centres() const { return at<T>(plan_.shared.centres); }
  // likewise, of the regions' gradients; backward only
  __device__ T* gradients() const { return at<T>(plan_.shared.gradients); }
  // (halo, stride): what the group gives its halo's regions
  __device__ float* sums() const { return at<float>(plan_.shared.sums); }
  // (round, kWeightRows, tile_pixels + kRowPadding)
  __device__ T* weights(int i) const {
    return at<T>(plan_.shared.weights) + i * kWeightRows * (plan_.tile_pixels + kRowPadding);
  }
  // (slots, tile_pixels)
  __device__ float* inverse_norms(int slot) const {
    return at<float>(plan_.shared.inverse_norms) + slot * plan_.tile_pixels;
  }
  // (round, tile_pixels / kSlice, 9)
  __device__ float* slice_masses(int i, int slice) const {
    return at<float>(plan_.shared.slice_masses) + (i * (plan_.tile_pixels / kSlice) + slice) * kNeighbours;
  }
  // (halo)
  __device__ float* masses() const { return at<float>(plan_.shared.masses); }

 private:
  template <typename Element>
  __device__ static Element* at(int offset) {
    return reinterpret_cast<Element*>(shared_memory() + offset);
  }
  const Plan& plan_;
};

// What the groups give their halos' regions, in global memory; `set` alternates, so that one step's are read while the
// next one's are written. `lane` is an image, or the team of blocks that works on one.
struct Parts {
  float* sums;    // (2, lanes, groups, halo, padded_channels)
  float* masses;  // (2, lanes, groups, halo)
  int lanes;

  // As many rows as 32 bits count would not fit into memory.
  __device__ int row(const Plan& plan, int set, int lane, int group, int region) const {
    return ((set * lanes + lane) * plan.groups() + group) * plan.halo() + region;
  }
};

// Tells the neighbours that this block has done one more step: what it wrote before is there. Every thread must call.
__device__ __forceinline__ void tell_neighbours(unsigned* flag) {
  block_barrier();
  if (threadIdx.x == 0) add_release(flag, 1u);
}

// Waits until the groups that share a region of the halo with group `number` have done `steps` steps, too: those with a
// cell at most two cells away. Every thread must call.
__device__ __forceinline__ void wait_for_neighbours(const unsigned* flags, const Plan& plan, int number,
                                                    unsigned steps) {
  constexpr int kAcross = 5;
  if (threadIdx.x < kAcross * kAcross) {
    const int down = static_cast<int>(threadIdx.x) / kAcross - 2, across = static_cast<int>(threadIdx.x) % kAcross - 2;
    const int row = number / plan.columns_of_groups + down, column = number % plan.columns_of_groups + across;
    const bool near = (abs(down) < 2 || plan.group_rows == 1) && (abs(across) < 2 || plan.group_columns == 1);
    if (near && row >= 0 && row < plan.rows_of_groups && column >= 0 && column < plan.columns_of_groups) {
      while (load_acquire(flags + row * plan.columns_of_groups + column) < steps) {
      }
    }
  }
  block_barrier();
}

// A value as two of half precision: high + low is the value, but for a rounding of the low half.
template <typename T>
struct Halves {
  T high, low;
  __device__ explicit Halves(float value) : high(value), low(value - static_cast<float>(high)) {}
};

}  // namespace tmt::cuda
