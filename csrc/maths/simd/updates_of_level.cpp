// SPDX-License-Identifier: BSD-3-Clause
// The table of update_canvas's inner loops of the chosen instruction set, see simd_level.h.
#include "maths/simd/updates.h"
#include "maths/simd/simd_level.h"

namespace ptycho::cpu {

template <typename T>
const UpdateKernels<T>& update_kernels() {
#ifdef PTYCHO_SIMD_LEVELS
  if (simd_level() == SimdLevel::avx512) return avx512::update_table<T>();
  if (simd_level() == SimdLevel::avx2) return avx2::update_table<T>();
#endif
  return baseline::update_table<T>();
}

template const UpdateKernels<float>& update_kernels<float>();
template const UpdateKernels<double>& update_kernels<double>();

}  // namespace ptycho::cpu
