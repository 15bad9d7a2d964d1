// Every instruction that has no C++ intrinsic, wrapped once, and the types of tensor-core operands. Tests that run the
// kernels on a CPU put a file of the same name first on the include path (tests/cuda_emulation/common/cuda/ptx.cuh).
//
// Fragments of a 16 x 8 x 16 product, per lane with g = lane / 4 and t = lane % 4; a register holds two elements, the
// lower half the first:
//   a (16 x 16)  a[0]: row g, columns 2t, 2t+1   a[1]: row g+8   a[2]: row g, columns 2t+8, 2t+9   a[3]: row g+8
//   b (16 x 8)   b[0]: rows 2t, 2t+1 of column g   b[1]: rows 2t+8, 2t+9
//   sum (16 x 8) sum[0], sum[1]: row g, columns 2t, 2t+1   sum[2], sum[3]: row g+8
#pragma once

#include <cuda_runtime.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <type_traits>

namespace tmt::cuda {

using BFloat16 = c10::BFloat16;
using Half = c10::Half;

template <typename T>
constexpr bool kIsHalfPrecision = std::is_same_v<T, BFloat16> || std::is_same_v<T, Half>;

// The block's dynamic shared memory.
__device__ __forceinline__ unsigned char* shared_memory() {
  extern __shared__ __align__(128) unsigned char tmt_shared_bytes[];
  return tmt_shared_bytes;
}

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// sum += a b, all in fragments as above; every lane must call.
template <typename T>
__device__ __forceinline__ void mma_16x8x16(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  static_assert(kIsHalfPrecision<T>);
  if constexpr (std::is_same_v<T, BFloat16>)
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four 8 x 8 matrices from shared memory. Lane l gives the 16-byte row l % 8 of matrix l / 8, aligned to 16 bytes; it
// receives in to[i] elements 2t, 2t+1 of row g of matrix i. Every lane must call.
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
}

// The same, transposed: to[i] receives elements g of rows 2t, 2t+1 of matrix i.
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
}

// Starts a copy of 16 bytes, both ends aligned to 16; zeros when !inside, and `global` is then not read. The bytes may
// come at any time until wait_copies, and other threads see them after a barrier that follows it.
__device__ __forceinline__ void copy_async(void* shared, const void* global, bool inside) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(shared_address(shared)), "l"(__cvta_generic_to_global(global)), "r"(inside ? 16 : 0)
               : "memory");
}

// The same of 8 bytes, both ends aligned to 8.
__device__ __forceinline__ void copy_async_8(void* shared, const void* global, bool inside) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;"
               :
               : "r"(shared_address(shared)), "l"(__cvta_generic_to_global(global)), "r"(inside ? 8 : 0)
               : "memory");
}

// Closes the group of the copies that this thread started since the last call, perhaps none.
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until all groups of this thread but the last kPending are there.
template <int kPending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Two floats rounded to T in one register, the first in the lower half.
template <typename T>
__device__ __forceinline__ uint32_t pack_pair(float low, float high) {
  static_assert(kIsHalfPrecision<T>);
  uint32_t pair;
  if constexpr (std::is_same_v<T, BFloat16>)
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

template <typename T>
__device__ __forceinline__ float2 unpack_pair(uint32_t pair) {
  static_assert(kIsHalfPrecision<T>);
  float2 values;
  if constexpr (std::is_same_v<T, BFloat16>)
    values = make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
  else
    asm("{ .reg .f16 low, high; mov.b32 {low, high}, %2; cvt.f32.f16 %0, low; cvt.f32.f16 %1, high; }"
        : "=f"(values.x), "=f"(values.y)
        : "r"(pair));
  return values;
}

// The smaller of two, NaN where either is (fminf returns the other one then).
__device__ __forceinline__ float min_or_nan(float a, float b) {
  float result;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
}

// 2^value to two units in the last place, subnormal results as 0. Only where no decision hangs on it.
__device__ __forceinline__ float exp2_fast(float value) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(value));
  return result;
}

// Flags between blocks that are resident together: who reads what add_release wrote sees all that the writer's block
// had written before its barrier.
__device__ __forceinline__ unsigned load_acquire(const unsigned* flag) {
  unsigned value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(__cvta_generic_to_global(flag)) : "memory");
  return value;
}
__device__ __forceinline__ void add_release(unsigned* flag, unsigned value) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(__cvta_generic_to_global(flag)), "r"(value) : "memory");
}

// Sums and maxima that any thread may add to; the order of the additions hangs on timing. `to` is aligned to what is
// added.
__device__ __forceinline__ void add_atomically(float* to, float value) { atomicAdd(to, value); }
__device__ __forceinline__ void add_atomically(float* to, float4 value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  atomicAdd(reinterpret_cast<float4*>(to), value);
#else
  atomicAdd(to, value.x);
  atomicAdd(to + 1, value.y);
  atomicAdd(to + 2, value.z);
  atomicAdd(to + 3, value.w);
#endif
}
__device__ __forceinline__ void add_atomically(unsigned long long* to, unsigned long long value) {
  atomicAdd(to, value);
}
__device__ __forceinline__ void max_atomically(unsigned* to, unsigned value) { atomicMax(to, value); }

__device__ __forceinline__ float bits_to_float(unsigned bits) { return __uint_as_float(bits); }
__device__ __forceinline__ unsigned float_to_bits(float value) { return __float_as_uint(value); }

// Ends the launch with an error, and with it the process's use of the GPU.
__device__ __forceinline__ void trap() { asm volatile("trap;"); }

}  // namespace tmt::cuda
