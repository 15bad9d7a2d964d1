// A kernel that reverses its block's numbers through shared memory, right or with one fault, to test the emulation
// itself.
#include <cuda_runtime.h>

#include "cuda/intrinsics.cuh"

extern "C" void tmt_emulation_set_order(int seed);

namespace {

enum Fault { kNone, kNoBarrier, kPartialBarrier, kPastTheEnd, kPartialShuffle };

constexpr int kThreads = 96;

using tmt::cuda::block_barrier;

// Thread = number.
__global__ void reverse_numbers(const int* numbers, int* result, Fault fault) {
  int* shared = tmt::cuda::shared_tile<int[kThreads]>();
  const int thread = static_cast<int>(threadIdx.x);
  shared[thread + (fault == kPastTheEnd ? 1 : 0)] = numbers[thread];
  if (fault != kNoBarrier && (fault != kPartialBarrier || thread != 5)) block_barrier();
  if (fault == kPartialShuffle && thread != 40) tmt::cuda::warp_sum(1.f);
  result[thread] = shared[kThreads - 1 - thread];
}

}  // namespace

// 0: right; positive: so many wrong numbers; negative: the launch failed.
extern "C" int reverse(int fault, int order) {
  tmt_emulation_set_order(order);
  int numbers[kThreads], result[kThreads] = {}, wrong = 0;
  for (int i = 0; i < kThreads; ++i) numbers[i] = i + 1;
  cudaLaunchConfig_t config;
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = sizeof(numbers);
  const auto error = cudaLaunchKernelEx(&config, reverse_numbers, numbers, result, static_cast<Fault>(fault));
  if (error != cudaSuccess) return -static_cast<int>(error);
  for (int i = 0; i < kThreads; ++i) wrong += result[i] != kThreads - i;
  return wrong;
}
