// Vectors for the CPU kernels, by GCC/clang vector extensions: one source, as wide as the level it is compiled for.
// Only *_kernels.cpp include this, and they include nothing with inline functions of its own beside it: each level is
// compiled with other machine flags, and a shared inline function could be linked from the wrong one.
#pragma once

#include <cstddef>
#include <cstdint>
#if defined(__F16C__)
#include <immintrin.h>
#endif

#define TMT_INLINE static inline __attribute__((always_inline))

namespace tmt::cpu::TMT_SIMD {

#if defined(TMT_SIMD_avx512)
constexpr int kVectorBytes = 64;
#elif defined(TMT_SIMD_avx2)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

// Storage types of the half-precision dtypes: bit patterns, converted here and nowhere else.
struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

// The type sums are carried in: double for double, float for everything else.
template <typename T>
struct AccumulateOf {
  using type = float;
};
template <>
struct AccumulateOf<double> {
  using type = double;
};
template <typename T>
using Accumulate = typename AccumulateOf<T>::type;

template <typename A>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(kVectorBytes)));
  typedef int32_t mask __attribute__((vector_size(kVectorBytes)));
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(kVectorBytes)));
  typedef int64_t mask __attribute__((vector_size(kVectorBytes)));
};
template <typename A>
using Vector = typename VectorOf<A>::type;
template <typename A>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(A));

// ---- one value ------------------------------------------------------------------------------------------------------

TMT_INLINE float bits_to_float(uint32_t bits) { return __builtin_bit_cast(float, bits); }
TMT_INLINE uint32_t float_to_bits(float value) { return __builtin_bit_cast(uint32_t, value); }

TMT_INLINE float load_one(const float* p) { return *p; }
TMT_INLINE double load_one(const double* p) { return *p; }
TMT_INLINE float load_one(const BFloat16* p) { return bits_to_float(static_cast<uint32_t>(p->bits) << 16); }
TMT_INLINE float load_one(const Half* p) {
#if defined(__F16C__)
  return _cvtsh_ss(p->bits);
#else
  const uint32_t sign = static_cast<uint32_t>(p->bits & 0x8000u) << 16;
  const uint32_t magnitude = p->bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return bits_to_float(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));  // inf, NaN
  // Shifting the exponent by a multiplication also renormalises subnormal numbers.
  return bits_to_float(float_to_bits(bits_to_float(magnitude << 13) * 0x1p112f) | sign);
#endif
}

TMT_INLINE void store_one(float* p, float value) { *p = value; }
TMT_INLINE void store_one(double* p, double value) { *p = value; }
TMT_INLINE void store_one(BFloat16* p, float value) {
  const uint32_t bits = float_to_bits(value);
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  p->bits = nan ? 0x7fc0u : static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);  // nearest, ties even
}
TMT_INLINE void store_one(Half* p, float value) {
#if defined(__F16C__)
  p->bits = _cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT);
#else
  const uint32_t sign = (float_to_bits(value) >> 16) & 0x8000u;
  const uint32_t bits = float_to_bits(value) & 0x7fffffffu;
  uint32_t half;
  if (bits > 0x7f800000u) {
    half = 0x7e00u;  // NaN
  } else if (bits >= 0x477ff000u) {
    half = 0x7c00u;  // rounds past the largest finite half
  } else if (bits < 0x38800000u) {
    // Subnormal: adding 0.5 puts the rounded significand in the low bits.
    half = float_to_bits(bits_to_float(bits) + 0.5f) - float_to_bits(0.5f);
  } else {
    half = (bits - 0x38000000u + 0xfffu + ((bits >> 13) & 1u)) >> 13;
  }
  p->bits = static_cast<uint16_t>(sign | half);
#endif
}

// ---- one vector -----------------------------------------------------------------------------------------------------

template <typename A>
TMT_INLINE Vector<A> broadcast(A value) {
  return value - Vector<A>{};  // x - 0 is x for every x, so this costs nothing; 0 + x is not (x = -0)
}

// Loads kLanes consecutive values, converted to the accumulate type; no alignment needed.
template <typename A>
TMT_INLINE Vector<A> load(const A* p) {
  Vector<A> v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}
TMT_INLINE Vector<float> load(const Half* p) {
#if defined(TMT_SIMD_avx512)
  return (Vector<float>)_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__F16C__)
  return (Vector<float>)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  Vector<float> v;
  for (int i = 0; i < kLanes<float>; ++i) v[i] = load_one(p + i);
  return v;
#endif
}
TMT_INLINE Vector<float> load(const BFloat16* p) {
  typedef uint16_t Narrow __attribute__((vector_size(kVectorBytes / 2)));
  typedef uint32_t Wide __attribute__((vector_size(kVectorBytes)));
  Narrow narrow;
  __builtin_memcpy(&narrow, p, sizeof(narrow));
  return (Vector<float>)(__builtin_convertvector(narrow, Wide) << 16);
}

template <typename A>
TMT_INLINE void store(A* p, Vector<A> v) {
  __builtin_memcpy(p, &v, sizeof(v));
}
TMT_INLINE void store(Half* p, Vector<float> v) {
#if defined(TMT_SIMD_avx512)
  const __m256i half = _mm512_maskz_cvtps_ph(0xffff, (__m512)v, _MM_FROUND_TO_NEAREST_INT);
  __builtin_memcpy(p, &half, sizeof(half));
#elif defined(__F16C__)
  const __m128i half = _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT);
  __builtin_memcpy(p, &half, sizeof(half));
#else
  for (int i = 0; i < kLanes<float>; ++i) store_one(p + i, v[i]);
#endif
}
TMT_INLINE void store(BFloat16* p, Vector<float> v) {
  typedef uint16_t Narrow __attribute__((vector_size(kVectorBytes / 2)));
  typedef uint32_t Wide __attribute__((vector_size(kVectorBytes)));
  const Wide bits = (Wide)v, rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;  // nearest, ties even
  const Narrow narrow = __builtin_convertvector(v == v ? rounded : Wide{} + 0x7fc0u, Narrow);
  __builtin_memcpy(p, &narrow, sizeof(narrow));
}

template <typename A>
TMT_INLINE A sum(Vector<A> v) {
  A total = 0;
  for (int i = 0; i < kLanes<A>; ++i) total += v[i];
  return total;
}

// exp for x <= ~88 (float) or ~709 (double); 0 below the smallest normal result, also for -inf. NaN stays NaN.
// Range reduction x = k ln2 + r, |r| <= ln2/2, then a Taylor polynomial of e^r to below half an ulp.
TMT_INLINE Vector<float> exp(Vector<float> x) {
  using Mask = VectorOf<float>::mask;
  const Mask tiny = x < -87.33654f;
  const Mask nan = x != x;
  const Vector<float> clamped = tiny | nan ? broadcast(0.0f) : x;
  const Vector<float> magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Vector<float> k = (clamped * 1.44269504f + magic) - magic;
  const Vector<float> r = (clamped - k * 0.693359375f) + k * 2.12194440e-4f;
  Vector<float> p = broadcast(1.0f / 5040);
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const Mask exponent = (__builtin_convertvector(k, Mask) + 127) << 23;
  const Vector<float> result = p * (Vector<float>)exponent;
  return nan ? x : (tiny ? broadcast(0.0f) : result);
}
TMT_INLINE Vector<double> exp(Vector<double> x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = __builtin_exp(x[i]);
  return x;
}

}  // namespace tmt::cpu::TMT_SIMD
