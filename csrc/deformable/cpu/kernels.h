// What the host functions of deformable attention (deformable/cpu/deformable.cpp) and its kernels
// (deformable/cpu/kernels.cpp) say to each other.
//
// An item is (image, head, split of the queries). It copies the head's values, in the accumulate dtype and framed by
// zeros, side by side into scratch of its own: a slab. Every sample there is four rows of numbers at known places,
// inside or not. What the backward adds to values it adds to a slab of zeros of its item; the slabs of a head's splits
// are added in order. No two items write the same memory, and splits are a function of the shapes: threads change no
// bit.
#pragma once

#include <cstdint>

#include "common/cpu/dispatch.h"
#include "common/cpu/element.h"

namespace tmt::deformable::cpu {

using namespace tmt::cpu;

constexpr int64_t kTileSamples = 512;  // samples worked on together: their numbers stay in the first-level cache

struct DeformableArgs {
  Element element;
  int64_t batch, positions, heads, dim, queries, levels, points;
  int64_t splits;
  const int64_t* shapes;  // (levels, 2): height, width
  const void* value;      // strides in elements; the D of a row lie side by side
  int64_t value_image, value_position, value_head;
  const void *locations, *weights;                   // contiguous, accumulate dtype
  void* output;                                      // (B, Q, heads * D); forward only
  const void* grad_output;                           // (B, Q, heads * D), contiguous; backward only, as what follows
  void *grad_value, *grad_locations, *grad_weights;  // contiguous
  void* slabs;  // (B * heads, splits, slab): what items add to values, where there is more than one split

  TMT_ALWAYS_INLINE int64_t samples() const { return levels * points; }
  // Queries whose samples are worked on together.
  TMT_ALWAYS_INLINE int64_t tile() const { return samples() < kTileSamples ? kTileSamples / samples() : 1; }
};

// Entry points, for every SIMD level. Sizes are in bytes; scratch is aligned to 64.
//   deformable_slab_bytes                  of one slab
//   deformable_scratch_bytes               of one thread, either pass
//   deformable_forward, _backward          items [begin, end) of B * heads * splits
//   deformable_finish                      adds the slabs of heads [begin, end) of B * heads, where splits > 1
#define TMT_DECLARE_DEFORMABLE(level)                                                              \
  namespace level {                                                                                \
  int64_t deformable_slab_bytes(const DeformableArgs& args);                                       \
  int64_t deformable_scratch_bytes(const DeformableArgs& args);                                    \
  void deformable_forward(const DeformableArgs& args, int64_t begin, int64_t end, void* scratch);  \
  void deformable_backward(const DeformableArgs& args, int64_t begin, int64_t end, void* scratch); \
  void deformable_finish(const DeformableArgs& args, int64_t begin, int64_t end);                  \
  }
TMT_FOR_EACH_SIMD(TMT_DECLARE_DEFORMABLE)
#undef TMT_DECLARE_DEFORMABLE

}  // namespace tmt::deformable::cpu
