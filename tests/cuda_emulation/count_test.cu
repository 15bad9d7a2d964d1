// Small kernels of one warp whose traffic is known, to test the counters: test_cuda_counted.py.
#include "common/cuda/intrinsics.cuh"

namespace {

using namespace tmt::cuda;

constexpr int kSharedBytes = 8192;

template <typename T>
__device__ T* shared_array() {
  return shared_tile<T[kSharedBytes / sizeof(T)]>();
}

// A lane reads, or writes, the kStride-th element after that of the lane before it.
template <typename T, int kStride>
__global__ void load(float* memory) {
  reinterpret_cast<T*>(memory)[lane_index()] = shared_array<T>()[lane_index() * kStride];
}
template <typename T, int kStride>
__global__ void store(float*) {
  shared_array<T>()[lane_index() * kStride] = T{};
}

// Rows of 16 bytes, kStride bytes apart.
template <int kStride>
__global__ void matrices(float*) {
  uint32_t to[4];
  load_matrices(to, shared_memory() + lane_index() * kStride);
}

template <int kStride>
__global__ void copies(float* memory) {
  copy_async(shared_memory() + lane_index() * kStride, memory + lane_index() * 4, lane_index() < 16);
  commit_copies();
  wait_copies<0>();
}

template <int kStride>
__global__ void global_words(float* memory) {
  const float value = memory[lane_index() * kStride];
  memory[lane_index() * kStride] = value + 1.f;
}

// A lane does a round for each quarter of the warp up to its own.
__global__ void uneven_rounds(float*) {
  for (int round = 0; round <= lane_index() / 8; ++round) shared_array<float>()[round * 32 + lane_index()] = 1.f;
}

// Even and odd lanes by turns, between barriers.
__global__ void by_turns(float*) {
  for (int round = 0; round < 2; ++round) {
    if (lane_index() % 2 == round) shared_array<float>()[lane_index()] = 1.f;
    warp_barrier();
  }
}

// An aggregate and its parts: the parts stay in registers.
struct alignas(16) Quarters {
  int part[4];
};
__global__ void aggregates(float* memory) {
  const Quarters given = shared_array<Quarters>()[lane_index()];
  memory[lane_index()] = static_cast<float>(given.part[0] + given.part[1] + given.part[2] + given.part[3]);
}

// The parts of two vectors by turns.
__global__ void components(float* memory) {
  const float4 &first = shared_array<float4>()[lane_index()], &second = shared_array<float4>()[64 + lane_index()];
  memory[lane_index()] = first.x * second.x + first.y * second.y + first.z * second.z + first.w * second.w;
}

// Words that follow each other in turns of a loop stay apart: the compiler need not know that they are aligned.
__global__ void words_in_turn(float* memory) {
  float sum = 0.f;
  for (unsigned i = 0; i < blockDim.x / 8; ++i) sum += shared_array<float>()[lane_index() * 4 + i];
  memory[lane_index()] = sum;
}

cudaError_t run(void (*kernel)(float*), float* memory) {
  cudaLaunchConfig_t config;
  config.gridDim = dim3(1);
  config.blockDim = dim3(32);
  config.dynamicSmemBytes = kSharedBytes;
  return cudaLaunchKernelEx(&config, kernel, memory);
}

}  // namespace

#pragma GCC visibility push(default)
// Runs every kernel once; not 0 where one fails. `memory` (4096,).
extern "C" int run_patterns(float* memory) {
  int failures = 0;
  for (void (*kernel)(float*) :
       {load<float, 1>,   load<float, 2>,   load<float, 32>, load<float, 0>,  load<BFloat16, 1>,
        load<float2, 1>,  load<float2, 2>,  load<float4, 1>, load<float4, 2>, store<float, 1>,
        store<float, 33>, store<float4, 1>, store<uint2, 1>, matrices<16>,    matrices<128>,
        matrices<0>,      copies<16>,       copies<128>,     global_words<1>, global_words<8>,
        uneven_rounds,    by_turns,         aggregates,      components,      words_in_turn})
    failures += run(kernel, memory) != cudaSuccess;
  return failures;
}
#pragma GCC visibility pop
