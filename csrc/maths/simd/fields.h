// SPDX-License-Identifier: BSD-3-Clause
// The inner loops of correct_fields and its backward, as a table of functions: fields.cpp is compiled once per
// instruction set, as kernels.cpp is. A call works on a part of one pattern.
#pragma once

#include <cstdint>

#include "maths/likelihood.h"

namespace ptycho::cpu {

template <typename T>
struct PatternPart {
  const T* fields;      // the part's first pixel in the first mode
  int64_t mode_stride;  // scalars from mode to mode, in fields, corrections and gradients
  int64_t modes;
  int64_t lanes;
  Counts counts;        // of all patterns
  int64_t first_count;  // the part's first pixel in them
  const bool* mask;     // the part's first pixel, or null
  int64_t pixels;       // at most kPartPixels
  T scale;
  T background;
  bool poisson;
};

template <typename T>
struct FieldKernels {
  // correction: as fields, may be the same memory, or null. sums: value and derivative by log scale of the part.
  void (*correct)(const PatternPart<T>& part, T* correction, double* sums);
  // grad_correction: as fields, or null. by_scale: the gradient by the scale that the part contributes.
  void (*pass_back)(const PatternPart<T>& part, const T* grad_correction, T grad_value, T grad_by_scale, T* grad_fields,
                    double* by_scale);
};

// The table of the level chosen for this process.
template <typename T>
const FieldKernels<T>& field_kernels();

// One table per compiled level.
namespace baseline {
template <typename T>
const FieldKernels<T>& field_table();
}
namespace avx2 {
template <typename T>
const FieldKernels<T>& field_table();
}
namespace avx512 {
template <typename T>
const FieldKernels<T>& field_table();
}

}  // namespace ptycho::cpu
