// SPDX-License-Identifier: BSD-3-Clause
// Fourier transforms of images in a thread's cache, as a table of functions: fourier.cpp is compiled once per
// instruction set, as kernels.cpp is.
#pragma once

#include "maths/fourier.h"

namespace ptycho::cpu {

// Of images (h, w).
template <typename T>
struct FourierPlan {
  FourierAxis<T> down;
  FourierAxis<T> across;

  FourierPlan(int64_t h, int64_t w) : down(h), across(w) {}
  int64_t scratch_size() const {  // scalars, whatever the level
    constexpr int64_t widest = 64 / static_cast<int64_t>(sizeof(T));
    return 2 * (down.n > across.n ? down.n : across.n) * 2 * widest;
  }
};

template <typename T>
struct FourierKernels {
  // Transforms a complex image (h, w) in place, without a factor: the inverse transform is h w times its inverse.
  // scratch: scratch_size() scalars on a cache line's boundary.
  void (*transform)(const FourierPlan<T>& plan, T* image, bool inverse, T* scratch);
};

// The table of the level chosen for this process.
template <typename T>
const FourierKernels<T>& fourier_kernels();

// One table per compiled level.
namespace baseline {
template <typename T>
const FourierKernels<T>& fourier_table();
}
namespace avx2 {
template <typename T>
const FourierKernels<T>& fourier_table();
}
namespace avx512 {
template <typename T>
const FourierKernels<T>& fourier_table();
}

}  // namespace ptycho::cpu
