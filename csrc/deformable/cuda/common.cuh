// What both passes of deformable attention share: which thread does what, where a sample lies, and rows of channels.
//
// Thread mapping: `lanes` lanes of a warp, a power of two, belong to one (query, head); each holds kWide channels side
// by side, and again lanes * kWide channels further. Heads count fastest: what a warp reads of locations, weights and
// gradients, and what it writes, lies side by side.
#pragma once

#include <algorithm>
#include <cmath>

#include "common/cuda/launch.cuh"
#include "deformable/checks.h"
#include "deformable/definitions.h"

namespace tmt::deformable::cuda {

using namespace tmt::cuda;

constexpr int kThreads = 128;
constexpr int kBlocks = 6;  // on a multiprocessor, at least: told less or nothing, ptxas spills on some architectures
constexpr int kMaxLevels = 8;
constexpr int kVectorBytes = 16;

// By value a parameter of the kernels: it lies in constant memory.
struct Levels {
  int height[kMaxLevels], width[kMaxLevels], start[kMaxLevels];
};

// Sizes, and strides of value (B, S, heads, D) in elements; its channels lie side by side.
struct Layout {
  Sizes sizes;
  Levels levels;
  int64_t image_stride, position_stride, head_stride;
  int lanes;  // of a (query, head)

  __host__ __device__ int64_t pairs() const { return sizes.batch * sizes.queries * sizes.heads; }
};

inline Levels levels_of(const Shapes& shapes) {
  TMT_CHECK(shapes.size() <= 2 * kMaxLevels, "deformable_attention: shapes must be of at most ", kMaxLevels,
            " levels on CUDA, got ", shapes.size() / 2);
  Levels levels = {};
  int start = 0;
  for (size_t l = 0; l < shapes.size() / 2; ++l) {
    levels.height[l] = static_cast<int>(shapes[2 * l]);
    levels.width[l] = static_cast<int>(shapes[2 * l + 1]);
    levels.start[l] = start;
    start += levels.height[l] * levels.width[l];
  }
  return levels;
}

inline bool is_aligned(const Tensor& tensor) {
  return reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % kVectorBytes == 0;
}

// Contiguous, and aligned as vectors are: a copy where it is not.
inline Tensor dense_vectors(const Tensor& tensor) {
  const Tensor contiguous = dense(tensor);
  return is_aligned(contiguous) ? contiguous : torch::stable::clone(contiguous);
}

// Whether rows of channels can be read `wide` at a time.
inline bool reads_wide(const Tensor& value, int64_t wide) {
  bool fits = is_aligned(value) && value.size(3) % wide == 0;
  for (int d = 0; d < 3; ++d) fits = fits && value.stride(d) % wide == 0;
  return fits;
}

inline Layout layout_of(const Sizes& sizes, const Shapes& shapes, const Tensor& value, int wide) {
  int lanes = 1;
  while (lanes < kWarpSize && lanes * wide < sizes.dim) lanes *= 2;
  return {sizes, levels_of(shapes), value.stride(0), value.stride(1), value.stride(2), lanes};
}

inline Blocks blocks_of(const Layout& layout) { return one_thread_each(layout.pairs() * layout.lanes, kThreads); }

// Calls function(Type<T>{}, Wide<kWide>{}) for the dtype of `value` and the widest reads that its rows allow.
template <int wide>
struct Wide {
  static constexpr int kWide = wide;
};
template <typename Function>
void dispatch_rows(const Tensor& value, const Function& function) {
  dispatch_dtype("deformable_attention", value, [&](auto type) {
    constexpr int wide = kVectorBytes / static_cast<int>(sizeof(typename decltype(type)::type));
    if (reads_wide(value, wide))
      function(type, Wide<wide>{});
    else
      function(type, Wide<1>{});
  });
}

// ---- on the device --------------------------------------------------------------------------------------------------

// The (query, head) of a thread.
struct Pair {
  int64_t number;  // in (B, Q, heads)
  int64_t image;
  int head, member;  // which of the pair's lanes

  __device__ explicit Pair(const Layout& layout) {
    const int64_t thread = int64_t{blockIdx.x} * kThreads + threadIdx.x;
    number = thread / layout.lanes;
    member = static_cast<int>(thread % layout.lanes);
    head = static_cast<int>(number % layout.sizes.heads);
    image = number / layout.sizes.heads / layout.sizes.queries;
  }
};

// The four pixels around a sample and their shares of it.
struct Corners {
  float x, y;              // pixel_place
  float right, below;      // place between the pixels
  int position[kCorners];  // in value; -1: outside the map

  __device__ Corners(float2 location, int height, int width, int start) {
    x = pixel_place(location.x, static_cast<float>(width));
    y = pixel_place(location.y, static_cast<float>(height));
    const bool outside = is_outside(x, static_cast<float>(width)) || is_outside(y, static_cast<float>(height));
    const float left = floorf(x), above = floorf(y);
    right = x - left;
    below = y - above;
    const bool known = !outside && !unknown();
    const int column = known ? static_cast<int>(left) : 0, line = known ? static_cast<int>(above) : 0;
#pragma unroll
    for (int c = 0; c < kCorners; ++c) {
      const int at_x = column + c % 2, at_y = line + c / 2;
      const bool inside = known && at_x >= 0 && at_x < width && at_y >= 0 && at_y < height;
      position[c] = inside ? start + at_y * width + at_x : -1;
    }
  }

  // Whether the place is NaN.
  __device__ bool unknown() const { return x != x || y != y; }
  __device__ float share(int corner) const {
    return (corner % 2 ? right : 1.f - right) * (corner / 2 ? below : 1.f - below);
  }
};

// Channels that a thread reads or writes at once.
template <typename T, int kWide>
struct alignas(sizeof(T) * kWide) Channels {
  T values[kWide];
};

template <int kWide, typename T>
__device__ __forceinline__ void load_channels(float (&to)[kWide], const T* from) {
  const auto channels = *reinterpret_cast<const Channels<T, kWide>*>(from);
#pragma unroll
  for (int i = 0; i < kWide; ++i) to[i] = static_cast<float>(channels.values[i]);
}

template <int kWide, typename T>
__device__ __forceinline__ void store_channels(T* to, const float (&from)[kWide]) {
  Channels<T, kWide> channels;
#pragma unroll
  for (int i = 0; i < kWide; ++i) channels.values[i] = static_cast<T>(from[i]);
  *reinterpret_cast<Channels<T, kWide>*>(to) = channels;
}

}  // namespace tmt::deformable::cuda
