// SPDX-License-Identifier: BSD-3-Clause
// The table of inner loops of the chosen instruction set, see simd_level.h.
#include "maths/simd/kernels.h"
#include "maths/simd/simd_level.h"

namespace ptycho::cpu {

template <typename T>
const Kernels<T>& kernels() {
#ifdef PTYCHO_SIMD_LEVELS
  if (simd_level() == SimdLevel::avx512) return avx512::table<T>();
  if (simd_level() == SimdLevel::avx2) return avx2::table<T>();
#endif
  return baseline::table<T>();
}

template const Kernels<float>& kernels<float>();
template const Kernels<double>& kernels<double>();

}  // namespace ptycho::cpu
