// SPDX-License-Identifier: BSD-3-Clause
// What update_canvas and its backward demand of their inputs, on every backend.
#pragma once

#include "runtime/torch_compat.h"

namespace ptycho {

// What both of them take.
struct UpdateInputs {
  const Tensor& canvas;                // (..., H, W), complex
  const Tensor& numerator;             // as the canvas
  const Tensor& inverse_illumination;  // (..., H, W), real
  const Tensor& floor;                 // (...,), real
  const Tensor& factors;               // (2,), real
  const MaybeTensor& velocity;         // as the canvas
  const MaybeTensor& momentum;         // (), real
};

// Gradients of the outputs, or nothing.
struct UpdateGrads {
  const MaybeTensor& canvas;
  const MaybeTensor& velocity;
  const MaybeTensor& direction;
};

void check_update_canvas_inputs(const char* op, const UpdateInputs& inputs);

// Each as the canvas.
void check_update_canvas_grads(const UpdateInputs& inputs, const UpdateGrads& grads);

}  // namespace ptycho
