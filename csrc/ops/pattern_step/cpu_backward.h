// SPDX-License-Identifier: BSD-3-Clause
// The derivative of one pattern's step, on the CPU: of its value, and of the correction that it adds to the canvas. The
// fields are made again, so that the step keeps nothing; beside the waves of the patch go those of the same patch of
// the canvas's gradient.
#pragma once

#include "ops/pattern_step/cpu_pattern.h"

namespace ptycho::cpu {

// Without shifts; gradients by the canvas and by the probe, in place of their corrections.
template <typename T>
struct BackwardStep : Step<T> {
  ImageStack<const T> grads;        // of the canvas's correction; its data are null if there are none
  const double* grad_values;        // gradients of the values, or null
  const double* grad_scale_slopes;  // gradients of their derivatives by the scale, or null
};

template <typename T>
class BackwardWorker {
 public:
  using Problem = BackwardStep<T>;

  explicit BackwardWorker(const Problem& step)
      : step_(step),
        memory_((2 * step.modes + 3) * step.size()),
        scratch_(scratch_size<T>(step.scan.w, 2)),
        panels_(step.fourier->scratch_size()) {
    const int64_t size = step.size();
    patch_ = memory_.data();
    grad_patch_ = patch_ + size;
    product_ = grad_patch_ + size;
    waves_ = product_ + size;
    grads_ = waves_ + step.modes * size;
  }
  BackwardWorker(const BackwardWorker&) = delete;

  // See PatternWorker. The gradient of the fields, D, comes from that of their correction, G = F(P A g); the canvas's
  // is A^T conj(P) F* D, and the probe's conj(A o) F* D + conj(A g) F* C with the correction C.
  const T* take(int64_t k, T* probe_sums) {
    const Problem& s = step_;
    const int64_t size = s.size();
    const bool has_grads = s.grads.data, corrects = has_grads && s.to_probe;
    const T* const probes = s.probe_of(k);
    const int64_t group = s.scan.group_of(k);
    illuminate(s.canvases[group], k, probes, patch_, waves_);
    if (has_grads) illuminate(s.grads[group], k, probes, grad_patch_, grads_);
    const T weight = s.weights ? s.weights[k] : T(1);
    if (has_grads && s.weights) multiply_all(grads_, weight);
    compare(k, has_grads, corrects);
    if (corrects && s.weights) multiply_all(waves_, weight);
    for (int64_t m = 0; m < s.modes; ++m) {
      backward(grads_ + m * size);
      if (corrects) backward(waves_ + m * size);
    }
    if (s.to_canvas) kernels<T>().sum_modes(grads_, probes, s.modes, size, 2, product_, size, nullptr);
    if (s.to_probe) pass_to_probe(k, corrects, probe_sums);
    return product_;
  }

 private:
  void backward(T* image) { fourier_kernels<T>().transform(*step_.fourier, image, true, panels_.data()); }

  void illuminate(const Image<const T>& canvas, int64_t k, const T* probes, T* patch, T* waves) {
    const Scan& scan = step_.scan;
    const int64_t size = step_.size();
    kernels<T>().interpolate(view_of(canvas, scan.positions + 2 * k, 0, scan.h, scan.w), patch, 2 * scan.w,
                             Write::store, scratch_.data());
    for (int64_t m = 0; m < step_.modes; ++m) {
      kernels<T>().multiply(patch, probes + m * size, false, 2, waves + m * size, size, Write::store);
      fourier_kernels<T>().transform(*step_.fourier, waves + m * size, false, panels_.data());
    }
  }

  void multiply_all(T* images, T factor) {
    for (int64_t i = 0; i < step_.modes * step_.size(); ++i) images[i] *= factor;
  }

  // Replaces the gradients of the corrections by those of the fields, and the fields, if they are needed, by their
  // corrections.
  void compare(int64_t k, bool has_grads, bool corrects) {
    const Problem& s = step_;
    const T grad_value = s.grad_values ? static_cast<T>(s.grad_values[k]) : T(0);
    const T grad_by_scale = s.grad_scale_slopes ? static_cast<T>(s.grad_scale_slopes[k]) : T(0);
    for (int64_t first = 0; first < s.pixels(); first += kPartPixels) {
      T *const fields = waves_ + 2 * first, *const grads = grads_ + 2 * first;
      const PatternPart<T> part = s.part_of(k, first, fields);
      double sums[2];
      field_kernels<T>().pass_back(part, has_grads ? grads : nullptr, grad_value, grad_by_scale, grads, sums);
      if (corrects) field_kernels<T>().correct(part, fields, sums);
    }
  }

  void pass_to_probe(int64_t k, bool corrects, T* probe_sums) {
    const Problem& s = step_;
    const int64_t size = s.size();
    for (int64_t m = 0; m < s.modes; ++m) {
      T* const to = s.shared_probe ? probe_sums + m * size : s.own_probes + (k * s.modes + m) * size;
      if (!s.shared_probe) std::fill_n(to, size, T(0));
      kernels<T>().add_products(grads_ + m * size, patch_, 2, to, size, nullptr);
      if (corrects) kernels<T>().add_products(waves_ + m * size, grad_patch_, 2, to, size, nullptr);
    }
  }

  const Problem& step_;
  Workspace<T> memory_;
  Workspace<T> scratch_;
  Workspace<T> panels_;
  T* patch_;
  T* grad_patch_;
  T* product_;
  T* waves_;
  T* grads_;
};

}  // namespace ptycho::cpu
