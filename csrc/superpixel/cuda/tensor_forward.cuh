// The superpixel iteration on tensor cores, for bf16 and fp16. Step t = 0 .. L of a group: gather the regions f_(t-1)
// of its halo from the parts that step t - 1 left (step 0 has none), assign its pixels to them (step 0: each to its own
// cell), accumulate what the pixels give, and publish it as parts of f_t; step L + 1 only gathers. Where an image fits
// into the shared memory of the chip, one cooperative launch does all steps of an image, then of the next, so that each
// pixel is read from memory once; otherwise each step is a launch over all images.
#pragma once

#include "superpixel/cuda/exchange.cuh"
#include "superpixel/cuda/products.cuh"

namespace tmt::superpixel::cuda {

template <typename T>
struct ForwardArguments {
  Plan plan;
  const T* features;   // (B, C, H, W)
  T* region_features;  // (B, C, h, w)
  T* assignment;       // (B, 9, H, W)
  int64_t* labels;     // (B, H, W)
  float* history;      // (B, L + 1, h * w, C), or null: not kept
  float* masses;       // (B, L, h * w), or null with history
  Parts parts;
  int iterations;
  float kappa;
};

// ---- gather ---------------------------------------------------------------------------------------------------------

// Writes f_(step-1) of a region of the group to the history and, after the last step, to the result.
template <typename T>
__device__ void write_feature(const ForwardArguments<T>& given, const Group<T>& group, const RegionInfo& region,
                              int image, int step, float factor) {
  const Plan& plan = group.plan;
  const float* sums = reinterpret_cast<const float*>(sum_quads(group, region));
  const int64_t map = int64_t{image} * (given.iterations + 1) + step - 1, regions = plan.regions();
  float* history = given.history == nullptr ? nullptr : given.history + (map * regions + region.region) * plan.channels;
  T* result = step <= given.iterations
                  ? nullptr
                  : given.region_features + int64_t{image} * plan.channels * regions + region.region;
  if (history == nullptr && result == nullptr) return;
  warp_barrier();
  for (int channel = lane_index(); channel < plan.channels; channel += kWarpSize) {
    const float feature = sums[channel] * factor;
    if (history != nullptr) history[channel] = feature;
    if (result != nullptr) result[channel * regions] = static_cast<T>(feature);
  }
  warp_barrier();
}

template <typename T>
__device__ void gather_feature(const ForwardArguments<T>& given, const Group<T>& group, const RegionInfo& region,
                               int image, int step, int set) {
  const Plan& plan = group.plan;
  const int quads = plan.padded_channels / 4;
  const PartRows rows = part_rows(group, given.parts, region, set);
  const float part = rows.lanes >> lane_index() & 1u ? given.parts.masses[rows.row] : 0.f;
  float4* sums = sum_quads(group, region);
  Squares squares;
  for (int quad = lane_index(); quad - lane_index() < quads; quad += 2 * kWarpSize) {
    float4 total[2];
    sum_parts(total, given.parts, rows, quads, quad);
#pragma unroll
    for (int q = 0; q < 2; ++q) {
      if (quad + q * kWarpSize < quads) sums[quad + q * kWarpSize] = total[q];
      squares.add(total[q]);
    }
  }
  const float mass = warp_sum(part), factor = 1.f / fmaxf(mass, kMassEps);
  const float inverse_norm = 1.f / fmaxf(squares.norm() * factor, kNormEps);
  if (step <= given.iterations)
    for (int quad = lane_index(); quad < quads; quad += kWarpSize)
      write_quad(group.centres(), plan, region, quad, scale(scale(sums[quad], factor), inverse_norm));
  if (region.pixels == 0) return;
  write_feature(given, group, region, image, step, factor);
  if (given.masses != nullptr && step >= 2 && lane_index() == 0)
    given.masses[(int64_t{image} * given.iterations + step - 2) * plan.regions() + region.region] = mass;
}

// The regions' features f_(step-1) from the parts in `set`: of the halo as unit vectors to shared memory, of the group
// to the history; after the last step only of the group, to the result as well. Clears the sums. A warp per region.
template <typename T>
__device__ void gather_features(const ForwardArguments<T>& given, const Group<T>& group, int image, int step, int set) {
  for (int number = warp_index(); number < group.plan.halo(); number += kGroupWarps) {
    const RegionInfo& region = group.region(number);
    const bool wanted = step > given.iterations ? region.pixels > 0 : step > 0 && region.region >= 0;
    if (wanted) gather_feature(given, group, region, image, step, set);
    clear_sums(group, region);
  }
}

// ---- assign ---------------------------------------------------------------------------------------------------------

template <typename T>
__device__ void write_assignment(const ForwardArguments<T>& given, const Plan& plan, const TileInfo& tile, int image,
                                 int offset, const PixelValues& values, int nearest) {
  const int64_t first = int64_t{image} * plan.pixels();
#pragma unroll
  for (int k = 0; k < 3; ++k) {
    if (k == 2 && lane_index() % 4 != 0) break;
    given.assignment[first * kNeighbours + PixelValues::neighbour(k) * plan.pixels() + offset] =
        static_cast<T>(values.value[k]);
  }
  const int region = tile.region + neighbour_row(nearest) * plan.columns;
  if (lane_index() % 4 == 0) given.labels[first + offset] = region + neighbour_column(nearest);
}

// A slice's masses of the nine neighbours, from those of each lane's pixels.
__device__ __forceinline__ void write_masses(float* slice_masses, float (&mass)[3]) {
#pragma unroll
  for (int k = 0; k < 3; ++k) {
#pragma unroll
    for (int bits = 4; bits < kWarpSize; bits *= 2) mass[k] += shuffle_xor(mass[k], bits);
    if (lane_index() < (k == 2 ? 1 : 4)) slice_masses[PixelValues::neighbour(k)] = mass[k];
  }
}

// Weights of slice `slice` of a tile, the s-th of `products`.
template <int kPixels, typename T>
__device__ __forceinline__ void assign_slice(const ForwardArguments<T>& given, const Group<T>& group, int number,
                                             const TileInfo& tile, int slice,
                                             const Products<kTogether<kPixels>>& products, int s, int image, int step) {
  float mass[3] = {};
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    const int pixel = slice * kSlice + row * 8 + lane_index() / 4, piece = group.pieces(number)[pixel / kPiece];
    PixelValues values;
    if (step == 0) {
#pragma unroll
      for (int k = 0; k < 3; ++k) values.value[k] = PixelValues::neighbour(k) == kOwn ? 1.f : 0.f;
    } else {
      products.get(values.value, s, row);
      const float factor = group.inverse_norms(number)[pixel];
#pragma unroll
      for (int k = 0; k < 3; ++k) values.value[k] = given.kappa * (values.value[k] * factor);
      const bool last = step == given.iterations;  // in every lane
      const int nearest = last ? nearest_neighbour(values, tile.exist, given.kappa * kTie) : kOwn;
      softmax(values, tile.exist);
      if (last && piece >= 0) write_assignment(given, group.plan, tile, image, piece + pixel % kPiece, values, nearest);
    }
#pragma unroll
    for (int k = 0; k < 3; ++k) {
      if (piece < 0) values.value[k] = 0.f;
      mass[k] += values.value[k];
    }
    store_weights<T, kPixels>(group.weights(number), values, pixel, kWeightScale<T>);
  }
  write_masses(group.slice_masses() + (number * (kPixels / kSlice) + slice) * kNeighbours, mass);
}

// The weights of all pixels. Step 0: 1 for the own cell; otherwise the assignment. A warp per unit of slices.
template <int kPixels, typename T, int kSteps>
__device__ void assign_pixels(const ForwardArguments<T>& given, const Group<T>& group,
                              const KeptPixels<kTogether<kPixels>, kSteps>& kept, int image, int step) {
  for (int i = warp_index(); i < group.plan.tiles() * kUnits<kPixels>; i += kGroupWarps) {
    const int number = i / kUnits<kPixels>, slice = i % kUnits<kPixels> * kTogether<kPixels>;
    const TileInfo tile = group.tile(number);
    if (tile.exist == 0) continue;
    Products<kTogether<kPixels>> products[1];
    if (step > 0) {
      const TableRows<T> rows[] = {{group.centres(), group.plan, tile}};
      similarities<T, kPixels>(products, kept, group.pixels(number), rows, group.plan, slice);
    }
#pragma unroll
    for (int s = 0; s < kTogether<kPixels>; ++s)
      assign_slice<kPixels>(given, group, number, tile, slice + s, products[0], s, image, step);
  }
}

// ---- publish --------------------------------------------------------------------------------------------------------

// Writes the masses that the pixels give the halo's regions to the parts in `set`. A warp per region, a lane per slice.
template <int kPixels, typename T>
__device__ void publish_masses(const Group<T>& group, const Parts& parts, int set) {
  constexpr int kSlices = kPixels / kSlice;
  for (int number = warp_index(); number < group.plan.halo(); number += kGroupWarps) {
    const RegionInfo& region = group.region(number);
    float mass = 0.f;
    for (int i = lane_index(); i < group.plan.tiles() * kSlices; i += kWarpSize) {
      const TileInfo tile = group.tile(i / kSlices);
      const int down = region.y - tile.y, across = region.x - tile.x;
      if (tile.exist != 0 && down >= 0 && down < 3 && across >= 0 && across < 3)
        mass += group.slice_masses()[i * kNeighbours + down * 3 + across];
    }
    mass = warp_sum(mass);
    if (lane_index() == 0) parts.masses[parts.row(group, set, number)] = mass;
  }
}

// ---- the kernel -----------------------------------------------------------------------------------------------------

// Steps first .. last of the images lane, lane + lanes, ...; plan.groups() blocks work on an image, each on a group of
// it. With `flags` (lanes, groups), 0 at first, all are resident and wait for their neighbours' steps; without, each
// step is a launch. kSteps: channel steps whose pixels are kept in registers, too; 0: none.
template <typename T, int kPixels, int kSteps>
__global__ void __launch_bounds__(kGroupThreads, kSteps > 0 ? 1 : 2)
    superpixel_steps(const __grid_constant__ ForwardArguments<T> arguments, int first, int last, unsigned* flags) {
  const Plan& plan = arguments.plan;
  const Group<T> group{plan, static_cast<int>(blockIdx.x) / plan.groups(),
                       static_cast<int>(blockIdx.x) % plan.groups()};
  const unsigned* watched = flags == nullptr ? nullptr : watched_flag(group, flags);
  describe(group);
  block_barrier();
  unsigned steps = first;  // done by this block
  for (int image = group.lane; image < plan.batch; image += arguments.parts.lanes) {
    if (first <= arguments.iterations) {
      load_pixels<kPixels>(group, arguments.features, image);
      wait_copies<0>();
      block_barrier();
      measure_pixels<kPixels>(group);
    }
    KeptPixels<kTogether<kPixels>, kSteps> kept;
    keep_pixels<kPixels>(kept, group);
    for (int step = first; step <= last; ++step) {
      if (step > 0 && flags != nullptr) wait_for_neighbours(watched, steps);
      gather_features(arguments, group, image, step, (steps + 1) & 1);
      if (step > arguments.iterations) break;
      block_barrier();
      assign_pixels<kPixels>(arguments, group, kept, image, step);
      block_barrier();
      accumulate_pixels<kPixels>(group, 1.f / kWeightScale<T>);
      block_barrier();
      publish_sums(group, arguments.parts, steps & 1);
      publish_masses<kPixels>(group, arguments.parts, steps & 1);
      if (flags != nullptr) tell_neighbours(group, flags);
      ++steps;
    }
  }
}

// ---- the host's side ------------------------------------------------------------------------------------------------

template <typename T, int kPixels, int kSteps>
bool launch_resident(const Context& context, const Tensor& features, ForwardArguments<T> arguments) {
  const Plan& plan = arguments.plan;
  const auto kernel = superpixel_steps<T, kPixels, kSteps>;
  const size_t bytes = plan.shared.bytes;
  const int64_t resident = resident_blocks(context, kernel, kGroupThreads, bytes);
  const int64_t teams = std::min<int64_t>(plan.batch, resident / plan.groups());
  if (teams == 0) return false;
  std::array<Tensor, 2> memory;
  arguments.parts = new_parts(features, plan, static_cast<int>(teams), memory);
  const Tensor flags = zeroed(context, features, ScalarType::Int, teams * plan.groups());
  launch_cooperative(context, {teams * plan.groups(), kGroupThreads, bytes}, kernel, arguments, 0,
                     arguments.iterations + 1, static_cast<unsigned*>(flags.mutable_data_ptr()));
  return true;
}

// Runs with every image on the chip. False where that is not possible.
template <typename T, int kPixels>
bool run_resident(const Context& context, const Tensor& features, ForwardArguments<T> arguments) {
  constexpr int kSteps = kPixels == kSlice ? 8 : 4;  // 64 registers of each thread
  const auto plan = plan_resident(arguments.plan, Tables::centres, context.multiprocessors(),
                                  static_cast<int64_t>(context.shared_limit()));
  if (!plan) return false;
  arguments.plan = *plan;
  return plan->tiles() * kUnits<kPixels> <= kGroupWarps
             ? launch_resident<T, kPixels, kSteps>(context, features, arguments)
             : launch_resident<T, kPixels, 0>(context, features, arguments);
}

// Runs with one launch a step. False where the pixels of one cell do not fit into shared memory.
template <typename T, int kPixels>
bool run_steps(const Context& context, const Tensor& features, ForwardArguments<T> arguments) {
  const auto plan = plan_steps(arguments.plan, Tables::centres, static_cast<int64_t>(context.shared_limit()));
  if (!plan) return false;
  std::array<Tensor, 2> memory;
  arguments.plan = *plan;
  arguments.parts = new_parts(features, *plan, plan->batch, memory);
  const Blocks blocks{int64_t{plan->batch} * plan->groups(), kGroupThreads, static_cast<size_t>(plan->shared.bytes)};
  for (int step = 0; step <= arguments.iterations + 1; ++step)
    launch(context, blocks, superpixel_steps<T, kPixels, 0>, arguments, step, step, nullptr);
  return true;
}

// False where the plain kernels must do it. `arguments.plan` is that of plan_image.
template <typename T, int kPixels>
bool run_groups(const Context& context, const Tensor& features, const ForwardArguments<T>& arguments) {
  return run_resident<T, kPixels>(context, features, arguments) || run_steps<T, kPixels>(context, features, arguments);
}

}  // namespace tmt::superpixel::cuda
