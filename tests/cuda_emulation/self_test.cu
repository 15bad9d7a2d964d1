// Small kernels, right or with one fault, to test the emulation itself: test_cuda_emulation.py.
#include <cmath>
#include <utility>
#include <vector>

#include "common/cuda/intrinsics.cuh"

namespace {

using namespace tmt::cuda;

// The first is none.
enum Fault {
  kNone,
  kNoBarrier,
  kPartialBarrier,
  kPastTheEnd,
  kPartialShuffle,
  kNoWait,
  kNoWaitAtAll,
  kWrongFragment,
  kWrongAddress,
  kNotAligned,
  kOutside,
  kNotTransposed,
  kRefilledTooEarly,
  kNotTogether,
  kTooManyBlocks
};

// 0: right; positive: so many wrong numbers; negative: the launch failed.
template <typename Numbers, typename Expected>
int wrong(cudaError_t error, const Numbers& numbers, const Expected& expected) {
  if (error != cudaSuccess) return -static_cast<int>(error);
  int count = 0;
  for (size_t i = 0; i < numbers.size(); ++i) count += !(numbers[i] == expected(i));
  return count;
}

cudaLaunchConfig_t configuration(int blocks, int threads, size_t shared_bytes) {
  cudaLaunchConfig_t config;
  config.gridDim = dim3(blocks);
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  return config;
}

// ---- a block reverses its numbers through shared memory -------------------------------------------------------------

constexpr int kThreads = 96;

// Thread = number.
__global__ void reverse_numbers(const int* numbers, int* result, Fault fault) {
  int* shared = shared_tile<int[kThreads]>();
  const int thread = static_cast<int>(threadIdx.x);
  shared[thread + (fault == kPastTheEnd ? 1 : 0)] = numbers[thread];
  if (fault != kNoBarrier && (fault != kPartialBarrier || thread != 5)) block_barrier();
  if (fault == kPartialShuffle && thread != 40) warp_sum(1.f);
  result[thread] = shared[kThreads - 1 - thread];
}

// ---- a warp multiplies 16 x 16 by 16 x 8 ----------------------------------------------------------------------------

template <typename T>
struct Matrices {
  T a[16][16], b[16][8];
};

template <typename T>
__global__ void multiply(const T* a, const T* b, float* sum, Fault fault) {
  auto& tile = shared_tile<Matrices<T>>();
  const int lane = lane_index();
  copy_async(&tile.a[lane / 2][lane % 2 * 8], a + lane * 8, true);
  if (lane < 16) copy_async(&tile.b[lane][0], b + lane * 8, true);
  if (fault == kNoWaitAtAll) return;
  commit_copies();
  if (fault != kNoWait) wait_copies<0>();
  if (fault != kNoBarrier) warp_barrier();
  uint32_t left[4], both[4];
  const int row = fault == kWrongAddress ? lane / 2 : lane % 16;
  load_matrices(left, &tile.a[row][lane / 16 * 8] + (fault == kNotAligned ? 1 : 0));
  const T* right = &tile.b[lane % 16 + (fault == kOutside ? 16 : 0)][0];
  fault == kNotTransposed ? load_matrices(both, right) : load_matrices_transposed(both, right);
  if (fault == kWrongFragment) std::swap(left[1], left[2]);
  float sums[4] = {};
  mma_16x8x16<T>(sums, left, {both[0], both[1]});
  for (int i = 0; i < 4; ++i) sum[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sums[i];
  if (fault == kNoWait) wait_copies<0>();
}

template <typename T>
int check_multiply(Fault fault) {
  std::vector<T> a(256), b(128);
  std::vector<float> sum(128);
  for (int i = 0; i < 256; ++i) a[i] = static_cast<T>(static_cast<float>(i * 37 % 101 - 50));
  for (int i = 0; i < 128; ++i) b[i] = static_cast<T>(static_cast<float>(i * 29 % 97 - 48));
  const auto config = configuration(1, 32, sizeof(Matrices<T>));
  const auto error = cudaLaunchKernelEx(&config, multiply<T>, a.data(), b.data(), sum.data(), fault);
  return wrong(error, sum, [&](size_t i) {
    float total = 0.f;
    for (size_t k = 0; k < 16; ++k)
      total += static_cast<float>(a[i / 8 * 16 + k]) * static_cast<float>(b[k * 8 + i % 8]);
    return total;
  });
}

// ---- a block sums columns of tiles that come in two buffers by turns
// --------------------------------------------------

constexpr int kTiles = 5, kColumns = 64 * 4;
using Stage = float[kColumns];

__device__ void fetch(Stage* stages, const float* numbers, int tile) {
  const int at = static_cast<int>(threadIdx.x) * 4;
  if (tile < kTiles) copy_async(stages[tile % 2] + at, numbers + tile * kColumns + at, true);
  commit_copies();
}

// Thread = four columns of the copy; sums take columns of another thread.
__global__ void sum_tiles(const float* numbers, float* sums, Fault fault) {
  Stage* stages = shared_tile<Stage[2]>();
  const int column = kColumns - 1 - static_cast<int>(threadIdx.x);
  float total = 0.f;
  fetch(stages, numbers, 0);
  for (int tile = 0; tile < kTiles; ++tile) {
    if (fault != kRefilledTooEarly) block_barrier();
    fetch(stages, numbers, tile + 1);
    wait_copies<1>();
    block_barrier();
    if (fault == kRefilledTooEarly && tile + 2 < kTiles) fetch(stages, numbers, tile + 2);
    total += stages[tile % 2][column];
  }
  wait_copies<0>();
  sums[threadIdx.x] = total;
}

// ---- blocks that pass numbers round ---------------------------------------------------------------------------------

constexpr int kRounds = 3;

// Waits for every block; `counter` counts those that came, in this round and those before.
__device__ void wait_for_all_blocks(unsigned* counter, unsigned round) {
  block_barrier();
  if (threadIdx.x == 0) {
    add_release(counter, 1u);
    while (load_acquire(counter) < (round + 1) * gridDim.x) {
    }
  }
  block_barrier();
}

// Every block hands its number to the next one, `kRounds` times.
__global__ void pass_round(unsigned* numbers, unsigned* counter, Fault fault) {
  for (unsigned round = 0; round < kRounds; ++round) {
    unsigned* now = numbers + round % 2 * gridDim.x;
    unsigned* next = numbers + (round + 1) % 2 * gridDim.x;
    if (threadIdx.x == 40) next[(blockIdx.x + 1) % gridDim.x] = now[blockIdx.x] + 1;
    if (fault != kNoBarrier) wait_for_all_blocks(counter, round);
  }
}

std::vector<int> first_numbers(int count) {
  std::vector<int> numbers(count);
  for (int i = 0; i < count; ++i) numbers[i] = i + 1;
  return numbers;
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

int reverse(int fault) {
  const auto numbers = first_numbers(kThreads);
  std::vector<int> result(kThreads);
  const auto config = configuration(1, kThreads, sizeof(int[kThreads]));
  const auto error =
      cudaLaunchKernelEx(&config, reverse_numbers, numbers.data(), result.data(), static_cast<Fault>(fault));
  return wrong(error, result, [](size_t i) { return kThreads - static_cast<int>(i); });
}

int multiply_bfloat16(int fault) { return check_multiply<BFloat16>(static_cast<Fault>(fault)); }
int multiply_half(int fault) { return check_multiply<Half>(static_cast<Fault>(fault)); }

int copy_in_turns(int fault) {
  std::vector<float> numbers(kTiles * kColumns), sums(64);
  for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<float>(i);
  const auto config = configuration(1, 64, sizeof(Stage[2]));
  const auto error = cudaLaunchKernelEx(&config, sum_tiles, numbers.data(), sums.data(), static_cast<Fault>(fault));
  return wrong(error, sums, [&](size_t i) {
    float total = 0.f;
    for (size_t tile = 0; tile < kTiles; ++tile) total += numbers[(tile + 1) * kColumns - 1 - i];
    return total;
  });
}

int pass_between_blocks(int fault) {
  const int blocks = fault == kTooManyBlocks ? 7 : 6;
  std::vector<unsigned> numbers(2 * blocks);
  for (int i = 0; i < blocks; ++i) numbers[i] = 10 * i;
  unsigned counter = 0;
  cudaLaunchAttribute together = {cudaLaunchAttributeCooperative, {1}};
  auto config = configuration(blocks, 64, 0);
  config.attrs = &together;
  config.numAttrs = fault == kNotTogether ? 0 : 1;
  const auto error = cudaLaunchKernelEx(&config, pass_round, numbers.data(), &counter, static_cast<Fault>(fault));
  const std::vector<unsigned> last(numbers.begin() + kRounds % 2 * blocks,
                                   numbers.begin() + (kRounds % 2 + 1) * blocks);
  return wrong(error, last, [&](size_t i) { return 10u * ((i + blocks - kRounds) % blocks) + kRounds; });
}

// exp2_fast and the pairs against the machine's own; 0 when they agree.
int convert(int) {
  int count = 0;
  for (float x = -140.f; x < 120.f; x += 0.37f) {
    const float exact = std::exp2(x);
    count += exact < 0x1p-126f ? exp2_fast(x) != 0.f : std::abs(exp2_fast(x) - exact) > 4e-7f * exact;
    const float2 halves = unpack_pair<Half>(pack_pair<Half>(x, -x));
    const float2 brains = unpack_pair<BFloat16>(pack_pair<BFloat16>(x, 2.f * x));
    count += halves.x != static_cast<float>(Half(x)) || halves.y != -halves.x;
    count += brains.x != static_cast<float>(BFloat16(x)) || brains.y != 2.f * brains.x;
  }
  return count;
}
}
#pragma GCC visibility pop
