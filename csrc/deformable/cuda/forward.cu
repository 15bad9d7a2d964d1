// tmt::deformable_attention on CUDA: no sample is stored; a warp reads whole rows of a head's channels, 16 bytes a
// lane.
#include "deformable/cuda/common.cuh"

namespace tmt::deformable::cuda {
namespace {

// Adds a sample, `weight` times, to the thread's channels.
template <int kWide, typename T>
__device__ __forceinline__ void add_sample(float (&sum)[kWide], const T* channels, const Corners& corners, float weight,
                                           int64_t position_stride) {
#pragma unroll
  for (int c = 0; c < kCorners; ++c) {
    if (corners.position[c] < 0) continue;
    float values[kWide];
    load_channels(values, channels + corners.position[c] * position_stride);
    const float share = weight * corners.share(c);
#pragma unroll
    for (int i = 0; i < kWide; ++i) sum[i] += share * values[i];
  }
  if (corners.unknown())
#pragma unroll
    for (int i = 0; i < kWide; ++i) sum[i] += corners.x + corners.y;
}

// Thread mapping: see common.cuh.
template <typename T, int kWide>
__global__ void __launch_bounds__(kThreads, kBlocks)
    attend_samples(const T* value, const float2* locations, const float* weights, T* output, Layout layout) {
  const Pair pair(layout);
  if (pair.number >= layout.pairs()) return;
  const Sizes& sizes = layout.sizes;
  const T* rows = value + pair.image * layout.image_stride + pair.head * layout.head_stride;
  for (int64_t d = pair.member * kWide; d < sizes.dim; d += layout.lanes * kWide) {
    float sum[kWide] = {};
    int64_t sample = pair.number * sizes.samples();
    for (int l = 0; l < sizes.levels; ++l) {
      const int height = layout.levels.height[l], width = layout.levels.width[l], start = layout.levels.start[l];
      for (int p = 0; p < sizes.points; ++p, ++sample) {
        const Corners corners(locations[sample], height, width, start);
        add_sample(sum, rows + d, corners, weights[sample], layout.position_stride);
      }
    }
    store_channels(output + pair.number * sizes.dim + d, sum);
  }
}

// value (B, S, heads, D), locations (B, Q, heads, levels, points, 2), weights (B, Q, heads, levels, points)
// -> (B, Q, heads * D)
Tensor deformable_attention(const Tensor& value, const Shapes shapes, const Tensor& locations, const Tensor& weights) {
  const Sizes sizes = check_deformable(value, shapes, locations, weights);
  const Tensor v = with_dense_rows(value), x = dense_vectors(locations), w = dense(weights);
  const Tensor result = empty(value, value.scalar_type(), sizes.batch, sizes.queries, sizes.heads * sizes.dim);
  const Context context(value);
  dispatch_rows(v, [&](auto type, auto wide) {
    using T = typename decltype(type)::type;
    constexpr int kWide = decltype(wide)::kWide;
    const Layout layout = layout_of(sizes, shapes, v, kWide);
    launch(context, blocks_of(layout), attend_samples<T, kWide>, input<T>(v),
           reinterpret_cast<const float2*>(input<float>(x)), input<float>(w), output<T>(result), layout);
  });
  return result;
}

}  // namespace
}  // namespace tmt::deformable::cuda

STABLE_TORCH_LIBRARY_IMPL(TMT_CUDA_LIBRARY, TMT_CUDA_KEY, m) {
  m.impl("deformable_attention", TORCH_BOX(&tmt::deformable::cuda::deformable_attention));
}
