// Runs a kernel's blocks one after another and each block's threads as fibers. A fiber runs until it must wait for
// others (at a barrier, a ballot or a shuffle) or ends; so a value that another thread has not written yet because a
// barrier is missing is really not there. What is wrong in a kernel is told: waiting for a thread that never comes,
// writing past the shared memory asked for, asking for more than a GPU gives. Shared memory starts as NaN.
#include "cuda_runtime.h"

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace {
constexpr size_t kSharedWithoutAsking = 48 * 1024, kSharedAtMost = 99 * 1024;  // the least of sm_80 .. sm_120
constexpr size_t kSharedBytes = kSharedAtMost + 4096;                          // with room to see what goes too far
}  // namespace

namespace tmt::cuda {
alignas(128) unsigned char tmt_shared_bytes[kSharedBytes];
}

namespace emulation {
namespace {

constexpr size_t kStackBytes = 128 * 1024;
constexpr unsigned kMaxThreads = 1024, kWarpSize = 32;
constexpr unsigned char kUntouched = 0xff;  // a NaN in every floating dtype

struct Fiber {
  ucontext_t context;
  jmp_buf place;
  bool started = false, done = false;
  Meeting meeting = Meeting::none;
  unsigned mask = 0;
  int lane = 0;
  uint64_t value = 0;
  std::unique_ptr<char[]> stack;
};

std::vector<Fiber> fibers(kMaxThreads);
const std::function<void()>* thread_body = nullptr;
unsigned current = 0;
jmp_buf scheduler;
std::map<const void*, size_t> allowed_shared;
cudaError_t last_error = cudaSuccess;
std::string message;
int order_seed = 0;
std::mt19937 shuffler;

// A fiber lives for ever: it runs one thread after another, of whatever kernel.
void live() {
  for (;;) {
    (*thread_body)();
    fibers[current].done = true;
    if (_setjmp(fibers[current].place) == 0) _longjmp(scheduler, 1);
  }
}

void start(Fiber& fiber) {
  fiber.started = true;
  fiber.stack = std::make_unique<char[]>(kStackBytes);
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, live, 0);
  setcontext(&fiber.context);
}

// Runs one fiber until it waits or ends.
__attribute__((noinline)) void resume(unsigned index) {
  current = index;
  threadIdx = dim3(index, 0, 0);
  if (_setjmp(scheduler) != 0) return;
  if (fibers[index].started) _longjmp(fibers[index].place, 1);
  start(fibers[index]);
}

// 0: ascending, 1: descending, otherwise another order every time, from the seed.
std::vector<unsigned> order(unsigned count) {
  std::vector<unsigned> indices(count);
  std::iota(indices.begin(), indices.end(), 0u);
  if (order_seed == 1) std::reverse(indices.begin(), indices.end());
  if (order_seed > 1) std::shuffle(indices.begin(), indices.end(), shuffler);
  return indices;
}

bool takes_part(const Fiber& fiber, const Fiber& first) {
  return !fiber.done && fiber.meeting == first.meeting && fiber.mask == first.mask;
}

// Lets a warp's waiting lanes go on when everyone in the mask has come.
bool release_warp(unsigned base, unsigned count) {
  Fiber* lanes = &fibers[base];
  const auto waits = [](const Fiber& f) { return f.meeting == Meeting::ballot || f.meeting == Meeting::shuffle; };
  const Fiber* first = std::find_if(lanes, lanes + count, waits);
  if (first == lanes + count) return false;
  uint64_t votes = 0, given[kWarpSize] = {};
  for (unsigned i = 0; i < kWarpSize; ++i) {
    if (!(first->mask >> i & 1u)) continue;
    if (i >= count || !takes_part(lanes[i], *first)) return false;
    votes |= (lanes[i].value & 1) << i;
    given[i] = lanes[i].value;
  }
  const Meeting meeting = first->meeting;
  for (unsigned i = 0, mask = first->mask; i < count; ++i) {
    if (!(mask >> i & 1u)) continue;
    lanes[i].value = meeting == Meeting::ballot ? votes : given[lanes[i].lane];
    lanes[i].meeting = Meeting::none;
  }
  return true;
}

bool release_block(unsigned threads) {
  const auto waits = [](const Fiber& f) { return !f.done && f.meeting == Meeting::block; };
  if (!std::all_of(fibers.begin(), fibers.begin() + threads, waits)) return false;
  for (unsigned i = 0; i < threads; ++i) fibers[i].meeting = Meeting::none;
  return true;
}

bool release(unsigned threads) {
  bool any = release_block(threads);
  for (unsigned base = 0; base < threads; base += kWarpSize)
    while (release_warp(base, std::min(kWarpSize, threads - base))) any = true;
  return any;
}

cudaError_t fail(cudaError_t error, const std::string& text) {
  message = "emulation: " + text;
  return last_error = error;
}

cudaError_t stuck(unsigned threads) {
  for (unsigned i = 0; i < threads; ++i) fibers[i].started = false;  // their stacks are in the middle of a kernel
  return fail(cudaErrorLaunchFailure,
              "block " + std::to_string(blockIdx.x) +
                  ": threads wait for others at a barrier or warp operation that not all reach");
}

cudaError_t run_block(unsigned threads, size_t shared_bytes) {
  unsigned char* shared = tmt::cuda::tmt_shared_bytes;
  std::memset(shared, kUntouched, kSharedBytes);
  for (unsigned i = 0; i < threads; ++i) fibers[i].done = false, fibers[i].meeting = Meeting::none;
  const auto done = [](const Fiber& f) { return f.done; };
  while (!std::all_of(fibers.begin(), fibers.begin() + threads, done)) {
    bool ran = false;
    for (const unsigned i : order(threads)) {
      if (fibers[i].done || fibers[i].meeting != Meeting::none) continue;
      resume(i);
      ran = true;
    }
    if (!release(threads) && !ran) return stuck(threads);
  }
  const bool clean =
      std::all_of(shared + shared_bytes, shared + kSharedBytes, [](auto byte) { return byte == kUntouched; });
  if (!clean)
    return fail(cudaErrorLaunchFailure,
                "shared memory written past the " + std::to_string(shared_bytes) + " bytes asked for");
  return cudaSuccess;
}

}  // namespace

uint64_t meet(Meeting meeting, unsigned mask, uint64_t value, int lane) {
  Fiber& fiber = fibers[current];
  fiber.meeting = meeting;
  fiber.mask = mask;
  fiber.value = value;
  fiber.lane = lane;
  if (_setjmp(fiber.place) == 0) _longjmp(scheduler, 1);
  return fibers[current].value;
}

cudaError_t run(const cudaLaunchConfig_t& config, const void* kernel, const std::function<void()>& thread) {
  const unsigned threads = config.blockDim.x, blocks = config.gridDim.x;
  if (threads == 0 || threads > kMaxThreads || blocks == 0)
    return fail(cudaErrorInvalidConfiguration, "a launch needs 1 to 1024 threads and at least one block");
  const size_t limit = allowed_shared.count(kernel) ? allowed_shared[kernel] : kSharedWithoutAsking;
  if (config.dynamicSmemBytes > limit)
    return fail(cudaErrorInvalidConfiguration, "shared memory asked for is more than was allowed for this kernel");
  thread_body = &thread;
  blockDim = config.blockDim;
  gridDim = config.gridDim;
  for (const unsigned block : order(blocks)) {
    blockIdx = dim3(block, 0, 0);
    if (const cudaError_t error = run_block(threads, config.dynamicSmemBytes); error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

cudaError_t allow_shared_memory(const void* kernel, int bytes) {
  if (static_cast<size_t>(bytes) > kSharedAtMost)
    return fail(cudaErrorInvalidConfiguration,
                std::to_string(bytes) + " bytes of shared memory do not fit every architecture");
  allowed_shared[kernel] = bytes;
  return cudaSuccess;
}

}  // namespace emulation

cudaError_t cudaGetLastError() { return std::exchange(emulation::last_error, cudaSuccess); }

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = 3;  // few and odd, so that keys are split unevenly
  return cudaSuccess;
}

// The order in which threads and blocks run from now on: 0 ascending, 1 descending, otherwise random from this seed.
extern "C" __attribute__((visibility("default"))) void tmt_emulation_set_order(int seed) {
  emulation::order_seed = seed;
  emulation::shuffler.seed(static_cast<unsigned>(seed));
}

// ---- what launch.cuh asks of a torch with CUDA; -Bsymbolic makes this library's own be used
// --------------------------

extern "C" {
#pragma GCC visibility push(default)
int32_t aoti_torch_get_current_cuda_stream(int32_t, void** stream) { return *stream = nullptr, 0; }
int32_t aoti_torch_create_device_guard(int32_t, void** guard) { return *guard = nullptr, 0; }
int32_t aoti_torch_delete_device_guard(void*) { return 0; }
int32_t torch_c10_cuda_check_msg(int32_t error, const char*, const char*, uint32_t, bool, char** text) {
  *text = error == cudaSuccess ? nullptr : strdup(emulation::message.c_str());
  return 0;
}
void torch_c10_cuda_free_error_msg(char* text) { free(text); }
#pragma GCC visibility pop
}
