// How a host function reaches the GPU: torch's current stream and device, a checked launch, and dispatch on the dtype.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/headeronly/util/shim_utils.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <mutex>

#include "common/cuda/intrinsics.cuh"
#include "common/tensor.h"

// Where the kernels register themselves; tests that run them on the CPU register them elsewhere.
#ifndef TMT_CUDA_LIBRARY
#define TMT_CUDA_LIBRARY tmt
#define TMT_CUDA_KEY CUDA
#endif

namespace tmt::cuda {

constexpr int64_t kMaxBlocks = std::numeric_limits<int32_t>::max();
constexpr size_t kSharedWithoutAsking = 48 * 1024;  // a kernel that needs more must say so before its launch

// What the driver said about a device, a kernel on it, or a launch of that, and what it was told: it takes microseconds
// to say or take it again.
class DriverMemory {
 public:
  struct Question {
    int device;
    const void* kernel;  // null: about the device
    int which;           // attribute of the device, threads of a launch, or -1: the kernel's shared memory
    size_t shared_bytes = 0;
    auto operator<=>(const Question&) const = default;
  };

  static DriverMemory& instance() {
    static DriverMemory memory;
    return memory;
  }

  // The answer, from ask() the first time.
  template <typename Ask>
  int64_t recall(const Question& question, const Ask& ask) {
    const std::lock_guard lock(mutex_);
    const auto found = answers_.find(question);
    return found != answers_.end() ? found->second : answers_.emplace(question, ask()).first->second;
  }

  // Calls tell() unless the question was told a value as large before.
  template <typename Tell>
  void raise(const Question& question, int64_t value, const Tell& tell) {
    const std::lock_guard lock(mutex_);
    const auto found = answers_.find(question);
    if (found != answers_.end() && found->second >= value) return;
    tell();
    answers_[question] = value;
  }

 private:
  std::mutex mutex_;
  std::map<Question, int64_t> answers_;
};

// Makes the tensor's device current while it lives, and knows the stream that torch works on there.
class Context {
 public:
  explicit Context(const Tensor& tensor) : device_(tensor.get_device_index()), guard_(device_) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_, &stream));
    stream_ = static_cast<cudaStream_t>(stream);
    STD_CUDA_CHECK(cudaGetDevice(&number_));
  }

  cudaStream_t stream() const { return stream_; }
  // Of the device, as CUDA counts.
  int number() const { return number_; }

  int multiprocessors() const { return attribute(cudaDevAttrMultiProcessorCount); }
  // Bytes of shared memory that one block may have at most.
  size_t shared_limit() const { return attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin); }
  // 80, 90, ...
  int architecture() const {
    return 10 * attribute(cudaDevAttrComputeCapabilityMajor) + attribute(cudaDevAttrComputeCapabilityMinor);
  }

 private:
  int attribute(cudaDeviceAttr which) const {
    return static_cast<int>(DriverMemory::instance().recall({number_, nullptr, which}, [&] {
      int value = 0;
      STD_CUDA_CHECK(cudaDeviceGetAttribute(&value, which, number_));
      return int64_t{value};
    }));
  }

  int32_t device_;
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_ = nullptr;
  int number_ = 0;
};

// The shape of a launch: a row of blocks of `threads` threads with `shared_bytes` of dynamic shared memory each.
struct Blocks {
  int64_t count;
  int threads;
  size_t shared_bytes = 0;
};

template <typename Kernel>
const void* address_of(Kernel* kernel) {
  return reinterpret_cast<const void*>(kernel);
}

template <typename Kernel>
void allow_shared(const Context& context, Kernel* kernel, size_t bytes) {
  if (bytes <= kSharedWithoutAsking) return;
  const int value = static_cast<int>(bytes);
  DriverMemory::instance().raise({context.number(), address_of(kernel), -1}, value, [&] {
    STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, value));
  });
}

template <typename... Parameters, typename... Arguments>
void launch_with(const Context& context, const Blocks& blocks, bool cooperative, void (*kernel)(Parameters...),
                 const Arguments&... arguments) {
  if (blocks.count == 0) return;
  TMT_CHECK(blocks.count <= kMaxBlocks, "tmt: inputs must need at most ", kMaxBlocks, " thread blocks, got ",
            blocks.count, "; split the batch");
  allow_shared(context, kernel, blocks.shared_bytes);
  cudaLaunchAttribute together = {};
  together.id = cudaLaunchAttributeCooperative;
  together.val.cooperative = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks.count));
  config.blockDim = dim3(static_cast<unsigned>(blocks.threads));
  config.dynamicSmemBytes = blocks.shared_bytes;
  config.stream = context.stream();
  config.attrs = &together;
  config.numAttrs = cooperative ? 1 : 0;
  STD_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// Runs kernel(arguments...) on the context's stream; without blocks, nothing is launched. Throws when the launch fails.
template <typename... Parameters, typename... Arguments>
void launch(const Context& context, const Blocks& blocks, void (*kernel)(Parameters...),
            const Arguments&... arguments) {
  launch_with(context, blocks, false, kernel, arguments...);
}

// The same with all blocks resident at once, as flags between blocks need; they must be at most resident_blocks(...).
template <typename... Parameters, typename... Arguments>
void launch_cooperative(const Context& context, const Blocks& blocks, void (*kernel)(Parameters...),
                        const Arguments&... arguments) {
  launch_with(context, blocks, true, kernel, arguments...);
}

// How many blocks of the kernel the whole GPU holds at once; 0 where not even one fits.
template <typename Kernel>
int64_t resident_blocks(const Context& context, Kernel* kernel, int threads, size_t shared_bytes) {
  if (shared_bytes > context.shared_limit()) return 0;
  allow_shared(context, kernel, shared_bytes);
  const DriverMemory::Question question{context.number(), address_of(kernel), threads, shared_bytes};
  const int64_t each = DriverMemory::instance().recall(question, [&] {
    int blocks = 0;
    STD_CUDA_CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, shared_bytes));
    return int64_t{blocks};
  });
  return each * context.multiprocessors();
}

// Sets a contiguous tensor to 0 before the next kernel starts.
inline void set_zero(const Context& context, const Tensor& tensor) {
  const int64_t bytes = tensor.numel() * static_cast<int64_t>(tensor.element_size());
  if (bytes > 0) STD_CUDA_CHECK(cudaMemsetAsync(tensor.mutable_data_ptr(), 0, bytes, context.stream()));
}

// (count,) zeros, on the device of `like`.
inline Tensor zeroed(const Context& context, const Tensor& like, ScalarType dtype, int64_t count) {
  const Tensor zeros = empty(like, dtype, count);
  set_zero(context, zeros);
  return zeros;
}

// Blocks enough for one thread per item.
inline Blocks one_thread_each(int64_t items, int threads = 256) { return {(items + threads - 1) / threads, threads}; }

template <typename T>
struct Type {
  using type = T;
};

// Calls function(Type<T>{}) with the tensor's element type. Throws for a dtype that the CUDA kernels do not have.
template <typename Function>
void dispatch_dtype(const char* where, const Tensor& tensor, const Function& function) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return function(Type<float>{});
    case ScalarType::BFloat16: return function(Type<BFloat16>{});
    case ScalarType::Half: return function(Type<Half>{});
    default:
      TMT_CHECK(false, where, ": dtype must be float32, bfloat16 or float16 on CUDA, got ", dtype_name(tensor),
                "; convert the tensors, or use the CPU for float64");
  }
}

// Typed pointers: the dtype was dispatched on before.
template <typename T>
const T* input(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}
template <typename T>
const T* input(const std::optional<Tensor>& tensor) {
  return tensor ? input<T>(*tensor) : nullptr;
}
template <typename T>
T* output(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

}  // namespace tmt::cuda
