// SPDX-License-Identifier: BSD-3-Clause
// The table of correct_fields' inner loops of the chosen instruction set, see simd_level.h.
#include "maths/simd/fields.h"
#include "maths/simd/simd_level.h"

namespace ptycho::cpu {

template <typename T>
const FieldKernels<T>& field_kernels() {
#ifdef PTYCHO_SIMD_LEVELS
  if (simd_level() == SimdLevel::avx512) return avx512::field_table<T>();
  if (simd_level() == SimdLevel::avx2) return avx2::field_table<T>();
#endif
  return baseline::field_table<T>();
}

template const FieldKernels<float>& field_kernels<float>();
template const FieldKernels<double>& field_kernels<double>();

}  // namespace ptycho::cpu
