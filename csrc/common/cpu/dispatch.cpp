#include "common/cpu/dispatch.h"

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

namespace tmt {

const char* compiler_name() {
#if defined(__clang__)
  return "clang " __clang_version__;
#else
  return "g++ " __VERSION__;
#endif
}

namespace cpu {
namespace {

bool supported(Simd level) {
#if defined(__x86_64__)
  if (level == Simd::avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (level == Simd::avx512)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
  return level == Simd::portable;
}

Simd widest() {
  for (const Simd level : {Simd::avx512, Simd::avx2})
    if (supported(level)) return level;
  return Simd::portable;
}

Simd decide() {
  const char* wish = std::getenv("TMT_SIMD");
  if (wish == nullptr || *wish == '\0') return widest();
  for (const Simd level : {Simd::portable, Simd::avx2, Simd::avx512})
    if (std::strcmp(wish, simd_name(level)) == 0 && supported(level)) return level;
  throw std::runtime_error(
      std::string("TMT_SIMD: must be portable, avx2 or avx512 and supported by this processor, got '") + wish + "'");
}

}  // namespace

Simd simd_level() {
  static const Simd level = decide();
  return level;
}

const char* simd_name(Simd level) {
  switch (level) {
    case Simd::avx512: return "avx512";
    case Simd::avx2: return "avx2";
    default: return "portable";
  }
}

}  // namespace cpu
}  // namespace tmt
