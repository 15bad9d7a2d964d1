// tmt::superpixel_backward on CUDA. bf16 goes to the tensor cores (superpixel/cuda/tensor_backward.cuh); here is what
// float32 and fp16 do, whose range is too small for gradients in it. Nothing was kept but the region features f_0 ..
// f_L and the masses, so each iteration's assignment a is computed again, from the last to the first. With g the
// gradient of f_t, D the mass, x^ and f^ unit vectors:
//   G(r) = g(r) / D(r)
//   da(p, r) = <G(r), x(p) - f_t(r)>  (plus the given gradient of the assignment in the last iteration)
//   ds = a (da - sum_r a da)
//   dx += sum_r a G(r) + kappa / |x| (I - x^ x^T) sum_r ds f^_(t-1)(r)
//   df^_(t-1)(r) = kappa sum_p ds x^(p),   g of f_(t-1) = (I - f^ f^T) df^ / |f|
// and at last dx += g(own cell) / pixels of the cell. A norm at its clamp is a constant: no projection; likewise the
// mass. Sums over pixels go through per-cell parts as in the forward pass: no atomics, the same bits every time.
#include "superpixel/cuda/tensor_backward.cuh"

namespace tmt::superpixel::cuda {
namespace {

// (B, C, h, w) to float32 (B, h * w, C); zeros where no gradient is given. Thread = element of the result.
template <typename T>
__global__ void read_region_gradient(const T* given, float* gradient, Grid grid) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= grid.batch * grid.channels * grid.regions()) return;
  const int64_t channel = i % grid.channels, region = i / grid.channels % grid.regions();
  const int64_t image = i / grid.channels / grid.regions();
  gradient[i] =
      given == nullptr ? 0.f : static_cast<float>(given[(image * grid.channels + channel) * grid.regions() + region]);
}

// 1 / max(|f|, eps) of every region. Block = region; thread = channel.
__global__ void __launch_bounds__(kThreads)
    measure_regions(const float* regions, float* inverse_norm, int64_t stride, Grid grid) {
  auto& scratch = shared_tile<float[kWarps]>();
  const int64_t image = blockIdx.x / grid.regions(), region = blockIdx.x % grid.regions();
  BlockNorm norm;
  for (int64_t channel = threadIdx.x; channel < grid.channels; channel += kThreads) {
    norm.add(regions[image * stride + region * grid.channels + channel]);
  }
  norm.write_inverse(inverse_norm + blockIdx.x, scratch);
}

// G = g / D in place, and whether the mean moves with D: 1, or 0 where D is at its clamp; masses (B, iterations, h * w)
// of this iteration. Block = region; thread = channel.
__global__ void __launch_bounds__(kThreads)
    divide_by_mass(const float* masses, int64_t iterations, float* gradient, float* moves, Grid grid) {
  const int64_t image = blockIdx.x / grid.regions(), region = blockIdx.x % grid.regions();
  const float mass = masses[image * iterations * grid.regions() + region];
  for (int64_t channel = threadIdx.x; channel < grid.channels; channel += kThreads)
    gradient[blockIdx.x * grid.channels + channel] /= fmaxf(mass, kMassEps);
  if (threadIdx.x == 0) moves[blockIdx.x] = mass < kMassEps ? 0.f : 1.f;
}

// What the backward kernel over cells reads.
template <typename T>
struct BackwardInputs {
  const T* features;         // (B, C, H, W)
  const T* grad_assignment;  // (B, 9, H, W) in the last iteration, otherwise null
  Regions centres;           // f_(t-1), with 1 / norm
  Regions means;             // f_t, with `moves`
  Regions gradients;         // G, without a factor
};

// <G(r), x(p) - f_t(r)> for the nine neighbours. Thread mapping: lane = pixel, the warps share the channels.
template <typename T>
__device__ void assignment_gradient(float (&result)[kNeighbours], CellTile& tile, const BackwardInputs<T>& inputs,
                                    const Grid& grid, const Cell& cell, const Pixel& pixel) {
#pragma unroll
  for (int k = 0; k < kNeighbours; ++k) result[k] = 0.f;
  for (int64_t first = 0; first < grid.channels; first += kChunk) {
    block_barrier();
    load_pixels(tile.pixels, inputs.features, grid, cell, pixel, first);
    load_regions(tile.centres, inputs.means, grid, cell, first);
    load_regions(tile.gradients, inputs.gradients, grid, cell, first);
    block_barrier();
#pragma unroll 4
    for (int i = warp_index(); i < kChunk; i += kWarps) {
      const float value = tile.pixels[i][lane_index()];
#pragma unroll
      for (int k = 0; k < kNeighbours; ++k) result[k] += tile.gradients[k][i] * (value - tile.centres[k][i]);
    }
  }
  sum_lanes_over_warps(result, tile.scratch);
}

// ds = a (da - sum a da) in place, and sum_r ds cos(r), what the projection takes off.
__device__ float softmax_gradient(float (&gradient)[kNeighbours], const Assignment& assignment) {
  float mean = 0.f, projection = 0.f;
#pragma unroll
  for (int k = 0; k < kNeighbours; ++k) mean += assignment.probability[k] * gradient[k];
#pragma unroll
  for (int k = 0; k < kNeighbours; ++k) {
    gradient[k] = assignment.probability[k] * (gradient[k] - mean);
    projection += gradient[k] * assignment.cosine[k];
  }
  return assignment.clamped ? 0.f : projection;
}

template <typename T>
__device__ void add_given_gradient(float (&gradient)[kNeighbours], const T* given, const Grid& grid, const Cell& cell,
                                   const Pixel& pixel) {
  if (given == nullptr || !pixel.exists) return;
  const T* image = given + cell.image * kNeighbours * grid.pixels() + pixel.offset;
#pragma unroll
  for (int k = 0; k < kNeighbours; ++k) gradient[k] += static_cast<float>(image[k * grid.pixels()]);
}

// Adds one iteration's part of dx for the chunk of channels in shared memory; the first iteration done stores.
// Thread mapping: lane = pixel, the warps share the channels.
__device__ void add_pixel_gradient(float* grad_features, const CellTile& tile, const Assignment& assignment,
                                   const float (&change)[kNeighbours], float projection, float kappa, const Grid& grid,
                                   const Cell& cell, const Pixel& pixel, int64_t first, bool store) {
  if (!pixel.exists) return;
  float* plane = grad_features + (cell.image * grid.channels + first) * grid.pixels() + pixel.offset;
  const float factor = kappa * assignment.inverse_norm;
#pragma unroll 4
  for (int i = warp_index(); i < kChunk; i += kWarps) {
    if (first + i >= grid.channels) break;
    float direct = 0.f, turned = -tile.pixels[i][lane_index()] * assignment.inverse_norm * projection;
#pragma unroll
    for (int k = 0; k < kNeighbours; ++k) {
      direct += assignment.probability[k] * tile.gradients[k][i];
      turned += change[k] * tile.centres[k][i];
    }
    const float total = direct + factor * turned;
    float& element = plane[i * grid.pixels()];
    element = store ? total : element + total;
  }
}

// One iteration backward: adds to grad_features (B, C, H, W) float32 and writes the cell's parts of df^,
// (B, h * w, 9, C). Block = cell; see superpixel/cuda/common.cuh. Three blocks are asked for to a multiprocessor,
// because the registers for four do not suffice.
template <typename T>
__global__ void __launch_bounds__(kThreads, 3)
    cell_gradient(BackwardInputs<T> inputs, float* grad_features, float* sums, Grid grid, float kappa, bool store) {
  CellTile& tile = shared_tile<CellTile>();
  const Cell cell(grid, blockIdx.x);
  sums += int64_t{blockIdx.x} * kNeighbours * grid.channels;
  for (int64_t start = 0; start < cell.count; start += kTilePixels) {
    const Pixel pixel(grid, cell, start);
    Assignment assignment;
    measure(assignment, tile, inputs.features, inputs.centres, grid, cell, pixel);
    assign(assignment, grid, cell, pixel, kappa);
    float change[kNeighbours], weights[kNeighbours];
    assignment_gradient(change, tile, inputs, grid, cell, pixel);
    add_given_gradient(change, inputs.grad_assignment, grid, cell, pixel);
    const float projection = softmax_gradient(change, assignment);
#pragma unroll
    for (int k = 0; k < kNeighbours; ++k) weights[k] = kappa * change[k] * assignment.inverse_norm;
    share_weights(tile, weights);
    for (int64_t first = 0; first < grid.channels; first += kChunk) {
      block_barrier();
      load_pixels(tile.pixels, inputs.features, grid, cell, pixel, first);
      load_regions(tile.centres, inputs.centres, grid, cell, first);
      load_regions(tile.gradients, inputs.gradients, grid, cell, first);
      block_barrier();
      add_pixel_gradient(grad_features, tile, assignment, change, projection, kappa, grid, cell, pixel, first, store);
      add_weighted_pixels(sums, tile, grid, first, start == 0);
    }
  }
}

// g of f_(t-1) from the parts of df^. Block = region; thread = channel.
__global__ void __launch_bounds__(kThreads)
    region_gradient(const float* sums, Regions centres, float* gradient, Grid grid) {
  auto& scratch = shared_tile<float[kWarps]>();
  const Cell cell(grid, blockIdx.x);
  const int64_t region = blockIdx.x % grid.regions();
  const float* parts = sums + cell.image * grid.regions() * kNeighbours * grid.channels;
  const float* feature = centres.features + cell.image * centres.stride + region * grid.channels;
  const float inverse_norm = centres.factor[blockIdx.x];
  float along = 0.f;
  for (int64_t channel = threadIdx.x; channel < grid.channels; channel += kThreads)
    along += gather_parts(parts, grid, cell, grid.channels, channel) * feature[channel] * inverse_norm;
  along = sum_over_warps<kWarps>(warp_sum(along), scratch);
  if (inverse_norm >= 1.f / kNormEps) along = 0.f;  // the norm is at its clamp
  for (int64_t channel = threadIdx.x; channel < grid.channels; channel += kThreads) {
    const float across =
        gather_parts(parts, grid, cell, grid.channels, channel) - along * feature[channel] * inverse_norm;
    gradient[blockIdx.x * grid.channels + channel] = across * inverse_norm;
  }
}

// Adds the gradient of the cell means f_0 and converts. Thread = element; `result` may be `grad_features` itself.
template <typename T>
__global__ void finish(const float* grad_features, const float* gradient, T* result, Grid grid) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= grid.batch * grid.channels * grid.pixels()) return;
  const int64_t x = i % grid.width, y = i / grid.width % grid.height, channel = i / grid.pixels() % grid.channels;
  const int64_t image = i / grid.pixels() / grid.channels;
  const int64_t block = image * grid.regions() + y / grid.cell * grid.columns + x / grid.cell;
  const float mean = gradient[block * grid.channels + channel] / static_cast<float>(Cell(grid, block).count);
  result[i] = static_cast<T>(grad_features[i] + mean);
}

// Memory for one call.
struct Workspace {
  Tensor grad_features, gradient, sums, inverse_norm, moves;

  Workspace(const Tensor& features, const Tensor& result, const Grid& grid) {
    const int64_t cells = grid.batch * grid.regions();
    const auto floats = [&](std::initializer_list<int64_t> sizes) {
      return torch::stable::new_empty(features, sizes, ScalarType::Float);
    };
    grad_features = result.scalar_type() == ScalarType::Float
                        ? result
                        : floats({grid.batch, grid.channels, grid.height, grid.width});
    gradient = floats({cells, grid.channels});
    sums = floats({cells, kNeighbours, grid.channels});
    inverse_norm = floats({cells});
    moves = floats({cells});
  }
};

struct Given {
  Tensor features, history, masses;
  std::optional<Tensor> grad_region_features, grad_assignment;
};

// Iteration t (1 .. L) backward: `work.gradient` holds that of f_t before and that of f_(t-1) after.
template <typename T>
void run_iteration(const Context& context, const Given& given, const Workspace& work, const Grid& grid, int64_t t,
                   int64_t iterations, float kappa) {
  const int64_t plane = grid.regions() * grid.channels, stride = (iterations + 1) * plane;
  const float* before = input<float>(given.history) + (t - 1) * plane;
  const Regions centres{before, input<float>(work.inverse_norm), stride};
  const BackwardInputs<T> inputs{input<T>(given.features),
                                 t == iterations ? input<T>(given.grad_assignment) : nullptr,
                                 centres,
                                 {before + plane, input<float>(work.moves), stride},
                                 {input<float>(work.gradient), nullptr, plane}};
  const int64_t cells = grid.batch * grid.regions();
  const Blocks per_region{cells, kThreads, sizeof(float[kWarps])}, per_cell{cells, kThreads, sizeof(CellTile)};
  launch(context, per_region, measure_regions, before, output<float>(work.inverse_norm), stride, grid);
  launch(context, per_region, divide_by_mass, input<float>(given.masses) + (t - 1) * grid.regions(), iterations,
         output<float>(work.gradient), output<float>(work.moves), grid);
  launch(context, per_cell, cell_gradient<T>, inputs, output<float>(work.grad_features), output<float>(work.sums), grid,
         kappa, t == iterations);
  launch(context, per_region, region_gradient, input<float>(work.sums), centres, output<float>(work.gradient), grid);
}

template <typename T>
void run(const Context& context, const Given& given, const Tensor& result, const Grid& grid, int64_t iterations,
         float kappa) {
  const Workspace work(given.features, result, grid);
  launch(context, one_thread_each(grid.batch * grid.regions() * grid.channels), read_region_gradient<T>,
         input<T>(given.grad_region_features), output<float>(work.gradient), grid);
  for (int64_t t = iterations; t >= 1; --t) run_iteration<T>(context, given, work, grid, t, iterations, kappa);
  launch(context, one_thread_each(grid.batch * grid.channels * grid.pixels()), finish<T>,
         input<float>(work.grad_features), input<float>(work.gradient), output<T>(result), grid);
}

// False where the tensor cores cannot do it.
template <typename T>
bool run_on_tensor_cores(const Context& context, const Given& given, const Tensor& result, const Grid& grid,
                         int64_t iterations, float kappa) {
  const auto plan = plan_image(grid, given.features);
  if (!plan) return false;
  const BackwardArguments<T> arguments{*plan,
                                       input<T>(given.grad_region_features),
                                       input<T>(given.grad_assignment),
                                       input<T>(given.features),
                                       input<float>(given.history),
                                       input<float>(given.masses),
                                       output<T>(result),
                                       {},
                                       {},
                                       static_cast<int>(iterations),
                                       kappa};
  return plan->tile_pixels == 16 ? run_backward_groups<T, 16>(context, arguments, result)
                                 : run_backward_groups<T, 64>(context, arguments, result);
}

// grad_region_features (B, C, h, w), grad_assignment (B, 9, H, W), features (B, C, H, W), history (B, L + 1, h * w, C),
// masses (B, L, h * w) -> gradient of the features (B, C, H, W)
Tensor superpixel_backward(const std::optional<Tensor>& grad_region_features,
                           const std::optional<Tensor>& grad_assignment, const Tensor& features, const Tensor& history,
                           const Tensor& masses, int64_t cell, int64_t iterations, double kappa) {
  const Grid grid(check_superpixel_backward(grad_region_features, grad_assignment, features, history, masses, cell,
                                            iterations, kappa),
                  cell);
  const Given given{dense(features), dense(history), dense(masses), dense(grad_region_features),
                    dense(grad_assignment)};
  const Tensor result = torch::stable::new_empty(features, {grid.batch, grid.channels, grid.height, grid.width});
  dispatch_dtype("superpixel_backward", features, [&](auto type) {
    using T = typename decltype(type)::type;
    if (grid.batch == 0) return;
    const Context context(result);
    const float sharpness = static_cast<float>(kappa);
    if constexpr (std::is_same_v<T, BFloat16>)
      if (run_on_tensor_cores<T>(context, given, result, grid, iterations, sharpness)) return;
    run<T>(context, given, result, grid, iterations, sharpness);
  });
  return result;
}

}  // namespace
}  // namespace tmt::superpixel::cuda

STABLE_TORCH_LIBRARY_IMPL(TMT_CUDA_LIBRARY, TMT_CUDA_KEY, m) {
  m.impl("superpixel_backward", TORCH_BOX(&tmt::superpixel::cuda::superpixel_backward));
}
