// What tmt::deformable_attention and its backward accept, on every device.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "common/tensor.h"

namespace tmt::deformable {

// Height and width of each level, flat: H_0, W_0, H_1, W_1, ...
using Shapes = std::vector<int64_t>;

struct Sizes {
  int64_t batch, positions, heads, dim;
  int64_t queries, levels, points;

  constexpr int64_t samples() const { return levels * points; }  // of a query and head
};

inline void check_shapes(const Tensor& value, const Shapes& shapes) {
  TMT_CHECK(!shapes.empty() && shapes.size() % 2 == 0,
            "deformable_attention: shapes must be a height and a width for each level, got ", shapes.size(),
            " numbers");
  int64_t pixels = 0;
  for (size_t l = 0; l < shapes.size(); l += 2) {
    TMT_CHECK(shapes[l] > 0 && shapes[l + 1] > 0, "deformable_attention: shapes must be at least 1 x 1, got ",
              shapes[l], " x ", shapes[l + 1], " at level ", l / 2);
    TMT_CHECK(shapes[l] <= std::numeric_limits<int32_t>::max() / 4 / shapes[l + 1],
              "deformable_attention: a level must have at most 2^29 pixels, got ", shapes[l], " x ", shapes[l + 1]);
    pixels += shapes[l] * shapes[l + 1];
  }
  TMT_CHECK(pixels == value.size(1), "deformable_attention: value must have the ", pixels,
            " positions of its levels, got ", shape(value));
  TMT_CHECK(pixels <= std::numeric_limits<int32_t>::max() / 4,
            "deformable_attention: value must have at most 2^29 positions, got ", shape(value));
}

// value (B, S, heads, D), locations (B, Q, heads, levels, points, 2), weights (B, Q, heads, levels, points), both in
// the dtype that sums of `value` are carried in. Returns the sizes.
inline Sizes check_deformable(const Tensor& value, const Shapes& shapes, const Tensor& locations,
                              const Tensor& weights) {
  TMT_CHECK(value.dim() == 4, "deformable_attention: value must be (B, S, heads, D), got ", shape(value));
  TMT_CHECK(is_floating(value), "deformable_attention: value must be float32, float64, bfloat16 or float16, got ",
            dtype_name(value));
  TMT_CHECK(value.size(2) > 0 && value.size(3) > 0,
            "deformable_attention: value must have at least one head and channel, got ", shape(value));
  TMT_CHECK(value.size(3) <= 1024, "deformable_attention: value must have at most 1024 channels a head, got ",
            shape(value));
  check_shapes(value, shapes);
  const auto levels = static_cast<int64_t>(shapes.size() / 2);
  TMT_CHECK(locations.dim() == 6 && locations.size(5) == 2,
            "deformable_attention: locations must be (B, Q, heads, levels, points, 2), got ", shape(locations));
  const Sizes s{value.size(0),     value.size(1), value.size(2),    value.size(3),
                locations.size(1), levels,        locations.size(4)};
  TMT_CHECK(locations.size(0) == s.batch && locations.size(2) == s.heads && locations.size(3) == levels && s.points > 0,
            "deformable_attention: locations must be (", s.batch, ", Q, ", s.heads, ", ", levels,
            ", points, 2) beside value ", shape(value), ", got ", shape(locations));
  TMT_CHECK(s.samples() <= 1024, "deformable_attention: a query must have at most 1024 samples, got ", s.samples());
  bool fits = weights.dim() == 5;
  for (int64_t d = 0; fits && d < 5; ++d) fits = weights.size(d) == locations.size(d);
  TMT_CHECK(fits, "deformable_attention: weights must be (B, Q, heads, levels, points) as locations ", shape(locations),
            ", got ", shape(weights));
  for (const Tensor* tensor : {&locations, &weights})
    TMT_CHECK(tensor->scalar_type() == accumulate_dtype(value),
              "deformable_attention: ", tensor == &weights ? "weights" : "locations", " must be ",
              accumulate_dtype(value) == ScalarType::Double ? "float64" : "float32", " beside value in ",
              dtype_name(value), ", got ", dtype_name(*tensor));
  TMT_CHECK(same_device(value, locations) && same_device(value, weights),
            "deformable_attention: value, locations and weights must be on one device");
  return s;
}

// The same, and grad_output (B, Q, heads * D) in the dtype of value.
inline Sizes check_deformable_backward(const Tensor& grad_output, const Tensor& value, const Shapes& shapes,
                                       const Tensor& locations, const Tensor& weights) {
  const Sizes s = check_deformable(value, shapes, locations, weights);
  TMT_CHECK(grad_output.dim() == 3 && grad_output.size(0) == s.batch && grad_output.size(1) == s.queries &&
                grad_output.size(2) == s.heads * s.dim,
            "deformable_attention: grad_output must be (", s.batch, ", ", s.queries, ", ", s.heads * s.dim, "), got ",
            shape(grad_output));
  TMT_CHECK(grad_output.scalar_type() == value.scalar_type(), "deformable_attention: grad_output must be ",
            dtype_name(value), ", got ", dtype_name(grad_output));
  TMT_CHECK(same_device(grad_output, value), "deformable_attention: grad_output must be on the device of value");
  return s;
}

}  // namespace tmt::deformable
