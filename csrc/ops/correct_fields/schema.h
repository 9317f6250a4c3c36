// SPDX-License-Identifier: BSD-3-Clause
// The schemas of correct_fields and of its backward. fields (..., M, h, w), counts (..., h, w), mask (h, w) or
// (..., h, w), scale (...,); values and scale_slopes (...,) are float64. Without `correct` the correction has no mode.
#pragma once

namespace ptycho {

inline constexpr const char* correct_fields_schemas[] = {
    "correct_fields(Tensor fields, Tensor counts, Tensor? mask=None, Tensor? scale=None, str loss=\"poisson\","
    " float background=0., bool correct=True) -> (Tensor, Tensor, Tensor)",
    "correct_fields_out(Tensor fields, Tensor counts, Tensor? mask, Tensor? scale, str loss, float background,"
    " Tensor(a!) out) -> (Tensor, Tensor)",
    "correct_fields_backward(Tensor? grad_correction, Tensor? grad_values, Tensor? grad_scale_slopes, Tensor fields,"
    " Tensor counts, Tensor? mask=None, Tensor? scale=None, str loss=\"poisson\", float background=0.)"
    " -> (Tensor, Tensor)",
};

}  // namespace ptycho
