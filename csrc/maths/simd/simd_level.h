// SPDX-License-Identifier: BSD-3-Clause
// Which of the compiled instruction sets this process uses: the best that the processor has, or the one that the
// environment variable PTYCHO_SIMD names. Compiled into the operators and into _C, which therefore agree. The choice
// changes the speed and nothing else: every level computes bitwise the same.
#pragma once

namespace ptycho::cpu {

enum class SimdLevel { baseline, avx2, avx512 };

// Chosen once. Throws std::runtime_error if PTYCHO_SIMD names a level that was not built or that the processor lacks.
SimdLevel simd_level();

// The name of a level; the baseline's is that of what the compiler's flags allow, "sse2" on x86-64 unless tuned.
const char* simd_name(SimdLevel level);

}  // namespace ptycho::cpu
