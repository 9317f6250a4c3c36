// SPDX-License-Identifier: BSD-3-Clause
// What correct_fields and its backward demand of their inputs, on every backend.
#pragma once

#include "maths/likelihood.h"
#include "runtime/torch_compat.h"

namespace ptycho {

// What both of them take.
struct Comparison {
  const Tensor& fields;      // (..., M, h, w)
  const Tensor& counts;      // (..., h, w)
  const MaybeTensor& mask;   // (h, w) or (..., h, w), bool
  const MaybeTensor& scale;  // (...,), real
  std::string loss;          // "poisson" or "amplitude"
  double background;

  bool poisson() const { return loss[0] == 'p'; }
};

void check_correct_fields_inputs(const char* op, const Comparison& inputs);

// Gradients of the outputs, each of its output's shape and type.
void check_correct_fields_grads(const Comparison& inputs, const MaybeTensor& grad_correction,
                                const MaybeTensor& grad_values, const MaybeTensor& grad_scale_slopes);

// Of counts that have passed the checks.
CountType count_type(const Tensor& counts);

}  // namespace ptycho
