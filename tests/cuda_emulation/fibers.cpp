// Runs the threads of a kernel as fibers of one thread of the machine. A fiber runs until it must wait for others (at a
// barrier, a warp operation or a flag) or ends; so a value that another thread has not written yet because a barrier is
// missing is really not there. In ascending and descending order a warp runs as far as it can before the next one does;
// in random order warps are held back at random. What is wrong in a kernel is told: waiting for a thread that never
// comes, writing past the shared memory asked for, copies that nobody waits for. Shared memory starts as NaN.
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "counters.h"
#include "cuda_runtime.h"
#include "emulation.h"

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {
namespace {

constexpr size_t kStackBytes = 128 * 1024, kPageBytes = 4096;
constexpr size_t kSharedAlignment = 128;
constexpr int kQuietPasses = 1000;          // so many without any change, and the kernel is stuck
constexpr unsigned char kUntouched = 0xff;  // a NaN in every floating dtype
#ifdef __SANITIZE_ADDRESS__
constexpr size_t kBeyondShared = 0;  // the sanitizer sees what goes too far
#else
constexpr size_t kBeyondShared = 4096;  // room to see what goes too far
#endif

enum class State { ready, polling, at_block_barrier, at_warp_operation, done };

struct Copy {
  unsigned char* shared;
  const void* global;  // null: zeros
  size_t bytes;
};

struct Block;

struct Fiber {
  void* place[5];  // of __builtin_setjmp
  ucontext_t context;
  char* stack = nullptr;
  bool started = false;
  Block* block = nullptr;
  unsigned thread = 0;
  State state = State::ready;
  WarpOperation operation = nullptr;
  unsigned mask = 0;
  void* payload = nullptr;
  std::vector<Copy> open_copies;
  std::deque<std::vector<Copy>> copies;
};

struct Free {
  void operator()(unsigned char* bytes) const { std::free(bytes); }
};

struct Block {
  unsigned index, threads;
  size_t shared_bytes;
  std::unique_ptr<unsigned char, Free> shared;
  std::vector<Fiber*> fibers;
  std::vector<WarpTrace> traces;  // of each warp, where accesses are counted
};

std::vector<std::unique_ptr<Fiber>> pool;  // fibers live for ever and run one thread after another
Fiber* current = nullptr;
const std::function<void()>* thread_body = nullptr;
void* scheduler[5];
std::string failure;
uint64_t changes = 0;  // whatever lets a waiting thread go on counts
int order_seed = 0;
std::mt19937 shuffler;

// ---- switching between fibers ---------------------------------------------------------------------------------------

[[noreturn]] __attribute__((noinline)) void jump(void** place) { __builtin_longjmp(place, 1); }

// The calling fiber lets the scheduler go on, in `state`.
__attribute__((noinline)) void leave(State state) {
  current->state = state;
  if (__builtin_setjmp(current->place) == 0) jump(scheduler);
}

void live() {
  for (;;) {
    (*thread_body)();
    current->copies.push_back(std::move(current->open_copies));
    const auto pending = [](const auto& group) { return !group.empty(); };
    require(std::none_of(current->copies.begin(), current->copies.end(), pending),
            "a thread ends before its asynchronous copies are waited for");
    leave(State::done);
  }
}

// A stack with a page below it that nobody may touch.
char* new_stack() {
  void* bytes = mmap(nullptr, kStackBytes + kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (bytes == MAP_FAILED || mprotect(bytes, kPageBytes, PROT_NONE) != 0) std::abort();
  return static_cast<char*>(bytes) + kPageBytes;
}

void start(Fiber& fiber) {
  fiber.started = true;
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack;
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, live, 0);
  setcontext(&fiber.context);
}

// Runs one fiber until it waits or ends.
__attribute__((noinline)) void resume(Fiber& fiber) {
  current = &fiber;
  threadIdx = dim3(fiber.thread);
  blockIdx = dim3(fiber.block->index);
  Block& block = *fiber.block;
  if (counting())
    running = {&block.traces[fiber.thread / kWarpSize], fiber.thread % kWarpSize,
               span(block.shared.get(), block.shared_bytes), span(fiber.stack, kStackBytes)};
  if (__builtin_setjmp(scheduler) != 0) {
    running.trace = nullptr;
    return;
  }
  if (fiber.started) jump(fiber.place);
  start(fiber);
}

// ---- who may go on --------------------------------------------------------------------------------------------------

void let_go(Fiber& fiber) {
  fiber.state = State::ready;
  ++changes;
}

// Runs a warp operation and lets its lanes go on when everyone in the mask has come.
bool finish_warp_operation(Block& block, unsigned base, unsigned count) {
  Fiber** lanes = &block.fibers[base];
  const auto waits = [](const Fiber* f) { return f->state == State::at_warp_operation; };
  Fiber** first = std::find_if(lanes, lanes + count, waits);
  if (first == lanes + count) return false;
  const auto [operation, mask] = std::pair((*first)->operation, (*first)->mask);
  void* payloads[kWarpSize] = {};
  for (unsigned i = 0; i < kWarpSize; ++i) {
    if (!(mask >> i & 1u)) continue;
    if (i >= count || !waits(lanes[i]) || lanes[i]->operation != operation || lanes[i]->mask != mask) return false;
    payloads[i] = lanes[i]->payload;
  }
  operation(payloads, mask);
  if (mask << (kWarpSize - count) == ~0u << (kWarpSize - count)) block.traces[base / kWarpSize].meet();
  for (unsigned i = 0; i < count; ++i)
    if (mask >> i & 1u) let_go(*lanes[i]);
  return true;
}

void open_block_barrier(Block& block) {
  const auto waits = [](const Fiber* f) { return f->state == State::at_block_barrier; };
  if (!std::all_of(block.fibers.begin(), block.fibers.end(), waits)) return;
  for (Fiber* fiber : block.fibers) let_go(*fiber);
  for (WarpTrace& trace : block.traces) trace.meet();
}

// ---- turns ----------------------------------------------------------------------------------------------------------

bool random_order() { return order_seed > 1; }

// A list of 0..count-1 in the order in which they take turns.
const std::vector<unsigned>& order(std::vector<unsigned>& indices, unsigned count) {
  indices.resize(count);
  std::iota(indices.begin(), indices.end(), 0u);
  if (order_seed == 1) std::reverse(indices.begin(), indices.end());
  if (random_order()) std::shuffle(indices.begin(), indices.end(), shuffler);
  return indices;
}

// Every lane of the warp that can runs once.
bool run_lanes(Block& block, unsigned base, unsigned count, bool with_polling) {
  static std::vector<unsigned> indices;
  bool any = false;
  for (const unsigned lane : order(indices, count)) {
    Fiber& fiber = *block.fibers[base + lane];
    if (fiber.state != State::ready && !(with_polling && fiber.state == State::polling)) continue;
    resume(fiber);
    if (!failure.empty()) return false;
    if (fiber.state != State::polling) ++changes;
    any = true;
  }
  return any;
}

void run_warp(Block& block, unsigned base) {
  const unsigned count = std::min(kWarpSize, block.threads - base);
  bool first = true;
  while (run_lanes(block, base, count, first) || first) {
    first = false;
    while (failure.empty() && finish_warp_operation(block, base, count)) {
    }
    if (random_order() || !failure.empty()) return;
  }
}

void run_block(Block& block) {
  static std::vector<unsigned> indices;
  for (const unsigned warp : order(indices, (block.threads + kWarpSize - 1) / kWarpSize)) {
    if (random_order() && shuffler() % 4 == 0) continue;  // held back
    run_warp(block, warp * kWarpSize);
    if (!failure.empty()) return;
  }
  open_block_barrier(block);
}

bool is_done(const Block& block) {
  const auto done = [](const Fiber* f) { return f->state == State::done; };
  return std::all_of(block.fibers.begin(), block.fibers.end(), done);
}

std::string where_threads_wait(const std::vector<Block>& blocks) {
  size_t count[static_cast<size_t>(State::done) + 1] = {};
  for (const Block& block : blocks)
    for (const Fiber* f : block.fibers) ++count[static_cast<size_t>(f->state)];
  const auto number = [&](State state) { return std::to_string(count[static_cast<size_t>(state)]); };
  return "threads wait for others that never come: " + number(State::at_block_barrier) + " at a block barrier, " +
         number(State::at_warp_operation) + " at a warp operation, " + number(State::polling) + " for a flag; " +
         number(State::done) + " have ended";
}

// Runs blocks that are resident together to their end.
void run_resident(std::vector<Block>& blocks) {
  std::vector<unsigned> indices;
  int quiet = 0;
  while (!std::all_of(blocks.begin(), blocks.end(), is_done)) {
    const uint64_t before = changes;
    for (const unsigned b : order(indices, static_cast<unsigned>(blocks.size()))) {
      run_block(blocks[b]);
      if (!failure.empty()) {
        failure = "block " + std::to_string(blocks[b].index) + ": " + failure;
        return;
      }
    }
    quiet = changes == before ? quiet + 1 : 0;
    if (quiet > kQuietPasses) failure = where_threads_wait(blocks);
    if (!failure.empty()) return;
  }
}

// ---- blocks ---------------------------------------------------------------------------------------------------------

Fiber* fiber_for(size_t slot, Block& block, unsigned thread) {
  while (pool.size() <= slot) pool.push_back(std::make_unique<Fiber>());
  Fiber* fiber = pool[slot].get();
  if (fiber->stack == nullptr) fiber->stack = new_stack();
  fiber->block = &block;
  fiber->thread = thread;
  fiber->state = State::ready;
  fiber->open_copies.clear();
  fiber->copies.clear();
  return fiber;
}

// The block whose first thread is fiber `slot`.
void prepare(Block& block, unsigned index, const Launch& launch, size_t slot) {
  block.index = index;
  block.threads = launch.threads;
  block.shared_bytes = launch.shared_bytes;
  if (block.shared == nullptr) {
    void* bytes = nullptr;
    if (posix_memalign(&bytes, kSharedAlignment, launch.shared_bytes + kBeyondShared) != 0) std::abort();
    block.shared.reset(static_cast<unsigned char*>(bytes));
  }
  std::memset(block.shared.get(), kUntouched, launch.shared_bytes + kBeyondShared);
  block.traces.resize((launch.threads + kWarpSize - 1) / kWarpSize);
  block.fibers.resize(launch.threads);
  for (unsigned i = 0; i < launch.threads; ++i) block.fibers[i] = fiber_for(slot + i, block, i);
}

void check_end_of_shared(const Block& block) {
  const unsigned char* end = block.shared.get() + block.shared_bytes;
  if (!std::all_of(end, end + kBeyondShared, [](auto byte) { return byte == kUntouched; }))
    failure = "shared memory written past the " + std::to_string(block.shared_bytes) + " bytes asked for";
}

void run_some(std::vector<Block>& blocks, const std::vector<unsigned>& indices, const Launch& launch) {
  for (size_t i = 0; i < blocks.size(); ++i) prepare(blocks[i], indices[i], launch, i * launch.threads);
  run_resident(blocks);
  for (Block& block : blocks) {
    check_end_of_shared(block);
    for (WarpTrace& trace : block.traces) trace.meet();
  }
}

}  // namespace

// ---- from inside a kernel -------------------------------------------------------------------------------------------

void warp_operation(WarpOperation operation, unsigned mask, void* payload) {
  current->operation = operation;
  current->mask = mask;
  current->payload = payload;
  require(mask >> (current->thread % kWarpSize) & 1u, "a lane calls a warp operation whose mask leaves it out");
  leave(State::at_warp_operation);
}

void block_barrier() { leave(State::at_block_barrier); }

void poll() { leave(State::polling); }
void flag_written() { ++changes; }

void require(bool holds, const char* text) {
  if (holds) return;
  failure = "thread " + std::to_string(current->thread) + ": " + text;
  jump(scheduler);
}

unsigned char* shared_memory() { return current->block->shared.get(); }

bool is_shared(const void* pointer, size_t bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(shared_memory()), at = reinterpret_cast<uintptr_t>(pointer);
  return at >= begin && at + bytes <= begin + current->block->shared_bytes;
}

void start_copy(void* shared, const void* global, size_t bytes, bool inside) {
  require(is_shared(shared, bytes), "an asynchronous copy goes outside of shared memory");
  require(reinterpret_cast<uintptr_t>(shared) % bytes == 0, "an asynchronous copy goes to no multiple of its size");
  require(!inside || reinterpret_cast<uintptr_t>(global) % bytes == 0,
          "an asynchronous copy comes from no multiple of its size");
  count_copy(shared, inside ? global : nullptr, bytes, __builtin_return_address(0));
  std::memset(shared, kUntouched, bytes);
  current->open_copies.push_back({static_cast<unsigned char*>(shared), inside ? global : nullptr, bytes});
}

void commit_copies() {
  current->copies.push_back(std::move(current->open_copies));
  current->open_copies.clear();
}

void wait_copies(size_t pending) {
  for (auto& groups = current->copies; groups.size() > pending; groups.pop_front())
    for (const Copy& copy : groups.front()) {
      if (copy.global == nullptr)
        std::memset(copy.shared, 0, copy.bytes);
      else
        std::memcpy(copy.shared, copy.global, copy.bytes);
    }
}

// ---- from the host --------------------------------------------------------------------------------------------------

void set_order(int seed) {
  order_seed = seed;
  shuffler.seed(static_cast<unsigned>(seed));
}

std::string run_blocks(const Launch& launch, const std::function<void()>& thread) {
  thread_body = &thread;
  failure.clear();
  std::vector<unsigned> all;
  order(all, launch.blocks);
  std::vector<Block> resident(launch.together ? launch.blocks : 1);
  for (size_t first = 0; first < all.size() && failure.empty(); first += resident.size())
    run_some(resident, {all.begin() + first, all.begin() + first + resident.size()}, launch);
  if (!failure.empty())
    for (auto& fiber : pool) fiber->started = false;  // their stacks are in the middle of a kernel
  return failure;
}

}  // namespace emulation
