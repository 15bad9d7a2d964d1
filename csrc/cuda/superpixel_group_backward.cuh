// The superpixel iteration backward on tensor cores, for bf16; notation as in superpixel_backward.cu. Step t = L .. 1
// of a group: make G_t of its halo's regions from what step t + 1 left (step L: from the given gradient), compute
// assignment and da of its pixels in one pass over them, and leave the parts of df^_(t-1). No gradient of pixels is
// carried along; per pixel and step only the nine a and the nine v = kappa ds / |x| are kept, and at the end
//   dx = sum_t ( sum_r a_t(r) G_t(r) + v_t(r) f^_(t-1)(r) ) - turn x + g_0(own cell) / pixels of the cell
// is one product (channels x 18 L) . (18 L x pixels), with turn = sum_t <v_t, cosines> / |x|. Both sides are kept as
// halves, and three of the four products of halves are added up. As in the forward pass, one cooperative kernel
// (superpixel_backward_resident) or a launch a step.
#pragma once

#include "cuda/superpixel_group_finish.cuh"
#include "cuda/superpixel_plan.cuh"

namespace tmt::cuda {

template <typename T>
struct BackwardArguments {
  Plan plan;
  const T* grad_region_features;  // (B, C, h, w) or null
  const T* grad_assignment;       // (B, 9, H, W) or null
  const T* features;              // (B, C, H, W)
  const float* history;           // (B, L + 1, h * w, C)
  const float* masses;            // (B, L, h * w)
  T* result;                      // (B, C, H, W)
  Parts parts;
  Kept<T> kept;
  int iterations;
  float kappa;
};

// One block's work on one group of an image.
template <typename T, int kPixels>
class BackwardGroup : public GroupWork<T, kPixels> {
  using Work = GroupWork<T, kPixels>;
  using Work::group_, Work::memory_, Work::plan_, Work::lane_, Work::number_;

 public:
  __device__ BackwardGroup(const BackwardArguments<T>& arguments, int image, int lane, int number)
      : Work(arguments.plan, arguments.features, arguments.parts, image, lane, number), given_(arguments) {}

  // Step t >= 1: G_t and f^_(t-1) of the halo to shared memory, those of the group's regions to `kept`. Step 0: the
  // group's g_0 / pixels to `kept`. Clears the sums. A warp per region.
  __device__ void gather(int step, int set) const {
    for (int number = warp_index(); number < plan_.halo(); number += kGroupWarps) {
      const HaloRegion region(plan_, group_, number);
      if (region.exists && (step > 0 || region.own)) gather_region(region, number, step, set);
      Work::clear_sums(number);
    }
  }

  // Weights v of the round's tiles for accumulate_round; a and v to `kept`.
  __device__ void assign(int first, int slot, int step) const {
    constexpr int kSlices = kPixels / kSlice, kTogether = kSlices == 1 ? 1 : 2, kUnits = kSlices / kTogether;
    for (int i = warp_index(); i < plan_.round * kUnits; i += kGroupWarps) {
      const Tile tile(plan_, group_, first + i / kUnits);
      if (tile.empty()) continue;
      const int slice = i % kUnits * kTogether, at = slot + i / kUnits;
      Products<kTogether> products[2];
      const TableRows<T> rows[] = {{memory_.centres(), plan_, tile}, {memory_.gradients(), plan_, tile}};
      similarities<T, kPixels>(products, KeptPixels<kTogether, 0>{}, memory_.pixels(at), rows, plan_, slice);
#pragma unroll
      for (int s = 0; s < kTogether; ++s)
        for (int row = 0; row < 2; ++row) {
          PixelValues cosine, change;
          products[0].get(cosine.value, s, row);
          products[1].get(change.value, s, row);
          const int pixel = (slice + s) * kSlice + row * 8 + lane_index() / 4;
          assign_pixel(cosine, change, tile, first + i / kUnits, pixel, memory_.inverse_norms(at)[pixel], step);
          store_weights<T, kPixels>(memory_.weights(i / kUnits), change, pixel, 1.f);
        }
    }
  }

  // Turns a round's pixels in shared memory into their gradient. Every warp on its own channels.
  __device__ void finish(int first, int slot) const {
    for (int i = 0; i < plan_.round; ++i) {
      const Tile tile(plan_, group_, first + i);
      if (tile.empty()) continue;
      const int64_t row = given_.kept.row(plan_, lane_, number_, first + i);
      finish_tile<T, kPixels>(memory_.pixels(slot + i), given_.kept, plan_, tile, lane_, row, given_.iterations);
    }
  }

  // Writes a round's tiles to the result.
  __device__ void store(int first, int slot) const {
    store_tiles<T, kPixels>(memory_.pixels(0), given_.result, plan_, group_, first, slot);
  }

 private:
  // Squared norm of a vector, plain and scaled, as its parts in a warp's lanes add up.
  struct Squares {
    float plain = 0.f, scaled = 0.f;

    __device__ void add(const float4& value) {
      for (const float v : {value.x, value.y, value.z, value.w}) {
        plain += v * v;
        scaled += scaled_square(v);
      }
    }
    __device__ float inverse_norm() const { return 1.f / fmaxf(norm_of(warp_sum(plain), warp_sum(scaled)), kNormEps); }
  };

  // Channels 4 quad .. 4 quad + 3 of f_t of a region; zeros beyond the channels.
  __device__ float4 feature(const HaloRegion& region, int t, int quad) const {
    const int64_t map = int64_t{group_.image} * (given_.iterations + 1) + t;
    const float* from = given_.history + (map * plan_.regions() + region.index(plan_)) * plan_.channels + 4 * quad;
    const int left = plan_.channels - 4 * quad;
    if (left >= 4 && reinterpret_cast<uintptr_t>(from) % sizeof(float4) == 0)
      return *reinterpret_cast<const float4*>(from);
    return {left > 0 ? from[0] : 0.f, left > 1 ? from[1] : 0.f, left > 2 ? from[2] : 0.f, left > 3 ? from[3] : 0.f};
  }

  // The given gradient of f_L, zeros where none is.
  __device__ float4 given_gradient(const HaloRegion& region, int quad) const {
    const int64_t regions = plan_.regions(), first = int64_t{group_.image} * plan_.channels + 4 * quad;
    const T* from = given_.grad_region_features + first * regions + region.index(plan_);
    const int left = given_.grad_region_features == nullptr ? 0 : plan_.channels - 4 * quad;
    return {left > 0 ? static_cast<float>(from[0]) : 0.f, left > 1 ? static_cast<float>(from[regions]) : 0.f,
            left > 2 ? static_cast<float>(from[2 * regions]) : 0.f,
            left > 3 ? static_cast<float>(from[3 * regions]) : 0.f};
  }

  // The gradient g of f_step is df * scale + f_step * turn, where df is the row of the sums: the given gradient, or
  // what the pixels left in the parts. f_step is at right angles to it, but in the last step or where its norm is
  // clamped.
  __device__ void gather_region(const HaloRegion& region, int number, int step, int set) const {
    const bool last = step == given_.iterations;
    const typename Work::PartRows rows = Work::part_rows(region, set);
    Squares own, before;
    float product = 0.f;
    for (int quad = lane_index(); quad - lane_index() < Work::quads(); quad += 2 * kWarpSize) {
      const int quads[2] = {quad, quad + kWarpSize};
      float4 total[2], now[2], past[2];
#pragma unroll
      for (int q = 0; q < 2; ++q) {
        now[q] = feature(region, step, quads[q]);
        past[q] = step > 0 ? feature(region, step - 1, quads[q]) : now[q];
        if (last) total[q] = given_gradient(region, quads[q]);
      }
      if (!last) Work::sum_parts(total, rows, quad);
#pragma unroll
      for (int q = 0; q < 2; ++q) {
        own.add(now[q]);
        before.add(past[q]);
        product += dot(total[q], now[q]);
        if (quads[q] < Work::quads()) Work::sum_quads(number)[quads[q]] = total[q];
      }
    }
    product = warp_sum(product);
    const float inverse_norm = own.inverse_norm(), other = before.inverse_norm();
    const bool projects = !last && inverse_norm < 1.f / kNormEps;
    const float scale = last ? 1.f : inverse_norm;
    const float turn = projects ? -product * inverse_norm * inverse_norm * inverse_norm : 0.f;
    if (step > 0)
      write_tables(region, number, step, scale, turn, projects ? 0.f : product * scale, other);
    else
      keep_mean(region, number, scale, turn);
  }

  __device__ static float dot(const float4& a, const float4& b) {
    return a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w;
  }

  __device__ float4 gradient(const HaloRegion& region, int number, int step, int quad, float scale, float turn) const {
    return Work::add(Work::scale(Work::sum_quads(number)[quad], scale), Work::scale(feature(region, step, quad), turn));
  }

  // G_step and f^_(step-1) to the tables and, of the group's regions, to `kept`; <G, f_step>, 0 where the mean does not
  // move with the mass, to the masses. `product` is <g, f_step>.
  __device__ void write_tables(const HaloRegion& region, int number, int step, float scale, float turn, float product,
                               float inverse_norm) const {
    const int64_t map = int64_t{group_.image} * given_.iterations + step - 1;
    const float mass = given_.masses[map * plan_.regions() + region.index(plan_)];
    const float factor = 1.f / fmaxf(mass, kMassEps);
    if (lane_index() == 0) memory_.masses()[number] = mass < kMassEps ? 0.f : product * factor;
    for (int quad = lane_index(); quad < Work::quads(); quad += kWarpSize) {
      const float4 slope = Work::scale(gradient(region, number, step, quad, scale, turn), factor);
      const float4 centre = Work::scale(feature(region, step - 1, quad), inverse_norm);
      Work::write_quad(memory_.gradients(), number, quad, slope);
      Work::write_quad(memory_.centres(), number, quad, centre);
      if (!region.own) continue;
      keep_quad(region, step, 0, quad, slope);
      keep_quad(region, step, 1, quad, centre);
    }
  }

  __device__ void keep_quad(const HaloRegion& region, int step, int which, int quad, const float4& value) const {
    uint32_t* kept = given_.kept.operand(plan_, lane_, given_.iterations, step, which, region.index(plan_));
    reinterpret_cast<uint4*>(kept)[quad] = {pack_halves<T>(value.x), pack_halves<T>(value.y), pack_halves<T>(value.z),
                                            pack_halves<T>(value.w)};
  }

  // g_0 / pixels of the cell.
  __device__ void keep_mean(const HaloRegion& region, int number, float scale, float turn) const {
    const int pixels = smaller(plan_.cell, plan_.height - region.row * plan_.cell) *
                       smaller(plan_.cell, plan_.width - region.column * plan_.cell);
    float4* mean = reinterpret_cast<float4*>(given_.kept.mean(plan_, lane_, region.index(plan_)));
    for (int quad = lane_index(); quad < Work::quads(); quad += kWarpSize)
      mean[quad] = Work::scale(gradient(region, number, 0, quad, scale, turn), 1.f / static_cast<float>(pixels));
  }

  // From a pixel's inner products with the centres and with the gradients: v, in place of the latter; a and v to
  // `kept`.
  __device__ __forceinline__ void assign_pixel(PixelValues& cosine, PixelValues& change, const Tile& tile, int number,
                                               int pixel, float inverse_norm, int step) const {
    const unsigned exist = neighbour_bits(plan_, tile);
    const bool inside = tile.first + pixel < tile.count;
    PixelValues weight, product;
#pragma unroll
    for (int k = 0; k < 3; ++k) {
      const int neighbour = PixelValues::neighbour(k);
      const bool exists = exist >> neighbour & 1u;
      cosine.value[k] = exists ? cosine.value[k] * inverse_norm : 0.f;
      change.value[k] = exists ? change.value[k] - memory_.masses()[tile.neighbour(plan_, neighbour)] : 0.f;
      weight.value[k] = given_.kappa * cosine.value[k];
    }
    if (step == given_.iterations && given_.grad_assignment != nullptr && inside) add_given(change, tile, pixel);
    softmax(weight, exist);
#pragma unroll
    for (int k = 0; k < 3; ++k) product.value[k] = weight.value[k] * change.value[k];
    const float mean = product.total();
#pragma unroll
    for (int k = 0; k < 3; ++k) {
      if (!inside) weight.value[k] = 0.f;
      change.value[k] = weight.value[k] * (change.value[k] - mean) * (given_.kappa * inverse_norm);
      product.value[k] = change.value[k] * cosine.value[k];
    }
    const float turned = product.total() * inverse_norm, turn = inverse_norm >= 1.f / kNormEps ? 0.f : turned;
    const int64_t row = given_.kept.row(plan_, lane_, number_, number) + pixel;
    keep_pixel(given_.kept, weight, change, turn, row, given_.iterations - step);
  }

  __device__ void add_given(PixelValues& change, const Tile& tile, int pixel) const {
    const T* given = given_.grad_assignment + int64_t{group_.image} * kNeighbours * plan_.pixels();
#pragma unroll
    for (int k = 0; k < 3; ++k)
      change.value[k] +=
          static_cast<float>(given[PixelValues::neighbour(k) * plan_.pixels() + tile.offset(plan_, pixel)]);
  }

  const BackwardArguments<T>& given_;
};

// Steps L .. 1 and the finish of the images team, team + teams, ...; see superpixel_resident.
template <typename T, int kPixels>
__global__ void __launch_bounds__(kGroupThreads, 1)
    superpixel_backward_resident(const __grid_constant__ BackwardArguments<T> arguments, unsigned* flags) {
  const Plan& plan = arguments.plan;
  const int team = blockIdx.x / plan.groups(), number = blockIdx.x % plan.groups();
  flags += team * plan.groups();
  unsigned steps = 0;  // done by this block, the finish of an image counted as one
  for (int image = team; image < plan.batch; image += arguments.parts.lanes) {
    const BackwardGroup<T, kPixels> group(arguments, image, team, number);
    for (int first = 0; first < plan.tiles(); first += plan.round) group.load(first, first);
    wait_copies<0>();
    block_barrier();
    for (int first = 0; first < plan.tiles(); first += plan.round) group.measure(first, first);
    for (int step = arguments.iterations; step >= 1; --step, ++steps) {
      wait_for_neighbours(flags, plan, number, steps);
      group.gather(step, (steps + 1) & 1);
      block_barrier();
      for (int first = 0; first < plan.tiles(); first += plan.round) {
        group.assign(first, first, step);
        block_barrier();
        group.accumulate_round(first, first, 1.f);
        block_barrier();
      }
      group.publish(steps & 1);
      tell_neighbours(flags + number);
    }
    wait_for_neighbours(flags, plan, number, steps);
    group.gather(0, (steps + 1) & 1);
    block_barrier();
    for (int first = 0; first < plan.tiles(); first += plan.round) group.finish(first, first);
    block_barrier();
    for (int first = 0; first < plan.tiles(); first += plan.round) group.store(first, first);
    tell_neighbours(flags + number);  // nothing of theirs is read any more
    ++steps;
  }
}

// One step of one group of one image, whose tiles come through two buffers of a round each; step 0 is the finish.
template <typename T, int kPixels>
__global__ void __launch_bounds__(kGroupThreads, 1)
    superpixel_backward_step(const __grid_constant__ BackwardArguments<T> arguments, int step) {
  const Plan& plan = arguments.plan;
  const int image = blockIdx.x / plan.groups();
  const BackwardGroup<T, kPixels> group(arguments, image, image, blockIdx.x % plan.groups());
  group.load(0, 0);
  group.gather(step, (step + 1) & 1);
  for (int first = 0, slot = 0; first < plan.tiles(); first += plan.round, slot ^= plan.round) {
    if (first + plan.round < plan.tiles())
      group.load(first + plan.round, slot ^ plan.round);
    else
      commit_copies();
    wait_copies<1>();
    block_barrier();
    if (step > 0) {
      group.measure(first, slot);
      block_barrier();
      group.assign(first, slot, step);
      block_barrier();
      group.accumulate_round(first, slot, 1.f);
    } else {
      group.finish(first, slot);
      block_barrier();
      group.store(first, slot);
    }
    block_barrier();
  }
  if (step > 0) group.publish(step & 1);
}

template <typename T, int kPixels>
bool run_backward_resident(const Context& context, BackwardArguments<T> arguments, const Plan& image,
                           const Tensor& like) {
  const auto plan = plan_resident(image, Tables::centres_and_gradients, context.multiprocessors(),
                                  static_cast<int64_t>(context.shared_limit()));
  if (!plan) return false;
  const size_t bytes = plan->shared.bytes;
  const int64_t resident = resident_blocks(context, superpixel_backward_resident<T, kPixels>, kGroupThreads, bytes);
  const int64_t teams = std::min<int64_t>(plan->batch, resident / plan->groups());
  if (teams == 0) return false;
  std::array<Tensor, 2> parts;
  std::array<Tensor, 4> kept;
  arguments.plan = *plan;
  arguments.parts = new_parts(like, *plan, static_cast<int>(teams), parts);
  arguments.kept = new_kept<T>(like, *plan, teams, arguments.iterations, kept);
  const Tensor flags = zeroed_counters(context, like, teams * plan->groups());
  launch_cooperative(context, {teams * plan->groups(), kGroupThreads, bytes}, superpixel_backward_resident<T, kPixels>,
                     arguments, static_cast<unsigned*>(flags.mutable_data_ptr()));
  return true;
}

template <typename T, int kPixels>
bool run_backward_steps(const Context& context, BackwardArguments<T> arguments, const Plan& image, const Tensor& like) {
  const auto plan = plan_streamed(image, Tables::centres_and_gradients, static_cast<int64_t>(context.shared_limit()));
  if (!plan) return false;
  std::array<Tensor, 2> parts;
  std::array<Tensor, 4> kept;
  arguments.plan = *plan;
  arguments.parts = new_parts(like, *plan, plan->batch, parts);
  arguments.kept = new_kept<T>(like, *plan, plan->batch, arguments.iterations, kept);
  const Blocks blocks{int64_t{plan->batch} * plan->groups(), kGroupThreads, static_cast<size_t>(plan->shared.bytes)};
  for (int step = arguments.iterations; step >= 0; --step)
    launch(context, blocks, superpixel_backward_step<T, kPixels>, arguments, step);
  return true;
}

template <typename T, int kPixels>
bool run_backward_groups(const Context& context, const BackwardArguments<T>& arguments, const Plan& image,
                         const Tensor& like) {
  return run_backward_resident<T, kPixels>(context, arguments, image, like) ||
         run_backward_steps<T, kPixels>(context, arguments, image, like);
}

}  // namespace tmt::cuda
