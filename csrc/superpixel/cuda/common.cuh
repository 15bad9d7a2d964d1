// What the forward and the backward superpixel kernels share: where a cell's pixels and neighbours are, and the
// assignment of one tile of pixels to the nine centres around its cell.
//
// Every kernel over pixels has the same shape: a block takes one cell and walks over its pixels in tiles of 32, one
// pixel per lane; the block's four warps share the channels, in chunks of 128, one channel per thread where sums run
// over pixels.
#pragma once

#include "common/cuda/launch.cuh"
#include "superpixel/checks.h"

namespace tmt::superpixel::cuda {

using namespace tmt::cuda;

constexpr float kNormEps = static_cast<float>(superpixel::kNormEps);
constexpr float kMassEps = static_cast<float>(superpixel::kMassEps);
constexpr float kTie = static_cast<float>(superpixel::kTie);
constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kTilePixels = kWarpSize;  // one pixel per lane
constexpr int kChunk = kThreads;        // channels in shared memory at a time, one per thread in sums over pixels

// Sizes of one call. Images are (B, C, H, W), regions (B, h * w, C).
struct Grid {
  int64_t batch, channels, height, width, rows, columns, cell;

  Grid(const Sizes& sizes, int64_t side)
      : batch(sizes.batch),
        channels(sizes.channels),
        height(sizes.height),
        width(sizes.width),
        rows(sizes.rows),
        columns(sizes.columns),
        cell(side) {}

  __host__ __device__ int64_t regions() const { return rows * columns; }
  __host__ __device__ int64_t pixels() const { return height * width; }
};

// One cell of one image, and the region of the same index.
struct Cell {
  int64_t image, row, column;       // of the batch; on the grid of regions
  int64_t top, left, width, count;  // its pixels

  __device__ Cell(const Grid& grid, int64_t block)
      : image(block / grid.regions()),
        row(block % grid.regions() / grid.columns),
        column(block % grid.columns),
        top(row * grid.cell),
        left(column * grid.cell) {
    width = smaller(grid.cell, grid.width - left);
    count = width * smaller(grid.cell, grid.height - top);
  }

  // Offset of pixel `number` (row-major in the cell) in the image's plane.
  __device__ int64_t offset(const Grid& grid, int64_t number) const {
    return (top + number / width) * grid.width + left + number % width;
  }

  // Whether neighbour k exists, and its index within the image.
  __device__ bool has(const Grid& grid, int k) const {
    return neighbour_exists(k, row, column, grid.rows, grid.columns);
  }
  __device__ int64_t neighbour(const Grid& grid, int k) const {
    return (row + neighbour_row(k)) * grid.columns + column + neighbour_column(k);
  }

 private:
  __device__ static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
};

// The pixel of this thread's lane in the tile that starts at pixel `first` of the cell.
struct Pixel {
  int64_t offset;  // in the image's plane
  bool exists;

  __device__ Pixel(const Grid& grid, const Cell& cell, int64_t first) {
    const int64_t number = first + lane_index();
    exists = number < cell.count;
    offset = exists ? cell.offset(grid, number) : 0;
  }
};

// One chunk of channels of a tile of pixels. The odd row length keeps both ways of reading free of bank conflicts.
using PixelChunk = float[kChunk][kTilePixels + 1];
using RegionChunk = float[kNeighbours][kChunk];
using WarpSums = float[kWarps][kNeighbours + 2][kTilePixels];

// Shared memory of the kernels over pixels.
struct CellTile {
  PixelChunk pixels;
  RegionChunk centres;                      // unit vectors of the nine regions
  RegionChunk gradients;                    // of the nine regions; backward only
  WarpSums scratch;                         // for sums over warps
  float weights[kNeighbours][kTilePixels];  // per neighbour and pixel, for sums over pixels
};

// The regions of every image: features (B, stride / C, C) and a factor (B, h * w) that goes with each, or null.
struct Regions {
  const float* features;
  const float* factor;
  int64_t stride;  // from one image's first region to the next image's
};

// Loads channels first..first+kChunk of the tile's pixels; zeros beyond the image's channels and the cell's pixels.
// Thread mapping: lane = pixel, warps take every kWarps-th channel.
template <typename T>
__device__ void load_pixels(PixelChunk& chunk, const T* features, const Grid& grid, const Cell& cell,
                            const Pixel& pixel, int64_t first) {
  const T* plane = features + (cell.image * grid.channels + first) * grid.pixels() + pixel.offset;
#pragma unroll 4
  for (int i = warp_index(); i < kChunk; i += kWarps) {
    const bool inside = pixel.exists && first + i < grid.channels;
    chunk[i][lane_index()] = inside ? static_cast<float>(plane[i * grid.pixels()]) : 0.f;
  }
}

// Loads channels first..first+kChunk of the nine regions around the cell, times their factors; zeros where there is no
// region. Thread mapping: thread = channel.
__device__ inline void load_regions(RegionChunk& chunk, const Regions& regions, const Grid& grid, const Cell& cell,
                                    int64_t first) {
  const int64_t channel = first + threadIdx.x;
  for (int k = 0; k < kNeighbours; ++k) {
    float value = 0.f;
    if (cell.has(grid, k) && channel < grid.channels) {
      const int64_t region = cell.neighbour(grid, k);
      value = regions.features[cell.image * regions.stride + region * grid.channels + channel];
      if (regions.factor != nullptr) value *= regions.factor[cell.image * grid.regions() + region];
    }
    chunk[k][threadIdx.x] = value;
  }
}

// Sums over the warps of some values per lane; every thread gets the sums of its lane. A barrier must lie between two
// calls.
template <int kValues>
__device__ void sum_lanes_over_warps(float (&values)[kValues], WarpSums& scratch) {
  static_assert(kValues <= kNeighbours + 2);
#pragma unroll
  for (int k = 0; k < kValues; ++k) scratch[warp_index()][k][lane_index()] = values[k];
  block_barrier();
#pragma unroll
  for (int k = 0; k < kValues; ++k) {
    values[k] = 0.f;
    for (int warp = 0; warp < kWarps; ++warp) values[k] += scratch[warp][k][lane_index()];
  }
}

// A norm whose squares may overflow: they are summed a second time from values scaled down.
constexpr float kScale = 0x1p-80f;

__device__ __forceinline__ float scaled_square(float value) { return (value * kScale) * (value * kScale); }
__device__ __forceinline__ float norm_of(float squares, float scaled_squares) {
  return squares == INFINITY ? sqrtf(scaled_squares) / kScale : sqrtf(squares);
}

// What a pixel (one per lane, the same in every warp) has to do with its nine neighbours.
struct Assignment {
  float cosine[kNeighbours];
  float probability[kNeighbours];  // exactly 0 where there is no neighbour
  float inverse_norm;              // 1 / max(|pixel|, eps)
  bool clamped;                    // whether |pixel| is below eps
};

// Cosines of the tile's pixels with the nine centres, whose factor is 1 / norm. Thread mapping: lane = pixel, the warps
// share the channels.
template <typename T>
__device__ void measure(Assignment& result, CellTile& tile, const T* features, const Regions& centres, const Grid& grid,
                        const Cell& cell, const Pixel& pixel) {
  float sums[kNeighbours + 2] = {};  // the last two: the squared norm, plain and scaled
  for (int64_t first = 0; first < grid.channels; first += kChunk) {
    block_barrier();  // everyone is done with the chunk before
    load_pixels(tile.pixels, features, grid, cell, pixel, first);
    load_regions(tile.centres, centres, grid, cell, first);
    block_barrier();
#pragma unroll 4
    for (int i = warp_index(); i < kChunk; i += kWarps) {
      const float value = tile.pixels[i][lane_index()];
#pragma unroll
      for (int k = 0; k < kNeighbours; ++k) sums[k] += value * tile.centres[k][i];
      sums[kNeighbours] += value * value;
      sums[kNeighbours + 1] += scaled_square(value);
    }
  }
  sum_lanes_over_warps(sums, tile.scratch);
  const float norm = norm_of(sums[kNeighbours], sums[kNeighbours + 1]);
  result.clamped = norm < kNormEps;
  result.inverse_norm = 1.f / fmaxf(norm, kNormEps);
#pragma unroll
  for (int k = 0; k < kNeighbours; ++k) result.cosine[k] = sums[k] * result.inverse_norm;
}

// The largest cosine of the neighbours that exist; NaN ones do not count.
__device__ inline float largest_cosine(const Assignment& assignment, const Grid& grid, const Cell& cell) {
  float largest = -INFINITY;
#pragma unroll
  for (int k = 0; k < kNeighbours; ++k)
    if (cell.has(grid, k)) largest = fmaxf(largest, assignment.cosine[k]);
  return largest;
}

__device__ inline int nearest_neighbour(const Assignment& assignment, const Grid& grid, const Cell& cell) {
  const float least = largest_cosine(assignment, grid, cell) - kTie;
  unsigned ties = 0;
#pragma unroll
  for (int k = 0; k < kNeighbours; ++k)
    if (cell.has(grid, k) && assignment.cosine[k] >= least) ties |= 1u << k;
  return nearest_of(ties);
}

// Softmax of kappa * cosine over the neighbours that exist, Eqs. 7-8; a lane without a pixel gets zeros.
__device__ inline void assign(Assignment& result, const Grid& grid, const Cell& cell, const Pixel& pixel, float kappa) {
  const float largest = kappa * largest_cosine(result, grid, cell);
  float total = 0.f;
#pragma unroll
  for (int k = 0; k < kNeighbours; ++k) {
    const bool exists = pixel.exists && cell.has(grid, k);
    result.probability[k] = exists ? expf(kappa * result.cosine[k] - largest) : 0.f;
    total += result.probability[k];
  }
  const float factor = pixel.exists ? 1.f / total : 0.f;
#pragma unroll
  for (int k = 0; k < kNeighbours; ++k) result.probability[k] *= factor;
}

// Adds to sums[k * channels + channel] of neighbour k the weighted sum over the tile's pixels of each channel of the
// chunk that starts at `first`; the cell's first tile stores instead. Thread mapping: thread = channel, so no thread
// writes where another does.
__device__ inline void add_weighted_pixels(float* sums, const CellTile& tile, const Grid& grid, int64_t first,
                                           bool store) {
  const int64_t channel = first + threadIdx.x;
  if (channel >= grid.channels) return;
  float total[kNeighbours] = {};
#pragma unroll 4
  for (int p = 0; p < kTilePixels; ++p) {
    const float value = tile.pixels[threadIdx.x][p];
#pragma unroll
    for (int k = 0; k < kNeighbours; ++k) total[k] += tile.weights[k][p] * value;
  }
#pragma unroll
  for (int k = 0; k < kNeighbours; ++k) {
    float& sum = sums[k * grid.channels + channel];
    sum = store ? total[k] : sum + total[k];
  }
}

// Puts one value per neighbour and pixel where add_weighted_pixels reads them, after the caller's next barrier.
__device__ inline void share_weights(CellTile& tile, const float (&weights)[kNeighbours]) {
  if (warp_index() != 0) return;
#pragma unroll
  for (int k = 0; k < kNeighbours; ++k) tile.weights[k][lane_index()] = weights[k];
}

// Adds the nine neighbours' assigned mass of the tile to masses[kNeighbours]; the cell's first tile stores. Only warp 0
// works.
__device__ inline void add_masses(float* masses, const Assignment& assignment, bool store) {
  if (warp_index() != 0) return;
#pragma unroll
  for (int k = 0; k < kNeighbours; ++k) {
    const float mass = warp_sum(assignment.probability[k]);
    if (lane_index() == 0) masses[k] = store ? mass : masses[k] + mass;
  }
}

// The mass or the channel sum of a region: what the nine cells around it hold for it, always in the same order.
// `parts` is (h * w, 9, stride) of one image.
__device__ inline float gather_parts(const float* parts, const Grid& grid, const Cell& region, int64_t stride,
                                     int64_t channel) {
  float total = 0.f;
  for (int k = 0; k < kNeighbours; ++k) {
    const int opposite = kNeighbours - 1 - k;  // the cell whose neighbour k is this region
    if (region.has(grid, opposite))
      total += parts[(region.neighbour(grid, opposite) * kNeighbours + k) * stride + channel];
  }
  return total;
}

// The norm of a vector whose elements the threads of a block add one by one.
class BlockNorm {
 public:
  __device__ void add(float value) {
    squares_ += value * value;
    scaled_ += scaled_square(value);
  }
  // Writes 1 / max(norm, eps), the factor that makes a unit vector. Every thread must call.
  __device__ void write_inverse(float* inverse, float (&scratch)[kWarps]) const {
    const float squares = sum_over_warps<kWarps>(warp_sum(squares_), scratch);
    const float scaled = sum_over_warps<kWarps>(warp_sum(scaled_), scratch);
    if (threadIdx.x == 0) *inverse = 1.f / fmaxf(norm_of(squares, scaled), kNormEps);
  }

 private:
  float squares_ = 0.f, scaled_ = 0.f;
};

}  // namespace tmt::superpixel::cuda
