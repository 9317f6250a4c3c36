// SPDX-License-Identifier: BSD-3-Clause
// The block programs of correct_fields and its backward: a block to a part of a pattern, a thread to every kSumLanes-th
// pixel of it, so that neighbouring threads read neighbouring pixels; then the sums of the parts. The sums are formed
// as on the CPU and so have its bits. A thread reads several pixels before it writes the first of them, for the memory
// to have enough to do; what it writes, no other thread reads, so the correction may replace the fields. Fields and
// counts are read once, the modes behind the first a second time, from the cache.
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
  PTYCHO_HD Pixel plus(const Pixel& other) const {
    Pixel result;
    for (int i = 0; i < lanes; ++i) result.lane[i] = lane[i] + other.lane[i];
    return result;
  }
  PTYCHO_HD T product(const Pixel& other) const {  // Re(conj(this) other)
    T sum = lane[0] * other.lane[0];
    if constexpr (lanes == 2) sum = sum + lane[1] * other.lane[1];
    return sum;
  }
};

// Where a thread's next pixels are, and what was measured there.
template <typename T>
struct PixelGroup {
  static constexpr int kSize = sizeof(T) == 4 ? 4 : 2;

  int64_t first;  // of the first pixel in the first mode, in all fields; the others are kSumLanes apart
  int size;
  T counts[kSize];
  bool good[kSize];

  // Calls work(j) for every pixel of the group; unrolled, so that arrays of kSize are registers.
  template <typename Work>
  PTYCHO_HD void each(const Work& work) const {
#ifdef __CUDA_ARCH__
#pragma unroll
#endif
    for (int j = 0; j < kSize; ++j)
      if (j < size) work(j);
  }
};

// Calls work(group) for the pixels of part b that are a thread's, in their order.
template <typename T, typename Work>
PTYCHO_HD inline void for_pixels(const Patterns<T>& patterns, int64_t k, int64_t part, int thread, const Work& work) {
  constexpr int64_t most = PixelGroup<T>::kSize;
  const int64_t begin = part * kPartPixels;
  const int64_t end = begin + kPartPixels < patterns.pixels ? begin + kPartPixels : patterns.pixels;
  const bool* const mask = patterns.mask_of(k);
  for (int64_t i = begin + thread; i < end; i += most * kSumLanes) {
    const int64_t left = (end - i + kSumLanes - 1) / kSumLanes;
    PixelGroup<T> group{k * patterns.modes * patterns.pixels + i, static_cast<int>(left < most ? left : most), {}, {}};
    patterns.counts.typed([&](const auto* counts) {
      const auto* const from = counts + k * patterns.pixels + i;
      group.each([&](int j) { group.counts[j] = static_cast<T>(from[j * kSumLanes]); });
    });
    group.each([&](int j) { group.good[j] = !mask || mask[i + j * kSumLanes]; });
    work(group);
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
  using Group = PixelGroup<T>;

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
    const int64_t k = b / patterns.parts();
    const T scale = patterns.scale(k);
    Sums sums{0, 0};
    for_pixels(patterns, k, b - k * patterns.parts(), thread, [&](const Group& group) {
      Scalars heads[Group::kSize] = {};
      T intensity[Group::kSize] = {}, factor[Group::kSize] = {};
      for (int64_t mode = 0; mode < patterns.modes; ++mode) {
        const Scalars* const from = fields + group.first + mode * patterns.pixels;
        group.each([&](int j) {
          const Scalars field = from[j * kSumLanes];
          if (mode == 0) heads[j] = field;
          intensity[j] += field.product(field);
        });
      }
      group.each([&](int j) {
        const auto pixel =
            correct_pixel<poisson>(scale * intensity[j], group.counts[j], group.good[j], patterns.background);
        sums.value += static_cast<double>(pixel.value);
        sums.by_scale += static_cast<double>(pixel.by_scale);
        factor[j] = scale * pixel.step;
      });
      if (!correction) return;
      for (int64_t mode = 0; mode < patterns.modes; ++mode) {
        const int64_t first = group.first + mode * patterns.pixels;
        group.each([&](int j) {
          if (mode > 0) heads[j] = fields[first + j * kSumLanes];
        });
        group.each([&](int j) { correction[first + j * kSumLanes] = heads[j].times(factor[j]); });
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
  using Group = PixelGroup<T>;

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
    const int64_t k = b / patterns.parts();
    const T scale = patterns.scale(k), by_value = grads.value(k), grad_by_scale = grads.by_scale(k);
    double sum = 0;
    for_pixels(patterns, k, b - k * patterns.parts(), thread, [&](const Group& group) {
      Scalars heads[Group::kSize] = {}, grad_heads[Group::kSize] = {};
      T intensity[Group::kSize] = {}, product[Group::kSize] = {};
      for (int64_t mode = 0; mode < patterns.modes; ++mode) {
        const int64_t first = group.first + mode * patterns.pixels;
        group.each([&](int j) {
          const Scalars field = fields[first + j * kSumLanes];
          if (mode == 0) heads[j] = field;
          intensity[j] += field.product(field);
          if (!by_correction) return;
          const Scalars grad = by_correction[first + j * kSumLanes];
          if (mode == 0) grad_heads[j] = grad;
          product[j] += field.product(grad);
        });
      }
      T of_grad[Group::kSize] = {}, of_field[Group::kSize] = {};
      group.each([&](int j) {
        const auto pixel = pass_back<poisson>(scale * intensity[j], group.counts[j], group.good[j], patterns.background,
                                              scale, product[j], by_value, grad_by_scale);
        sum += static_cast<double>(pixel.step * product[j] + pixel.weight * intensity[j]);
        of_grad[j] = scale * pixel.step;
        of_field[j] = T(2) * (scale * pixel.weight);
      });
      for (int64_t mode = 0; mode < patterns.modes; ++mode) {
        const int64_t first = group.first + mode * patterns.pixels;
        group.each([&](int j) {
          if (mode == 0) return;
          heads[j] = fields[first + j * kSumLanes];
          if (by_correction) grad_heads[j] = by_correction[first + j * kSumLanes];
        });
        group.each([&](int j) {
          const Scalars result = heads[j].times(of_field[j]);
          grad_fields[first + j * kSumLanes] = by_correction ? grad_heads[j].times(of_grad[j]).plus(result) : result;
        });
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
