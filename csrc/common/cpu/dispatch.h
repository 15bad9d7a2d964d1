// Which SIMD level the CPU kernels run at. Each *_kernels.cpp is compiled once per level in namespace
// tmt::cpu::<level>.
#pragma once

// Every SIMD level compiles the kernels' headers with other machine flags: a function left out of line could be linked
// from any.
#define TMT_ALWAYS_INLINE __attribute__((always_inline)) inline

namespace tmt::cpu {

enum class Simd { portable, avx2, avx512 };

// The widest level this processor has, or what the environment variable TMT_SIMD (portable, avx2, avx512) asks for.
// Decided once. Throws std::runtime_error for an unknown name or a level this processor or build lacks.
Simd simd_level();
const char* simd_name(Simd level);

}  // namespace tmt::cpu

#if defined(__x86_64__)
#define TMT_FOR_EACH_SIMD(F) F(portable) F(avx2) F(avx512)
// Calls a function of the active level by its name in that level's namespace:
// TMT_SIMD_CALL(pack_rows, args, begin, end).
#define TMT_SIMD_CALL(function, ...)                                                \
  (tmt::cpu::simd_level() == tmt::cpu::Simd::avx512 ? avx512::function(__VA_ARGS__) \
   : tmt::cpu::simd_level() == tmt::cpu::Simd::avx2 ? avx2::function(__VA_ARGS__)   \
                                                    : portable::function(__VA_ARGS__))
#else
#define TMT_FOR_EACH_SIMD(F) F(portable)
#define TMT_SIMD_CALL(function, ...) portable::function(__VA_ARGS__)
#endif

namespace tmt {
const char* compiler_name();
}
