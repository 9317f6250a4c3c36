// SPDX-License-Identifier: BSD-3-Clause
// Diffraction patterns beside their far fields, as plain memory, and how they are divided into parts: what a thread on
// the CPU and a block on a GPU work on. See likelihood.h for the sums of parts.
#pragma once

#include "maths/likelihood.h"

namespace ptycho {

// Everything contiguous.
template <typename T>
struct Patterns {
  const T* fields;   // (patterns, modes, pixels) of `lanes` scalars
  Counts counts;     // (patterns, pixels)
  const bool* mask;  // (pixels) or (patterns, pixels), or null
  const T* scales;   // (patterns), or null for ones
  int64_t patterns;
  int64_t modes;
  int64_t pixels;
  bool shared_mask;
  T background;

  PTYCHO_HD int64_t parts() const {  // of a pattern; one for an empty pattern
    return pixels > kPartPixels ? (pixels + kPartPixels - 1) / kPartPixels : 1;
  }
  PTYCHO_HD T scale(int64_t k) const { return scales ? scales[k] : T(1); }
  PTYCHO_HD const bool* mask_of(int64_t k) const { return mask && !shared_mask ? mask + k * pixels : mask; }
};

// Gradients of what is made of patterns; null for zeros.
template <typename T>
struct PatternGrads {
  const T* correction;         // as the fields
  const double* values;        // (patterns)
  const double* scale_slopes;  // (patterns)

  PTYCHO_HD T value(int64_t k) const { return values ? static_cast<T>(values[k]) : T(0); }
  PTYCHO_HD T by_scale(int64_t k) const { return scale_slopes ? static_cast<T>(scale_slopes[k]) : T(0); }
};

}  // namespace ptycho
