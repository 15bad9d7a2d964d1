// The superpixel iteration's definitions, shared by host and device: grid, neighbours and the constants that decide.
//
// Regions form a grid of ceil(H / cell) x ceil(W / cell). Pixel p compares itself with the 3x3 cells around its own,
// numbered row-major from (-1, -1). With x^ = x / max(|x|, eps), one iteration from the region features f_(k-1) is
//
//   a_k(p, n) = exp(kappa <f^_(k-1)(r_n), x^(p)>) / sum over the neighbours m that exist of the same for m
//   f_k(r) = sum_p a_k(p, r) x(p) / max(sum_p a_k(p, r), mass eps)
//
// a is 0 for neighbours that do not exist, and f_0 are the cell means. The label is the neighbour of the largest
// cosine. Cosines less than kTie below the largest tie with it: ties go to the pixel's own cell, else to the lowest
// neighbour.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace tmt::superpixel {

constexpr int kNeighbours = 9;
constexpr int kOwn = 4;  // the neighbour that is the pixel's own cell: the one that always exists

constexpr double kNormEps = 1e-6;
// A region that no pixel wants (large kappa) has mass 0; its features become 0 instead of 0 / 0.
constexpr double kMassEps = 1e-12;

// Above the rounding of a cosine on every path (float32 sums, centres in two halves), so that where regions are alike,
// as on a constant image, no label hangs on rounding; small beside 1 / kappa, so that no other label changes.
// Stated for every dtype alike: labels in float64 and in float32 are the same.
constexpr double kTie = 0x1p-15;

// The label of a pixel whose nearest neighbours are `ties`, a bit for each; its own cell where there is none (NaN).
TMT_HOST_DEVICE int nearest_of(unsigned ties) {
  int nearest = kOwn;
  for (int n = kNeighbours - 1; n >= 0; --n) nearest = ties >> n & 1u ? n : nearest;
  return ties >> kOwn & 1u ? kOwn : nearest;
}

// Cells along a side of `pixels` pixels.
TMT_HOST_DEVICE constexpr int64_t grid_size(int64_t pixels, int64_t cell) {
  return pixels / cell + (pixels % cell != 0);
}

// Offset in cells of neighbour n, -1, 0 or 1.
TMT_HOST_DEVICE constexpr int neighbour_row(int n) { return n / 3 - 1; }
TMT_HOST_DEVICE constexpr int neighbour_column(int n) { return n % 3 - 1; }

TMT_HOST_DEVICE constexpr bool neighbour_exists(int n, int64_t row, int64_t column, int64_t rows, int64_t columns) {
  const int64_t y = row + neighbour_row(n), x = column + neighbour_column(n);
  return y >= 0 && y < rows && x >= 0 && x < columns;
}

}  // namespace tmt::superpixel
