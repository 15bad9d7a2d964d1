// Functions that kernels on the CPU and in CUDA share. Inlined always: every SIMD level compiles the same headers with
// other machine flags, and a function left out of line could be linked from any of them.
#pragma once

#if defined(__CUDACC__)
#define TMT_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define TMT_HOST_DEVICE inline __attribute__((always_inline))
#endif
