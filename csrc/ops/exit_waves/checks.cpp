// SPDX-License-Identifier: BSD-3-Clause
// The rules of exit_waves' inputs, in the order in which they are applied.
#include "ops/exit_waves/checks.h"

#include "runtime/checks.h"

namespace ptycho {
namespace {

void check_waves(const Check& check, const Tensor& waves) {
  check.data("waves", waves);
  check.dims("waves", waves, 3, "(..., n, M, h, w)");
}

// Waves of three dimensions are the same for all patches, as many as there are positions.
void check_positions_of_waves(const Check& check, const Tensor& positions, const Tensor& waves) {
  check.type("positions", positions, DataType::float64);
  check.dims("positions", positions, 2, "(..., n, 2)");
  check.shape("positions", positions, waves.dim() == 3 ? leading(positions, 1) : leading(waves, 3), {2});
  check.device("positions", positions, waves);
}

void check_probe_of_waves(const Check& check, const Tensor& probe, const Tensor& positions, const Tensor& waves) {
  check.type("probe", probe, data_type(waves));
  check.shape("probe", probe, probe.dim() == 3 ? Shape() : leading(positions, 1), modes_shape(waves));
  check.device("probe", probe, waves);
}

}  // namespace

void check_exit_waves_inputs(const Tensor& canvas, const Tensor& positions, const Tensor& probe) {
  const Check check("exit_waves");
  check.data("canvas", canvas);
  check.dims("canvas", canvas, 2, "(..., H, W)");
  check.positions_of_canvas(positions, canvas);
  check.type("probe", probe, data_type(canvas));
  check.dims("probe", probe, 3, "(..., M, h, w)");
  if (probe.dim() > 3) check.shape("probe", probe, leading(positions, 1), modes_shape(probe));
  check.device("probe", probe, canvas);
  check.size("probe's size", trailing(probe));
  check.holds_patch("canvas", trailing(canvas), trailing(probe));
}

void check_exit_waves_adjoint_inputs(const Tensor& waves, const Tensor& positions, const Tensor& probe,
                                     Shape canvas_size) {
  const Check check("exit_waves_adjoint");
  check_waves(check, waves);
  check_positions_of_waves(check, positions, waves);
  check_probe_of_waves(check, probe, positions, waves);
  check.size("canvas_size", canvas_size);
  check.holds_patch("canvas_size", canvas_size, trailing(waves));
}

void check_exit_waves_adjoint_probe_inputs(const Tensor& waves, const Tensor& canvas, const Tensor& positions) {
  const Check check("exit_waves_adjoint_probe");
  check_waves(check, waves);
  check_positions_of_waves(check, positions, waves);
  check.type("canvas", canvas, data_type(waves));
  check.dims("canvas", canvas, 2, "(..., H, W)");
  check.shape("canvas", canvas, leading(positions, 2), trailing(canvas));
  check.device("canvas", canvas, waves);
  check.holds_patch("canvas", trailing(canvas), trailing(waves));
}

void check_exit_waves_grad_positions_inputs(const Tensor& grad_waves, const Tensor& canvas, const Tensor& positions,
                                            const Tensor& probe) {
  const Check check("exit_waves_grad_positions");
  check.data("canvas", canvas);
  check.dims("canvas", canvas, 2, "(..., H, W)");
  check.positions_of_canvas(positions, canvas);
  check.type("grad_waves", grad_waves, data_type(canvas));
  check.dims("grad_waves", grad_waves, 3, "(..., n, M, h, w)");
  check.shape("grad_waves", grad_waves, grad_waves.dim() == 3 ? Shape() : leading(positions, 1),
              modes_shape(grad_waves));
  check.device("grad_waves", grad_waves, canvas);
  check_probe_of_waves(check, probe, positions, grad_waves);
  check.holds_patch("canvas", trailing(canvas), trailing(grad_waves));
}

}  // namespace ptycho
