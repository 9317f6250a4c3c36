// SPDX-License-Identifier: BSD-3-Clause
// A Fourier transform of an image by a block, in place: a stage is read into registers by all threads, and written
// after a barrier. Lines are transformed as many at a time as the registers hold. An image that fits is in shared
// memory; of a larger one, in global memory, the lines of a time are in shared memory from their first stage to their
// last, so that the image is read and written once for either axis. The stages and their operations are those of
// maths/simd/fourier.cpp, so the result has the CPU's bits.
#pragma once

#include <algorithm>

#include "maths/block.h"
#include "maths/butterflies.h"
#include "maths/fourier.h"
#include "maths/gather.h"

namespace ptycho {

// Complex numbers that a thread holds between two barriers.
inline constexpr int kHeldByThread = 16;

// The transform of a line for blocks of so many threads, as plain memory: an argument of a kernel.
template <typename T>
struct FourierTable {
  static constexpr int kStages = 6;
  static constexpr int kFactors = 255;  // n - 1 of n elements
  static constexpr int kThreads = 256;
  struct Stage {
    int radix = 1;
    int m = 1;
    int s = 1;
    int factors = 0;
    Divisor by_s{1};
    Divisor by_transforms{1};  // of `radix` elements, in a line
  };

  int n;
  int count = 0;
  int lines;  // that are transformed at once
  Divisor by_lines{1};
  Stage stages[kStages];
  T factors[2 * kFactors] = {};

  // axis: one that fits
  explicit FourierTable(const FourierAxis<T>& axis) : n(static_cast<int>(axis.n)), lines(kHeldByThread * kThreads / n) {
    for (const FourierStage& from : axis.stages) {
      Stage& stage = stages[count++];
      stage.radix = static_cast<int>(from.radix);
      stage.m = static_cast<int>(from.m);
      stage.s = static_cast<int>(from.s);
      stage.factors = static_cast<int>(from.twiddles);
      stage.by_s = Divisor(static_cast<uint32_t>(from.s));
      stage.by_transforms = Divisor(static_cast<uint32_t>(from.m * from.s));
      lines = std::min(lines, kHeldByThread / stage.radix * kThreads / (stage.m * stage.s));
    }
    by_lines = Divisor(static_cast<uint32_t>(lines));
    std::copy(axis.twiddles.begin(), axis.twiddles.end(), factors);
  }
  static bool fits(const FourierAxis<T>& axis) {
    return axis.stages.size() <= kStages && axis.twiddles.size() <= 2 * kFactors;
  }
};

// An image (h, w) in shared memory; after every eighth pixel of a row one is empty, so that threads that write every
// eighth pixel use different banks.
template <typename T>
struct SharedImage {
  using Real = T;
  static constexpr bool kShared = true;
  Complex<T>* data;
  int w;

  PTYCHO_HD static int64_t pitch(int64_t w) { return w + (w >> 3); }
  static int64_t bytes(int64_t h, int64_t w) { return h * pitch(w) * static_cast<int64_t>(sizeof(Complex<T>)); }
  PTYCHO_HD Complex<T>& at(int y, int x) const { return data[y * static_cast<int>(pitch(w)) + x + (x >> 3)]; }
};

// An image (h, w) in global memory.
template <typename T>
struct GlobalImage {
  using Real = T;
  static constexpr bool kShared = false;
  Complex<T>* data;
  int w;

  PTYCHO_HD Complex<T>& at(int y, int x) const { return data[y * w + x]; }
};

template <typename T>
struct HeldScalars {
  Complex<T> value[kHeldByThread];
};

// Transforms `count` lines from `first` on, columns or rows, which fit into the registers of the block's threads.
// swapped: real and imaginary parts are exchanged where the lines are first read and where they are last written, which
// makes the inverse.
template <int threads, bool columns, typename BlockImage>
struct FourierLines {
  using T = typename BlockImage::Real;
  using Stage = typename FourierTable<T>::Stage;

  const FourierTable<T>& table;
  const BlockImage& image;
  SharedImage<T> strip;  // has the lines between their first and their last stage, if the image is not shared
  int first;
  int count;
  bool swapped;

  template <typename Block, typename States>
  PTYCHO_HD void run(Block& block, States& states) const {
    for (int number = 0; number < table.count; ++number) {
      const Stage& stage = table.stages[number];
      const bool enters = number == 0, leaves = number == table.count - 1;
      block.each(states, [&](int thread, HeldScalars<T>& held) {
        switch (stage.radix) {
          case 2:
            return load<2>(stage, thread, held, enters);
          case 3:
            return load<3>(stage, thread, held, enters);
          case 4:
            return load<4>(stage, thread, held, enters);
          case 5:
            return load<5>(stage, thread, held, enters);
          default:
            return load<8>(stage, thread, held, enters);
        }
      });
      block.each(states, [&](int thread, HeldScalars<T>& held) {
        switch (stage.radix) {
          case 2:
            return store<2>(stage, thread, held, leaves);
          case 3:
            return store<3>(stage, thread, held, leaves);
          case 4:
            return store<4>(stage, thread, held, leaves);
          case 5:
            return store<5>(stage, thread, held, leaves);
          default:
            return store<8>(stage, thread, held, leaves);
        }
      });
    }
  }

 private:
  // outer: as the transform begins or ends.
  PTYCHO_HD Complex<T>& element(int line, int i, bool outer) const {
    if constexpr (!BlockImage::kShared) {
      if (!outer) return columns ? strip.at(i, line) : strip.at(line, i);
    }
    return columns ? image.at(i, first + line) : image.at(first + line, i);
  }

  // Calls use(j, line, q, p) for the thread's transforms of `radix` elements. Threads side by side have columns, or
  // elements of a row, side by side.
  template <int radix, typename Use>
  PTYCHO_HD void for_each(const Stage& stage, int thread, const Use& use) const {
    const auto all = static_cast<uint32_t>(table.lines * stage.m * stage.s);
    PTYCHO_UNROLL
    for (int j = 0; j < kHeldByThread / radix; ++j) {
      const auto i = static_cast<uint32_t>(thread + j * threads);
      const Divisor& by = columns ? table.by_lines : stage.by_transforms;
      const uint32_t quotient = by.quotient(i), rest = i - quotient * by.value();
      const uint32_t line = columns ? rest : quotient, own = columns ? quotient : rest;
      if (i >= all || static_cast<int>(line) >= count) continue;
      const uint32_t p = stage.by_s.quotient(own);
      use(j, static_cast<int>(line), static_cast<int>(own - p * stage.by_s.value()), static_cast<int>(p));
    }
  }

  template <int radix>
  PTYCHO_HD void load(const Stage& stage, int thread, HeldScalars<T>& held, bool enters) const {
    const int s = stage.s, m = stage.m;
    const T* const factors = table.factors + stage.factors;
    for_each<radix>(stage, thread, [&](int j, int line, int q, int p) {
      Complex<T> a[radix];
      PTYCHO_UNROLL
      for (int k = 0; k < radix; ++k) {
        a[k] = element(line, q + s * (p + m * k), enters);
        if (swapped && enters) a[k] = exchanged(a[k]);
      }
      transform_few<T>(a);
      PTYCHO_UNROLL
      for (int k = 0; k < radix; ++k) {
        if (k > 0 && p > 0) {
          const T* const factor = factors + 2 * (p * (radix - 1) + k - 1);
          a[k] = times(a[k], factor[0], factor[1]);
        }
        held.value[j * radix + k] = a[k];
      }
    });
  }

  template <int radix>
  PTYCHO_HD void store(const Stage& stage, int thread, const HeldScalars<T>& held, bool leaves) const {
    const int s = stage.s;
    for_each<radix>(stage, thread, [&](int j, int line, int q, int p) {
      PTYCHO_UNROLL
      for (int k = 0; k < radix; ++k) {
        const Complex<T>& value = held.value[j * radix + k];
        element(line, q + s * (radix * p + k), leaves) = swapped && leaves ? exchanged(value) : value;
      }
    });
  }
};

PTYCHO_HD inline int smaller(int a, int b) {
  return a < b ? a : b;
}

// Bytes of shared memory for the lines that are transformed at once.
template <typename T>
int64_t strip_bytes(const FourierTable<T>& down, const FourierTable<T>& across) {
  return std::max(SharedImage<T>::bytes(down.n, down.lines), SharedImage<T>::bytes(across.lines, across.n));
}

// Transforms an image of the sizes of both tables. inverse: without a factor, as on the CPU. strip: shared memory for
// an image that is not.
template <int threads, typename BlockImage, typename T, typename Block, typename States>
PTYCHO_HD void transform_image(Block& block, States& states, const BlockImage& image, Complex<T>* strip,
                               const FourierTable<T>& down, const FourierTable<T>& across, bool inverse) {
  static_assert(threads == FourierTable<T>::kThreads);
  for (int first = 0; first < across.n && down.count > 0; first += down.lines)
    FourierLines<threads, true, BlockImage>{
        down, image, {strip, down.lines}, first, smaller(down.lines, across.n - first), inverse}
        .run(block, states);
  for (int first = 0; first < down.n && across.count > 0; first += across.lines)
    FourierLines<threads, false, BlockImage>{
        across, image, {strip, across.n}, first, smaller(across.lines, down.n - first), inverse}
        .run(block, states);
}

}  // namespace ptycho
