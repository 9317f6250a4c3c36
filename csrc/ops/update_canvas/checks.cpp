// SPDX-License-Identifier: BSD-3-Clause
// The rules of the inputs of update_canvas and its backward, in the order in which they are applied.
#include "ops/update_canvas/checks.h"

#include "runtime/checks.h"

namespace ptycho {
namespace {

void check_like(const Check& check, const char* argument, const Tensor& tensor, const Tensor& canvas) {
  check.type(argument, tensor, data_type(canvas));
  check.shape(argument, tensor, canvas.sizes());
  check.device(argument, tensor, canvas);
}

void check_real(const Check& check, const char* argument, const Tensor& tensor, const Tensor& canvas, Shape shape) {
  check.type(argument, tensor, real_type(data_type(canvas)));
  check.shape(argument, tensor, shape);
  check.device(argument, tensor, canvas);
}

}  // namespace

void check_update_canvas_inputs(const char* op, const UpdateInputs& inputs) {
  const Check check(op);
  const Tensor& canvas = inputs.canvas;
  if (!is_complex(data_type(canvas))) [[unlikely]]
    check.wrong_type("canvas", canvas, "be complex64 or complex128");
  check.dims("canvas", canvas, 2, "(..., H, W)");
  check_like(check, "numerator", inputs.numerator, canvas);
  check_real(check, "inverse_illumination", inputs.inverse_illumination, canvas, canvas.sizes());
  check_real(check, "floor", inputs.floor, canvas, leading(canvas, 2));
  const int64_t two[] = {2};
  check_real(check, "factors", inputs.factors, canvas, Shape(two, 1));
  if (inputs.velocity) check_like(check, "velocity", *inputs.velocity, canvas);
  if (inputs.momentum) check_real(check, "momentum", *inputs.momentum, canvas, Shape());
  if (inputs.velocity.has_value() != inputs.momentum.has_value()) [[unlikely]]
    throw_rule(op, "momentum", "be given with a velocity, and only then", inputs.momentum ? "a tensor" : "None");
}

void check_update_canvas_grads(const UpdateInputs& inputs, const UpdateGrads& grads) {
  const Check check("update_canvas_backward");
  if (grads.canvas) check_like(check, "grad_canvas", *grads.canvas, inputs.canvas);
  if (grads.velocity) check_like(check, "grad_velocity", *grads.velocity, inputs.canvas);
  if (grads.direction) check_like(check, "grad_direction", *grads.direction, inputs.canvas);
}

}  // namespace ptycho
