// How a host function reaches the GPU: torch's current stream and device, a checked launch, and dispatch on the dtype.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cstdint>
#include <limits>

#include "common.h"
#include "cuda/intrinsics.cuh"

// Where the kernels register themselves; tests that run them on the CPU register them elsewhere.
#ifndef TMT_CUDA_LIBRARY
#define TMT_CUDA_LIBRARY tmt
#define TMT_CUDA_KEY CUDA
#endif

namespace tmt::cuda {

using BFloat16 = c10::BFloat16;
using Half = c10::Half;

constexpr int64_t kMaxBlocks = std::numeric_limits<int32_t>::max();
constexpr size_t kSharedWithoutAsking = 48 * 1024;  // a kernel that needs more must say so before its launch

// Makes the tensor's device current while it lives, and knows the stream that torch works on there.
class Context {
 public:
  explicit Context(const Tensor& tensor) : device_(tensor.get_device_index()), guard_(device_) {
    void* stream = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_, &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }

  cudaStream_t stream() const { return stream_; }

  int multiprocessors() const {
    int count = 0;
    STD_CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device_));
    return count;
  }

 private:
  int32_t device_;
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_ = nullptr;
};

// The shape of a launch: a row of blocks of `threads` threads with `shared_bytes` of dynamic shared memory each.
struct Blocks {
  int64_t count;
  int threads;
  size_t shared_bytes = 0;
};

// Runs kernel(arguments...) on the context's stream; without blocks, nothing is launched. Throws when the launch fails.
template <typename... Parameters, typename... Arguments>
void launch(const Context& context, const Blocks& blocks, void (*kernel)(Parameters...),
            const Arguments&... arguments) {
  if (blocks.count == 0) return;
  TMT_CHECK(blocks.count <= kMaxBlocks, "tmt: inputs must need at most ", kMaxBlocks, " thread blocks, got ",
            blocks.count, "; split the batch");
  if (blocks.shared_bytes > kSharedWithoutAsking)
    STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        static_cast<int>(blocks.shared_bytes)));
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks.count));
  config.blockDim = dim3(static_cast<unsigned>(blocks.threads));
  config.dynamicSmemBytes = blocks.shared_bytes;
  config.stream = context.stream();
  STD_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
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

inline std::optional<Tensor> contiguous(const std::optional<Tensor>& tensor) {
  return tensor ? std::optional<Tensor>(torch::stable::contiguous(*tensor)) : std::nullopt;
}

}  // namespace tmt::cuda
