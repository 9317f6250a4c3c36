// SPDX-License-Identifier: BSD-3-Clause
// The inner loops of every operator, as a table of functions. kernels.cpp is compiled once per instruction set and the
// table of the best one is chosen at run time. One function serves extraction, its adjoint and translation, a second
// one reassembly: all of them interpolate a view of a source that is zero outside.
#pragma once

#include <cstdint>

#include "maths/geometry.h"

namespace ptycho::cpu {

// stream: past the caches; needs rows on 64-byte boundaries, and a multiple of 64 bytes long. add: in rows that may be
// touched to the 64-byte boundaries before and behind the view; zeros are added there.
enum class Write { store, stream, add };

// out[i, j] = the source at (y + i, x + j), interpolated, for i < rows and j < cols (in pixels of `lanes` scalars).
template <typename T>
struct PatchView {
  const T* source;  // (source_rows, source_cols)
  int64_t source_rows;
  int64_t source_cols;
  int64_t lanes;
  Taps<T> y;
  Taps<T> x;
  int64_t rows;
  int64_t cols;
  const T* next;                 // the first sample that the next view will need, prefetched; may be null
  const T* weights = nullptr;    // (rows, cols) of `lanes` scalars, that the output is multiplied by; null for none
  bool complex_weights = false;  // whether a pixel's weight is a complex number, and not a real one for each scalar
  const T* factors = nullptr;    // as the source, which is multiplied by them first; of real data, for Write::add
};

// Weights of a view's source, one per pixel.
template <typename T>
struct Weights {
  const T* data;
  const T* next;  // as PatchView's; null where all views share their weights
};

// The smallest positive and the largest weight.
template <typename T>
struct Range {
  T least;
  T most;
};

template <typename T>
struct Kernels {
  // out: rows of `stride` scalars. scratch: scratch_size() scalars.
  void (*interpolate)(const PatchView<T>& view, T* out, int64_t stride, Write write, T* scratch);
  // Adds the views of source * weights and of the weights, as Write::add does. stride: in pixels.
  void (*add_weighted)(const PatchView<T>& view, const Weights<T>& weights, T* image, T* weight_sum, int64_t stride,
                       T* scratch);
  // Adds to sums[0] and sums[1] <grads, d out / d y> and <grads, d out / d x>. grads: (rows, cols), contiguous;
  // next_grads: those of the next view, or null.
  void (*position_gradient)(const PatchView<T>& view, const T* grads, const T* next_grads, double* sums, T* scratch);
  // image /= weight, and zero where the weight is not positive, over `pixels` pixels; widens the range by their
  // weights.
  void (*divide)(T* image, const T* weights, int64_t pixels, int64_t lanes, Range<T>* range);
  // Copies `count` scalars past the caches, from and to any address.
  void (*stream)(T* out, const T* in, int64_t count);
  // out = values * factors, or values * conj(factors), over `count` scalars; write: store or stream.
  void (*multiply)(const T* values, const T* factors, bool conjugate, int64_t lanes, T* out, int64_t count,
                   Write write);
  // sums += values * conj(factors), over `count` scalars; next: the values of the next call, prefetched, or null.
  void (*add_products)(const T* values, const T* factors, int64_t lanes, T* sums, int64_t count, const T* next);
  // out = the sum over the modes, in their order, of values * conj(factors). The modes of either lie `stride` scalars
  // apart; next: the values of the next call, prefetched, or null.
  void (*sum_modes)(const T* values, const T* factors, int64_t modes, int64_t stride, int64_t lanes, T* out,
                    int64_t count, const T* next);
  // Makes streamed rows visible to other threads; once per thread, at the end.
  void (*fence)();
};

// Scalars of a line of scratch: whole cache lines, one more per lane on either side. Static, for kernels.cpp calls it
// from every level.
template <typename T>
static inline int64_t scratch_line(int64_t cols, int64_t lanes) {
  constexpr int64_t line = 64 / static_cast<int64_t>(sizeof(T));
  return ((cols + 2) / line + 3) * line * lanes;
}

// Two interpolated lines and one of zeros.
template <typename T>
int64_t scratch_size(int64_t cols, int64_t lanes) {
  return 3 * scratch_line<T>(cols, lanes);
}

// The table of the level chosen for this process.
template <typename T>
const Kernels<T>& kernels();

// One table per compiled level.
namespace baseline {
template <typename T>
const Kernels<T>& table();
}
namespace avx2 {
template <typename T>
const Kernels<T>& table();
}
namespace avx512 {
template <typename T>
const Kernels<T>& table();
}

}  // namespace ptycho::cpu
