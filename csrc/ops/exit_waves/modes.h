// SPDX-License-Identifier: BSD-3-Clause
// Waves times the conjugate probe, summed over the modes, as what the block programs SumTiles and PositionGradient read
// in place of a stack of patches: a pixel of the sum is made when it is read. Each scalar is made by the operations of
// maths/simd/kernels.cpp in their order.
#pragma once

#include "maths/gather.h"

namespace ptycho {

// a * b, or a * conj(b).
template <typename T, int lanes, bool conjugate>
PTYCHO_HD inline void multiply(const T (&a)[lanes], const T (&b)[lanes], T (&product)[lanes]) {
  if constexpr (lanes == 1) {
    product[0] = a[0] * b[0];
  } else if constexpr (conjugate) {
    product[0] = a[0] * b[0] + a[1] * b[1];
    product[1] = a[1] * b[0] - a[0] * b[1];
  } else {
    product[0] = a[0] * b[0] - a[1] * b[1];
    product[1] = a[1] * b[0] + a[0] * b[1];
  }
}

// The two taps of a column on successive lines, as PixelReader's.
template <typename T, int lanes>
class ModesReader {
 public:
  // step: bytes from line to line; stride: from mode to mode; the rest as PixelReader's
  PTYCHO_HD ModesReader(uintptr_t waves, uintptr_t probe, int modes, int64_t stride, int64_t step, uint32_t left,
                        uint32_t right)
      : waves_(waves), probe_(probe), stride_(stride), step_(step), modes_(modes), left_(left), right_(right) {}

  PTYCHO_HD bool sees() const { return (left_ | right_) != 0; }

  PTYCHO_HD void next(int q, T (&left)[lanes], T (&right)[lanes]) {
    PTYCHO_UNROLL
    for (int lane = 0; lane < lanes; ++lane) left[lane] = right[lane] = T(0);
    if (left_ & (1u << q)) sum(0, left);
    if (right_ & (1u << q)) sum(lanes * sizeof(T), right);
    waves_ += step_;
    probe_ += step_;
  }

 private:
  PTYCHO_HD void sum(int64_t offset, T (&pixel)[lanes]) const {
    PTYCHO_NO_UNROLL
    for (int m = 0; m < modes_; ++m) {
      T wave[lanes], factor[lanes], product[lanes];
      load_pixel(reinterpret_cast<const T*>(waves_ + m * stride_ + offset), wave);
      load_pixel(reinterpret_cast<const T*>(probe_ + m * stride_ + offset), factor);
      multiply<T, lanes, true>(wave, factor, product);
      PTYCHO_UNROLL
      for (int lane = 0; lane < lanes; ++lane) pixel[lane] += product[lane];
    }
  }

  uintptr_t waves_;
  uintptr_t probe_;
  int64_t stride_;
  int64_t step_;
  int modes_;
  uint32_t left_;
  uint32_t right_;
};

// Row q of two columns kWarp pixels apart as line q + 1, as PairRows'.
template <typename T, int lanes>
class ModesPair {
 public:
  PTYCHO_HD ModesPair(uintptr_t waves, uintptr_t probe, int modes, int64_t stride, int64_t step, bool second)
      : waves_(waves), probe_(probe), stride_(stride), step_(step), modes_(modes), second_(second) {}

  PTYCHO_HD void next(int q, T (&rows)[2 * lanes], T (&)[2 * lanes]) {
    PTYCHO_UNROLL
    for (int lane = 0; lane < 2 * lanes; ++lane) rows[lane] = T(0);
    if (q == 0) return;
    const T *wave = reinterpret_cast<const T*>(waves_), *factor = reinterpret_cast<const T*>(probe_);
    PTYCHO_NO_UNROLL
    for (int m = 0; m < modes_; ++m, wave += stride_, factor += stride_) {
      add<0>(wave, factor, rows);
      if (second_) add<1>(wave, factor, rows);
    }
    waves_ += step_;
    probe_ += step_;
  }

 private:
  template <int column>
  PTYCHO_HD static void add(const T* waves, const T* factors, T (&rows)[2 * lanes]) {
    T wave[lanes], factor[lanes], product[lanes];
    load_pixel(waves + column * kWarp * lanes, wave);
    load_pixel(factors + column * kWarp * lanes, factor);
    multiply<T, lanes, true>(wave, factor, product);
    PTYCHO_UNROLL
    for (int lane = 0; lane < lanes; ++lane) rows[column * lanes + lane] += product[lane];
  }

  uintptr_t waves_;
  uintptr_t probe_;
  int64_t stride_;  // in scalars
  int64_t step_;
  int modes_;
  bool second_;
};

// Sums over the modes in place of patches: their pixels are read at an address of the first mode of the waves.
template <typename T, int lanes>
struct ModeSums {
  static constexpr bool kStored = false;
  static constexpr int64_t kPixel = lanes * sizeof(T);

  ImageStack<const T> waves;  // of all modes of all patches, or, the same for all patches, of all modes
  ImageStack<const T> probe;  // likewise
  int64_t modes;

  PTYCHO_HD int64_t stride() const { return waves.rows * waves.cols * kPixel; }  // from mode to mode, in bytes

  // Where those of patch k begin, in bytes.
  PTYCHO_HD int64_t of_patch(const ImageStack<const T>& images, int64_t k) const {
    return images.count == modes ? 0 : k * modes * stride();
  }

  PTYCHO_HD uintptr_t address(int64_t k, int64_t row, int64_t x) const {
    return reinterpret_cast<uintptr_t>(waves.data) +
           static_cast<uintptr_t>(of_patch(waves, k) + (row * waves.cols + x) * kPixel);
  }

  // at: address(k, ...), or some pixels from it
  PTYCHO_HD uintptr_t probe_address(int64_t k, uintptr_t at) const {
    return at - reinterpret_cast<uintptr_t>(waves.data) + reinterpret_cast<uintptr_t>(probe.data) +
           static_cast<uintptr_t>(of_patch(probe, k) - of_patch(waves, k));
  }
  PTYCHO_HD ModesReader<T, lanes> reader(int64_t k, uintptr_t at, uint32_t left, uint32_t right) const {
    return {at, probe_address(k, at), static_cast<int>(modes), stride(), waves.cols * kPixel, left, right};
  }
  PTYCHO_HD ModesPair<T, lanes> pair(int64_t k, uintptr_t at, bool second) const {
    return {at,    probe_address(k, at), static_cast<int>(modes), stride() / int64_t{sizeof(T)}, waves.cols * kPixel,
            second};
  }
};

}  // namespace ptycho
