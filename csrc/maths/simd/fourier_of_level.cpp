// SPDX-License-Identifier: BSD-3-Clause
// The table of the Fourier transforms of the chosen instruction set, see simd_level.h.
#include "maths/simd/fourier.h"
#include "maths/simd/simd_level.h"

namespace ptycho::cpu {

template <typename T>
const FourierKernels<T>& fourier_kernels() {
#ifdef PTYCHO_SIMD_LEVELS
  if (simd_level() == SimdLevel::avx512) return avx512::fourier_table<T>();
  if (simd_level() == SimdLevel::avx2) return avx2::fourier_table<T>();
#endif
  return baseline::fourier_table<T>();
}

template const FourierKernels<float>& fourier_kernels<float>();
template const FourierKernels<double>& fourier_kernels<double>();

}  // namespace ptycho::cpu
