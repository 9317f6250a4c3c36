// SPDX-License-Identifier: BSD-3-Clause
// One pattern's way through the step, on the CPU: its patch, waves and spectra stay in the thread's cache.
#pragma once

#include "maths/phase_ramps.h"
#include "maths/simd/fields.h"
#include "maths/simd/kernels.h"
#include "runtime/cpu/fourier.h"
#include "runtime/cpu/row_blocks.h"

namespace ptycho::cpu {

// Everything contiguous; complex numbers are two scalars.
template <typename T>
struct Step {
  ImageStack<const T> canvases;
  Scan scan;
  const T* probe;        // (M, h, w) if shared, or (patterns, M, h, w)
  const double* shifts;  // (patterns, 2), or null
  const T* spectrum;     // of the shared probe, divided by the number of pixels, where there are shifts
  bool shared_probe;
  int64_t modes;
  Counts counts;
  const bool* mask;
  bool shared_mask;
  const T* scales;
  const T* weights;
  T background;
  bool poisson;
  std::shared_ptr<const FourierPlan<T>> fourier;
  double* values;
  double* scale_slopes;
  bool to_canvas;
  bool to_probe;
  T* own_probes;         // corrections (patterns, M, h, w) unless the probe is shared
  double* by_positions;  // or null

  int64_t pixels() const { return scan.h * scan.w; }
  int64_t size() const { return 2 * pixels(); }  // scalars of a mode
  int64_t parts() const { return pixels() > kPartPixels ? (pixels() + kPartPixels - 1) / kPartPixels : 1; }
  const T* probe_of(int64_t k) const { return probe + (shared_probe ? 0 : k) * modes * size(); }
  // The part of pattern k that begins at a pixel, with its far fields, which are not normalised.
  PatternPart<T> part_of(int64_t k, int64_t first, const T* fields) const {
    const bool* const good = mask ? mask + (shared_mask ? 0 : k * pixels()) + first : nullptr;
    const T scale = (scales ? scales[k] : T(1)) / static_cast<T>(pixels());
    return {fields, size(),     modes,  2, counts, k * pixels() + first, good, std::min(pixels() - first, kPartPixels),
            scale,  background, poisson};
  }
};

template <typename T>
void divide_by_pixels(const Step<T>& step, T* images) {
  const T factor = T(1) / static_cast<T>(step.pixels());
  for (int64_t i = 0; i < step.modes * step.size(); ++i) images[i] *= factor;
}

// The ramp of n samples; those of opposite frequencies are conjugate.
template <typename T>
void make_ramp(double shift, int64_t n, T* ramp) {
  for (int64_t i = 0; i < n; ++i) {
    if (2 * i > n) {
      const int64_t mirrored = n - i;
      ramp[2 * i] = ramp[2 * mirrored], ramp[2 * i + 1] = -ramp[2 * mirrored + 1];
    } else {
      const Complex<T> value = ramp_at<T>(shift, i, n);
      ramp[2 * i] = value.re, ramp[2 * i + 1] = value.im;
    }
  }
}

// What a thread needs for any pattern of a step.
template <typename T>
class PatternWorker {
 public:
  using Problem = Step<T>;

  explicit PatternWorker(const Step<T>& step)
      : step_(step),
        memory_((step.modes * (step.shifts ? 3 : 1) + (step.shifts ? 3 : 2)) * step.size()),
        lines_(4 * step.scan.w + 2 * step.scan.h),
        scratch_(scratch_size<T>(step.scan.w, 2)),
        panels_(step.fourier->scratch_size()),
        sums_(2 * step.parts()) {
    const int64_t size = step.size();
    patch_ = memory_.data();
    product_ = patch_ + size;
    waves_ = product_ + size;
    if (!step.shifts) return;
    spectra_ = waves_ + step.modes * size;
    probes_ = spectra_ + step.modes * size;
    ramp_ = probes_ + step.modes * size;
  }
  PatternWorker(const PatternWorker&) = delete;

  // Of pattern k: the values, the position's correction, that of its own probe, or the sums of the shared one's
  // (M, h, w), which are added to; of the spectrum where there are shifts. Returns the correction of its patch, (h, w),
  // which is made if the canvas is corrected.
  const T* take(int64_t k, T* probe_sums) {
    const Step<T>& s = step_;
    const int64_t size = s.size();
    const T* const probes = s.shifts ? shifted_probe(k) : s.probe_of(k);
    for_each_block(k, [&](const PatchView<T>& view, int64_t first, int64_t count) {
      kernels<T>().interpolate(view, patch_ + first, 2 * s.scan.w, Write::store, scratch_.data());
      for (int64_t m = 0; m < s.modes; ++m) {
        const int64_t at = m * size + first;
        kernels<T>().multiply(patch_ + first, probes + at, false, 2, waves_ + at, count, Write::store);
      }
    });
    for (int64_t m = 0; m < s.modes; ++m) forward(waves_ + m * size);
    compare(k);
    if (!s.to_canvas && !s.to_probe && !s.by_positions) return nullptr;
    if (s.weights)
      for (int64_t i = 0; i < s.modes * size; ++i) waves_[i] *= s.weights[k];
    for (int64_t m = 0; m < s.modes; ++m) backward(waves_ + m * size);
    double by_position[2] = {0, 0};
    const bool by_interpolation = s.by_positions && !s.shifts;
    for_each_block(k, [&](const PatchView<T>& view, int64_t first, int64_t count) {
      if (s.to_canvas || by_interpolation)
        kernels<T>().sum_modes(waves_ + first, probes + first, s.modes, size, 2, product_ + first, count, nullptr);
      if (by_interpolation)
        kernels<T>().position_gradient(view, product_ + first, nullptr, by_position, scratch_.data());
      if (s.to_probe && !s.shifts) correct_probe(k, first, count, probe_sums);
    });
    if (by_interpolation) std::copy_n(by_position, 2, s.by_positions + 2 * k);
    if (s.shifts && (s.to_probe || s.by_positions)) pass_back_shift(k, probe_sums);
    return product_;
  }

 private:
  // Calls use(view of the canvas, first scalar, scalars) for rows of pattern k that the L1 cache holds, one block after
  // the other.
  template <typename Use>
  void for_each_block(int64_t k, const Use& use) const {
    constexpr int64_t bytes = 8192;
    const Scan& scan = step_.scan;
    const int64_t row = 2 * scan.w, at_once = clamp(bytes / static_cast<int64_t>(sizeof(T)) / row, 1, scan.h);
    const Image<const T> canvas = step_.canvases[scan.group_of(k)];
    for (int64_t first = 0; first < scan.h; first += at_once) {
      const int64_t rows = std::min(at_once, scan.h - first);
      use(view_of(canvas, scan.positions + 2 * k, first, rows, scan.w), first * row, rows * row);
    }
  }

  void forward(T* image) { fourier_kernels<T>().transform(*step_.fourier, image, false, panels_.data()); }
  void backward(T* image) { fourier_kernels<T>().transform(*step_.fourier, image, true, panels_.data()); }

  // Replaces the far fields in waves_, which are not normalised, by their corrections.
  void compare(int64_t k) {
    const Step<T>& s = step_;
    for (int64_t part = 0; part < s.parts(); ++part) {
      T* const at = waves_ + 2 * part * kPartPixels;
      field_kernels<T>().correct(s.part_of(k, part * kPartPixels, at), at, sums_.data() + 2 * part);
    }
    double value = sums_[0], by_scale = sums_[1];
    for (int64_t part = 1; part < s.parts(); ++part) {
      value += sums_[2 * part];
      by_scale += sums_[2 * part + 1];
    }
    s.values[k] = value;
    s.scale_slopes[k] = by_scale;
  }

  // `count` scalars from `first` on, of every mode.
  void correct_probe(int64_t k, int64_t first, int64_t count, T* probe_sums) {
    const Step<T>& s = step_;
    for (int64_t m = 0; m < s.modes; ++m) {
      const int64_t at = m * s.size() + first;
      if (s.shared_probe) {
        kernels<T>().add_products(waves_ + at, patch_ + first, 2, probe_sums + at, count, nullptr);
      } else {
        T* const own = s.own_probes + k * s.modes * s.size() + at;
        kernels<T>().multiply(waves_ + at, patch_ + first, true, 2, own, count, Write::store);
      }
    }
  }

  // The probe at the pattern's shift; its spectra, and the phase ramp, are kept.
  const T* shifted_probe(int64_t k) {
    const Step<T>& s = step_;
    const int64_t size = s.size(), w = s.scan.w;
    T *const across = lines_.data(), *const constant = across + 2 * w, *const down = constant + 2 * w;
    make_ramp(s.shifts[2 * k], s.scan.h, down);
    make_ramp(s.shifts[2 * k + 1], w, across);
    for (int64_t y = 0; y < s.scan.h; ++y) {
      for (int64_t x = 0; x < w; ++x) std::copy_n(down + 2 * y, 2, constant + 2 * x);
      kernels<T>().multiply(across, constant, false, 2, ramp_ + 2 * y * w, 2 * w, Write::store);
    }
    const T* spectrum = s.spectrum;
    if (!s.shared_probe) {
      std::copy_n(s.probe_of(k), s.modes * size, spectra_);
      for (int64_t m = 0; m < s.modes; ++m) forward(spectra_ + m * size);
      divide_by_pixels(s, spectra_);
      spectrum = spectra_;
    }
    for (int64_t m = 0; m < s.modes; ++m)
      kernels<T>().multiply(spectrum + m * size, ramp_, false, 2, spectra_ + m * size, size, Write::store);
    std::copy_n(spectra_, s.modes * size, probes_);
    for (int64_t m = 0; m < s.modes; ++m) backward(probes_ + m * size);
    return probes_;
  }

  // From the corrections of the waves to those of the shift and of the probe.
  void pass_back_shift(int64_t k, T* probe_sums) {
    const Step<T>& s = step_;
    const int64_t size = s.size();
    for (int64_t m = 0; m < s.modes; ++m) {
      T* const wave = waves_ + m * size;
      kernels<T>().multiply(wave, patch_, true, 2, wave, size, Write::store);
      forward(wave);
    }
    if (s.by_positions) {  // Re sum conj(wave) d spectra / d shift, and the derivative of a ramp is -i k times the ramp
      kernels<T>().sum_modes(spectra_, waves_, s.modes, size, 2, patch_, size, nullptr);
      sum_frequencies(patch_, s.by_positions + 2 * k);
    }
    if (!s.to_probe) return;
    for (int64_t m = 0; m < s.modes; ++m) {
      if (s.shared_probe) {
        kernels<T>().add_products(waves_ + m * size, ramp_, 2, probe_sums + m * size, size, nullptr);
      } else {
        T* const own = s.own_probes + (k * s.modes + m) * size;
        kernels<T>().multiply(waves_ + m * size, ramp_, true, 2, own, size, Write::store);
        backward(own);
      }
    }
    if (!s.shared_probe) divide_by_pixels(s, s.own_probes + k * s.modes * size);
  }

  // totals: the imaginary parts of products (h, w), times the angular frequencies of their rows and of their columns.
  void sum_frequencies(const T* products, double* totals) const {
    constexpr int64_t lanes = 16;
    const int64_t h = step_.scan.h, length = 2 * step_.scan.w;
    T* const columns = lines_.data();
    std::fill_n(columns, length, T(0));
    double by_rows = 0, by_columns = 0;
    for (int64_t y = 0; y < h; ++y) {
      const T* const row = products + y * length;
      T sums[lanes] = {};
      int64_t i = 0;
      for (; i + lanes <= length; i += lanes)
        for (int64_t j = 0; j < lanes; ++j) sums[j] += row[i + j];
      for (; i < length; ++i) sums[i % lanes] += row[i];
      for (i = 0; i < length; ++i) columns[i] += row[i];
      double sum = 0;
      for (int64_t j = 1; j < lanes; j += 2) sum += static_cast<double>(sums[j]);
      by_rows += angular_frequency(y, h) * sum;
    }
    for (int64_t x = 0; 2 * x < length; ++x)
      by_columns += angular_frequency(x, length / 2) * static_cast<double>(columns[2 * x + 1]);
    totals[0] = by_rows;
    totals[1] = by_columns;
  }

  const Step<T>& step_;
  Workspace<T> memory_;
  Workspace<T> lines_;
  Workspace<T> scratch_;
  Workspace<T> panels_;
  std::vector<double> sums_;
  T* patch_;
  T* product_;
  T* waves_;
  T* spectra_ = nullptr;
  T* probes_ = nullptr;
  T* ramp_ = nullptr;
};

}  // namespace ptycho::cpu
