// SPDX-License-Identifier: BSD-3-Clause
// What correct_fields and its backward demand of their inputs, on every backend.
#pragma once

#include "maths/likelihood.h"
#include "runtime/torch_compat.h"

namespace ptycho {

// What was measured, and how it is compared.
struct Measurement {
  const Tensor& counts;      // (..., h, w)
  const MaybeTensor& mask;   // (h, w) or (..., h, w), bool
  const MaybeTensor& scale;  // (...,), real
  std::string loss;          // "poisson" or "amplitude"
  double background;

  bool poisson() const { return loss[0] == 'p'; }
};

// What both of them take.
struct Comparison : Measurement {
  const Tensor& fields;  // (..., M, h, w)

  Comparison(const Tensor& fields, const Tensor& counts, const MaybeTensor& mask, const MaybeTensor& scale,
             std::string loss, double background)
      : Measurement{counts, mask, scale, std::move(loss), background}, fields(fields) {}
};

// data: of the comparison; patterns and size: those of the counts
void check_measurement(const char* op, const Tensor& data, Shape patterns, Shape size, const Measurement& inputs);

void check_correct_fields_inputs(const char* op, const Comparison& inputs);

// Gradients of the outputs, each of its output's shape and type.
void check_correct_fields_grads(const Comparison& inputs, const MaybeTensor& grad_correction,
                                const MaybeTensor& grad_values, const MaybeTensor& grad_scale_slopes);

// Of counts that have passed the checks.
CountType count_type(const Tensor& counts);

}  // namespace ptycho
