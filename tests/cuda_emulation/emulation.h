// What the stand-ins of CUDA's headers ask of the emulation (fibers.cpp, device.cpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace emulation {

constexpr unsigned kWarpSize = 32, kMaxThreads = 1024;

// ---- from inside a kernel -------------------------------------------------------------------------------------------

// What a warp operation does once all its lanes have come: `lanes` are their payloads, null for a lane outside `mask`.
using WarpOperation = void (*)(void* const (&lanes)[kWarpSize], unsigned mask);

// The calling thread waits until every lane in `mask` has called with the same operation; then the operation runs once.
void warp_operation(WarpOperation operation, unsigned mask, void* payload);
void block_barrier();
// Lets others run before the caller looks at a flag again.
void poll();
// Another thread may now go on that polls.
void flag_written();
// A kernel that breaks `holds` ends the launch with an error that says `text`.
void require(bool holds, const char* text);

unsigned char* shared_memory();
// Whether the bytes are in the calling block's shared memory.
bool is_shared(const void* pointer, size_t bytes);

// The 16 bytes that the calling thread gives to a matrix load.
void read_matrix_row(void* to, const void* row);

// Counts that the calling thread's warp multiplies on tensor cores.
void count_product();

// Asynchronous copies of the calling thread: bytes arrive when they are waited for, and what was there is gone at once.
void start_copy(void* shared, const void* global, size_t bytes, bool inside);
void commit_copies();
void wait_copies(size_t pending);

// ---- from the host --------------------------------------------------------------------------------------------------

struct Launch {
  unsigned blocks, threads;
  size_t shared_bytes;
  bool together;  // all blocks resident at once
};

// Runs `thread` once per thread of every block. Returns what is wrong with the kernel, or nothing.
std::string run_blocks(const Launch& launch, const std::function<void()>& thread);
// The order in which threads and blocks take turns: 0 ascending, 1 descending, otherwise random from this seed.
void set_order(int seed);

}  // namespace emulation
