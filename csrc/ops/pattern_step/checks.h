// SPDX-License-Identifier: BSD-3-Clause
// What pattern_step demands of its inputs, on every backend.
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

void check_pattern_step_inputs(const StepInputs& inputs);

}  // namespace ptycho
