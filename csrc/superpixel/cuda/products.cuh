// What the tensor-core superpixel kernels compute of the pixels in shared memory. Both products read the same tile,
// once plain and once transposed by ldmatrix:
//   similarity   pixels (16 x channels) . centres (channels x 9)    contracts channels
//   sums         channels (16 x pixels) . weights (pixels x 9)      contracts pixels
// The pixels are exact in T. Centres and weights are not: each is a high and a low half (Halves), so that the products
// are nearly those of float32; the nine columns of high and the nine of low halves fill three products of width 8, the
// third with both halves of neighbour 8. In a lane, g = lane / 4 and t = lane % 4, as in common/cuda/ptx.cuh.
#pragma once

#include "superpixel/cuda/group.cuh"

namespace tmt::superpixel::cuda {

// fp16 has no small numbers: weights are scaled by this before they are rounded, and the sums by its inverse.
template <typename T>
constexpr float kWeightScale = std::is_same_v<T, Half> ? 16384.f : 1.f;

// A value as two of half precision: high + low is the value, but for a rounding of the low half.
template <typename T>
struct Halves {
  T high, low;
  __device__ explicit Halves(float value) : high(value), low(value - static_cast<float>(high)) {}
};

// A warp works on so many slices of a tile at once.
template <int kPixels>
constexpr int kTogether = kPixels == kSlice ? 1 : 2;
template <int kPixels>
constexpr int kUnits = kPixels / kSlice / kTogether<kPixels>;

// This lane's row of the four matrices of a tile that are the pixels of a slice as the left operand of a product that
// contracts channels (transposed by the load) or pixels; for channels 0 .. 15.
template <int kPixels>
__device__ __forceinline__ int pixels_by_channels(int slice) {
  const int matrix = lane_index() / 8, row = lane_index() % 8;
  return pixel_address<kPixels>(matrix / 2 * 8 + row, 2 * slice + matrix % 2);
}
template <int kPixels>
__device__ __forceinline__ int channels_by_pixels(int slice) {
  const int matrix = lane_index() / 8, row = lane_index() % 8;
  return pixel_address<kPixels>(matrix % 2 * 8 + row, 2 * slice + matrix / 2);
}

// Squared norms, scaled, of a slice's pixels g and g + 8, in every lane.
template <typename T, int kPixels>
__device__ __forceinline__ float2 squared_norms(const T* tile, const Plan& plan, int slice, float scale) {
  const T* at = tile + pixels_by_channels<kPixels>(slice);
  float2 squares = {0.f, 0.f};
  for (int channel = 0; channel < plan.padded_channels; channel += kSlice) {
    uint32_t a[4];
    load_matrices_transposed(a, at + channel * kPixels);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 pair = unpack_pair<T>(a[i]);
      const float x = pair.x * scale, y = pair.y * scale;
      (i % 2 ? squares.y : squares.x) += x * x + y * y;
    }
  }
#pragma unroll
  for (int bits = 1; bits < 4; bits *= 2) {
    squares.x += shuffle_xor(squares.x, bits);
    squares.y += shuffle_xor(squares.y, bits);
  }
  return squares;
}

// 1 / max(|x|, eps) of a slice's pixels. A warp's work.
template <typename T, int kPixels>
__device__ void measure_slice(float* inverse_norms, const T* tile, const Plan& plan, int slice) {
  const float2 plain = squared_norms<T, kPixels>(tile, plan, slice, 1.f);
  float2 scaled = {0.f, 0.f};
  if (ballot(plain.x == INFINITY || plain.y == INFINITY) != 0)
    scaled = squared_norms<T, kPixels>(tile, plan, slice, kScale);
  if (lane_index() % 4 != 0) return;
  const int pixel = slice * kSlice + lane_index() / 4;
  inverse_norms[pixel] = 1.f / fmaxf(norm_of(plain.x, scaled.x), kNormEps);
  inverse_norms[pixel + 8] = 1.f / fmaxf(norm_of(plain.y, scaled.y), kNormEps);
}

// The same of all the group's pixels. A warp per slice.
template <int kPixels, typename T>
__device__ void measure_pixels(const Group<T>& group) {
  constexpr int kSlices = kPixels / kSlice;
  for (int i = warp_index(); i < group.plan.tiles() * kSlices; i += kGroupWarps) {
    const int tile = i / kSlices;
    if (group.tile(tile).exist == 0) continue;
    measure_slice<T, kPixels>(group.inverse_norms(tile), group.pixels(tile), group.plan, i % kSlices);
  }
}

// ---- similarity -----------------------------------------------------------------------------------------------------

// Inner products of the 16 pixels of each of a warp's slices with the nine vectors of a table. Neighbours 2t and 2t + 1
// of pixels g and g + 8 are sum[..][0 .. 3] of `high` and `low`; neighbour 8 is rest[..][0] + rest[..][1] for g and
// rest[..][2] + rest[..][3] for g + 8 in the lanes with t = 0.
template <int kSlices>
struct Products {
  float high[kSlices][4] = {}, low[kSlices][4] = {}, rest[kSlices][4] = {};

  // Of neighbours 2t and 2t + 1 and, in every lane, of neighbour 8, for pixel g + 8 * row. Every lane must call.
  __device__ __forceinline__ void get(float (&values)[3], int slice, int row) const {
    values[0] = high[slice][2 * row] + low[slice][2 * row];
    values[1] = high[slice][2 * row + 1] + low[slice][2 * row + 1];
    values[2] = shuffle(rest[slice][2 * row] + rest[slice][2 * row + 1], lane_index() & ~3);
  }
};

// Where this lane's rows of a table's nine vectors begin, as right operands.
template <typename T>
struct TableRows {
  const T *pairs, *ninth;

  __device__ __forceinline__ TableRows(const T* table, const Plan& plan, const TileInfo& tile) {
    const int matrix = lane_index() / 8, row = lane_index() % 8;
    const T* first = table + plan.halves.at(tile.y, tile.x);
    pairs = first + matrix / 2 * plan.halves.size + plan.halves.neighbour(row) + matrix % 2 * 8;
    ninth = first + (row == 1 ? plan.halves.size : 0) + plan.halves.neighbour(kNeighbours - 1) + matrix * 8;
  }
};

template <typename T, int kSlices>
__device__ __forceinline__ void multiply(Products<kSlices>& products, const uint32_t (&pixels)[kSlices][4],
                                         const uint32_t (&pairs)[4], const uint32_t (&ninth)[2]) {
#pragma unroll
  for (int s = 0; s < kSlices; ++s) {
    mma_16x8x16<T>(products.high[s], pixels[s], {pairs[0], pairs[1]});
    mma_16x8x16<T>(products.low[s], pixels[s], {pairs[2], pairs[3]});
    mma_16x8x16<T>(products.rest[s], pixels[s], ninth);
  }
}

// The left operands of one step of kChannelStep channels, for kSlices slices.
template <int kSlices>
using PixelStep = uint32_t[kChannelStep / kSlice][kSlices][4];

// Loads the operands of kSlices slices of a tile from `slice` on, for the channels from `channel` on.
template <typename T, int kPixels, int kSlices>
__device__ __forceinline__ void load_step(PixelStep<kSlices>& pixels, const T* tile, int slice, int channel) {
#pragma unroll
  for (int half = 0; half < kChannelStep / kSlice; ++half)
#pragma unroll
    for (int s = 0; s < kSlices; ++s)
      load_matrices_transposed(pixels[half][s],
                               tile + pixels_by_channels<kPixels>(slice + s) + (channel + half * kSlice) * kPixels);
}

// Adds the products of one step of channels from `channel` on with the nine vectors of each table that `rows` point at.
template <typename T, int kSlices, int kTables>
__device__ __forceinline__ void multiply_step(Products<kSlices> (&products)[kTables], const PixelStep<kSlices>& pixels,
                                              const TableRows<T> (&rows)[kTables], int channel) {
#pragma unroll
  for (int i = 0; i < kTables; ++i) {
    uint32_t ninth[4], pairs[4];
    load_matrices(ninth, rows[i].ninth + channel);
#pragma unroll
    for (int half = 0; half < kChannelStep / kSlice; ++half) {
      load_matrices(pairs, rows[i].pairs + channel + half * kSlice);
      multiply<T, kSlices>(products[i], pixels[half], pairs, {ninth[2 * half], ninth[2 * half + 1]});
    }
  }
}

// The first kSteps steps of the channels of a warp's slices, kept in registers: read once for all iterations.
template <int kSlices, int kSteps>
struct KeptPixels {
  PixelStep<kSlices> step[kSteps];
};
template <int kSlices>
struct KeptPixels<kSlices, 0> {};

// Keeps the slices that this warp works on, if the group has no more units than warps.
template <int kPixels, int kSteps, typename T>
__device__ __forceinline__ void keep_pixels(KeptPixels<kTogether<kPixels>, kSteps>& kept, const Group<T>& group) {
  if constexpr (kSteps > 0) {
    const int tile = warp_index() / kUnits<kPixels>, slice = warp_index() % kUnits<kPixels> * kTogether<kPixels>;
    if (tile >= group.plan.tiles()) return;
#pragma unroll
    for (int i = 0; i < kSteps; ++i)
      if (i * kChannelStep < group.plan.padded_channels)
        load_step<T, kPixels, kTogether<kPixels>>(kept.step[i], group.pixels(tile), slice, i * kChannelStep);
  }
}

// The products over all channels of kSlices slices of a tile from `slice` on. A warp's work.
template <typename T, int kPixels, int kSlices, int kTables, int kSteps>
__device__ __forceinline__ void similarities(Products<kSlices> (&products)[kTables],
                                             const KeptPixels<kSlices, kSteps>& kept, const T* tile,
                                             const TableRows<T> (&rows)[kTables], const Plan& plan, int slice) {
  if constexpr (kSteps > 0) {
#pragma unroll
    for (int i = 0; i < kSteps; ++i)
      if (i * kChannelStep < plan.padded_channels) multiply_step(products, kept.step[i], rows, i * kChannelStep);
  }
#pragma unroll 1
  for (int channel = kSteps * kChannelStep; channel < plan.padded_channels; channel += kChannelStep) {
    PixelStep<kSlices> pixels;
    load_step<T, kPixels, kSlices>(pixels, tile, slice, channel);
    multiply_step(products, pixels, rows, channel);
  }
}

// ---- assignment -----------------------------------------------------------------------------------------------------

// A pixel's nine values as its four lanes hold them: neighbours 2t and 2t + 1, and neighbour 8, which all four hold.
struct PixelValues {
  float value[3];

  __device__ static int neighbour(int i) { return i == 2 ? kNeighbours - 1 : lane_index() % 4 * 2 + i; }
  // The sum of all nine, in all four lanes.
  __device__ float total() const {
    float sum = value[0] + value[1] + (lane_index() % 4 == 0 ? value[2] : 0.f);
    sum += shuffle_xor(sum, 1);
    return sum + shuffle_xor(sum, 2);
  }
};

// The largest value of the neighbours that `exist` (a bit for each), in all four lanes; NaN ones do not count.
__device__ __forceinline__ float largest_of(const PixelValues& values, unsigned exist) {
  float largest = -INFINITY;
#pragma unroll
  for (int i = 0; i < 3; ++i)
    if (exist >> PixelValues::neighbour(i) & 1u) largest = fmaxf(largest, values.value[i]);
#pragma unroll
  for (int bits = 1; bits < 4; bits *= 2) largest = fmaxf(largest, shuffle_xor(largest, bits));
  return largest;
}

// nearest_of the neighbours whose exponents are at most `tie` below the largest. Every lane must call.
__device__ __forceinline__ int nearest_neighbour(const PixelValues& exponents, unsigned exist, float tie) {
  const float least = largest_of(exponents, exist) - tie;
  unsigned ties = 0;
#pragma unroll
  for (int i = 0; i < 3; ++i)
    if (exponents.value[i] >= least) ties |= exist & 1u << PixelValues::neighbour(i);
#pragma unroll
  for (int bits = 1; bits < 4; bits *= 2) ties |= shuffle_xor(ties, bits);
  return nearest_of(ties);
}

// Softmax of the exponents over the neighbours that `exist` (a bit for each), in place; Eqs. 7-8.
__device__ __forceinline__ void softmax(PixelValues& values, unsigned exist) {
  const float largest = largest_of(values, exist);
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    const bool exists = exist >> PixelValues::neighbour(i) & 1u;
    values.value[i] = exists ? expf(values.value[i] - largest) : 0.f;
  }
  const float factor = 1.f / values.total();
#pragma unroll
  for (int i = 0; i < 3; ++i) values.value[i] *= factor;
}

// Puts a pixel's nine weights, times the scale, where accumulate reads them. `weights`: of the tile.
template <typename T, int kPixels>
__device__ __forceinline__ void store_weights(T* weights, const PixelValues& values, int pixel, float scale) {
  constexpr int kStride = kPixels + kWeightPadding;
  const int t = lane_index() % 4;
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    if (i == 2 && t != 0) break;
    const Halves<T> halves(values.value[i] * scale);
    const int row = i == 2 ? 16 : 2 * t + i;
    weights[row * kStride + pixel] = halves.high;
    weights[(i == 2 ? 17 : row + 8) * kStride + pixel] = halves.low;
  }
}

// ---- sums -----------------------------------------------------------------------------------------------------------

// A slice's weights as right operands.
struct WeightOperands {
  uint32_t pairs[4], ninth[2];
};

template <typename T, int kPixels>
__device__ __forceinline__ void load_weights(WeightOperands (&operands)[kPixels / kSlice], const T* weights) {
  constexpr int kStride = kPixels + kWeightPadding, kSlices = kPixels / kSlice;
  const int matrix = lane_index() / 8, row = lane_index() % 8;
#pragma unroll
  for (int s = 0; s < kSlices; ++s)
    load_matrices(operands[s].pairs, weights + (matrix / 2 * 8 + row) * kStride + s * kSlice + matrix % 2 * 8);
#pragma unroll
  for (int s = 0; s < kSlices; s += 2) {
    uint32_t both[4];
    load_matrices(both, weights + (16 + row) * kStride + (s * 2 + matrix) % (kPixels / 8) * 8);
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (s + i / 2 < kSlices) operands[s + i / 2].ninth[i % 2] = both[i];
  }
}

// sums += scale * the tile's weighted pixels. A warp's work on its own channels: no other warp adds to them.
template <int kPixels, typename T>
__device__ __forceinline__ void accumulate_tile(const Group<T>& group, int number, const TileInfo& tile, float scale) {
  constexpr int kSlices = kPixels / kSlice;
  const Plan& plan = group.plan;
  WeightOperands operands[kSlices];
  load_weights<T, kPixels>(operands, group.weights(number));
  const T* pixels = group.pixels(number);
  const int g = lane_index() / 4, t = lane_index() % 4;
  float* corner = group.sums() + plan.sums.at(tile.y, tile.x) + g;
  float *left = corner + plan.sums.neighbour(2 * t), *right = corner + plan.sums.neighbour(2 * t + 1);
  float* ninth = corner + plan.sums.neighbour(kNeighbours - 1);
  for (int channel = warp_index() * kSlice; channel < plan.padded_channels; channel += kGroupWarps * kSlice) {
    // On their way while the products are made; all are there before the first is written.
    const float before[6] = {left[channel],      right[channel], left[channel + 8],
                             right[channel + 8], ninth[channel], ninth[channel + 8]};
    float high[4] = {}, low[4] = {}, rest[4] = {};
#pragma unroll
    for (int s = 0; s < kSlices; ++s) {
      uint32_t a[4];
      load_matrices(a, pixels + channel * kPixels + channels_by_pixels<kPixels>(s));
      mma_16x8x16<T>(high, a, {operands[s].pairs[0], operands[s].pairs[1]});
      mma_16x8x16<T>(low, a, {operands[s].pairs[2], operands[s].pairs[3]});
      mma_16x8x16<T>(rest, a, operands[s].ninth);
    }
    left[channel] = before[0] + scale * (high[0] + low[0]);
    right[channel] = before[1] + scale * (high[1] + low[1]);
    left[channel + 8] = before[2] + scale * (high[2] + low[2]);
    right[channel + 8] = before[3] + scale * (high[3] + low[3]);
    if (t != 0) continue;
    ninth[channel] = before[4] + scale * (rest[0] + rest[1]);
    ninth[channel + 8] = before[5] + scale * (rest[2] + rest[3]);
  }
  warp_barrier();  // the next tile adds to some of the same regions, from other lanes
}

template <int kPixels, typename T>
__device__ void accumulate_pixels(const Group<T>& group, float scale) {
  for (int i = 0; i < group.plan.tiles(); ++i) {
    const TileInfo tile = group.tile(i);
    if (tile.exist != 0) accumulate_tile<kPixels>(group, i, tile, scale);
  }
}

}  // namespace tmt::superpixel::cuda
