// SPDX-License-Identifier: BSD-3-Clause
// The choice of the instruction set; see simd_level.h.
#include "maths/simd/simd_level.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace ptycho::cpu {
namespace {

bool available(SimdLevel level) {
#ifdef PTYCHO_SIMD_LEVELS
  if (level == SimdLevel::avx512) return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl");
  if (level == SimdLevel::avx2) return __builtin_cpu_supports("avx2");
#endif
  return level == SimdLevel::baseline;
}

SimdLevel choose() {
#ifdef PTYCHO_SIMD_LEVELS
  __builtin_cpu_init();
#endif
  constexpr SimdLevel best_first[] = {SimdLevel::avx512, SimdLevel::avx2, SimdLevel::baseline};
  const char* wanted = std::getenv("PTYCHO_SIMD");
  std::string names;
  for (const SimdLevel level : best_first) {
    if (!available(level)) continue;
    if (!wanted || !*wanted || std::string(wanted) == simd_name(level)) return level;
    names += (names.empty() ? "" : ", ") + std::string(simd_name(level));
  }
  throw std::runtime_error("ptycho_ext: PTYCHO_SIMD must be one of " + names + ", got " + wanted);
}

}  // namespace

SimdLevel simd_level() {
  static const SimdLevel level = choose();
  return level;
}

const char* simd_name(SimdLevel level) {
  if (level == SimdLevel::avx512) return "avx512";
  if (level == SimdLevel::avx2) return "avx2";
#if defined(__AVX512F__)
  return "avx512";
#elif defined(__AVX2__)
  return "avx2";
#elif defined(__SSE2__)
  return "sse2";
#elif defined(__ARM_NEON)
  return "neon";
#else
  return "scalar";
#endif
}

}  // namespace ptycho::cpu
