// SPDX-License-Identifier: BSD-3-Clause
// What pattern_step and its backward demand of their inputs, on every backend.
#pragma once

#include "ops/correct_fields/checks.h"

namespace ptycho {

// Inputs of a step.
struct StepInputs {
  const Tensor& canvas;        // (..., H, W), complex
  const Tensor& positions;     // (..., n, 2)
  const Tensor& probe;         // (M, h, w) or (..., n, M, h, w)
  Measurement measurement;     // counts (..., n, h, w), scale (..., n)
  const MaybeTensor& weights;  // (..., n)
  const MaybeTensor& shifts;   // (..., n, 2)
};

// Gradients of its outputs, each of its output's shape and type.
struct StepGrads {
  const MaybeTensor& canvas;        // of the canvas's correction
  const MaybeTensor& values;        // (..., n), float64
  const MaybeTensor& scale_slopes;  // (..., n), float64
};

void check_pattern_step_inputs(const char* op, const StepInputs& inputs);
void check_pattern_step_grads(const StepInputs& inputs, const StepGrads& grads);

}  // namespace ptycho
