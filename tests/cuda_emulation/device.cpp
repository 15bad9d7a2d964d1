// The emulated GPU: its limits, its launches, and what launch.cuh asks of a torch with CUDA (-Bsymbolic makes the
// library's own be used).
#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "counters.h"
#include "cuda_runtime.h"
#include "emulation.h"

namespace emulation {
namespace {

constexpr size_t kSharedWithoutAsking = 48 * 1024, kReservedPerBlock = 1024;
constexpr int kBlocksPerMultiprocessor = 2;  // fewer than a GPU holds: every resident thread is a fiber
constexpr int kThreadsPerMultiprocessor = 2048;

int architecture = 90;
constexpr int kMultiprocessors = 3;  // few and odd, so that keys are split unevenly
int multiprocessors = kMultiprocessors;
std::map<std::pair<int, const void*>, size_t> allowed_shared;  // by device and kernel
cudaError_t last_error = cudaSuccess;
std::string message;

struct Record {
  const void* kernel;
  Launch launch;
};
int questions = 0;         // to the driver, that take it long
bool only_record = false;  // launches run nothing
std::vector<Record> records;

// Shared memory of one block at most, by architecture: the CUDA programming guide's table of technical specifications.
size_t shared_limit() {
  switch (architecture) {
    case 80: return 163 * 1024;
    case 90: return 227 * 1024;
    default: return 99 * 1024;  // 86, 89, 120
  }
}

// Every GPU that was emulated is a device of its own: what is remembered of one is not taken for another's.
int device() { return architecture * 1000 + multiprocessors; }

cudaError_t fail(cudaError_t error, const std::string& text) {
  message = "emulation: " + text;
  return last_error = error;
}

bool is_cooperative(const cudaLaunchConfig_t& config) {
  for (unsigned i = 0; i < config.numAttrs; ++i)
    if (config.attrs[i].id == cudaLaunchAttributeCooperative) return config.attrs[i].val.cooperative != 0;
  return false;
}

}  // namespace

cudaError_t occupancy(int* blocks, int threads, size_t shared_bytes) {
  ++questions;
  const size_t by_shared = (shared_limit() + kReservedPerBlock) / (shared_bytes + kReservedPerBlock);
  const int by_threads = kThreadsPerMultiprocessor / threads;
  *blocks = std::min({kBlocksPerMultiprocessor, by_threads, static_cast<int>(by_shared)});
  return cudaSuccess;
}

cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, const std::function<void()>& thread) {
  const Launch launch{config.gridDim.x, config.blockDim.x, config.dynamicSmemBytes, is_cooperative(config)};
  if (launch.threads == 0 || launch.threads > kMaxThreads || launch.blocks == 0)
    return fail(cudaErrorInvalidConfiguration, "a launch needs 1 to 1024 threads and at least one block");
  const auto allowed = allowed_shared.find({device(), kernel});
  const size_t limit = allowed == allowed_shared.end() ? kSharedWithoutAsking : allowed->second;
  if (launch.shared_bytes > limit)
    return fail(cudaErrorInvalidConfiguration, "shared memory asked for is more than was allowed for this kernel");
  int each = 0;
  occupancy(&each, static_cast<int>(launch.threads), launch.shared_bytes);
  --questions;  // which was none of the kernel's
  if (launch.together && launch.blocks > static_cast<unsigned>(each * multiprocessors))
    return fail(cudaErrorCooperativeLaunchTooLarge, "more blocks than can be resident at once");
  if (only_record) {
    records.push_back({kernel, launch});
    return cudaSuccess;
  }
  if (counting()) count_launch(kernel);
  blockDim = config.blockDim;
  gridDim = config.gridDim;
  const std::string failure = run_blocks(launch, thread);
  return failure.empty() ? cudaSuccess : fail(cudaErrorLaunchFailure, failure);
}

cudaError_t allow_shared_memory(const void* kernel, int bytes) {
  ++questions;
  if (static_cast<size_t>(bytes) > shared_limit())
    return fail(cudaErrorInvalidConfiguration, std::to_string(bytes) + " bytes of shared memory are more than sm_" +
                                                   std::to_string(architecture) + " has");
  allowed_shared[{device(), kernel}] = bytes;
  return cudaSuccess;
}

}  // namespace emulation

cudaError_t cudaGetLastError() { return std::exchange(emulation::last_error, cudaSuccess); }

cudaError_t cudaGetDevice(int* number) { return *number = emulation::device(), cudaSuccess; }

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  ++emulation::questions;
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount: *value = emulation::multiprocessors; break;
    case cudaDevAttrComputeCapabilityMajor: *value = emulation::architecture / 10; break;
    case cudaDevAttrComputeCapabilityMinor: *value = emulation::architecture % 10; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = static_cast<int>(emulation::shared_limit()); break;
  }
  return cudaSuccess;
}

extern "C" {
#pragma GCC visibility push(default)
// The order in which threads and blocks run from now on: 0 ascending, 1 descending, otherwise random from this seed.
void tmt_emulation_set_order(int seed) { emulation::set_order(seed); }
// The GPU that is emulated from now on: 80, 86, 89, 90 or 120.
void tmt_emulation_set_architecture(int architecture) { emulation::architecture = architecture; }

// How often the driver was asked, or told, what could have been remembered.
int tmt_emulation_questions() { return emulation::questions; }

// So many multiprocessors from now on; 0: as at first.
void tmt_emulation_set_multiprocessors(int count) {
  emulation::multiprocessors = count > 0 ? count : emulation::kMultiprocessors;
}

// Launches are written down instead of run from now on; 0: they run again.
void tmt_emulation_only_record(int only_record) {
  emulation::only_record = only_record != 0;
  emulation::records.clear();
}
// The i-th launch written down: offset of the kernel in this library (0: there are not so many), blocks, threads,
// bytes of shared memory.
uint64_t tmt_emulation_recorded(uint64_t i, uint64_t* blocks, uint64_t* threads, uint64_t* shared_bytes) {
  if (i >= emulation::records.size()) return 0;
  const emulation::Record& record = emulation::records[i];
  *blocks = record.launch.blocks;
  *threads = record.launch.threads;
  *shared_bytes = record.launch.shared_bytes;
  Dl_info library;
  dladdr(record.kernel, &library);
  return static_cast<const char*>(record.kernel) - static_cast<const char*>(library.dli_fbase);
}

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
