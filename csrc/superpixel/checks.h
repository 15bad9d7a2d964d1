// What tmt::superpixel and tmt::superpixel_backward accept, on every device.
#pragma once

#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>

#include "common/tensor.h"
#include "superpixel/definitions.h"

namespace tmt::superpixel {

struct Sizes {
  int64_t batch, channels, height, width;
  int64_t rows, columns;  // of the region grid

  int64_t regions() const { return rows * columns; }
};

inline Sizes sizes_of(const Tensor& features, int64_t cell) {
  return {features.size(0),
          features.size(1),
          features.size(2),
          features.size(3),
          grid_size(features.size(2), cell),
          grid_size(features.size(3), cell)};
}

// features (B, C, H, W). Returns the sizes.
inline Sizes check_superpixel(const Tensor& features, int64_t cell, int64_t iterations, double kappa) {
  TMT_CHECK(features.dim() == 4, "superpixel: features must be (B, C, H, W), got ", shape(features));
  TMT_CHECK(is_floating(features), "superpixel: features must be float32, float64, bfloat16 or float16, got ",
            dtype_name(features));
  TMT_CHECK(features.size(1) > 0 && features.size(2) > 0 && features.size(3) > 0,
            "superpixel: features must have at least one channel, row and column, got ", shape(features));
  TMT_CHECK(cell >= 1 && cell <= std::numeric_limits<int32_t>::max(),
            "superpixel: cell must be a number of pixels, at least 1, got ", cell);
  TMT_CHECK(iterations >= 1 && iterations <= 1000, "superpixel: iterations must be 1 to 1000, got ", iterations);
  TMT_CHECK(std::isfinite(kappa) && kappa > 0, "superpixel: kappa must be finite and above 0, got ", kappa);
  return sizes_of(features, cell);
}

inline bool has_shape(const Tensor& tensor, std::initializer_list<int64_t> expected) {
  bool matches = tensor.dim() == static_cast<int64_t>(expected.size());
  int64_t d = 0;
  for (const int64_t size : expected) matches = matches && tensor.size(d++) == size;
  return matches;
}

// What the forward keeps for the backward, history (B, L+1, h*w, C) and masses (B, L, h*w); empty where nothing is
// kept.
struct Kept {
  Tensor history, masses;

  bool there() const { return history.dim() != 1; }
};

inline Kept new_kept(const Tensor& features, const Sizes& sizes, int64_t iterations, bool keep) {
  const ScalarType dtype = accumulate_dtype(features);
  if (!keep) return {torch::stable::new_empty(features, {0}, dtype), torch::stable::new_empty(features, {0}, dtype)};
  return {torch::stable::new_empty(features, {sizes.batch, iterations + 1, sizes.regions(), sizes.channels}, dtype),
          torch::stable::new_empty(features, {sizes.batch, iterations, sizes.regions()}, dtype)};
}

// A gradient must look like the output it belongs to: `expected` is (B, C, h, w) or (B, 9, H, W).
inline void check_gradient(const char* name, const std::optional<Tensor>& gradient, const Tensor& features,
                           std::initializer_list<int64_t> expected) {
  if (!gradient.has_value()) return;
  TMT_CHECK(same_device(*gradient, features), "superpixel_backward: ", name, " must be on the device of features");
  TMT_CHECK(gradient->scalar_type() == features.scalar_type(), "superpixel_backward: ", name,
            " must have the dtype of features, ", dtype_name(features), ", got ", dtype_name(*gradient));
  TMT_CHECK(has_shape(*gradient, expected), "superpixel_backward: ", name, " must have the shape of its output, got ",
            shape(*gradient));
}

// A tensor that the forward kept for the backward: `expected` is the shape it had there.
inline void check_kept(const char* name, const Tensor& kept, const Tensor& features,
                       std::initializer_list<int64_t> expected) {
  TMT_CHECK(same_device(kept, features), "superpixel_backward: ", name, " must be on the device of features");
  TMT_CHECK(kept.scalar_type() == accumulate_dtype(features) && has_shape(kept, expected),
            "superpixel_backward: ", name, " must be what superpixel returned for these arguments, got ", shape(kept),
            " ", dtype_name(kept));
}

// grad_region_features (B, C, h, w), grad_assignment (B, 9, H, W), features (B, C, H, W), history (B, L+1, h*w, C),
// masses (B, L, h*w).
inline Sizes check_superpixel_backward(const std::optional<Tensor>& grad_region_features,
                                       const std::optional<Tensor>& grad_assignment, const Tensor& features,
                                       const Tensor& history, const Tensor& masses, int64_t cell, int64_t iterations,
                                       double kappa) {
  const Sizes sizes = check_superpixel(features, cell, iterations, kappa);
  TMT_CHECK(
      !has_shape(history, {0}),
      "superpixel_backward: history must be what superpixel returned with keep_history, got none; call superpixel "
      "with gradients enabled and features that require one");
  check_kept("history", history, features, {sizes.batch, iterations + 1, sizes.regions(), sizes.channels});
  check_kept("masses", masses, features, {sizes.batch, iterations, sizes.regions()});
  check_gradient("grad_region_features", grad_region_features, features,
                 {sizes.batch, sizes.channels, sizes.rows, sizes.columns});
  check_gradient("grad_assignment", grad_assignment, features, {sizes.batch, kNeighbours, sizes.height, sizes.width});
  return sizes;
}

}  // namespace tmt::superpixel
