// Stands in for CUDA's cuda_runtime.h, so that g++ compiles csrc/*/cuda/*.cu as plain C++ and their kernels run on the
// CPU. Only what the kernels and launch.cuh use is here; cuda/ptx.cuh beside it stands in for the instructions.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <tuple>
#include <type_traits>

#include "emulation.h"

// No __shared__: shared memory is what shared_tile() gives.
#define __global__
#define __grid_constant__
#define __device__
#define __host__
#ifdef __SANITIZE_THREAD__  // accesses are counted (counters.h): by the place that calls, as on a GPU
#define __forceinline__ inline __attribute__((always_inline))
#else
#define __forceinline__ inline
#endif
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3() = default;
  explicit dim3(unsigned x_, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

// Of the fiber that runs now.
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

// Vectors are copied as one number, so that who counts accesses sees one, as the one instruction of a GPU.
template <typename Whole, typename Vector>
void copy_whole(Vector& to, const Vector& from) {
  using Bytes [[gnu::may_alias]] = Whole;
  static_assert(sizeof(Bytes) == sizeof(Vector));
  reinterpret_cast<Bytes&>(to) = reinterpret_cast<const Bytes&>(from);
}

template <typename T>
struct alignas(8) Vector2 {
  T x, y;
  Vector2() = default;
  Vector2(T x_, T y_) : x(x_), y(y_) {}
  Vector2(const Vector2& from) { copy_whole<uint64_t>(*this, from); }
  Vector2& operator=(const Vector2& from) { return copy_whole<uint64_t>(*this, from), *this; }
};
template <typename T>
struct alignas(16) Vector4 {
  T x, y, z, w;
  Vector4() = default;
  Vector4(T x_, T y_, T z_, T w_) : x(x_), y(y_), z(z_), w(w_) {}
  Vector4(const Vector4& from) { copy_whole<unsigned __int128>(*this, from); }
  Vector4& operator=(const Vector4& from) { return copy_whole<unsigned __int128>(*this, from), *this; }
};
using float2 = Vector2<float>;
using float4 = Vector4<float>;
using uint2 = Vector2<unsigned>;
using uint4 = Vector4<unsigned>;
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// ---- the host's side (device.cpp) -----------------------------------------------------------------------------------

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorLaunchFailure = 719,
  cudaErrorCooperativeLaunchTooLarge = 720
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};
enum cudaLaunchAttributeID { cudaLaunchAttributeCooperative = 2 };
using cudaStream_t = struct Stream*;

struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    int cooperative;
  } val;
};

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  cudaLaunchAttribute* attrs = nullptr;
  unsigned numAttrs = 0;
};

namespace emulation {
// `kernel` identifies the kernel, for its shared-memory limit.
cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, const std::function<void()>& thread);
cudaError_t allow_shared_memory(const void* kernel, int bytes);
cudaError_t occupancy(int* blocks, int threads, size_t shared_bytes);
}  // namespace emulation

cudaError_t cudaGetLastError();
cudaError_t cudaGetDevice(int* number);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
inline cudaError_t cudaMemsetAsync(void* bytes, int value, size_t count, cudaStream_t) {
  std::memset(bytes, value, count);
  return cudaSuccess;
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  const std::tuple<Parameters...> values(arguments...);
  return emulation::launch(*config, reinterpret_cast<const void*>(kernel), [&] { std::apply(kernel, values); });
}

template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute, int value) {
  return emulation::allow_shared_memory(reinterpret_cast<const void*>(kernel), value);
}

template <typename Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel*, int threads, size_t shared_bytes) {
  return emulation::occupancy(blocks, threads, shared_bytes);
}

// ---- the kernels' side ----------------------------------------------------------------------------------------------

inline void __syncthreads() { emulation::block_barrier(); }

inline void __syncwarp(unsigned mask = 0xffffffffu) {
  emulation::warp_operation([](void* const(&)[emulation::kWarpSize], unsigned) {}, mask, nullptr);
}

namespace emulation {

struct Vote {
  bool predicate;
  unsigned votes;
};

inline void vote(void* const (&lanes)[kWarpSize], unsigned mask) {
  unsigned votes = 0;
  for (unsigned i = 0; i < kWarpSize; ++i)
    if (mask >> i & 1u) votes |= static_cast<unsigned>(static_cast<Vote*>(lanes[i])->predicate) << i;
  for (unsigned i = 0; i < kWarpSize; ++i)
    if (mask >> i & 1u) static_cast<Vote*>(lanes[i])->votes = votes;
}

template <typename Value>
struct Exchange {
  Value given, received;
  int lane;
};

template <typename Value>
void exchange(void* const (&lanes)[kWarpSize], unsigned mask) {
  for (unsigned i = 0; i < kWarpSize; ++i) {
    if (!(mask >> i & 1u)) continue;
    auto* mine = static_cast<Exchange<Value>*>(lanes[i]);
    if (lanes[mine->lane] != nullptr) mine->received = static_cast<Exchange<Value>*>(lanes[mine->lane])->given;
  }
}

}  // namespace emulation

inline unsigned __ballot_sync(unsigned mask, bool predicate) {
  emulation::Vote vote{predicate, 0};
  emulation::warp_operation(emulation::vote, mask, &vote);
  return vote.votes;
}

template <typename Value>
Value __shfl_sync(unsigned mask, Value value, int lane) {
  static_assert(std::is_arithmetic_v<Value> && (sizeof(Value) == 4 || sizeof(Value) == 8));
  emulation::Exchange<Value> exchange{value, {}, lane & 31};
  emulation::require(mask >> exchange.lane & 1u, "a shuffle reads from a lane that its mask leaves out");
  emulation::warp_operation(emulation::exchange<Value>, mask, &exchange);
  return exchange.received;
}

template <typename Value>
Value __shfl_xor_sync(unsigned mask, Value value, int bits) {
  return __shfl_sync(mask, value, static_cast<int>(threadIdx.x % 32) ^ bits);
}

inline int __popc(unsigned word) { return __builtin_popcount(word); }
inline int __popcll(unsigned long long word) { return __builtin_popcountll(word); }
inline int __ffs(int word) { return __builtin_ffs(word); }
inline int __ffsll(long long word) { return __builtin_ffsll(word); }
inline float rsqrtf(float value) { return 1.f / sqrtf(value); }
