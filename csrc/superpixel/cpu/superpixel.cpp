// tmt::superpixel and tmt::superpixel_backward on the CPU: arguments, memory and threads; the work is in
// superpixel/cpu/kernels.cpp.
#include <algorithm>

#include "common/cpu/host.h"
#include "common/tensor.h"
#include "superpixel/checks.h"
#include "superpixel/cpu/kernels.h"

namespace tmt::superpixel::cpu {
namespace {

// Cuts consecutive pieces, each on its own cache lines, out of one block; counts first, then hands out.
class Pieces {
 public:
  explicit Pieces(size_t element_size, char* block = nullptr) : element_size_(element_size), block_(block) {}

  void* take(int64_t elements) {
    char* piece = block_ == nullptr ? nullptr : block_ + used_;
    used_ += (static_cast<size_t>(elements) * element_size_ + 63) / 64 * 64;
    return piece;
  }
  size_t used() const { return used_; }

 private:
  size_t element_size_;
  char* block_;
  size_t used_ = 0;
};

size_t accumulate_size(const Tensor& tensor) { return tensor.scalar_type() == ScalarType::Double ? 8 : 4; }

SuperpixelGrid grid_of(const Sizes& sizes, int64_t cell, int64_t iterations, double kappa) {
  return {sizes.channels, sizes.height, sizes.width, cell, sizes.rows, sizes.columns, iterations, kappa};
}

// Images worked on together: few, so that their features stay in cache through all iterations, but enough cell rows
// that every thread has some.
int64_t group_size(const Sizes& sizes) {
  const int64_t wanted = 4 * static_cast<int64_t>(torch::stable::get_num_threads());
  return std::clamp<int64_t>((wanted + sizes.rows - 1) / sizes.rows, 1, std::max<int64_t>(sizes.batch, 1));
}

void take_images(SuperpixelImages& task, Pieces& pieces, int64_t images) {
  const SuperpixelGrid& grid = task.grid;
  task.inverse_norms = pieces.take(images * grid.pixels() + kVectorPadding);
  task.units = pieces.take(images * task.unit_maps * grid.regions() * grid.channel_stride());
  task.sums = pieces.take(images * grid.rows * grid.sums_per_row());
  task.row_masses = pieces.take(images * grid.rows * grid.masses_per_row());
}

void take_images(SuperpixelBackward& task, Pieces& pieces, int64_t images) {
  const SuperpixelGrid& grid = task.grid;
  take_images(static_cast<SuperpixelImages&>(task), pieces, images);
  task.centre_norms = pieces.take(images * grid.iterations * grid.regions());
  task.pulls = pieces.take(images * (grid.iterations + 1) * grid.regions() * grid.channel_stride());
  task.mass_pulls = pieces.take(images * grid.regions());
  task.shares = pieces.take(images * grid.pixels() * grid.shares_per_pixel() + kVectorPadding);
  task.lengths = pieces.take(images * grid.pixels() + kVectorPadding);
}

// Cuts the task's scratch for `images` images out of one block.
template <typename Task>
Scratch take_scratch(Task& task, int64_t images, size_t accumulate) {
  Pieces count(accumulate);
  take_images(task, count, images);
  Scratch scratch(count.used());
  Pieces pieces(accumulate, scratch.get<char>());
  take_images(task, pieces, images);
  return scratch;
}

// Calls function(begin, end, workspace) for all cell rows of `images` images, in parallel.
template <typename Function>
void for_rows(const SuperpixelGrid& grid, int64_t images, int64_t element_size, int64_t accumulate,
              const Function& function) {
  torch::stable::parallel_for(0, images * grid.rows, 1, [&](int64_t begin, int64_t end) {
    const Scratch workspace(static_cast<size_t>(grid.workspace(element_size, accumulate)));
    function(begin, end, workspace.get());
  });
}

void forward_group(const SuperpixelForward& task, int64_t images, const Tensor& features) {
  const auto size = static_cast<int64_t>(features.element_size()),
             accumulate = static_cast<int64_t>(accumulate_size(features));
  for_rows(task.grid, images, size, accumulate, [&](int64_t begin, int64_t end, void* workspace) {
    TMT_SIMD_CALL(superpixel_means, task, begin, end, workspace);
  });
  for (int64_t k = 1; k <= task.grid.iterations; ++k) {
    for_rows(task.grid, images, size, accumulate, [&](int64_t begin, int64_t end, void* workspace) {
      TMT_SIMD_CALL(superpixel_accumulate, task, k, begin, end, workspace);
    });
    for_rows(task.grid, images, size, accumulate, [&](int64_t begin, int64_t end, void* workspace) {
      TMT_SIMD_CALL(superpixel_combine, task, k, begin, end, workspace);
    });
  }
}

void backward_group(const SuperpixelBackward& task, int64_t images, const Tensor& features) {
  const auto size = static_cast<int64_t>(features.element_size()),
             accumulate = static_cast<int64_t>(accumulate_size(features));
  const auto run = [&](const auto& function) { for_rows(task.grid, images, size, accumulate, function); };
  run([&](int64_t begin, int64_t end, void* work) { TMT_SIMD_CALL(superpixel_start, task, begin, end, work); });
  for (int64_t k = task.grid.iterations; k >= 1; --k) {
    run([&](int64_t begin, int64_t end, void* work) { TMT_SIMD_CALL(superpixel_gradient, task, k, begin, end, work); });
    run([&](int64_t begin, int64_t end, void* work) { TMT_SIMD_CALL(superpixel_pull, task, k, begin, end, work); });
  }
  run([&](int64_t begin, int64_t end, void* work) { TMT_SIMD_CALL(superpixel_finish, task, begin, end, work); });
}

// features (B, C, H, W) -> region_features (B, C, h, w), assignment (B, 9, H, W), labels (B, H, W),
// history (B, L+1, h*w, C), masses (B, L, h*w); both (0,) where they are not kept.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> superpixel(const Tensor features, int64_t cell, int64_t iterations,
                                                              double kappa, bool keep_history) {
  const Sizes sizes = check_superpixel(features, cell, iterations, kappa);
  const Tensor input = dense(features);
  const int64_t batch = sizes.batch, height = sizes.height, width = sizes.width;
  Tensor region_features = torch::stable::new_empty(input, {batch, sizes.channels, sizes.rows, sizes.columns});
  Tensor assignment = torch::stable::new_empty(input, {batch, kNeighbours, height, width});
  Tensor labels = torch::stable::new_empty(input, {batch, height, width}, ScalarType::Long);
  const Kept kept = new_kept(input, sizes, iterations, keep_history);

  SuperpixelForward task{};
  task.grid = grid_of(sizes, cell, iterations, kappa);
  task.element = element_of(input);
  task.features = input.const_data_ptr();
  task.history = kept.there() ? kept.history.mutable_data_ptr() : nullptr;
  task.masses = kept.there() ? kept.masses.mutable_data_ptr() : nullptr;
  task.region_features = region_features.mutable_data_ptr();
  task.assignment = assignment.mutable_data_ptr();
  task.labels = static_cast<int64_t*>(labels.mutable_data_ptr());

  const int64_t group = group_size(sizes);
  task.unit_maps = 1;
  const Scratch scratch = take_scratch(task, group, accumulate_size(input));
  for (task.first = 0; task.first < batch; task.first += group)
    forward_group(task, std::min(group, batch - task.first), input);
  return {region_features, assignment, labels, kept.history, kept.masses};
}

const void* data_or_null(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? tensor->const_data_ptr() : nullptr;
}

// grad_region_features (B, C, h, w), grad_assignment (B, 9, H, W), features (B, C, H, W), history (B, L+1, h*w, C),
// masses (B, L, h*w) -> grad_features (B, C, H, W).
Tensor superpixel_backward(const std::optional<Tensor> grad_region_features,
                           const std::optional<Tensor> grad_assignment, const Tensor features, const Tensor history,
                           const Tensor masses, int64_t cell, int64_t iterations, double kappa) {
  const Sizes sizes = check_superpixel_backward(grad_region_features, grad_assignment, features, history, masses, cell,
                                                iterations, kappa);
  const Tensor input = dense(features), past = dense(history), weights = dense(masses);
  const std::optional<Tensor> grad_regions = dense(grad_region_features), grad_maps = dense(grad_assignment);
  Tensor grad_features = torch::stable::new_empty(input, {sizes.batch, sizes.channels, sizes.height, sizes.width});

  SuperpixelBackward task{};
  task.grid = grid_of(sizes, cell, iterations, kappa);
  task.element = element_of(input);
  task.features = input.const_data_ptr();
  task.history = const_cast<void*>(past.const_data_ptr());
  task.masses = const_cast<void*>(weights.const_data_ptr());
  task.grad_region_features = data_or_null(grad_regions);
  task.grad_assignment = data_or_null(grad_maps);
  task.grad_features = grad_features.mutable_data_ptr();

  const int64_t group = group_size(sizes);
  task.unit_maps = iterations;
  const Scratch scratch = take_scratch(task, group, accumulate_size(input));
  for (task.first = 0; task.first < sizes.batch; task.first += group)
    backward_group(task, std::min(group, sizes.batch - task.first), input);
  return grad_features;
}

}  // namespace
}  // namespace tmt::superpixel::cpu

STABLE_TORCH_LIBRARY_IMPL(tmt, CPU, m) {
  m.impl("superpixel", TORCH_BOX(&tmt::superpixel::cpu::superpixel));
  m.impl("superpixel_backward", TORCH_BOX(&tmt::superpixel::cpu::superpixel_backward));
}
