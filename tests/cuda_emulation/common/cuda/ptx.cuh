// Stands in for csrc/common/cuda/ptx.cuh: the same functions, by the documented layouts, from all lanes' registers.
#pragma once

#include <cuda_runtime.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace tmt::cuda {

using BFloat16 = c10::BFloat16;
using Half = c10::Half;

template <typename T>
constexpr bool kIsHalfPrecision = std::is_same_v<T, BFloat16> || std::is_same_v<T, Half>;

inline unsigned char* shared_memory() { return emulation::shared_memory(); }

template <typename T>
float2 unpack_pair(uint32_t pair) {
  static_assert(kIsHalfPrecision<T>);
  const auto element = [](uint32_t bits) { return static_cast<float>(T(static_cast<uint16_t>(bits), T::from_bits())); };
  return {element(pair & 0xffffu), element(pair >> 16)};
}

template <typename T>
uint32_t pack_pair(float low, float high) {
  static_assert(kIsHalfPrecision<T>);
  return uint32_t{T(high).x} << 16 | T(low).x;
}

namespace emulated {

constexpr int kLanes = emulation::kWarpSize;
using Lanes = void* const[kLanes];

struct Product {
  float* sum;
  const uint32_t *a, *b;
};

template <typename T>
void put(float* row, int column, uint32_t pair) {
  const float2 values = unpack_pair<T>(pair);
  row[column] = values.x;
  row[column + 1] = values.y;
}

// sum of every lane += its elements of a b. The columns of b are kept as rows.
template <typename T>
void multiply(const Lanes& lanes, unsigned) {
  float a[16][16], b[8][16];
  for (int lane = 0; lane < kLanes; ++lane) {
    const Product& p = *static_cast<const Product*>(lanes[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) put<T>(a[g + i % 2 * 8], 2 * t + i / 2 * 8, p.a[i]);
    for (int i = 0; i < 2; ++i) put<T>(b[g], 2 * t + i * 8, p.b[i]);
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    const Product& p = *static_cast<const Product*>(lanes[lane]);
    for (int i = 0; i < 4; ++i) {
      const float *row = a[lane / 4 + i / 2 * 8], *column = b[lane % 4 * 2 + i % 2];
      float total = 0.f;
      for (int k = 0; k < 16; ++k) total += row[k] * column[k];
      p.sum[i] += total;
    }
  }
}

// The row is read when its lane calls, so that a barrier missing between it and who wrote the row shows.
struct MatrixLoad {
  uint32_t* to;
  uint16_t row[8];
};

template <bool kTransposed>
void load(const Lanes& lanes, unsigned) {
  const auto element = [&](int matrix, int row, int column) {
    return uint32_t{static_cast<const MatrixLoad*>(lanes[matrix * 8 + row])->row[column]};
  };
  for (int lane = 0; lane < kLanes; ++lane)
    for (int matrix = 0; matrix < 4; ++matrix) {
      const int g = lane / 4, t = lane % 4;
      const uint32_t low = kTransposed ? element(matrix, 2 * t, g) : element(matrix, g, 2 * t);
      const uint32_t high = kTransposed ? element(matrix, 2 * t + 1, g) : element(matrix, g, 2 * t + 1);
      static_cast<const MatrixLoad*>(lanes[lane])->to[matrix] = high << 16 | low;
    }
}

template <bool kTransposed>
__forceinline__ void load_from(uint32_t (&to)[4], const void* row) {
  MatrixLoad mine{to, {}};
  emulation::read_matrix_row(mine.row, row);
  emulation::warp_operation(load<kTransposed>, ~0u, &mine);
}

}  // namespace emulated

template <typename T>
__forceinline__ void mma_16x8x16(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  static_assert(kIsHalfPrecision<T>);
  emulated::Product product{sum, a, b};
  emulation::count_product();
  emulation::warp_operation(emulated::multiply<T>, ~0u, &product);
}

__forceinline__ void load_matrices(uint32_t (&to)[4], const void* row) { emulated::load_from<false>(to, row); }
__forceinline__ void load_matrices_transposed(uint32_t (&to)[4], const void* row) {
  emulated::load_from<true>(to, row);
}

__forceinline__ void copy_async(void* shared, const void* global, bool inside) {
  emulation::start_copy(shared, global, 16, inside);
}
__forceinline__ void copy_async_8(void* shared, const void* global, bool inside) {
  emulation::start_copy(shared, global, 8, inside);
}
inline void commit_copies() { emulation::commit_copies(); }
template <int kPending>
void wait_copies() {
  emulation::wait_copies(kPending);
}

inline float min_or_nan(float a, float b) { return std::isnan(a) || std::isnan(b) ? NAN : std::fmin(a, b); }

inline float exp2_fast(float value) {
  const float result = exp2f(value);
  return result < FLT_MIN ? 0.f : result;
}

// Fibers of one thread: nobody comes between reading and writing.
inline void add_atomically(float* to, float value) { *to += value; }
inline void add_atomically(float* to, float4 value) {
  const float4 old = *reinterpret_cast<float4*>(to);
  *reinterpret_cast<float4*>(to) = make_float4(old.x + value.x, old.y + value.y, old.z + value.z, old.w + value.w);
}
inline void add_atomically(unsigned long long* to, unsigned long long value) { *to += value; }
inline void max_atomically(unsigned* to, unsigned value) { *to = *to < value ? value : *to; }

inline float bits_to_float(unsigned bits) { return __builtin_bit_cast(float, bits); }
inline unsigned float_to_bits(float value) { return __builtin_bit_cast(unsigned, value); }

inline void trap() { emulation::require(false, "a trap"); }

inline unsigned load_acquire(const unsigned* flag) {
  emulation::poll();
  return *flag;
}
inline void add_release(unsigned* flag, unsigned value) {
  *flag += value;
  emulation::flag_written();
}

}  // namespace tmt::cuda
