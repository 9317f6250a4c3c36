// SPDX-License-Identifier: BSD-3-Clause
// What torch's dispatcher calls for pattern_step, written once for all backends; see ops/exit_waves/dispatch.h.
#pragma once

#include "ops/exit_waves/checks.h"
#include "ops/pattern_step/checks.h"
#include "runtime/checks.h"

namespace ptycho {

// Tensors that a step writes; null for what is not asked for.
struct StepOutputs {
  const Tensor& values;        // (..., n), float64
  const Tensor& scale_slopes;  // (..., n), float64
  const Tensor* canvas;        // as the canvas
  const Tensor* probe;         // as the probe
  const Tensor* positions;     // as the positions
};

namespace dispatch {

// into(context, inputs, outputs)
template <typename Context, auto into>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> pattern_step(const Tensor& canvas, const Tensor& positions,
                                                                const Tensor& probe, const Tensor& counts,
                                                                const MaybeTensor& mask, const MaybeTensor& scale,
                                                                const MaybeTensor& weights, const MaybeTensor& shifts,
                                                                StringHandle loss, double background, bool to_canvas,
                                                                bool to_probe, bool to_positions) {
  const StepInputs inputs{canvas,  positions, probe, {counts, mask, scale, take_string(loss), background},
                          weights, shifts};
  check_pattern_step_inputs("pattern_step", inputs);
  const Context context(canvas);
  const int64_t none[] = {0};
  const auto like = [&](const Tensor& model, bool wanted) {
    return context.output(model, wanted ? model.sizes() : Shape(none, 1), Shape());
  };
  const auto per_pattern = [&] {
    return new_tensor(canvas, leading(positions, 1), Shape(), aoti_torch_dtype_float64());
  };
  Tensor values = per_pattern(), scale_slopes = per_pattern();
  Tensor by_canvas = like(canvas, to_canvas), by_probe = like(probe, to_probe);
  Tensor by_positions = like(positions, to_positions);
  into(context, inputs,
       StepOutputs{values, scale_slopes, to_canvas ? &by_canvas : nullptr, to_probe ? &by_probe : nullptr,
                   to_positions ? &by_positions : nullptr});
  return {std::move(values), std::move(scale_slopes), std::move(by_canvas), std::move(by_probe),
          std::move(by_positions)};
}

// into(context, inputs, grads, grad_canvas, grad_probe)
template <typename Context, auto into>
std::tuple<Tensor, Tensor> pattern_step_backward(const MaybeTensor& grad_correction, const MaybeTensor& grad_values,
                                                 const MaybeTensor& grad_scale_slopes, const Tensor& canvas,
                                                 const Tensor& positions, const Tensor& probe, const Tensor& counts,
                                                 const MaybeTensor& mask, const MaybeTensor& scale,
                                                 const MaybeTensor& weights, StringHandle loss, double background,
                                                 bool to_canvas, bool to_probe) {
  const MaybeTensor none;
  const StepInputs inputs{canvas,  positions, probe, {counts, mask, scale, take_string(loss), background},
                          weights, none};
  check_pattern_step_inputs("pattern_step_backward", inputs);
  const StepGrads grads{grad_correction, grad_values, grad_scale_slopes};
  check_pattern_step_grads(inputs, grads);
  const Context context(canvas);
  const int64_t nothing[] = {0};
  Tensor grad_canvas = context.output(canvas, to_canvas ? canvas.sizes() : Shape(nothing, 1), Shape());
  Tensor grad_probe = context.output(probe, to_probe ? probe.sizes() : Shape(nothing, 1), Shape());
  into(context, inputs, grads, to_canvas ? &grad_canvas : nullptr, to_probe ? &grad_probe : nullptr);
  return {std::move(grad_canvas), std::move(grad_probe)};
}

}  // namespace dispatch
}  // namespace ptycho
