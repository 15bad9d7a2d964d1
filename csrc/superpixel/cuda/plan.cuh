// How the tensor-core superpixel kernels cut an image: decided on the host for each call. A block works on a group of
// cells, a rectangle of them, and on the regions of its halo: the group's own and the ones around it, which its pixels
// may join. A cell's pixels come in tiles of 16 or 64.
#pragma once

#include <algorithm>
#include <array>
#include <initializer_list>
#include <limits>
#include <optional>
#include <utility>

#include "superpixel/cuda/common.cuh"

namespace tmt::superpixel::cuda {

constexpr int kGroupThreads = 256;
constexpr int kGroupWarps = kGroupThreads / kWarpSize;
constexpr int kChannelStep = 32;  // channels in shared memory are padded to this with zeros
constexpr int kSlice = 16;        // pixels of one matrix product
constexpr int kPiece = 4;         // pixels that one copy moves: side by side in the image and in the cell
constexpr int kBankBytes = 128;   // after so many bytes the banks of shared memory begin again
constexpr int kRowBytes = 16;     // of a matrix, as ldmatrix reads it: eight in different banks are read at once
// Of eight neighbours the high, then the low halves; then both of the ninth, six unused.
constexpr int kWeightRows = 24;
constexpr int kWeightPadding = 8;  // elements after each row of weights, so that rows begin in different banks

__host__ __device__ inline int smaller(int a, int b) { return a < b ? a : b; }
__host__ __device__ inline int larger(int a, int b) { return a > b ? a : b; }

// Where the vectors of a halo's regions lie: that of region (y, x) begins at y * row + x * region; counted in elements.
struct HaloTable {
  int row, region, size;

  __host__ __device__ int at(int y, int x) const { return y * row + x * region; }
  // From a cell's neighbour 0 to its neighbour k.
  __host__ __device__ int neighbour(int k) const { return at(k / 3, k % 3); }
};

// Bytes of dynamic shared memory at which each piece begins; see Group.
struct SharedOffsets {
  int pixels, centres, gradients, sums, weights, inverse_norms, slice_masses, products, tiles, pieces, regions, bytes;
};

struct Plan {
  int batch, height, width, cell, rows, columns;  // of the image, in pixels and in cells
  int channels, padded_channels;
  int group_rows, group_columns;  // cells of a group
  int rows_of_groups, columns_of_groups;
  int tile_pixels, tiles_per_cell;
  HaloTable halves, sums;  // of vectors in half precision, in float32
  SharedOffsets shared;

  __host__ __device__ int groups() const { return rows_of_groups * columns_of_groups; }
  __host__ __device__ int cells() const { return group_rows * group_columns; }
  __host__ __device__ int tiles() const { return cells() * tiles_per_cell; }
  __host__ __device__ int halo_rows() const { return group_rows + 2; }
  __host__ __device__ int halo_columns() const { return group_columns + 2; }
  __host__ __device__ int halo() const { return halo_rows() * halo_columns(); }
  __host__ __device__ int regions() const { return rows * columns; }
  __host__ __device__ int64_t pixels() const { return int64_t{height} * width; }
};

// A tile of the group.
struct TileInfo {
  int y, x;        // of its cell's neighbour 0 in the halo
  int region;      // its cell's, in the image
  unsigned exist;  // a bit for each neighbour that exists; 0: the tile has no pixels
};

// A region of the halo.
struct RegionInfo {
  int y, x;                // in the halo
  int region;              // in the image; -1: there is none
  int pixels;              // of its cell, where it is the group's own; otherwise 0
  int parts[kNeighbours];  // rows of Parts, of set 0 and lane 0, that its sum consists of; -1: none
};

// Tables of the halo's regions that a kernel needs besides their sums: unit centres; in the backward gradients, too.
enum class Tables { centres = 1, centres_and_gradients = 2 };

// The nine regions around a cell lie in three rows of the halo. Each vector is one matrix row longer than its channels,
// and rows of the halo are padded so that they begin three vectors apart as the banks count: then eight of the nine are
// in different banks.
inline HaloTable halo_table(const Plan& plan, int element_size) {
  const int unit = kRowBytes / element_size, units = kBankBytes / kRowBytes;
  HaloTable table{};
  table.region = plan.padded_channels + unit;
  const int apart = 3 * table.region / unit, length = plan.halo_columns() * table.region / unit;
  table.row = (length + (apart + units * length - length) % units) * unit;
  table.size = plan.halo_rows() * table.row;
  return table;
}

// Lays out the shared memory. Everything begins at a multiple of 128 bytes.
inline SharedOffsets shared_offsets(const Plan& plan, Tables tables) {
  SharedOffsets at{};
  int64_t used = 0;
  const auto take = [&](int64_t bytes) {
    const int64_t begin = used;
    used = std::min<int64_t>((begin + bytes + 127) / 128 * 128, std::numeric_limits<int>::max() - 128);
    return static_cast<int>(begin);
  };
  const int64_t tiles = plan.tiles(), table = int64_t{2} * plan.halves.size * 2;
  at.pixels = take(tiles * plan.padded_channels * plan.tile_pixels * 2);
  at.centres = take(table);
  at.gradients = take(tables == Tables::centres ? 0 : table);
  at.sums = take(int64_t{plan.sums.size} * 4);
  at.weights = take(tiles * kWeightRows * (plan.tile_pixels + kWeightPadding) * 2);
  at.inverse_norms = take(tiles * plan.tile_pixels * 4);
  at.slice_masses = take(tiles * (plan.tile_pixels / kSlice) * kNeighbours * 4);
  at.products = take(int64_t{plan.halo()} * 4);
  at.tiles = take(tiles * sizeof(TileInfo));
  at.pieces = take(tiles * (plan.tile_pixels / kPiece) * 4);
  at.regions = take(plan.halo() * sizeof(RegionInfo));
  at.bytes = static_cast<int>(used);
  return at;
}

// What does not depend on the group: no value where the plain kernels must do it, because 32-bit indices do not suffice
// or because rows of pixels are not made of whole pieces. features (B, C, H, W).
inline std::optional<Plan> plan_image(const Grid& grid, const Tensor& features) {
  constexpr int64_t kLimit = int64_t{1} << 30;
  if (grid.batch > kLimit || grid.channels > 4096 || grid.height * grid.width > kLimit || grid.cell > 4096) return {};
  const auto address = reinterpret_cast<uintptr_t>(features.const_data_ptr());
  if (grid.cell % kPiece != 0 || grid.width % kPiece != 0 || address % (kPiece * features.element_size()) != 0)
    return {};
  Plan plan{};
  plan.batch = static_cast<int>(grid.batch);
  plan.height = static_cast<int>(grid.height);
  plan.width = static_cast<int>(grid.width);
  plan.cell = static_cast<int>(grid.cell);
  plan.rows = static_cast<int>(grid.rows);
  plan.columns = static_cast<int>(grid.columns);
  plan.channels = static_cast<int>(grid.channels);
  plan.padded_channels = (plan.channels + kChannelStep - 1) / kChannelStep * kChannelStep;
  const int pixels = smaller(plan.cell, plan.height) * smaller(plan.cell, plan.width);
  plan.tile_pixels = pixels <= 16 ? 16 : 64;
  plan.tiles_per_cell = (pixels + plan.tile_pixels - 1) / plan.tile_pixels;
  return plan;
}

inline Plan with_group(Plan plan, int rows, int columns, Tables tables) {
  plan.group_rows = smaller(rows, plan.rows);
  plan.group_columns = smaller(columns, plan.columns);
  plan.rows_of_groups = (plan.rows + plan.group_rows - 1) / plan.group_rows;
  plan.columns_of_groups = (plan.columns + plan.group_columns - 1) / plan.group_columns;
  plan.halves = halo_table(plan, 2);
  plan.sums = halo_table(plan, 4);
  plan.shared = shared_offsets(plan, tables);
  return plan;
}

// The group for a launch in which every image stays on the chip until it is done: of those that fit, the one with which
// the teams of blocks, one for each image, take the fewest turns; of these the one with the fewest cells, then with the
// smallest halo.
inline std::optional<Plan> plan_resident(const Plan& image, Tables tables, int64_t multiprocessors,
                                         int64_t shared_limit) {
  std::optional<Plan> best;
  std::array<int64_t, 3> least{};
  for (const int rows : {1, 2, 3, 4, 6, 8}) {
    for (const int columns : {1, 2, 3, 4, 6, 8}) {
      const Plan plan = with_group(image, rows, columns, tables);
      if (plan.shared.bytes > shared_limit || plan.groups() > multiprocessors) continue;
      const int64_t teams = multiprocessors / plan.groups(), turns = (plan.batch + teams - 1) / teams;
      const std::array<int64_t, 3> cost{turns, plan.cells(), plan.halo()};
      if (best && cost >= least) continue;
      least = cost;
      best = plan;
    }
  }
  return best;
}

// The group for a launch a step, over all images: the largest of which a multiprocessor holds two, so that one is
// loaded while the other is worked on, but not a single cell, which reads 81 parts of regions for its own pixels;
// otherwise the largest that fits.
inline std::optional<Plan> plan_steps(const Plan& image, Tables tables, int64_t shared_limit) {
  constexpr int64_t kReserved = 1024;  // bytes that the system takes for each block
  for (const int64_t wanted : {2, 1}) {
    for (const auto& [rows, columns] : std::initializer_list<std::pair<int, int>>{{2, 2}, {1, 2}, {1, 1}}) {
      const Plan plan = with_group(image, rows, columns, tables);
      const bool fits = wanted * (plan.shared.bytes + kReserved) <= shared_limit + kReserved;
      if (fits && (wanted == 1 || plan.cells() > 1)) return plan;
    }
  }
  return {};
}

}  // namespace tmt::superpixel::cuda
