// The dtypes that the CPU kernels have, without torch's headers.
#pragma once

namespace tmt::cpu {

enum class Element { float32, float64, bfloat16, float16 };

// Calls `function` for the element type of `args`; inside the namespace of a SIMD level.
#define TMT_BY_ELEMENT(function, ...)                               \
  switch (args.element) {                                           \
    case Element::float32: return function<float>(__VA_ARGS__);     \
    case Element::float64: return function<double>(__VA_ARGS__);    \
    case Element::bfloat16: return function<BFloat16>(__VA_ARGS__); \
    case Element::float16: return function<Half>(__VA_ARGS__);      \
  }

}  // namespace tmt::cpu
