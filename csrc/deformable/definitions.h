// Multi-scale deformable attention's definitions, shared by host and device (Zhu et al., Deformable DETR, Eq. 3).
//
// The maps of the levels, H_l x W_l, lie one after another along the positions of `value`. A sample at (x, y) in [0, 1]
// of level l lies at pixel (x W_l - 1/2, y H_l - 1/2), pixel centres being whole numbers, and is the bilinear mean of
// the four pixels around it; pixels outside the map are 0. With weights a and samples v(l, p),
//
//   output(q) = sum over l, p of a(q, l, p) v(l, p)
//
// A sample with no pixel of the map around it is exactly 0, whatever the values are; one whose place is NaN is NaN.
#pragma once

#include "common/host_device.h"

namespace tmt::deformable {

constexpr int kCorners = 4;  // row-major: left and right of the upper row, then of the lower

// Where a sample lies along an axis of `size` pixels.
template <typename A>
TMT_HOST_DEVICE A pixel_place(A location, A size) {
  return location * size - A(0.5);
}

// Whether no pixel along the axis is nearer than 1; false for NaN.
template <typename A>
TMT_HOST_DEVICE bool is_outside(A place, A size) {
  return place <= A(-1) || place >= size;
}

}  // namespace tmt::deformable
