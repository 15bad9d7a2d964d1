// Rows of numbers between their dtype and the one that sums are carried in.
#pragma once

#include "common/cpu/simd.h"

namespace tmt::cpu::TMT_SIMD {

// (D) of any element type times `scale`, padded.
template <typename T, typename A = Accumulate<T>>
TMT_INLINE void load_row(const T* from, A scale, int64_t dim, int64_t padded, A* to) {
  int64_t d = 0;
  for (; d + kLanes<A> <= dim; d += kLanes<A>) store(to + d, load(from + d) * scale);
  for (; d < dim; ++d) to[d] = load_one(from + d) * scale;
  for (; d < padded; ++d) to[d] = 0;
}

template <typename T, typename A = Accumulate<T>>
TMT_INLINE void store_row(const A* from, A scale, int64_t dim, T* to) {
  int64_t d = 0;
  for (; d + kLanes<A> <= dim; d += kLanes<A>) store(to + d, load(from + d) * scale);
  for (; d < dim; ++d) store_one(to + d, from[d] * scale);
}

template <typename A>
TMT_INLINE void zero(A* to, int64_t count) {
  __builtin_memset(to, 0, static_cast<size_t>(count) * sizeof(A));
}

}  // namespace tmt::cpu::TMT_SIMD
