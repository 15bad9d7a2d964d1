// Every warp, block and shared-memory primitive that the kernels use, in one place: kernels contain no intrinsics or
// PTX of their own, so that a stand-in of this vocabulary can run their source on a CPU (tests/cuda_emulation).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "common/cuda/ptx.cuh"

namespace tmt::cuda {

constexpr int kWarpSize = 32;
constexpr unsigned kWholeWarp = 0xffffffffu;

__device__ __forceinline__ int lane_index() { return static_cast<int>(threadIdx.x) % kWarpSize; }
__device__ __forceinline__ int warp_index() { return static_cast<int>(threadIdx.x) / kWarpSize; }

// Waits for every thread of the block; what they wrote to shared and global memory before is visible after.
__device__ __forceinline__ void block_barrier() { __syncthreads(); }

// The same for the threads of the warp; every lane must call.
__device__ __forceinline__ void warp_barrier() { __syncwarp(); }

// Bit i is lane i's predicate; every lane must call.
__device__ __forceinline__ unsigned ballot(bool predicate) { return __ballot_sync(kWholeWarp, predicate); }

// The value held by `lane`; every lane must call.
__device__ __forceinline__ uint64_t broadcast_from(uint64_t value, int lane) {
  return __shfl_sync(kWholeWarp, static_cast<unsigned long long>(value), lane);
}

// The value held by `lane`, or by the lane whose index differs in `bits`; 32-bit values; every lane must call.
template <typename Value>
__device__ __forceinline__ Value shuffle(Value value, int lane) {
  static_assert(sizeof(Value) == 4);
  return __shfl_sync(kWholeWarp, value, lane);
}
template <typename Value>
__device__ __forceinline__ Value shuffle_xor(Value value, int bits) {
  static_assert(sizeof(Value) == 4);
  return __shfl_xor_sync(kWholeWarp, value, bits);
}

// Sum or maximum over the warp, in every lane, in an order that does not depend on timing; every lane must call.
__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(kWholeWarp, value, offset);
  return value;
}
__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2)
    value = fmaxf(value, __shfl_xor_sync(kWholeWarp, value, offset));
  return value;
}

__device__ __forceinline__ int count_bits(unsigned word) { return __popc(word); }
__device__ __forceinline__ int count_bits(uint64_t word) { return __popcll(word); }
// Index of the lowest bit that is set; -1 where none is.
__device__ __forceinline__ int lowest_bit(unsigned word) { return __ffs(static_cast<int>(word)) - 1; }
__device__ __forceinline__ int lowest_bit(uint64_t word) { return __ffsll(static_cast<long long>(word)) - 1; }

// The block's dynamic shared memory as one Tile; the launch must ask for sizeof(Tile) bytes.
template <typename Tile>
__device__ __forceinline__ Tile& shared_tile() {
  static_assert(alignof(Tile) <= 128);
  return *reinterpret_cast<Tile*>(shared_memory());
}

// Sum over the block's kWarps warps, in every thread; `scratch` holds kWarps values and may be reused after the call.
template <int kWarps, typename Value>
__device__ __forceinline__ Value sum_over_warps(Value warp_value, Value* scratch) {
  if (lane_index() == 0) scratch[warp_index()] = warp_value;
  block_barrier();
  Value total = 0;
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) total += scratch[warp];
  block_barrier();
  return total;
}

}  // namespace tmt::cuda
