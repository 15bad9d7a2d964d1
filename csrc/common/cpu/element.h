// The dtypes that the CPU kernels have, without torch's headers.
#pragma once

namespace tmt::cpu {

enum class Element { float32, float64, bfloat16, float16 };

}  // namespace tmt::cpu
