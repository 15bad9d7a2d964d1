// Sums over the lanes of many vectors at once.
#pragma once

#include "common/cpu/simd_bits.h"

namespace tmt::deformable::cpu::TMT_SIMD {

using namespace tmt::cpu::TMT_SIMD;

// The sum of vector i's lanes, in lane i. Each round interleaves the first half of the vectors with the second and adds
// what came from the lower halves of the lanes to what came from the upper: half as many vectors, each lane of half as
// many numbers to go.
template <typename A>
TMT_INLINE Vector<A> lane_sums(const Vector<A> (&given)[kLanes<A>]) {
  Vector<A> v[kLanes<A>];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes<A>; ++i) v[i] = given[i];
#pragma GCC unroll 4
  for (int half = kLanes<A> / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) {
      Vector<A> low, high;
      interleave(v[i], v[i + half], low, high);
      v[i] = low + high;
    }
  }
  return v[0];
}

}  // namespace tmt::deformable::cpu::TMT_SIMD
