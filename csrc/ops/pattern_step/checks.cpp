// SPDX-License-Identifier: BSD-3-Clause
// The rules of pattern_step's inputs, in the order in which they are applied.
#include "ops/pattern_step/checks.h"

#include "ops/exit_waves/checks.h"
#include "runtime/checks.h"

namespace ptycho {

void check_pattern_step_inputs(const StepInputs& inputs) {
  const char* const op = "pattern_step";
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

}  // namespace ptycho
