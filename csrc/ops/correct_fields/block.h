// SPDX-License-Identifier: BSD-3-Clause
// The block programs of correct_fields and its backward: a block to a part of a pattern, a thread to every kSumLanes-th
// pixel of it, so that neighbouring threads read neighbouring pixels; then the sums of the parts. The sums are formed as
// on the CPU and so have its bits. Fields and counts are read once (the modes behind the first a second time, from the
// cache), and a pixel is read before it is written, so the correction may replace the fields.
#pragma once

#include "maths/block.h"
#include "maths/patterns.h"

namespace ptycho {

template <typename T, int lanes>
struct alignas(lanes * sizeof(T)) Pixel {
  T lane[lanes];

  PTYCHO_HD Pixel times(T factor) const {
    Pixel result;
    for (int i = 0; i < lanes; ++i) result.lane[i] = factor * lane[i];
    return result;
  }
  PTYCHO_HD T product(const Pixel& other) const {  // Re(conj(this) other)
    T sum = lane[0] * other.lane[0];
    if constexpr (lanes == 2) sum = sum + lane[1] * other.lane[1];
    return sum;
  }
};

// A pixel of a part, and where it is.
template <typename T, int lanes>
struct PixelOfPattern {
  int64_t pattern;
  int64_t pixel;   // of the pattern
  int64_t first;   // in the first mode, of all fields
  T counts;
  bool good;
};

// Calls work(pixel) for those of part b that are a thread's, in their order.
template <typename T, int lanes, typename Work>
PTYCHO_HD inline void for_pixels(const Patterns<T>& patterns, int64_t b, int thread, const Work& work) {
  const int64_t parts = patterns.parts(), k = b / parts, begin = (b - k * parts) * kPartPixels;
  const int64_t end = begin + kPartPixels < patterns.pixels ? begin + kPartPixels : patterns.pixels;
  const bool* const mask = patterns.mask_of(k);
  for (int64_t i = begin + thread; i < end; i += kSumLanes) {
    PixelOfPattern<T, lanes> pixel{k, i, k * patterns.modes * patterns.pixels + i, T(0), !mask || mask[i]};
    patterns.counts.typed([&](const auto* counts) { pixel.counts = static_cast<T>(counts[k * patterns.pixels + i]); });
    work(pixel);
  }
}

template <typename T, int lanes, bool poisson>
struct CorrectFields {
  static constexpr int kThreads = kSumLanes;
  struct Sums {
    double value;
    double by_scale;
  };
  struct Shared {
    Sums sums[kThreads];
  };
  using Scalars = Pixel<T, lanes>;

  Patterns<T> patterns;
  Scalars* correction;   // as the fields; null for none
  double* values;        // (patterns, parts)
  double* scale_slopes;  // (patterns, parts)

  PTYCHO_HD int64_t blocks() const { return patterns.patterns * patterns.parts(); }

  template <typename Block>
  PTYCHO_HD void operator()(Block& block) const {
    Sums* const slots = block.shared().sums;
    for (int64_t b = block.index(); b < blocks(); b = next_block(block, b)) {
      block.each([&](int thread) { slots[thread] = sums_of(b, thread); });
      reduce<kThreads>(block, slots,
                       [](const Sums& a, const Sums& c) { return Sums{a.value + c.value, a.by_scale + c.by_scale}; });
      block.each([&](int thread) {
        if (thread > 0) return;
        values[b] = slots[0].value;
        scale_slopes[b] = slots[0].by_scale;
      });
    }
  }

  PTYCHO_HD Sums sums_of(int64_t b, int thread) const {
    const auto* const fields = reinterpret_cast<const Scalars*>(patterns.fields);
    Sums sums{0, 0};
    for_pixels<T, lanes>(patterns, b, thread, [&](const PixelOfPattern<T, lanes>& at) {
      const T scale = patterns.scale(at.pattern);
      Scalars head{};
      T intensity = T(0);
      for (int64_t mode = 0; mode < patterns.modes; ++mode) {
        const Scalars field = fields[at.first + mode * patterns.pixels];
        if (mode == 0) head = field;
        intensity += field.product(field);
      }
      const auto pixel = correct_pixel<poisson>(scale * intensity, at.counts, at.good, patterns.background);
      sums.value += static_cast<double>(pixel.value);
      sums.by_scale += static_cast<double>(pixel.by_scale);
      if (!correction) return;
      const T factor = scale * pixel.step;
      for (int64_t mode = 0; mode < patterns.modes; ++mode) {
        const int64_t m = at.first + mode * patterns.pixels;
        Scalars field = head;  // in registers: a reference to either would put it in memory
        if (mode > 0) field = fields[m];
        correction[m] = field.times(factor);
      }
    });
    return sums;
  }
};

template <typename T, int lanes, bool poisson>
struct PassBackCorrection {
  static constexpr int kThreads = kSumLanes;
  struct Shared {
    double sums[kThreads];
  };
  using Scalars = Pixel<T, lanes>;

  Patterns<T> patterns;
  PatternGrads<T> grads;
  Scalars* grad_fields;
  double* grad_scale;  // (patterns, parts)

  PTYCHO_HD int64_t blocks() const { return patterns.patterns * patterns.parts(); }

  template <typename Block>
  PTYCHO_HD void operator()(Block& block) const {
    double* const slots = block.shared().sums;
    for (int64_t b = block.index(); b < blocks(); b = next_block(block, b)) {
      block.each([&](int thread) { slots[thread] = sum_of(b, thread); });
      reduce<kThreads>(block, slots, [](double a, double c) { return a + c; });
      block.each([&](int thread) {
        if (thread == 0) grad_scale[b] = slots[0];
      });
    }
  }

  PTYCHO_HD double sum_of(int64_t b, int thread) const {
    const auto* const fields = reinterpret_cast<const Scalars*>(patterns.fields);
    const auto* const by_correction = reinterpret_cast<const Scalars*>(grads.correction);
    double sum = 0;
    for_pixels<T, lanes>(patterns, b, thread, [&](const PixelOfPattern<T, lanes>& at) {
      const T scale = patterns.scale(at.pattern);
      Scalars head{}, grad_head{};
      T intensity = T(0), product = T(0);
      for (int64_t mode = 0; mode < patterns.modes; ++mode) {
        const int64_t m = at.first + mode * patterns.pixels;
        const Scalars field = fields[m];
        Scalars grad{};
        if (by_correction) grad = by_correction[m];
        if (mode == 0) {
          head = field;
          grad_head = grad;
        }
        intensity += field.product(field);
        if (by_correction) product += field.product(grad);
      }
      const auto pixel = pass_back<poisson>(scale * intensity, at.counts, at.good, patterns.background, scale, product,
                                            grads.value(at.pattern), grads.by_scale(at.pattern));
      sum += static_cast<double>(pixel.step * product + pixel.weight * intensity);
      const T of_grad = scale * pixel.step, of_field = T(2) * (scale * pixel.weight);
      for (int64_t mode = 0; mode < patterns.modes; ++mode) {
        const int64_t m = at.first + mode * patterns.pixels;
        Scalars field = head, grad = grad_head;
        if (mode > 0) field = fields[m];
        if (mode > 0 && by_correction) grad = by_correction[m];
        Scalars result = field.times(of_field);
        if (by_correction) {
          const Scalars part = grad.times(of_grad);
          for (int lane = 0; lane < lanes; ++lane) result.lane[lane] = part.lane[lane] + result.lane[lane];
        }
        grad_fields[m] = result;
      }
    });
    return sum;
  }
};

// totals[k] = sums[k * parts] + ... in the order of the parts.
struct AddParts {
  static constexpr int kThreads = 256;
  using Shared = Nothing;

  const double* sums;
  int64_t parts;
  int64_t patterns;
  double* totals;

  template <typename Block>
  PTYCHO_HD void operator()(Block& block) const {
    for_each_item<AddParts>(block, patterns, [&](int64_t k) {
      double total = sums[k * parts];
      for (int64_t part = 1; part < parts; ++part) total += sums[k * parts + part];
      totals[k] = total;
    });
  }
};

}  // namespace ptycho
