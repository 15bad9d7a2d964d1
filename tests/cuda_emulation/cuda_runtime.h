// Stands in for CUDA's cuda_runtime.h, so that g++ compiles csrc/cuda/*.cu as plain C++ and their kernels run on the
// CPU: block after block, the threads of a block as fibers of one thread of the machine (emulation.cpp). Only what the
// kernels and launch.cuh use is here.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <tuple>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __shared__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3() = default;
  explicit dim3(unsigned x_, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

// Of the fiber that runs now.
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidConfiguration = 9, cudaErrorLaunchFailure = 719 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16 };
using cudaStream_t = struct Stream*;

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

namespace emulation {

enum class Meeting { none, block, ballot, shuffle };

// Runs `thread` once per thread of every block. `kernel` identifies the kernel, for its shared-memory limit.
cudaError_t run(const cudaLaunchConfig_t& config, const void* kernel, const std::function<void()>& thread);
cudaError_t allow_shared_memory(const void* kernel, int bytes);

// The calling fiber waits until all that must take part have called; returns the lanes' predicates, or what `lane`
// gave.
uint64_t meet(Meeting meeting, unsigned mask, uint64_t value, int lane);

}  // namespace emulation

cudaError_t cudaGetLastError();
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  const std::tuple<Parameters...> values(arguments...);
  return emulation::run(*config, reinterpret_cast<const void*>(kernel), [&] { std::apply(kernel, values); });
}

template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute, int value) {
  return emulation::allow_shared_memory(reinterpret_cast<const void*>(kernel), value);
}

inline void __syncthreads() { emulation::meet(emulation::Meeting::block, 0, 0, 0); }

inline unsigned __ballot_sync(unsigned mask, bool predicate) {
  return static_cast<unsigned>(emulation::meet(emulation::Meeting::ballot, mask, predicate, 0));
}

template <typename Value>
Value __shfl_sync(unsigned mask, Value value, int lane) {
  static_assert(sizeof(Value) <= sizeof(uint64_t) && std::is_trivially_copyable_v<Value>);
  uint64_t given = 0;
  __builtin_memcpy(&given, &value, sizeof(Value));
  given = emulation::meet(emulation::Meeting::shuffle, mask, given, lane % 32);
  __builtin_memcpy(&value, &given, sizeof(Value));
  return value;
}

template <typename Value>
Value __shfl_xor_sync(unsigned mask, Value value, int bits) {
  return __shfl_sync(mask, value, static_cast<int>(threadIdx.x % 32) ^ bits);
}

inline int __popc(unsigned word) { return __builtin_popcount(word); }
