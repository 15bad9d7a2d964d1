// tmt::deformable_attention_backward on CUDA. With d(c) = <grad_output, value at corner c>, a sample's weight has the
// gradient sum_c share(c) d(c), its place weight * (how the shares change) d, and corner c receives weight * share(c) *
// grad_output. Lanes of a (query, head) sum their channels by shuffles: locations and weights have the same bits every
// time. Many samples meet at one pixel: gradients of values are added atomically, in float32, in an order that hangs on
// timing; where the same bits are asked for, as whole numbers of 2^-scale in 64 bits, for which no order matters.
#include <type_traits>

#include "deformable/cuda/common.cuh"

namespace tmt::deformable::cuda {
namespace {

constexpr int kNotFinite = 1 << 20, kMostDigits = 120;

// What gradients of values are added to, (B, S, heads, D) contiguous.
struct FloatSums {
  float* sums;

  template <int kWide>
  __device__ __forceinline__ void add(int64_t at, const float (&values)[kWide]) const {
    if constexpr (kWide % 4 == 0) {
#pragma unroll
      for (int i = 0; i < kWide; i += 4)
        add_atomically(sums + at + i, make_float4(values[i], values[i + 1], values[i + 2], values[i + 3]));
    } else {
      for (int i = 0; i < kWide; ++i) add_atomically(sums + at + i, values[i]);
    }
  }
};

struct FixedSums {
  unsigned long long* sums;
  const int* scale;  // binary digits behind the point; kNotFinite: every gradient is NaN

  template <int kWide>
  __device__ __forceinline__ void add(int64_t at, const float (&values)[kWide]) const {
    if (*scale == kNotFinite) return;
    for (int i = 0; i < kWide; ++i)
      add_atomically(sums + at + i, static_cast<unsigned long long>(llrintf(ldexpf(values[i], *scale))));
  }
};

// A thread's part of the gradients of one sample.
struct SampleGradient {
  float x = 0.f, y = 0.f, weight = 0.f;
};

// One sample on the channels [d, d + kWide): adds to values' sums, and to the sample's own gradient.
template <int kWide, typename T, typename Sums>
__device__ __forceinline__ void add_gradients(SampleGradient& own, const Corners& corners, const T* channels,
                                              int64_t position_stride, const float (&gradient)[kWide], float weight,
                                              const Sums& sums, int64_t first, int64_t step) {
#pragma unroll
  for (int c = 0; c < kCorners; ++c) {
    if (corners.position[c] < 0) continue;
    float values[kWide], pushed[kWide], dot = 0.f;
    load_channels(values, channels + corners.position[c] * position_stride);
    const float share = weight * corners.share(c);
#pragma unroll
    for (int i = 0; i < kWide; ++i) {
      dot += gradient[i] * values[i];
      pushed[i] = share * gradient[i];
    }
    sums.add(first + corners.position[c] * step, pushed);
    own.weight += corners.share(c) * dot;
    own.x += (c % 2 ? dot : -dot) * (c / 2 ? corners.below : 1.f - corners.below);
    own.y += (c / 2 ? dot : -dot) * (c % 2 ? corners.right : 1.f - corners.right);
  }
}

// Sum over the lanes of a (query, head), in each of them; every lane of the warp must call.
__device__ __forceinline__ float sum_over(float value, int lanes) {
  for (int offset = lanes / 2; offset > 0; offset /= 2) value += shuffle_xor(value, offset);
  return value;
}

struct Gradients {
  float2* locations;
  float* weights;
};

// Thread mapping: see common.cuh.
template <typename T, int kWide, typename Sums>
__global__ void __launch_bounds__(kThreads, kBlocks)
    differentiate_samples(const T* grad_output, const T* value, const float2* locations, const float* weights,
                          Sums sums, Gradients result, Layout layout) {
  const Pair pair(layout);
  const bool there = pair.number < layout.pairs();  // those beyond stay, for the shuffles
  const Sizes& sizes = layout.sizes;
  const T* rows = value + pair.image * layout.image_stride + pair.head * layout.head_stride;
  const T* upstream = grad_output + pair.number * sizes.dim;
  const int64_t first = (pair.image * sizes.positions * sizes.heads + pair.head) * sizes.dim;
  int64_t sample = pair.number * sizes.samples();
  for (int l = 0; l < sizes.levels; ++l) {
    const int height = layout.levels.height[l], width = layout.levels.width[l], start = layout.levels.start[l];
    for (int p = 0; p < sizes.points; ++p, ++sample) {
      SampleGradient own;
      if (there) {
        const Corners corners(locations[sample], height, width, start);
        for (int64_t d = pair.member * kWide; d < sizes.dim; d += layout.lanes * kWide) {
          float gradient[kWide];
          load_channels(gradient, upstream + d);
          add_gradients(own, corners, rows + d, layout.position_stride, gradient, weights[sample], sums, first + d,
                        sizes.heads * sizes.dim);
        }
        if (corners.unknown()) own.x = own.y = own.weight = corners.x + corners.y;
      }
      own = {sum_over(own.x, layout.lanes), sum_over(own.y, layout.lanes), sum_over(own.weight, layout.lanes)};
      if (!there || pair.member != 0) continue;
      const float weight = weights[sample];
      result.locations[sample] =
          make_float2(own.x * weight * static_cast<float>(width), own.y * weight * static_cast<float>(height));
      result.weights[sample] = own.weight;
    }
  }
}

// ---- from sums to gradients of values -------------------------------------------------------------------------------

// Thread = number.
template <typename T>
__global__ void __launch_bounds__(kThreads) find_largest(const T* numbers, int64_t count, unsigned* largest) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < count) max_atomically(largest, float_to_bits(fabsf(static_cast<float>(numbers[i]))));
}

// Digits so that no sum of `count` products of the two overflows 62 bits, nor a product what float32 holds. `largest`:
// bits of the largest |grad_output| and |weight|. One thread.
__global__ void __launch_bounds__(kWarpSize) choose_scale(const unsigned* largest, int64_t count, int* scale) {
  if (threadIdx.x != 0) return;
  const float most = bits_to_float(largest[0]) * bits_to_float(largest[1]);
  int exponent = 0, terms = 0;
  if (most > 0.f && most < INFINITY) frexpf(most, &exponent);  // most < 2^exponent
  while (int64_t{1} << terms < count) ++terms;
  const int digits = 61 - terms - exponent;
  *scale = !(most < INFINITY) ? kNotFinite : digits < kMostDigits ? digits : kMostDigits;
}

// Thread = number.
template <typename T>
__global__ void __launch_bounds__(kThreads) round_sums(const float* sums, T* result, int64_t count) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < count) result[i] = static_cast<T>(sums[i]);
}

// Thread = number.
template <typename T>
__global__ void __launch_bounds__(kThreads) read_fixed(FixedSums fixed, T* result, int64_t count) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= count) return;
  const double sum = static_cast<double>(static_cast<long long>(fixed.sums[i]));
  result[i] = static_cast<T>(*fixed.scale == kNotFinite ? NAN : static_cast<float>(ldexp(sum, -*fixed.scale)));
}

struct Given {
  Tensor grad_output, value, locations, weights;
};

template <typename T, int kWide, typename Sums>
void run(const Context& context, const Given& given, const Layout& layout, const Sums& sums, const Gradients& result) {
  launch(context, blocks_of(layout), differentiate_samples<T, kWide, Sums>, input<T>(given.grad_output),
         input<T>(given.value), reinterpret_cast<const float2*>(input<float>(given.locations)),
         input<float>(given.weights), sums, result, layout);
}

template <typename T, int kWide>
void add_in_any_order(const Context& context, const Given& given, const Layout& layout, const Gradients& result,
                      const Tensor& grad_value) {
  const int64_t count = grad_value.numel();
  if constexpr (std::is_same_v<T, float>) {
    set_zero(context, grad_value);
    run<T, kWide>(context, given, layout, FloatSums{output<float>(grad_value)}, result);
  } else {
    const Tensor sums = zeroed(context, given.weights, ScalarType::Float, count);
    run<T, kWide>(context, given, layout, FloatSums{output<float>(sums)}, result);
    launch(context, one_thread_each(count, kThreads), round_sums<T>, input<float>(sums), output<T>(grad_value), count);
  }
}

template <typename T, int kWide>
void add_whole_numbers(const Context& context, const Given& given, const Layout& layout, const Gradients& result,
                       const Tensor& grad_value) {
  const int64_t count = grad_value.numel(), gradients = given.grad_output.numel(), samples = given.weights.numel();
  const Tensor sums = zeroed(context, given.weights, ScalarType::Long, count);
  const Tensor words = zeroed(context, given.weights, ScalarType::Int, 3);
  unsigned* largest = reinterpret_cast<unsigned*>(words.mutable_data_ptr());
  int* scale = output<int>(words) + 2;
  launch(context, one_thread_each(gradients, kThreads), find_largest<T>, input<T>(given.grad_output), gradients,
         largest);
  launch(context, one_thread_each(samples, kThreads), find_largest<float>, input<float>(given.weights), samples,
         largest + 1);
  launch(context, {1, kWarpSize}, choose_scale, largest, layout.sizes.queries * layout.sizes.samples(), scale);
  const FixedSums fixed{reinterpret_cast<unsigned long long*>(sums.mutable_data_ptr()), scale};
  run<T, kWide>(context, given, layout, fixed, result);
  launch(context, one_thread_each(count, kThreads), read_fixed<T>, fixed, output<T>(grad_value), count);
}

// grad_output (B, Q, heads * D), value (B, S, heads, D), locations (B, Q, heads, levels, points, 2), weights (B, Q,
// heads, levels, points) -> the gradients of value, locations and weights; `deterministic`: the same bits every time
std::tuple<Tensor, Tensor, Tensor> deformable_attention_backward(const Tensor& grad_output, const Tensor& value,
                                                                 const Shapes shapes, const Tensor& locations,
                                                                 const Tensor& weights, bool deterministic) {
  const Sizes s = check_deformable_backward(grad_output, value, shapes, locations, weights);
  const Given given{dense_vectors(grad_output), with_dense_rows(value), dense_vectors(locations), dense(weights)};
  const Tensor grad_value = empty(value, value.scalar_type(), s.batch, s.positions, s.heads, s.dim);
  const Tensor grad_locations =
      empty(weights, ScalarType::Float, s.batch, s.queries, s.heads, s.levels, s.points, int64_t{2});
  const Tensor grad_weights = empty(weights, ScalarType::Float, s.batch, s.queries, s.heads, s.levels, s.points);
  const Gradients result{reinterpret_cast<float2*>(output<float>(grad_locations)), output<float>(grad_weights)};
  const Context context(value);
  dispatch_rows(given.value, [&](auto type, auto wide) {
    using T = typename decltype(type)::type;
    constexpr int kWide = decltype(wide)::kWide;
    const Layout layout = layout_of(s, shapes, given.value, kWide);
    if (deterministic)
      add_whole_numbers<T, kWide>(context, given, layout, result, grad_value);
    else
      add_in_any_order<T, kWide>(context, given, layout, result, grad_value);
  });
  return {grad_value, grad_locations, grad_weights};
}

}  // namespace
}  // namespace tmt::deformable::cuda

STABLE_TORCH_LIBRARY_IMPL(TMT_CUDA_LIBRARY, TMT_CUDA_KEY, m) {
  m.impl("deformable_attention_backward", TORCH_BOX(&tmt::deformable::cuda::deformable_attention_backward));
}
