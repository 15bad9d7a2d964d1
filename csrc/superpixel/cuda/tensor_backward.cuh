// The superpixel iteration backward on tensor cores, for bf16; notation as in superpixel/cuda/backward.cu. Step t = L
// .. 1 of a group: gather G_t of its halo's regions from what step t + 1 left (step L: from the given gradient), assign
// v of its pixels in one pass over them, accumulate and publish the parts of df^_(t-1). No gradient of pixels is
// carried along; per pixel and step only the nine a and the nine v = kappa ds / |x| are kept, and at the end, step 0,
//   dx = sum_t ( sum_r a_t(r) G_t(r) + v_t(r) f^_(t-1)(r) ) - turn x + g_0(own cell) / pixels of the cell
// is one product (channels x 18 L) . (18 L x pixels), with turn = sum_t <v_t, cosines> / |x|. Both sides are kept as
// halves, and three of the four products of halves are added up. As in the forward pass, one cooperative launch or a
// launch a step.
#pragma once

#include "superpixel/cuda/gradient.cuh"

namespace tmt::superpixel::cuda {

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

// ---- gather ---------------------------------------------------------------------------------------------------------

// Channels 4 quad .. 4 quad + 3 of f_t of a region; zeros beyond the channels.
template <typename T>
__device__ float4 feature_quad(const BackwardArguments<T>& given, const Plan& plan, int image, int region, int t,
                               int quad) {
  const int64_t map = int64_t{image} * (given.iterations + 1) + t;
  const float* from = given.history + (map * plan.regions() + region) * plan.channels + 4 * quad;
  const int left = plan.channels - 4 * quad;
  if (left >= 4 && reinterpret_cast<uintptr_t>(from) % sizeof(float4) == 0)
    return *reinterpret_cast<const float4*>(from);
  return {left > 0 ? from[0] : 0.f, left > 1 ? from[1] : 0.f, left > 2 ? from[2] : 0.f, left > 3 ? from[3] : 0.f};
}

// The same of the given gradient of f_L, zeros where none is.
template <typename T>
__device__ float4 given_quad(const BackwardArguments<T>& given, const Plan& plan, int image, int region, int quad) {
  const int64_t regions = plan.regions(), first = int64_t{image} * plan.channels + 4 * quad;
  const T* from = given.grad_region_features + first * regions + region;
  const int left = given.grad_region_features == nullptr ? 0 : plan.channels - 4 * quad;
  return {left > 0 ? static_cast<float>(from[0]) : 0.f, left > 1 ? static_cast<float>(from[regions]) : 0.f,
          left > 2 ? static_cast<float>(from[2 * regions]) : 0.f,
          left > 3 ? static_cast<float>(from[3 * regions]) : 0.f};
}

// The gradient g of f_step is df * scale + f_step * turn, where df is the row of the sums.
struct Slope {
  float scale, turn;
  float product;       // <g, f_step>
  float inverse_norm;  // 1 / max(|f_(step-1)|, eps)
};

// Puts df of a region, the given gradient or what the pixels left in the parts, into the sums. f_step is at right
// angles to g, but in the last step or where its norm is clamped. Every lane must call.
template <typename T>
__device__ Slope gather_slope(const BackwardArguments<T>& given, const Group<T>& group, const RegionInfo& region,
                              int image, int step, int set) {
  const Plan& plan = group.plan;
  const int quads = plan.padded_channels / 4;
  const bool last = step == given.iterations;
  const PartRows rows = part_rows(group, given.parts, region, set);
  float4* sums = sum_quads(group, region);
  Squares own, before;
  float product = 0.f;
  for (int quad = lane_index(); quad - lane_index() < quads; quad += 2 * kWarpSize) {
    const int both[2] = {quad, quad + kWarpSize};
    float4 total[2], now[2], past[2];
#pragma unroll
    for (int q = 0; q < 2; ++q) {
      now[q] = feature_quad(given, plan, image, region.region, step, both[q]);
      past[q] = step > 0 ? feature_quad(given, plan, image, region.region, step - 1, both[q]) : now[q];
      if (last) total[q] = given_quad(given, plan, image, region.region, both[q]);
    }
    if (!last) sum_parts(total, given.parts, rows, quads, quad);
#pragma unroll
    for (int q = 0; q < 2; ++q) {
      own.add(now[q]);
      before.add(past[q]);
      product += dot(total[q], now[q]);
      if (both[q] < quads) sums[both[q]] = total[q];
    }
  }
  product = warp_sum(product);
  const float inverse_norm = 1.f / fmaxf(own.norm(), kNormEps), other = 1.f / fmaxf(before.norm(), kNormEps);
  if (last) return {1.f, 0.f, product, other};
  const bool projects = inverse_norm < 1.f / kNormEps;
  const float turn = projects ? -product * inverse_norm * inverse_norm * inverse_norm : 0.f;
  return {inverse_norm, turn, projects ? 0.f : product * inverse_norm, other};
}

// Channels 4 quad .. 4 quad + 3 of g.
template <typename T>
__device__ float4 gradient_quad(const BackwardArguments<T>& given, const Group<T>& group, const RegionInfo& region,
                                int image, int step, int quad, const Slope& slope) {
  const float4 feature = feature_quad(given, group.plan, image, region.region, step, quad);
  return add(scale(sum_quads(group, region)[quad], slope.scale), scale(feature, slope.turn));
}

template <typename T>
__device__ __forceinline__ void keep_quad(uint32_t* operand, int quad, const float4& value) {
  reinterpret_cast<uint4*>(operand)[quad] = {pack_halves<T>(value.x), pack_halves<T>(value.y), pack_halves<T>(value.z),
                                             pack_halves<T>(value.w)};
}

// G_step and f^_(step-1) to the tables and, of the group's regions, to `kept`; <G, f_step>, 0 where the mean does not
// move with the mass, to the products.
template <typename T>
__device__ void write_tables(const BackwardArguments<T>& given, const Group<T>& group, const RegionInfo& region,
                             int number, int image, int step, const Slope& slope) {
  const Plan& plan = group.plan;
  const int64_t map = int64_t{image} * given.iterations + step - 1;
  const float mass = given.masses[map * plan.regions() + region.region];
  const float factor = 1.f / fmaxf(mass, kMassEps);
  uint32_t* kept[2];
  for (int i = 0; i < 2; ++i) kept[i] = given.kept.operand(plan, group.lane, given.iterations, step, i, region.region);
  if (lane_index() == 0) group.products()[number] = mass < kMassEps ? 0.f : slope.product * factor;
  for (int quad = lane_index(); quad < plan.padded_channels / 4; quad += kWarpSize) {
    const float4 pull = scale(gradient_quad(given, group, region, image, step, quad, slope), factor);
    const float4 centre = scale(feature_quad(given, plan, image, region.region, step - 1, quad), slope.inverse_norm);
    write_quad(group.gradients(), plan, region, quad, pull);
    write_quad(group.centres(), plan, region, quad, centre);
    if (region.pixels == 0) continue;
    keep_quad<T>(kept[0], quad, pull);
    keep_quad<T>(kept[1], quad, centre);
  }
}

// g_0 / pixels of the cell to `kept`.
template <typename T>
__device__ void keep_mean(const BackwardArguments<T>& given, const Group<T>& group, const RegionInfo& region, int image,
                          const Slope& slope) {
  float4* mean = reinterpret_cast<float4*>(given.kept.mean(group.plan, group.lane, region.region));
  for (int quad = lane_index(); quad < group.plan.padded_channels / 4; quad += kWarpSize)
    mean[quad] = scale(gradient_quad(given, group, region, image, 0, quad, slope), 1.f / region.pixels);
}

// Step t >= 1: G_t and f^_(t-1) of the halo to shared memory, those of the group's regions to `kept`. Step 0: the
// group's g_0 / pixels to `kept`. Clears the sums. A warp per region.
template <typename T>
__device__ void gather_gradients(const BackwardArguments<T>& given, const Group<T>& group, int image, int step,
                                 int set) {
  for (int number = warp_index(); number < group.plan.halo(); number += kGroupWarps) {
    const RegionInfo& region = group.region(number);
    if (step > 0 ? region.region >= 0 : region.pixels > 0) {
      const Slope slope = gather_slope(given, group, region, image, step, set);
      if (step > 0)
        write_tables(given, group, region, number, image, step, slope);
      else
        keep_mean(given, group, region, image, slope);
    }
    clear_sums(group, region);
  }
}

// ---- assign ---------------------------------------------------------------------------------------------------------

template <typename T>
__device__ void add_given(const BackwardArguments<T>& given, const Plan& plan, int image, int offset,
                          PixelValues& change) {
  const T* from = given.grad_assignment + int64_t{image} * kNeighbours * plan.pixels() + offset;
#pragma unroll
  for (int k = 0; k < 3; ++k) change.value[k] += static_cast<float>(from[PixelValues::neighbour(k) * plan.pixels()]);
}

// From a pixel's inner products with the centres and with the gradients: v, in place of the latter; a and v to `kept`.
template <typename T>
__device__ __forceinline__ void assign_gradient(const BackwardArguments<T>& given, const Group<T>& group, int number,
                                                const TileInfo& tile, int pixel, int image, int step,
                                                PixelValues& cosine, PixelValues& change) {
  const Plan& plan = group.plan;
  const float inverse_norm = group.inverse_norms(number)[pixel];
  const int piece = group.pieces(number)[pixel / kPiece], corner = tile.y * plan.halo_columns() + tile.x;
  PixelValues weight, product;
#pragma unroll
  for (int k = 0; k < 3; ++k) {
    const int neighbour = PixelValues::neighbour(k),
              region = corner + neighbour / 3 * plan.halo_columns() + neighbour % 3;
    const bool exists = tile.exist >> neighbour & 1u;
    cosine.value[k] = exists ? cosine.value[k] * inverse_norm : 0.f;
    change.value[k] = exists ? change.value[k] - group.products()[region] : 0.f;
    weight.value[k] = given.kappa * cosine.value[k];
  }
  if (step == given.iterations && given.grad_assignment != nullptr && piece >= 0)
    add_given(given, plan, image, piece + pixel % kPiece, change);
  softmax(weight, tile.exist);
#pragma unroll
  for (int k = 0; k < 3; ++k) product.value[k] = weight.value[k] * change.value[k];
  const float mean = product.total();
#pragma unroll
  for (int k = 0; k < 3; ++k) {
    if (piece < 0) weight.value[k] = 0.f;
    change.value[k] = weight.value[k] * (change.value[k] - mean) * (given.kappa * inverse_norm);
    product.value[k] = change.value[k] * cosine.value[k];
  }
  const float turned = product.total() * inverse_norm, turn = inverse_norm >= 1.f / kNormEps ? 0.f : turned;
  keep_pixel(given.kept, weight, change, turn, given.kept.row(group, number) + pixel, given.iterations - step);
}

// The weights v of all pixels; a and v to `kept`. A warp per unit of slices.
template <int kPixels, typename T>
__device__ void assign_gradients(const BackwardArguments<T>& given, const Group<T>& group, int image, int step) {
  for (int i = warp_index(); i < group.plan.tiles() * kUnits<kPixels>; i += kGroupWarps) {
    const int number = i / kUnits<kPixels>, slice = i % kUnits<kPixels> * kTogether<kPixels>;
    const TileInfo tile = group.tile(number);
    if (tile.exist == 0) continue;
    Products<kTogether<kPixels>> products[2];
    const TableRows<T> rows[] = {{group.centres(), group.plan, tile}, {group.gradients(), group.plan, tile}};
    similarities<T, kPixels>(products, KeptPixels<kTogether<kPixels>, 0>{}, group.pixels(number), rows, group.plan,
                             slice);
#pragma unroll
    for (int s = 0; s < kTogether<kPixels>; ++s)
      for (int row = 0; row < 2; ++row) {
        PixelValues cosine, change;
        products[0].get(cosine.value, s, row);
        products[1].get(change.value, s, row);
        const int pixel = (slice + s) * kSlice + row * 8 + lane_index() / 4;
        assign_gradient(given, group, number, tile, pixel, image, step, cosine, change);
        store_weights<T, kPixels>(group.weights(number), change, pixel, 1.f);
      }
  }
}

// ---- the kernel -----------------------------------------------------------------------------------------------------

// Steps first .. last, downwards, of the images lane, lane + lanes, ...; see superpixel_steps.
template <typename T, int kPixels>
__global__ void __launch_bounds__(kGroupThreads, 1)
    superpixel_backward_steps(const __grid_constant__ BackwardArguments<T> arguments, int first, int last,
                              unsigned* flags) {
  const Plan& plan = arguments.plan;
  const Group<T> group{plan, static_cast<int>(blockIdx.x) / plan.groups(),
                       static_cast<int>(blockIdx.x) % plan.groups()};
  const unsigned* watched = flags == nullptr ? nullptr : watched_flag(group, flags);
  describe(group);
  block_barrier();
  unsigned steps = arguments.iterations - first;  // done by this block
  for (int image = group.lane; image < plan.batch; image += arguments.parts.lanes) {
    load_pixels<kPixels>(group, arguments.features, image);
    wait_copies<0>();
    block_barrier();
    measure_pixels<kPixels>(group);
    for (int step = first; step >= last; --step, ++steps) {
      if (flags != nullptr) wait_for_neighbours(watched, steps);
      gather_gradients(arguments, group, image, step, (steps + 1) & 1);
      block_barrier();
      if (step > 0) {
        assign_gradients<kPixels>(arguments, group, image, step);
        block_barrier();
        accumulate_pixels<kPixels>(group, 1.f);
        block_barrier();
        publish_sums(group, arguments.parts, steps & 1);
      } else {
        finish_pixels<kPixels>(arguments.kept, group, arguments.iterations);
        block_barrier();
        store_pixels<kPixels>(group, arguments.result, image);
      }
      if (flags != nullptr) tell_neighbours(group, flags);  // after step 0: nothing of theirs is read any more
    }
  }
}

// ---- the host's side ------------------------------------------------------------------------------------------------

// Memory of one launch or of one launch a step, for `lanes` images.
template <typename T>
class BackwardMemory {
 public:
  BackwardMemory(BackwardArguments<T>& arguments, const Tensor& like, int lanes) {
    arguments.parts = new_parts(like, arguments.plan, lanes, parts_);
    arguments.kept = new_kept<T>(like, arguments.plan, lanes, arguments.iterations, kept_);
  }

 private:
  std::array<Tensor, 2> parts_;
  std::array<Tensor, 4> kept_;
};

template <typename T, int kPixels>
bool run_backward_resident(const Context& context, BackwardArguments<T> arguments, const Tensor& like) {
  const auto plan = plan_resident(arguments.plan, Tables::centres_and_gradients, context.multiprocessors(),
                                  static_cast<int64_t>(context.shared_limit()));
  if (!plan) return false;
  const auto kernel = superpixel_backward_steps<T, kPixels>;
  const size_t bytes = plan->shared.bytes;
  const int64_t resident = resident_blocks(context, kernel, kGroupThreads, bytes);
  const int64_t teams = std::min<int64_t>(plan->batch, resident / plan->groups());
  if (teams == 0) return false;
  arguments.plan = *plan;
  const BackwardMemory<T> memory(arguments, like, static_cast<int>(teams));
  const Tensor flags = zeroed(context, like, ScalarType::Int, teams * plan->groups());
  launch_cooperative(context, {teams * plan->groups(), kGroupThreads, bytes}, kernel, arguments, arguments.iterations,
                     0, static_cast<unsigned*>(flags.mutable_data_ptr()));
  return true;
}

template <typename T, int kPixels>
bool run_backward_steps(const Context& context, BackwardArguments<T> arguments, const Tensor& like) {
  const auto plan =
      plan_steps(arguments.plan, Tables::centres_and_gradients, static_cast<int64_t>(context.shared_limit()));
  if (!plan) return false;
  arguments.plan = *plan;
  const BackwardMemory<T> memory(arguments, like, plan->batch);
  const Blocks blocks{int64_t{plan->batch} * plan->groups(), kGroupThreads, static_cast<size_t>(plan->shared.bytes)};
  for (int step = arguments.iterations; step >= 0; --step)
    launch(context, blocks, superpixel_backward_steps<T, kPixels>, arguments, step, step, nullptr);
  return true;
}

// False where the plain kernels must do it. `arguments.plan` is that of plan_image.
template <typename T, int kPixels>
bool run_backward_groups(const Context& context, const BackwardArguments<T>& arguments, const Tensor& like) {
  return run_backward_resident<T, kPixels>(context, arguments, like) ||
         run_backward_steps<T, kPixels>(context, arguments, like);
}

}  // namespace tmt::superpixel::cuda
