// SPDX-License-Identifier: BSD-3-Clause
// pattern_step on the CPU and its backward: a thread takes a pattern through the whole step while its waves are in the
// thread's cache.
#include "ops/pattern_step/cpu_backward.h"
#include "ops/pattern_step/cpu_pattern.h"
#include "ops/pattern_step/cpu_rounds.h"
#include "ops/pattern_step/dispatch.h"
#include "runtime/cpu/outputs.h"

namespace ptycho::cpu {
namespace {

template <typename T>
void zero(T* data, int64_t count) {
  parallel_for(count, int64_t{1} << 16, [&](int64_t begin, int64_t end) { std::fill(data + begin, data + end, T(0)); });
}

MaybeTensor contiguous(const MaybeTensor& tensor) {
  return tensor ? std::optional(as_contiguous(*tensor)) : std::nullopt;
}

// The inputs of a step, contiguous, alive while it is used.
class StepTensors {
 public:
  StepTensors(const char* op, const StepInputs& inputs)
      : canvas_(as_contiguous(inputs.canvas)),
        positions_(as_contiguous(inputs.positions)),
        probe_(as_contiguous(inputs.probe)),
        counts_(as_contiguous(inputs.measurement.counts)),
        mask_(contiguous(inputs.measurement.mask)),
        scale_(contiguous(inputs.measurement.scale)),
        weights_(contiguous(inputs.weights)),
        shifts_(contiguous(inputs.shifts)) {
    check_finite(op, "positions", positions_);
    if (shifts_) check_finite(op, "shifts", *shifts_);
    const Shape size = trailing(probe_);
    for (const int64_t side : {size[0], size[1]})
      if (!has_fourier_stages(side)) [[unlikely]]
        throw_rule(op, "probe's size", "have no prime factors other than 2, 3 and 5", std::to_string(side));
  }

  // Without outputs.
  template <typename T>
  Step<T> step(const Measurement& measured) const {
    Step<T> step{};
    step.canvases = image_stack<const T>(canvas_);
    step.scan = scan_of(positions_, trailing(probe_));
    step.probe = read<T>(probe_);
    step.shifts = shifts_ ? read<double>(*shifts_) : nullptr;
    step.shared_probe = probe_.dim() == 3;
    step.modes = modes_shape(probe_)[0];
    step.counts = {counts_.const_data_ptr(), count_type(counts_)};
    step.mask = mask_ ? read<bool>(*mask_) : nullptr;
    step.shared_mask = mask_ && mask_->dim() == 2;
    step.scales = scale_ ? read<T>(*scale_) : nullptr;
    step.weights = weights_ ? read<T>(*weights_) : nullptr;
    step.background = static_cast<T>(measured.background);
    step.poisson = measured.poisson();
    step.fourier = fourier_plan<T>(step.scan.h, step.scan.w);
    return step;
  }

 private:
  Tensor canvas_;
  Tensor positions_;
  Tensor probe_;
  Tensor counts_;
  MaybeTensor mask_;
  MaybeTensor scale_;
  MaybeTensor weights_;
  MaybeTensor shifts_;
};

// A canvas to sum on, of zeros; of nothing if none is wanted.
template <typename T>
ImageStack<T> zeros(const Tensor* canvas) {
  if (!canvas) return {nullptr, 0, 1, 1, 2};
  const ImageStack<T> stack = image_stack<T>(*canvas);
  zero(stack.data, canvas->numel() * 2);
  return stack;
}

void step_into(const Host&, const StepInputs& inputs, const StepOutputs& outputs) {
  const StepTensors tensors("pattern_step", inputs);
  with_real_type(inputs.canvas, [&](auto zero_of_type) {
    using T = decltype(zero_of_type);
    Step<T> step = tensors.template step<T>(inputs.measurement);
    const bool shared = step.shared_probe;
    step.values = write<double>(outputs.values);
    step.scale_slopes = write<double>(outputs.scale_slopes);
    step.to_canvas = outputs.canvas != nullptr;
    step.to_probe = outputs.probe != nullptr;
    step.own_probes = outputs.probe && !shared ? write<T>(*outputs.probe) : nullptr;
    step.by_positions = outputs.positions ? write<double>(*outputs.positions) : nullptr;
    const FourierPlan<T>* const fourier = step.fourier.get();
    Workspace<T> spectrum;
    if (step.shifts && shared) {
      step.spectrum = spectrum.zeros(step.modes * step.size());
      std::copy_n(step.probe, step.modes * step.size(), spectrum.data());
      const Workspace<T> panels(fourier->scratch_size());
      for (int64_t m = 0; m < step.modes; ++m)
        fourier_kernels<T>().transform(*fourier, spectrum.data() + m * step.size(), false, panels.data());
      divide_by_pixels(step, spectrum.data());
    }
    T* const probe_sums = outputs.probe && shared ? write<T>(*outputs.probe) : nullptr;
    take_all<PatternWorker<T>>(step, zeros<T>(outputs.canvas), probe_sums);
    if (!probe_sums || !step.shifts) return;
    const Workspace<T> panels(fourier->scratch_size());
    for (int64_t m = 0; m < step.modes; ++m)
      fourier_kernels<T>().transform(*fourier, probe_sums + m * step.size(), true, panels.data());
    divide_by_pixels(step, probe_sums);
  });
}

void pass_back_into(const Host&, const StepInputs& inputs, const StepGrads& grads, const Tensor* grad_canvas,
                    const Tensor* grad_probe) {
  const StepTensors tensors("pattern_step_backward", inputs);
  const MaybeTensor by_canvas = contiguous(grads.canvas), by_values = contiguous(grads.values),
                    by_scale_slopes = contiguous(grads.scale_slopes);
  with_real_type(inputs.canvas, [&](auto zero_of_type) {
    using T = decltype(zero_of_type);
    BackwardStep<T> step{tensors.template step<T>(inputs.measurement), {}, nullptr, nullptr};
    if (by_canvas) step.grads = image_stack<const T>(*by_canvas);
    step.grad_values = by_values ? read<double>(*by_values) : nullptr;
    step.grad_scale_slopes = by_scale_slopes ? read<double>(*by_scale_slopes) : nullptr;
    step.to_canvas = grad_canvas != nullptr;
    step.to_probe = grad_probe != nullptr;
    const bool shared = step.shared_probe;
    step.own_probes = grad_probe && !shared ? write<T>(*grad_probe) : nullptr;
    T* const probe_sums = grad_probe && shared ? write<T>(*grad_probe) : nullptr;
    take_all<BackwardWorker<T>>(step, zeros<T>(grad_canvas), probe_sums);
  });
}

}  // namespace
}  // namespace ptycho::cpu

STABLE_TORCH_LIBRARY_IMPL(ptycho, CPU, m) {
  namespace dispatch = ptycho::dispatch;
  m.impl("pattern_step", TORCH_BOX((&dispatch::pattern_step<ptycho::cpu::Host, ptycho::cpu::step_into>)));
  m.impl("pattern_step_backward",
         TORCH_BOX((&dispatch::pattern_step_backward<ptycho::cpu::Host, ptycho::cpu::pass_back_into>)));
}
