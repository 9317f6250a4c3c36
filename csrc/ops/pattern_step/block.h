// SPDX-License-Identifier: BSD-3-Clause
// The block programs of pattern_step. A block takes the patterns of a part of the scan through the step one after the
// other, in one image, in shared memory if it fits there and else in global memory: with several modes their fields are
// made twice, first for the intensity and again for the correction. What leaves a pattern are the correction of its
// patch, which other programs sum onto the canvas and differentiate by the position, and the part's sums of the probe.
// Each scalar is made by the operations of the CPU in their order; only sums over patterns have another one.
#pragma once

#include "maths/blocks/fourier.h"
#include "maths/gather.h"
#include "maths/likelihood.h"
#include "maths/phase_ramps.h"
#include "maths/tile_plan.h"
#include "ops/exit_waves/modes.h"

namespace ptycho {

// Sums of a pattern's pixels: two of them.
struct TwoSums {
  double first;
  double second;
};

template <typename T, bool poisson, bool in_shared>
struct PatternSteps {
  static constexpr int kThreads = kSumLanes;
  static constexpr int kBlocks = sizeof(T) == 8 ? 1 : 2;
  static constexpr int64_t kPatternsOfPart = 4;                    // at least
  static constexpr int64_t kPartsAtMost = 528;                     // four blocks for each of 132 multiprocessors
  static constexpr int64_t kPartsAtLeast = in_shared ? 132 : 264;  // more, to wait for memory at the same time
  static constexpr int64_t kPartBytes = int64_t{32} << 20;         // of the sums of the probe
  using Pixels = Complex<T>;
  using BlockImage = std::conditional_t<in_shared, SharedImage<T>, GlobalImage<T>>;
  struct Shared {
    TwoSums sums[kThreads];
  };

  ImageStack<const T> canvases;
  Scan scan;
  const double* shifts;  // (patterns, 2), or null
  const Pixels* probe;   // (M, h, w) if shared, or (patterns, M, h, w); with shifts the spectrum of the shared probe
  bool shared_probe;
  int64_t modes;
  Counts counts;
  const bool* mask;
  bool shared_mask;
  const T* scales;
  const T* weights;
  T background;
  double* values;
  double* scale_slopes;
  Pixels* products;    // (patterns, h, w), corrections of the patches; or null
  Pixels* probe_sums;  // (parts, M, h, w), of the shared probe, or of its spectrum; or null
  Pixels* own_probes;  // (patterns, M, h, w), corrections; or null
  TwoSums* by_shifts;  // (patterns), or null
  Pixels* images;      // (parts, h, w), if not in shared memory
  Pixels* shifted;     // (parts, h, w): the shifted probe; null without shifts
  T* factors;          // (parts, h, w): intensities, then factors of the fields; null for one mode
  int64_t parts;
  FourierTable<T> down;
  FourierTable<T> across;
  Divisor by_width;

  // Depends on sizes only.
  static int64_t parts_of(int64_t patterns, int64_t bytes_of_probe) {
    const int64_t most = clamp(kPartBytes / (bytes_of_probe > 0 ? bytes_of_probe : 1), kPartsAtLeast, kPartsAtMost);
    return clamp(patterns / kPatternsOfPart, 1, most);
  }
  PTYCHO_HD int width() const { return across.n; }
  PTYCHO_HD int height() const { return down.n; }
  PTYCHO_HD int pixels() const { return down.n * across.n; }
  int64_t memory_bytes() const {
    return (in_shared ? SharedImage<T>::bytes(down.n, across.n) : strip_bytes(down, across)) +
           (shifts ? (down.n + across.n) * static_cast<int64_t>(sizeof(Pixels)) : 0);
  }

  template <typename Block>
  PTYCHO_HD void operator()(Block& block) const {
    auto states = block.template registers<HeldScalars<T>>();
    for (int64_t part = block.index(); part < parts; part = next_block(block, part)) {
      const int64_t begin = part * scan.count() / parts, end = (part + 1) * scan.count() / parts;
      for (int64_t k = begin; k < end; ++k) take(block, states, part, k, k == begin);
    }
  }

 private:
  // Calls use(i, y, x) for the pixels of a thread.
  template <typename Use>
  PTYCHO_HD void for_pixels(int thread, const Use& use) const {
    for (int i = thread; i < pixels(); i += kThreads) {
      const auto y = static_cast<int>(by_width.quotient(static_cast<uint32_t>(i)));
      use(i, y, i - y * width());
    }
  }

  // The phase ramps of a pattern's shift, down and then across, if there are any; then the image, or a strip of it.
  template <typename Block>
  PTYCHO_HD Pixels* ramps(Block& block) const {
    return reinterpret_cast<Pixels*>(block.memory());
  }
  template <typename Block>
  PTYCHO_HD Pixels* strip(Block& block) const {
    return ramps(block) + (shifts ? height() + width() : 0);
  }
  template <typename Block>
  PTYCHO_HD BlockImage image(Block& block, int64_t part) const {
    return {in_shared ? strip(block) : images + part * pixels(), width()};
  }

  PTYCHO_HD Pixels pixel_of(const Image<const T>& canvas, int64_t row, int64_t col) const {
    if (row < 0 || row >= canvas.rows || col < 0 || col >= canvas.cols) return {T(0), T(0)};
    T pixel[2];
    load_pixel(canvas.row(row) + 2 * col, pixel);
    return {pixel[0], pixel[1]};
  }

  // The patch's pixel (r, c), interpolated; NaN where the position is not finite.
  PTYCHO_HD Pixels patch_at(int64_t k, const Taps<T>& y, const Taps<T>& x, int r, int c) const {
    const Image<const T> canvas = canvases[scan.group_of(k)];
    const int64_t row = y.first + r, col = x.first + c;
    const auto line = [&](int64_t at) {
      return scaled(x.w0, pixel_of(canvas, at, col)) + scaled(x.w1, pixel_of(canvas, at, col + 1));
    };
    return scaled(y.w0, line(row)) + scaled(y.w1, line(row + 1));
  }

  PTYCHO_HD static Pixels product(const Pixels& a, const Pixels& b) {
    const T left[2] = {a.re, a.im}, right[2] = {b.re, b.im};
    T result[2];
    multiply<T, 2, false>(left, right, result);
    return {result[0], result[1]};
  }
  PTYCHO_HD static Pixels product_conj(const Pixels& a, const Pixels& b) {  // a conj(b)
    const T left[2] = {a.re, a.im}, right[2] = {b.re, b.im};
    T result[2];
    multiply<T, 2, true>(left, right, result);
    return {result[0], result[1]};
  }

  // Transforms of a mode, in their order; the first and the last with shifts only.
  enum Transform { kShift, kPropagate, kPropagateBack, kUnshift };

  // A pattern's way: with several modes their intensities are summed first. The transform is called in one place, or
  // the compiler would keep a thread's registers in memory.
  template <typename Block, typename States>
  PTYCHO_HD void take(Block& block, States& states, int64_t part, int64_t k, bool first) const {
    const bool corrects = products || probe_sums || own_probes || by_shifts;
    const Taps<T> y = gather_taps<T>(scan.positions[2 * k]), x = gather_taps<T>(scan.positions[2 * k + 1]);
    if (shifts)
      block.each([&](int thread) {
        for (int i = thread; i < height() + width(); i += kThreads)
          ramps(block)[i] = i < height() ? ramp_at<T>(shifts[2 * k], i, height())
                                         : ramp_at<T>(shifts[2 * k + 1], i - height(), width());
      });
    const int64_t before = modes > 1 ? modes : 0;
    for (int64_t step = 0; step < before + modes; ++step) {
      const bool sums_only = step < before;
      const int64_t m = sums_only ? step : step - before;
      for (int kind = shifts ? kShift : kPropagate; kind <= (sums_only ? kPropagate
                                                             : shifts  ? kUnshift
                                                                       : kPropagateBack);
           ++kind) {
        if (kind == kShift) {
          load_spectrum(block, part, k, m);
        } else if (kind == kPropagate) {
          illuminate(block, part, k, m, y, x);
        } else if (kind == kPropagateBack) {
          if (m == 0) compare(block, part, k);
          if (!corrects) return;
          if (modes > 1) correct_field(block, part, k);
        } else {
          pass_back(block, part, k, m, first, y, x);
        }
        transform_image<kThreads>(block, states, image(block, part), strip(block), down, across,
                                  kind == kShift || kind == kPropagateBack);
      }
      if (sums_only) {
        add_intensity(block, part, m);
      } else if (shifts) {
        pass_back_shift(block, part, k, m, first);
      } else {
        pass_back(block, part, k, m, first, y, x);
      }
    }
  }

  PTYCHO_HD const Pixels* source_of(int64_t k, int64_t m) const {
    return probe + ((shared_probe ? 0 : k * modes) + m) * pixels();
  }

  template <typename Block>
  PTYCHO_HD void load_spectrum(Block& block, int64_t part, int64_t k, int64_t m) const {
    const Pixels* const source = source_of(k, m);
    block.each([&](int thread) {
      for_pixels(thread,
                 [&](int i, int r, int c) { image(block, part).at(r, c) = product(source[i], ramp(block, r, c)); });
    });
  }

  // The exit wave, of the shifted probe in shared memory or of the probe itself.
  template <typename Block>
  PTYCHO_HD void illuminate(Block& block, int64_t part, int64_t k, int64_t m, const Taps<T>& y,
                            const Taps<T>& x) const {
    const Pixels* const source = source_of(k, m);
    block.each([&](int thread) {
      for_pixels(thread, [&](int i, int r, int c) {
        Pixels& pixel = image(block, part).at(r, c);
        const Pixels factor = shifts ? pixel : source[i];
        if (shifts) shifted[part * pixels() + i] = factor;
        pixel = product(patch_at(k, y, x, r, c), factor);
      });
    });
  }

  template <typename Block>
  PTYCHO_HD void add_intensity(Block& block, int64_t part, int64_t m) const {
    T* const sums = factors + part * pixels();
    block.each([&](int thread) {
      for_pixels(thread, [&](int i, int r, int c) {
        const Pixels field = image(block, part).at(r, c);
        const T intensity = field.re * field.re + field.im * field.im;
        sums[i] = m == 0 ? intensity : sums[i] + intensity;
      });
    });
  }

  template <typename Block>
  PTYCHO_HD void correct_field(Block& block, int64_t part, int64_t k) const {
    block.each([&](int thread) {
      for_pixels(thread,
                 [&](int i, int r, int c) { correct(image(block, part).at(r, c), factors[part * pixels() + i], k); });
    });
  }

  template <typename Block>
  PTYCHO_HD Pixels ramp(Block& block, int r, int c) const {
    return product(ramps(block)[height() + c], ramps(block)[r]);
  }

  PTYCHO_HD void correct(Pixels& field, T factor, int64_t k) const {
    field = scaled(factor, field);
    if (weights) field = {field.re * weights[k], field.im * weights[k]};
  }

  // The values of a pattern, and the factors of its fields; with one mode the field is corrected at once.
  template <typename Block>
  PTYCHO_HD void compare(Block& block, int64_t part, int64_t k) const {
    const T scale = (scales ? scales[k] : T(1)) / static_cast<T>(pixels());
    const bool* const good = mask ? mask + (shared_mask ? 0 : k * pixels()) : nullptr;
    TwoSums* const slots = block.shared().sums;
    constexpr int of_part = static_cast<int>(kPartPixels);
    for (int begin = 0; begin < pixels(); begin += of_part) {
      const int end = begin + of_part < pixels() ? begin + of_part : pixels();
      block.each([&](int thread) {
        TwoSums sums{0, 0};
        counts.typed([&](const auto* all) {
          const auto* const measured = all + k * pixels();
          for (int i = begin + thread; i < end; i += kThreads) {
            const auto r = static_cast<int>(by_width.quotient(static_cast<uint32_t>(i)));
            Pixels& field = image(block, part).at(r, i - r * width());
            const T intensity = modes == 1 ? field.re * field.re + field.im * field.im : factors[part * pixels() + i];
            const auto pixel =
                correct_pixel<poisson>(scale * intensity, static_cast<T>(measured[i]), !good || good[i], background);
            sums.first += static_cast<double>(pixel.value);
            sums.second += static_cast<double>(pixel.by_scale);
            if (modes == 1) {
              correct(field, scale * pixel.step, k);
            } else {
              factors[part * pixels() + i] = scale * pixel.step;
            }
          }
        });
        slots[thread] = sums;
      });
      sum_slots(block);
      block.each([&](int thread) {
        if (thread > 0) return;
        values[k] = begin == 0 ? slots[0].first : values[k] + slots[0].first;
        scale_slopes[k] = begin == 0 ? slots[0].second : scale_slopes[k] + slots[0].second;
      });
    }
  }

  template <typename Block>
  PTYCHO_HD void sum_slots(Block& block) const {
    reduce<kThreads>(block, block.shared().sums, [](const TwoSums& a, const TwoSums& c) {
      return TwoSums{a.first + c.first, a.second + c.second};
    });
  }

  // From the correction of a mode's wave, in shared memory, to those of the patch and of the probe. With shifts, to the
  // correction of the shifted probe, in shared memory.
  template <typename Block>
  PTYCHO_HD void pass_back(Block& block, int64_t part, int64_t k, int64_t m, bool first, const Taps<T>& y,
                           const Taps<T>& x) const {
    const Pixels* const source = source_of(k, m);
    block.each([&](int thread) {
      for_pixels(thread, [&](int i, int r, int c) {
        Pixels& wave = image(block, part).at(r, c);
        if (products) {
          Pixels& sum = products[k * pixels() + i];
          const Pixels by_patch = product_conj(wave, shifts ? shifted[part * pixels() + i] : source[i]);
          sum = m == 0 ? by_patch : sum + by_patch;
        }
        if (!probe_sums && !own_probes && !by_shifts) return;
        const Pixels correction = product_conj(wave, patch_at(k, y, x, r, c));
        if (shifts) {
          wave = correction;
        } else if (own_probes) {
          own_probes[(k * modes + m) * pixels() + i] = correction;
        } else {
          add_to_probe(part, m, i, correction, first);
        }
      });
    });
  }

  // From the Fourier transform of the correction of the shifted probe to those of the shift and of the spectrum.
  template <typename Block>
  PTYCHO_HD void pass_back_shift(Block& block, int64_t part, int64_t k, int64_t m, bool first) const {
    const Pixels* const source = source_of(k, m);
    TwoSums* const slots = block.shared().sums;
    block.each([&](int thread) {
      TwoSums sums{0, 0};
      for_pixels(thread, [&](int i, int r, int c) {
        const Pixels spectrum = image(block, part).at(r, c), own_ramp = ramp(block, r, c);
        if (by_shifts) {
          const auto overlap = static_cast<double>(product_conj(product(source[i], own_ramp), spectrum).im);
          sums.first += angular_frequency(r, height()) * overlap;
          sums.second += angular_frequency(c, width()) * overlap;
        }
        if (probe_sums) add_to_probe(part, m, i, product_conj(spectrum, own_ramp), first);
      });
      slots[thread] = sums;
    });
    if (!by_shifts) return;
    sum_slots(block);
    block.each([&](int thread) {
      if (thread > 0) return;
      TwoSums& total = by_shifts[k];
      total = m == 0 ? slots[0] : TwoSums{total.first + slots[0].first, total.second + slots[0].second};
    });
  }

  PTYCHO_HD void add_to_probe(int64_t part, int64_t m, int i, const Pixels& correction, bool first) const {
    Pixels& sum = probe_sums[(part * modes + m) * pixels() + i];
    sum = first ? correction : sum + correction;
  }
};

// to[m] = the transform of from[m], without a factor, divided by the number of pixels.
template <typename T, bool in_shared>
struct TransformImages {
  static constexpr int kThreads = 256;
  using Shared = Nothing;
  using Pixels = Complex<T>;
  using BlockImage = std::conditional_t<in_shared, SharedImage<T>, GlobalImage<T>>;

  const Pixels* from;
  Pixels* to;
  int64_t images;
  bool inverse;
  FourierTable<T> down;
  FourierTable<T> across;

  int64_t memory_bytes() const {
    return in_shared ? SharedImage<T>::bytes(down.n, across.n) : strip_bytes(down, across);
  }

  template <typename Block>
  PTYCHO_HD void operator()(Block& block) const {
    auto states = block.template registers<HeldScalars<T>>();
    auto* const memory = reinterpret_cast<Pixels*>(block.memory());
    const int pixels = down.n * across.n;
    const T factor = T(1) / static_cast<T>(pixels);
    for (int64_t m = block.index(); m < images; m = next_block(block, m)) {
      const BlockImage image{in_shared ? memory : to + m * pixels, across.n};
      block.each([&](int thread) {
        for (int i = thread; i < pixels; i += kThreads) image.at(i / across.n, i % across.n) = from[m * pixels + i];
      });
      transform_image<kThreads>(block, states, image, memory, down, across, inverse);
      block.each([&](int thread) {
        for (int i = thread; i < pixels; i += kThreads) {
          const Pixels pixel = image.at(i / across.n, i % across.n);
          to[m * pixels + i] = {pixel.re * factor, pixel.im * factor};
        }
      });
    }
  }
};

// to[i] += from[i]
template <typename T>
struct AddImage {
  static constexpr int kThreads = 256;
  using Shared = Nothing;

  const T* from;
  int64_t size;
  T* to;

  template <typename Block>
  PTYCHO_HD void operator()(Block& block) const {
    for_each_item<AddImage>(block, size, [&](int64_t i) { to[i] += from[i]; });
  }
};

}  // namespace ptycho
