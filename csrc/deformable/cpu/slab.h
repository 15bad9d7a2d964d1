// A head's values in scratch: each level framed by zeros, rows of numbers as long as whole vectors.
#pragma once

#include "common/cpu/rows.h"
#include "deformable/cpu/kernels.h"

namespace tmt::deformable::cpu::TMT_SIMD {

using namespace tmt::cpu::TMT_SIMD;

// Numbers of one position: the channels, up to whole vectors.
template <typename A>
TMT_INLINE int64_t row_numbers(const DeformableArgs& args) {
  return (args.dim + kLanes<A> - 1) / kLanes<A> * kLanes<A>;
}

// Positions of a slab, frames included.
TMT_INLINE int64_t slab_rows(const DeformableArgs& args) {
  int64_t rows = 0;
  for (int64_t l = 0; l < args.levels; ++l) rows += (args.shapes[2 * l] + 2) * (args.shapes[2 * l + 1] + 2);
  return rows;
}

template <typename A>
TMT_INLINE int64_t slab_numbers(const DeformableArgs& args) {
  return slab_rows(args) * row_numbers<A>(args);
}

// Calls visit(position, row) for every pixel of every level: its place in `value` and in the slab.
template <typename Visit>
TMT_INLINE void for_each_pixel(const DeformableArgs& args, const Visit& visit) {
  int64_t position = 0, first = 0;
  for (int64_t l = 0; l < args.levels; ++l) {
    const int64_t height = args.shapes[2 * l], width = args.shapes[2 * l + 1];
    for (int64_t y = 0; y < height; ++y) {
      int64_t row = first + (y + 1) * (width + 2) + 1;
      for (int64_t x = 0; x < width; ++x) visit(position++, row++);
    }
    first += (height + 2) * (width + 2);
  }
}

// Fills the pixels of a slab whose frame is zero already.
template <typename T>
void read_slab(const DeformableArgs& args, const T* value, Accumulate<T>* slab) {
  using A = Accumulate<T>;
  const int64_t numbers = row_numbers<A>(args);
  for_each_pixel(args, [&](int64_t position, int64_t row) {
    load_row(value + position * args.value_position, A{1}, args.dim, numbers, slab + row * numbers);
  });
}

// Writes the sum of `count` slabs, in order, to a head's values, (S, D) with `stride` elements from row to row.
template <typename T>
void write_slabs(const DeformableArgs& args, const Accumulate<T>* slabs, int64_t count, T* value, int64_t stride) {
  using A = Accumulate<T>;
  const int64_t numbers = row_numbers<A>(args), size = slab_numbers<A>(args);
  const int64_t whole = args.dim / kLanes<A> * kLanes<A>;
  for_each_pixel(args, [&](int64_t position, int64_t row) {
    const A* from = slabs + row * numbers;
    T* to = value + position * stride;
    for (int64_t d = 0; d < whole; d += kLanes<A>) {
      Vector<A> total = load(from + d);
      for (int64_t s = 1; s < count; ++s) total += load(from + s * size + d);
      store(to + d, total);
    }
    for (int64_t d = whole; d < args.dim; ++d) {
      A total = from[d];
      for (int64_t s = 1; s < count; ++s) total += from[s * size + d];
      store_one(to + d, total);
    }
  });
}

}  // namespace tmt::deformable::cpu::TMT_SIMD
