// How the tensor-core superpixel kernels cut an image and their shared memory: decided on the host for each call.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <limits>
#include <optional>

#include "cuda/superpixel_group.cuh"

namespace tmt::cuda {

// Tables of the halo's regions that a kernel needs besides the pixels: unit centres; in the backward gradients, too.
enum class Tables { centres = 1, centres_and_gradients = 2 };

// Lays out the shared memory. Everything begins at a multiple of 128 bytes.
inline SharedOffsets shared_offsets(const Plan& plan, Tables tables) {
  SharedOffsets at{};
  int64_t used = 0;
  const auto take = [&](int64_t bytes) {
    const int64_t begin = used;
    used = std::min<int64_t>((begin + bytes + 127) / 128 * 128, std::numeric_limits<int>::max() - 128);
    return static_cast<int>(begin);
  };
  const int64_t halo_row = int64_t{plan.halo()} * plan.stride, slices = plan.tile_pixels / kSlice;
  at.pixels = take(int64_t{plan.slots} * plan.padded_channels * plan.tile_pixels * 2);
  at.centres = take(halo_row * 2 * 2);
  at.gradients = take(tables == Tables::centres ? 0 : halo_row * 2 * 2);
  at.sums = take(halo_row * 4);
  at.weights = take(int64_t{plan.round} * kWeightRows * (plan.tile_pixels + kRowPadding) * 2);
  at.inverse_norms = take(int64_t{plan.slots} * plan.tile_pixels * 4);
  at.slice_masses = take(int64_t{plan.round} * slices * kNeighbours * 4);
  at.masses = take(int64_t{plan.halo()} * 4);
  at.bytes = static_cast<int>(used);
  return at;
}

// What does not depend on the group: no value where the kernels' 32-bit indices do not suffice. features (B, C, H, W).
inline std::optional<Plan> plan_image(const Grid& grid, const Tensor& features) {
  constexpr int64_t kLimit = int64_t{1} << 30;
  if (grid.batch > kLimit || grid.channels > 4096 || grid.height * grid.width > kLimit || grid.cell > 4096) return {};
  Plan plan{};
  plan.batch = static_cast<int>(grid.batch);
  plan.height = static_cast<int>(grid.height);
  plan.width = static_cast<int>(grid.width);
  plan.cell = static_cast<int>(std::min(grid.cell, std::max(grid.height, grid.width)));
  plan.rows = static_cast<int>(grid.rows);
  plan.columns = static_cast<int>(grid.columns);
  plan.channels = static_cast<int>(grid.channels);
  plan.padded_channels = (plan.channels + kChannelStep - 1) / kChannelStep * kChannelStep;
  plan.stride = plan.padded_channels + kRowPadding;
  const int pixels = smaller(plan.cell, plan.height) * smaller(plan.cell, plan.width);
  plan.tile_pixels = pixels <= 16 ? 16 : 64;
  plan.tiles_per_cell = (pixels + plan.tile_pixels - 1) / plan.tile_pixels;
  plan.piece = 8;
  const auto address = reinterpret_cast<uintptr_t>(features.const_data_ptr());
  const auto fits = [&](int piece) {
    return plan.cell % piece == 0 && plan.width % piece == 0 && address % (piece * features.element_size()) == 0;
  };
  while (!fits(plan.piece)) plan.piece /= 2;
  return plan;
}

inline Plan with_group(Plan plan, int rows, int columns) {
  plan.group_rows = smaller(rows, plan.rows);
  plan.group_columns = smaller(columns, plan.columns);
  plan.rows_of_groups = (plan.rows + plan.group_rows - 1) / plan.group_rows;
  plan.columns_of_groups = (plan.columns + plan.group_columns - 1) / plan.group_columns;
  return plan;
}

// Blocks that a multiprocessor's shared memory holds at once.
inline int64_t blocks_each(const Plan& plan, int64_t shared_limit) {
  constexpr int64_t kReserved = 1024;  // by the system, per block
  return (shared_limit + kReserved) / (plan.shared.bytes + kReserved);
}

// Roughly how long a step of all images takes with all their pixels on the chip, in pixels that a multiprocessor works
// on; infinite where an image does not fit. The registers allow one block on each. The constants stand for one exchange
// with the neighbours and for the gathering of a region: at 256 channels some 2000 and 70 cycles, where a pixel takes
// some 14.
inline double resident_cost(const Plan& plan, int64_t multiprocessors, int64_t shared_limit) {
  if (blocks_each(plan, shared_limit) < 1 || plan.groups() > multiprocessors)
    return std::numeric_limits<double>::infinity();
  const int64_t teams = std::min<int64_t>(plan.batch, multiprocessors / plan.groups());
  const int64_t turns = (plan.batch + teams - 1) / teams;
  const double block = plan.tiles() * plan.tile_pixels + 5.0 * plan.halo();
  return static_cast<double>(turns) * (block + 140.0 * 256 / plan.padded_channels);
}

// The best group with which every pixel of an image stays on the chip.
inline std::optional<Plan> plan_resident(const Plan& image, Tables tables, int64_t multiprocessors,
                                         int64_t shared_limit) {
  std::optional<Plan> best;
  double least = std::numeric_limits<double>::infinity();
  for (const int rows : {1, 2, 3, 4, 6, 8}) {
    for (const int columns : {1, 2, 3, 4, 6, 8}) {
      Plan plan = with_group(image, rows, columns);
      plan.slots = plan.tiles();
      plan.round = 1;
      while (plan.round * 2 <= plan.tiles() && plan.round * plan.tile_pixels < 256) plan.round *= 2;
      plan.shared = shared_offsets(plan, tables);
      const double cost = resident_cost(plan, multiprocessors, shared_limit);
      if (cost >= least) continue;
      least = cost;
      best = plan;
    }
  }
  return best;
}

// The largest group whose tables leave room for two rounds of tiles, for two blocks on a multiprocessor where possible.
inline std::optional<Plan> plan_streamed(const Plan& image, Tables tables, int64_t shared_limit) {
  std::optional<Plan> found;
  for (const int64_t wanted : {2, 1}) {
    for (const auto& [rows, columns] : std::initializer_list<std::pair<int, int>>{{2, 2}, {1, 2}, {1, 1}}) {
      Plan plan = with_group(image, rows, columns);
      plan.round = plan.tile_pixels == 64 ? 1 : 4;
      plan.slots = 2 * plan.round;
      plan.shared = shared_offsets(plan, tables);
      if (blocks_each(plan, shared_limit) >= wanted) return plan;
    }
  }
  return found;
}

}  // namespace tmt::cuda
