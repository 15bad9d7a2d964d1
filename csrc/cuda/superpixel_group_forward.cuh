// The superpixel iteration on tensor cores, for bf16 and fp16. Step t = 0 .. L of a group: take the regions f_(t-1) of
// its halo from the parts that step t - 1 left (step 0 has none), assign its pixels to them (step 0: each to its own
// cell), and leave the parts of f_t. Where an image fits into the shared memory of the chip, one cooperative kernel
// does all steps of an image, then of the next, so that each pixel is read from memory once (superpixel_resident);
// otherwise each step is one launch over all images (superpixel_step). Sums have a fixed order everywhere.
#pragma once

#include "cuda/superpixel_group_work.cuh"
#include "cuda/superpixel_plan.cuh"

namespace tmt::cuda {

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

// One block's work on one group of an image.
template <typename T, int kPixels>
class ForwardGroup : public GroupWork<T, kPixels> {
  using Work = GroupWork<T, kPixels>;
  using Work::group_, Work::memory_, Work::plan_;

 public:
  __device__ ForwardGroup(const ForwardArguments<T>& arguments, int image, int lane, int number)
      : Work(arguments.plan, arguments.features, arguments.parts, image, lane, number), given_(arguments) {}

  // The regions' features f_(step-1) from the parts in `set`: of the halo as unit vectors to shared memory, of the
  // group to the history, with their masses; the last ones, step L + 1, to the result as well. Clears the sums.
  // A warp per region.
  __device__ void gather(int step, int set) const {
    for (int number = warp_index(); number < plan_.halo(); number += kGroupWarps) {
      const HaloRegion region(plan_, group_, number);
      if (step > given_.iterations && !region.own) continue;
      if (step > 0 && region.exists) gather_region(region, number, step, set);
      Work::clear_sums(number);
      if (lane_index() == 0) memory_.masses()[number] = 0.f;
    }
  }

  // A warp works on kTogether slices at once.
  static constexpr int kTogether = kPixels == kSlice ? 1 : 2, kUnits = kPixels / kSlice / kTogether;

  // Keeps this warp's slices in registers, if the group has no more units than warps.
  template <int kSteps>
  __device__ void keep_pixels(KeptPixels<kTogether, kSteps>& kept) const {
    const int tile = warp_index() / kUnits, slice = warp_index() % kUnits * kTogether;
    if (tile < plan_.tiles()) keep_slices<T, kPixels>(kept, memory_.pixels(tile), plan_, slice);
  }

  // Weights of the round's tiles for accumulate. Step 0: 1 for the own cell; otherwise the assignment.
  template <int kSteps>
  __device__ void assign(int first, int slot, int step, const KeptPixels<kTogether, kSteps>& kept) const {
    for (int i = warp_index(); i < plan_.round * kUnits; i += kGroupWarps) {
      const Tile tile(plan_, group_, first + i / kUnits);
      const int slice = i % kUnits * kTogether;
      if (tile.empty()) continue;
      Products<kTogether> products[1];
      if (step > 0) {
        const TableRows<T> rows[] = {{memory_.centres(), plan_, tile}};
        similarities<T, kPixels>(products, kept, memory_.pixels(slot + i / kUnits), rows, plan_, slice);
      }
#pragma unroll
      for (int s = 0; s < kTogether; ++s)
        assign_slice(products[0], s, tile, i / kUnits, slot + i / kUnits, slice + s, step);
    }
  }

  // Adds the round's weighted pixels and masses to the halo's.
  __device__ void accumulate_round(int first, int slot) const {
    Work::accumulate_round(first, slot, 1.f / kWeightScale<T>);
    for (int number = threadIdx.x; number < plan_.halo(); number += kGroupThreads) add_masses_of(number, first);
  }

  // Writes the halo's sums and masses to the parts in `set`.
  __device__ void publish(int set) const {
    Work::publish(set);
    for (int i = threadIdx.x; i < plan_.halo(); i += kGroupThreads)
      given_.parts.masses[Work::part(set, i)] = memory_.masses()[i];
  }

 private:
  __device__ void gather_region(const HaloRegion& region, int number, int step, int set) const {
    const typename Work::PartRows rows = Work::part_rows(region, set);
    const float part = rows.lanes >> lane_index() & 1u ? given_.parts.masses[rows.row] : 0.f;
    float squares = 0.f, scaled = 0.f;
    for (int quad = lane_index(); quad - lane_index() < Work::quads(); quad += 2 * kWarpSize) {
      float4 total[2];
      Work::sum_parts(total, rows, quad);
#pragma unroll
      for (int q = 0; q < 2; ++q) {
        if (quad + q * kWarpSize < Work::quads()) Work::sum_quads(number)[quad + q * kWarpSize] = total[q];
        for (const float value : {total[q].x, total[q].y, total[q].z, total[q].w}) {
          squares += value * value;
          scaled += scaled_square(value);
        }
      }
    }
    const float mass = warp_sum(part), factor = 1.f / fmaxf(mass, kMassEps);
    const float norm = norm_of(warp_sum(squares), warp_sum(scaled)) * factor;
    if (step <= given_.iterations) write_centre(number, factor, 1.f / fmaxf(norm, kNormEps));
    if (!region.own) return;
    if (given_.history != nullptr) keep(region, number, step, mass, factor);
    if (step > given_.iterations) write_region(region, number, factor);
  }

  __device__ void write_centre(int number, float factor, float inverse_norm) const {
    for (int quad = lane_index(); quad < Work::quads(); quad += kWarpSize) {
      const float4 feature = Work::scale(Work::sum_quads(number)[quad], factor);
      Work::write_quad(memory_.centres(), number, quad, Work::scale(feature, inverse_norm));
    }
  }

  // Writes f_(step-1) and its mass of a region of the group for the backward pass.
  __device__ void keep(const HaloRegion& region, int number, int step, float mass, float factor) const {
    const int64_t map = int64_t{group_.image} * (given_.iterations + 1) + step - 1, regions = plan_.regions();
    float* history = given_.history + (map * regions + region.index(plan_)) * plan_.channels;
    const float* sums = memory_.sums() + number * plan_.stride;
    warp_barrier();
    for (int channel = lane_index(); channel < plan_.channels; channel += kWarpSize)
      history[channel] = sums[channel] * factor;
    warp_barrier();
    if (step < 2 || lane_index() != 0) return;
    given_.masses[(int64_t{group_.image} * given_.iterations + step - 2) * regions + region.index(plan_)] = mass;
  }

  // Writes f_L of a region of the group to the result.
  __device__ void write_region(const HaloRegion& region, int number, float factor) const {
    const int64_t regions = plan_.regions(), image = int64_t{group_.image} * plan_.channels * regions;
    const float* sums = memory_.sums() + number * plan_.stride;
    warp_barrier();
    for (int channel = lane_index(); channel < plan_.channels; channel += kWarpSize)
      given_.region_features[image + channel * regions + region.index(plan_)] = static_cast<T>(sums[channel] * factor);
    warp_barrier();
  }

  __device__ void assign_slice(const Products<kTogether>& products, int s, const Tile& tile, int i, int slot, int slice,
                               int step) const {
    float mass[3] = {};
    const unsigned exist = neighbour_bits(plan_, tile);
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const int pixel = slice * kSlice + row * 8 + lane_index() / 4;
      const bool inside = tile.first + pixel < tile.count;
      PixelValues values;
      int nearest = kOwn;
      if (step == 0) {
#pragma unroll
        for (int k = 0; k < 3; ++k) values.value[k] = PixelValues::neighbour(k) == kOwn ? 1.f : 0.f;
      } else {
        products.get(values.value, s, row);
        const float factor = memory_.inverse_norms(slot)[pixel];
#pragma unroll
        for (int k = 0; k < 3; ++k) values.value[k] = given_.kappa * (values.value[k] * factor);
        nearest = softmax(values, exist);
        if (step == given_.iterations && inside) write_result(values, nearest, tile, pixel);
      }
#pragma unroll
      for (int k = 0; k < 3; ++k) {
        if (!inside) values.value[k] = 0.f;
        mass[k] += values.value[k];
      }
      store_weights<T, kPixels>(memory_.weights(i), values, pixel, kWeightScale<T>);
    }
    write_masses(mass, i, slice);
  }

  __device__ void write_masses(float (&mass)[3], int i, int slice) const {
#pragma unroll
    for (int k = 0; k < 3; ++k) {
#pragma unroll
      for (int bits = 4; bits < kWarpSize; bits *= 2) mass[k] += shuffle_xor(mass[k], bits);
      if (lane_index() < (k == 2 ? 1 : 4)) memory_.slice_masses(i, slice)[PixelValues::neighbour(k)] = mass[k];
    }
  }

  __device__ void write_result(const PixelValues& values, int nearest, const Tile& tile, int pixel) const {
    const int64_t offset = tile.offset(plan_, pixel), image = group_.image * plan_.pixels();
    const bool first = lane_index() % 4 == 0;
#pragma unroll
    for (int k = 0; k < 3; ++k) {
      if (k == 2 && !first) break;
      given_.assignment[image * kNeighbours + PixelValues::neighbour(k) * plan_.pixels() + offset] =
          static_cast<T>(values.value[k]);
    }
    const int row = tile.row + superpixel::neighbour_row(nearest);
    if (first)
      given_.labels[image + offset] = row * plan_.columns + tile.column + superpixel::neighbour_column(nearest);
  }

  // Adds to the mass of a region of the halo what the round's tiles of the cells around it give.
  __device__ void add_masses_of(int number, int first) const {
    float total = 0.f;
    for (int i = 0; i < plan_.round; ++i) {
      const Tile tile(plan_, group_, first + i);
      const int offset = number - tile.corner, down = offset / plan_.halo_columns(),
                across = offset % plan_.halo_columns();
      if (tile.empty() || offset < 0 || down > 2 || across > 2) continue;
      for (int slice = 0; slice < kPixels / kSlice; ++slice) total += memory_.slice_masses(i, slice)[down * 3 + across];
    }
    memory_.masses()[number] += total;
  }

  const ForwardArguments<T>& given_;
};

// All steps of the images team, team + teams, ...; a team of plan.groups() blocks works on an image, and a block on a
// group of it. Blocks wait for their neighbours only: `flags` (teams, groups), 0 at first, count each block's steps.
// kSteps: channel steps that are kept in registers, too; 0: none.
template <typename T, int kPixels, int kSteps>
__global__ void __launch_bounds__(kGroupThreads, 1)
    superpixel_resident(const __grid_constant__ ForwardArguments<T> arguments, unsigned* flags) {
  const Plan& plan = arguments.plan;
  const int team = blockIdx.x / plan.groups(), number = blockIdx.x % plan.groups();
  flags += team * plan.groups();
  unsigned steps = 0;  // done by this block
  for (int image = team; image < plan.batch; image += arguments.parts.lanes) {
    const ForwardGroup<T, kPixels> group(arguments, image, team, number);
    for (int first = 0; first < plan.tiles(); first += plan.round) group.load(first, first);
    wait_copies<0>();
    block_barrier();
    for (int first = 0; first < plan.tiles(); first += plan.round) group.measure(first, first);
    KeptPixels<ForwardGroup<T, kPixels>::kTogether, kSteps> kept;
    group.keep_pixels(kept);
    for (int step = 0; step <= arguments.iterations; ++step, ++steps) {
      if (step > 0) wait_for_neighbours(flags, plan, number, steps);
      group.gather(step, (steps + 1) & 1);
      block_barrier();
      for (int first = 0; first < plan.tiles(); first += plan.round) {
        group.assign(first, first, step, kept);
        block_barrier();
        group.accumulate_round(first, first);
        block_barrier();
      }
      group.publish(steps & 1);
      tell_neighbours(flags + number);
    }
    wait_for_neighbours(flags, plan, number, steps);
    group.gather(arguments.iterations + 1, (steps + 1) & 1);
  }
}

// One step of one group of one image, whose tiles come through two buffers of a round each; step L + 1 only gathers.
template <typename T, int kPixels>
__global__ void __launch_bounds__(kGroupThreads, 2)
    superpixel_step(const __grid_constant__ ForwardArguments<T> arguments, int step) {
  const Plan& plan = arguments.plan;
  const int image = blockIdx.x / plan.groups();
  const ForwardGroup<T, kPixels> group(arguments, image, image, blockIdx.x % plan.groups());
  if (step > arguments.iterations) return group.gather(step, (step + 1) & 1);
  // Turn -1 loads the first round, and gathers while it is on its way.
  for (int first = -plan.round, slot = plan.round; first < plan.tiles(); first += plan.round, slot ^= plan.round) {
    if (first + plan.round < plan.tiles())
      group.load(first + plan.round, slot ^ plan.round);
    else
      commit_copies();
    if (first < 0) {
      group.gather(step, (step + 1) & 1);
      continue;
    }
    wait_copies<1>();
    block_barrier();
    if (step > 0) group.measure(first, slot);
    block_barrier();
    group.assign(first, slot, step, KeptPixels<ForwardGroup<T, kPixels>::kTogether, 0>{});
    block_barrier();
    group.accumulate_round(first, slot);
    block_barrier();
  }
  group.publish(step & 1);
}

template <typename T, int kPixels, int kSteps>
bool launch_resident(const Context& context, const Tensor& features, ForwardArguments<T> arguments) {
  const Plan& plan = arguments.plan;
  const auto kernel = superpixel_resident<T, kPixels, kSteps>;
  const size_t bytes = plan.shared.bytes;
  const int64_t resident = resident_blocks(context, kernel, kGroupThreads, bytes);
  const int64_t teams = std::min<int64_t>(plan.batch, resident / plan.groups());
  if (teams == 0) return false;
  std::array<Tensor, 2> memory;
  arguments.parts = new_parts(features, plan, static_cast<int>(teams), memory);
  const Tensor flags = zeroed_counters(context, features, teams * plan.groups());
  launch_cooperative(context, {teams * plan.groups(), kGroupThreads, bytes}, kernel, arguments,
                     static_cast<unsigned*>(flags.mutable_data_ptr()));
  return true;
}

// Runs with every image on the chip. False where that is not possible.
template <typename T, int kPixels>
bool run_resident(const Context& context, const Tensor& features, ForwardArguments<T> arguments, const Plan& image) {
  constexpr int kSteps = kPixels == kSlice ? 8 : 4;  // 64 registers of each thread
  const auto plan =
      plan_resident(image, Tables::centres, context.multiprocessors(), static_cast<int64_t>(context.shared_limit()));
  if (!plan) return false;
  arguments.plan = *plan;
  const bool keeps = plan->tiles() * ForwardGroup<T, kPixels>::kUnits <= kGroupWarps && plan->round >= plan->tiles();
  return keeps ? launch_resident<T, kPixels, kSteps>(context, features, arguments)
               : launch_resident<T, kPixels, 0>(context, features, arguments);
}

// Runs with one launch a step. False where not even two tiles and the regions around one cell fit.
template <typename T, int kPixels>
bool run_steps(const Context& context, const Tensor& features, ForwardArguments<T> arguments, const Plan& image) {
  const auto plan = plan_streamed(image, Tables::centres, static_cast<int64_t>(context.shared_limit()));
  if (!plan) return false;
  std::array<Tensor, 2> memory;
  arguments.plan = *plan;
  arguments.parts = new_parts(features, *plan, plan->batch, memory);
  const Blocks blocks{int64_t{plan->batch} * plan->groups(), kGroupThreads, static_cast<size_t>(plan->shared.bytes)};
  for (int step = 0; step <= arguments.iterations + 1; ++step)
    launch(context, blocks, superpixel_step<T, kPixels>, arguments, step);
  return true;
}

template <typename T, int kPixels>
bool run_groups(const Context& context, const Tensor& features, const ForwardArguments<T>& arguments,
                const Plan& image) {
  return run_resident<T, kPixels>(context, features, arguments, image) ||
         run_steps<T, kPixels>(context, features, arguments, image);
}

}  // namespace tmt::cuda
