// SPDX-License-Identifier: BSD-3-Clause
// The rules of pattern_step's inputs, in the order in which they are applied.
#include "ops/pattern_step/checks.h"

#include "ops/exit_waves/checks.h"
#include "runtime/checks.h"

namespace ptycho {

void check_pattern_step_inputs(const char* op, const StepInputs& inputs) {
  const Check check(op);
  const Tensor &canvas = inputs.canvas, &positions = inputs.positions, &probe = inputs.probe;
  check.data("canvas", canvas);
  if (!is_complex(data_type(canvas))) [[unlikely]]
    check.wrong_type("canvas", canvas, "be complex64 or complex128");
  check.dims("canvas", canvas, 2, "(..., H, W)");
  check.positions_of_canvas(positions, canvas);
  const Shape patterns = leading(positions, 1);
  check.type("probe", probe, data_type(canvas));
  check.dims("probe", probe, 3, "(..., M, h, w)");
  if (probe.dim() > 3) check.shape("probe", probe, patterns, modes_shape(probe));
  check.device("probe", probe, canvas);
  check.size("probe's size", trailing(probe));
  check.holds_patch("canvas", trailing(canvas), trailing(probe));
  check_measurement(op, canvas, patterns, trailing(probe), inputs.measurement);
  if (inputs.weights) {
    check.type("weights", *inputs.weights, real_type(data_type(canvas)));
    check.shape("weights", *inputs.weights, patterns);
    check.device("weights", *inputs.weights, canvas);
  }
  if (inputs.shifts) {
    check.type("shifts", *inputs.shifts, DataType::float64);
    check.shape("shifts", *inputs.shifts, positions.sizes());
    check.device("shifts", *inputs.shifts, canvas);
  }
}

void check_pattern_step_grads(const StepInputs& inputs, const StepGrads& grads) {
  const Check check("pattern_step_backward");
  const auto alike = [&](const char* argument, const MaybeTensor& tensor, DataType type, Shape shape) {
    if (!tensor) return;
    check.type(argument, *tensor, type);
    check.shape(argument, *tensor, shape);
    check.device(argument, *tensor, inputs.canvas);
  };
  alike("grad_correction", grads.canvas, data_type(inputs.canvas), inputs.canvas.sizes());
  alike("grad_values", grads.values, DataType::float64, leading(inputs.positions, 1));
  alike("grad_scale_slopes", grads.scale_slopes, DataType::float64, leading(inputs.positions, 1));
}

}  // namespace ptycho
