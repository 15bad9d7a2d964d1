// tmt::superpixel on CUDA (Eqs. 6-9). bf16 and fp16 go to the tensor cores (superpixel/cuda/tensor_forward.cuh); here
// is what float32 does, and images too large for those kernels. Per iteration: one kernel over cells assigns every
// pixel and writes, for each of the nine regions around the cell, what the cell's pixels give it; a second one adds up,
// per region, the parts of the nine cells around it in a fixed order and divides. No atomics: the same input gives the
// same bits.
#include "superpixel/cuda/tensor_forward.cuh"

namespace tmt::superpixel::cuda {
namespace {

// f_0: means over cells. Block = region; warp = channel; lane = pixel.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    cell_means(const T* features, float* history, float* inverse_norm, int64_t stride, Grid grid) {
  auto& scratch = shared_tile<float[kWarps]>();
  const Cell cell(grid, blockIdx.x);
  const int64_t region = blockIdx.x % grid.regions();
  BlockNorm norm;
  for (int64_t channel = warp_index(); channel < grid.channels; channel += kWarps) {
    const T* plane = features + (cell.image * grid.channels + channel) * grid.pixels();
    float total = 0.f;
    for (int64_t p = lane_index(); p < cell.count; p += kWarpSize)
      total += static_cast<float>(plane[cell.offset(grid, p)]);
    const float mean = warp_sum(total) / static_cast<float>(cell.count);
    if (lane_index() != 0) continue;
    history[cell.image * stride + region * grid.channels + channel] = mean;
    norm.add(mean);
  }
  norm.write_inverse(inverse_norm + blockIdx.x, scratch);
}

// Where the last iteration leaves its result; null pointers in the others.
template <typename T>
struct Result {
  T* assignment;    // (B, 9, H, W)
  int64_t* labels;  // (B, H, W)
};

template <typename T>
__device__ void write_result(const Result<T>& result, const Assignment& assignment, const Grid& grid, const Cell& cell,
                             const Pixel& pixel) {
  if (result.assignment == nullptr || warp_index() != 0 || !pixel.exists) return;
  T* image = result.assignment + cell.image * kNeighbours * grid.pixels() + pixel.offset;
#pragma unroll
  for (int k = 0; k < kNeighbours; ++k) image[k * grid.pixels()] = static_cast<T>(assignment.probability[k]);
  result.labels[cell.image * grid.pixels() + pixel.offset] =
      cell.neighbour(grid, nearest_neighbour(assignment, grid, cell));
}

// One iteration's assignment, and the cell's part of the nine regions around it: sums (B, h * w, 9, C), masses (B, h *
// w, 9). Block = cell; see superpixel/cuda/common.cuh.
template <typename T>
__global__ void __launch_bounds__(kThreads) assign_cell(const T* features, Regions centres, float* sums, float* masses,
                                                        Result<T> result, Grid grid, float kappa) {
  CellTile& tile = shared_tile<CellTile>();
  const Cell cell(grid, blockIdx.x);
  masses += int64_t{blockIdx.x} * kNeighbours;
  sums += int64_t{blockIdx.x} * kNeighbours * grid.channels;
  for (int64_t start = 0; start < cell.count; start += kTilePixels) {
    const Pixel pixel(grid, cell, start);
    Assignment assignment;
    measure(assignment, tile, features, centres, grid, cell, pixel);
    assign(assignment, grid, cell, pixel, kappa);
    write_result(result, assignment, grid, cell, pixel);
    add_masses(masses, assignment, start == 0);
    share_weights(tile, assignment.probability);
    for (int64_t first = 0; first < grid.channels; first += kChunk) {
      if (grid.channels > kChunk) {  // otherwise the only chunk is still there
        block_barrier();
        load_pixels(tile.pixels, features, grid, cell, pixel, first);
      }
      block_barrier();
      add_weighted_pixels(sums, tile, grid, first, start == 0);
    }
  }
}

// f_t = sums / masses, of the parts; result_masses (B, iterations, h * w), or null, gets this iteration's. Block =
// region; thread = channel.
__global__ void __launch_bounds__(kThreads)
    divide_sums(const float* sums, const float* masses, float* history, float* result_masses, int64_t iterations,
                float* inverse_norm, int64_t stride, Grid grid) {
  auto& scratch = shared_tile<float[kWarps]>();
  const Cell cell(grid, blockIdx.x);
  const int64_t region = blockIdx.x % grid.regions(), cells = cell.image * grid.regions() * kNeighbours;
  const float given = gather_parts(masses + cells, grid, cell, 1, 0), mass = fmaxf(given, kMassEps);
  if (threadIdx.x == 0 && result_masses != nullptr)
    result_masses[cell.image * iterations * grid.regions() + region] = given;
  BlockNorm norm;
  for (int64_t channel = threadIdx.x; channel < grid.channels; channel += kThreads) {
    const float mean = gather_parts(sums + cells * grid.channels, grid, cell, grid.channels, channel) / mass;
    history[cell.image * stride + region * grid.channels + channel] = mean;
    norm.add(mean);
  }
  norm.write_inverse(inverse_norm + blockIdx.x, scratch);
}

// (B, h * w, C) of the last iteration to (B, C, h, w). Thread = element of the result.
template <typename T>
__global__ void write_region_features(const float* last, T* region_features, int64_t stride, Grid grid) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= grid.batch * grid.channels * grid.regions()) return;
  const int64_t region = i % grid.regions(), channel = i / grid.regions() % grid.channels;
  const int64_t image = i / grid.regions() / grid.channels;
  region_features[i] = static_cast<T>(last[image * stride + region * grid.channels + channel]);
}

struct Outputs {
  Tensor region_features, assignment, labels;
  Kept kept;
};

template <typename T>
void run(const Context& context, const Tensor& features, const Outputs& outputs, const Grid& grid, int64_t iterations,
         float kappa) {
  const int64_t cells = grid.batch * grid.regions(), plane = grid.regions() * grid.channels;
  const Tensor sums = torch::stable::new_empty(features, {cells, kNeighbours, grid.channels}, ScalarType::Float);
  const Tensor masses = torch::stable::new_empty(features, {cells, kNeighbours}, ScalarType::Float);
  const Tensor inverse_norm = torch::stable::new_empty(features, {cells}, ScalarType::Float);
  // Where no history is kept, each f_t takes the place of the one before.
  const bool keeps = outputs.kept.there();
  const Tensor memory =
      keeps ? outputs.kept.history : torch::stable::new_empty(features, {cells, grid.channels}, ScalarType::Float);
  const int64_t stride = keeps ? (iterations + 1) * plane : plane, step = keeps ? plane : 0;
  float* history = output<float>(memory);
  const Blocks per_region{cells, kThreads, sizeof(float[kWarps])}, per_cell{cells, kThreads, sizeof(CellTile)};

  launch(context, per_region, cell_means<T>, input<T>(features), history, output<float>(inverse_norm), stride, grid);
  for (int64_t t = 0; t < iterations; ++t, history += step) {
    const bool last = t + 1 == iterations;
    const Result<T> result{last ? output<T>(outputs.assignment) : nullptr,
                           last ? output<int64_t>(outputs.labels) : nullptr};
    const Regions centres{history, input<float>(inverse_norm), stride};
    launch(context, per_cell, assign_cell<T>, input<T>(features), centres, output<float>(sums), output<float>(masses),
           result, grid, kappa);
    launch(context, per_region, divide_sums, input<float>(sums), input<float>(masses), history + step,
           keeps ? output<float>(outputs.kept.masses) + t * grid.regions() : nullptr, iterations,
           output<float>(inverse_norm), stride, grid);
  }
  launch(context, one_thread_each(grid.batch * plane), write_region_features<T>, history,
         output<T>(outputs.region_features), stride, grid);
}

// False where the tensor cores cannot do it.
template <typename T>
bool run_on_tensor_cores(const Context& context, const Tensor& features, const Outputs& outputs, const Grid& grid,
                         int64_t iterations, float kappa) {
  const auto plan = plan_image(grid, features);
  if (!plan) return false;
  const ForwardArguments<T> arguments{*plan,
                                      input<T>(features),
                                      output<T>(outputs.region_features),
                                      output<T>(outputs.assignment),
                                      output<int64_t>(outputs.labels),
                                      outputs.kept.there() ? output<float>(outputs.kept.history) : nullptr,
                                      outputs.kept.there() ? output<float>(outputs.kept.masses) : nullptr,
                                      {},
                                      static_cast<int>(iterations),
                                      kappa};
  return plan->tile_pixels == 16 ? run_groups<T, 16>(context, features, arguments)
                                 : run_groups<T, 64>(context, features, arguments);
}

// features (B, C, H, W) -> region_features (B, C, h, w), assignment (B, 9, H, W), labels (B, H, W) int64,
// history (B, L + 1, h * w, C) float32, masses (B, L, h * w) float32; both (0,) where they are not kept
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> superpixel(const Tensor& given, int64_t cell, int64_t iterations,
                                                              double kappa, bool keep_history) {
  const Sizes sizes = check_superpixel(given, cell, iterations, kappa);
  const Grid grid(sizes, cell);
  const Tensor features = dense(given);
  const Outputs outputs{torch::stable::new_empty(features, {grid.batch, grid.channels, grid.rows, grid.columns}),
                        torch::stable::new_empty(features, {grid.batch, kNeighbours, grid.height, grid.width}),
                        torch::stable::new_empty(features, {grid.batch, grid.height, grid.width}, ScalarType::Long),
                        new_kept(features, sizes, iterations, keep_history)};
  dispatch_dtype("superpixel", features, [&](auto type) {
    using T = typename decltype(type)::type;
    const Context context(features);
    const float sharpness = static_cast<float>(kappa);
    if (grid.batch == 0) return;
    if constexpr (kIsHalfPrecision<T>)
      if (run_on_tensor_cores<T>(context, features, outputs, grid, iterations, sharpness)) return;
    run<T>(context, features, outputs, grid, iterations, sharpness);
  });
  return {outputs.region_features, outputs.assignment, outputs.labels, outputs.kept.history, outputs.kept.masses};
}

}  // namespace
}  // namespace tmt::superpixel::cuda

STABLE_TORCH_LIBRARY_IMPL(TMT_CUDA_LIBRARY, TMT_CUDA_KEY, m) {
  m.impl("superpixel", TORCH_BOX(&tmt::superpixel::cuda::superpixel));
}
