// Beside common/cpu/simd.h: bits from and to lanes, 2^x, and the transposition of a square of values. Same rule as
// common/cpu/simd.h: only
// *_kernels.cpp include it.
#pragma once

#include "common/cpu/simd.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace tmt::cpu::TMT_SIMD {

// ---- bits from comparisons: bit i of the result belongs to lane i ---------------------------------------------------

// A: the type that was compared; compilers differ in the integers that a comparison of vectors gives.
template <typename A>
TMT_INLINE uint64_t lane_bits(typename VectorOf<A>::mask m) {
  uint64_t bits = 0;
  for (int i = 0; i < kLanes<A>; ++i) bits |= static_cast<uint64_t>(m[i] & 1) << i;
  return bits;
}
#if defined(__x86_64__)
template <>
inline __attribute__((always_inline)) uint64_t lane_bits<float>(VectorOf<float>::mask m) {
#if defined(TMT_SIMD_avx512)
  return _mm512_movepi32_mask((__m512i)m);
#elif defined(TMT_SIMD_avx2)
  return static_cast<uint32_t>(_mm256_movemask_ps((__m256)m));
#else
  return static_cast<uint32_t>(_mm_movemask_ps((__m128)m));
#endif
}
#endif

// ---- lanes from bits: v where the lane's bit is set, else other -----------------------------------------------------

TMT_INLINE Vector<float> choose(uint64_t bits, Vector<float> v, Vector<float> other) {
#if defined(TMT_SIMD_avx512)
  return (Vector<float>)_mm512_mask_blend_ps(static_cast<__mmask16>(bits), (__m512)other, (__m512)v);
#else
  using Mask = VectorOf<float>::mask;
#if defined(TMT_SIMD_avx2)
  const Mask lane = {1, 2, 4, 8, 16, 32, 64, 128};
#else
  const Mask lane = {1, 2, 4, 8};
#endif
  const Mask set = ((Mask{} + static_cast<int32_t>(bits & 0xffffu)) & lane) != 0;
  return set ? v : other;
#endif
}
TMT_INLINE Vector<double> choose(uint64_t bits, Vector<double> v, Vector<double> other) {
  for (int i = 0; i < kLanes<double>; ++i) v[i] = (bits >> i) & 1 ? v[i] : other[i];
  return v;
}

// ---- moved by bits --------------------------------------------------------------------------------------------------

// The lanes whose bit is set, side by side from lane 0; what comes after them is of no meaning.
TMT_INLINE Vector<float> compress(uint64_t bits, Vector<float> v) {
#if defined(TMT_SIMD_avx512)
  return (Vector<float>)_mm512_maskz_compress_ps(static_cast<__mmask16>(bits), (__m512)v);
#else
  for (int i = 0, to = 0; i < kLanes<float>; to += (bits >> i) & 1, ++i) v[to] = v[i];
  return v;
#endif
}
TMT_INLINE Vector<double> compress(uint64_t bits, Vector<double> v) {
  for (int i = 0, to = 0; i < kLanes<double>; to += (bits >> i) & 1, ++i) v[to] = v[i];
  return v;
}

// How the low bits of a word get to the set bits of a mask, in order: a bit with c unset bits below it is filled from c
// further down, in six steps, by the powers of two that c has.
struct BitMoves {
  uint64_t by[6];  // bits that move by 2^i, as they lie before that step; the longest step is the first
  uint64_t taken;  // the low bits that have a place
};

TMT_INLINE BitMoves moves_to(uint64_t mask) {
  BitMoves moves = {};
  int gaps = 0;
  for (int at = 0; at < 64; ++at) {
    const uint64_t bit = (mask >> at) & 1;
    gaps += bit == 0;
    for (int i = 0; i < 6; ++i)
      moves.by[i] |= (bit & (static_cast<uint64_t>(gaps) >> i)) << ((at - (gaps & ((2 << i) - 1))) & 63);
    moves.taken |= bit << ((at - gaps) & 63);
  }
  return moves;
}

TMT_INLINE uint64_t spread(const BitMoves& moves, uint64_t word) {
  word &= moves.taken;
  for (int i = 5; i >= 0; --i) {
    const uint64_t moving = word & moves.by[i];
    word = (word ^ moving) | (moving << (1 << i));
  }
  return word;
}

// ---- the larger of two; NaN where b is NaN --------------------------------------------------------------------------

TMT_INLINE Vector<float> larger(Vector<float> a, Vector<float> b) {
#if defined(TMT_SIMD_avx512)
  return (Vector<float>)_mm512_maskz_max_ps(0xffff, (__m512)a, (__m512)b);
#elif defined(TMT_SIMD_avx2)
  return (Vector<float>)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__x86_64__)
  return (Vector<float>)_mm_max_ps((__m128)a, (__m128)b);
#else
  return a > b ? a : b;
#endif
}
TMT_INLINE Vector<double> larger(Vector<double> a, Vector<double> b) { return a > b ? a : b; }

// The smaller of two; NaN where b is NaN.
TMT_INLINE Vector<float> smaller(Vector<float> a, Vector<float> b) {
#if defined(TMT_SIMD_avx512)
  return (Vector<float>)_mm512_maskz_min_ps(0xffff, (__m512)a, (__m512)b);
#elif defined(TMT_SIMD_avx2)
  return (Vector<float>)_mm256_min_ps((__m256)a, (__m256)b);
#elif defined(__x86_64__)
  return (Vector<float>)_mm_min_ps((__m128)a, (__m128)b);
#else
  return a < b ? a : b;
#endif
}
TMT_INLINE Vector<double> smaller(Vector<double> a, Vector<double> b) { return a < b ? a : b; }

// `a`, and where the lane's bit is set, the larger of the two.
TMT_INLINE Vector<float> larger_where(uint64_t bits, Vector<float> a, Vector<float> b) {
#if defined(TMT_SIMD_avx512)
  return (Vector<float>)_mm512_mask_max_ps((__m512)a, static_cast<__mmask16>(bits), (__m512)a, (__m512)b);
#else
  return choose(bits, larger(a, b), a);
#endif
}
TMT_INLINE Vector<double> larger_where(uint64_t bits, Vector<double> a, Vector<double> b) {
  return choose(bits, larger(a, b), a);
}

// ---- 2^x for x <= 127, to 2 ulp; from 0 to 2^-126 where that is smaller (float), 0 at -inf. NaN stays NaN -----------

// The relative minimax of 2^r of degree 5 for |r| <= 1/2.
TMT_INLINE Vector<float> exp2_fraction(Vector<float> r) {
  Vector<float> p = broadcast(0.0013264727f);
  p = p * r + 0.009671513f;
  p = p * r + 0.055507336f;
  p = p * r + 0.24022242f;
  p = p * r + 0.693147f;
  return p * r + 1.0f;
}

// x = k + r with integer k.
TMT_INLINE Vector<float> exp2(Vector<float> x) {
#if defined(TMT_SIMD_avx512)
  const __m512 k = _mm512_maskz_roundscale_ps(0xffff, (__m512)x, 0);
  return (Vector<float>)_mm512_maskz_scalef_ps(0xffff, (__m512)exp2_fraction(x - (Vector<float>)k), k);
#else
  typedef uint32_t Bits __attribute__((vector_size(kVectorBytes)));  // unsigned: where x is too large, it wraps
  const Vector<float> bounded = larger(broadcast(-127.0f), x);       // 1.0f with the exponent -127 is the number 0
  const Vector<float> shifted = bounded + 12582912.0f;               // 1.5 * 2^23: the sum's low bits are k
  const Vector<float> p = exp2_fraction(bounded - (shifted - 12582912.0f));
  return (Vector<float>)((Bits)p + ((Bits)shifted << 23));
#endif
}
TMT_INLINE Vector<double> exp2(Vector<double> x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = __builtin_exp2(x[i]);
  return x;
}

TMT_INLINE float exp2_one(float x) { return __builtin_exp2f(x); }
TMT_INLINE double exp2_one(double x) { return __builtin_exp2(x); }
TMT_INLINE float log2_one(float x) { return __builtin_log2f(x); }
TMT_INLINE double log2_one(double x) { return __builtin_log2(x); }

// ---- transposition --------------------------------------------------------------------------------------------------

// a0 b0 a1 b1 ... of the lower or the upper halves.
TMT_INLINE void interleave(Vector<float> a, Vector<float> b, Vector<float>& low, Vector<float>& high) {
#if defined(TMT_SIMD_avx512)
#define TMT_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define TMT_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif defined(TMT_SIMD_avx2)
#define TMT_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define TMT_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#else
#define TMT_LOW 0, 4, 1, 5
#define TMT_HIGH 2, 6, 3, 7
#endif
#if defined(__clang__)
  low = __builtin_shufflevector(a, b, TMT_LOW);
  high = __builtin_shufflevector(a, b, TMT_HIGH);
#else
  using Mask = VectorOf<float>::mask;
  low = __builtin_shuffle(a, b, Mask{TMT_LOW});
  high = __builtin_shuffle(a, b, Mask{TMT_HIGH});
#endif
#undef TMT_LOW
#undef TMT_HIGH
}
TMT_INLINE void interleave(Vector<double> a, Vector<double> b, Vector<double>& low, Vector<double>& high) {
  constexpr int half = kLanes<double> / 2;
  Vector<double> first = a, second = a;
  for (int i = 0; i < half; ++i) {
    first[2 * i] = a[i];
    first[2 * i + 1] = b[i];
    second[2 * i] = a[half + i];
    second[2 * i + 1] = b[half + i];
  }
  low = first;
  high = second;
}

// v[i][j] becomes v[j][i]: each of the log2(lanes) rounds interleaves the two halves of the list of vectors, which
// moves the top bit of the row index to the bottom of the column index.
template <typename A>
TMT_INLINE void transpose(Vector<A> (&v)[kLanes<A>]) {
  constexpr int L = kLanes<A>;
#pragma GCC unroll 4
  for (int round = 1; round < L; round *= 2) {
    Vector<A> next[L];
#pragma GCC unroll 8
    for (int i = 0; i < L / 2; ++i) interleave(v[i], v[i + L / 2], next[2 * i], next[2 * i + 1]);
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) v[i] = next[i];
  }
}

}  // namespace tmt::cpu::TMT_SIMD
