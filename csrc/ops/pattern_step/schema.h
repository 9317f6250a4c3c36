// SPDX-License-Identifier: BSD-3-Clause
// The schemas of pattern_step, and of the derivative of its first three outputs. canvas (..., H, W), positions (..., n,
// 2), probe (M, h, w) or (..., n, M, h, w), counts
// (..., n, h, w), mask (h, w) or as the counts, scale and weights (..., n), shifts (..., n, 2). values and scale_slopes
// (..., n) are float64. Corrections that are not asked for have no element.
#pragma once

namespace ptycho {

inline constexpr const char* pattern_step_schemas[] = {
    "pattern_step(Tensor canvas, Tensor positions, Tensor probe, Tensor counts, Tensor? mask=None, Tensor? scale=None,"
    " Tensor? weights=None, Tensor? shifts=None, str loss=\"poisson\", float background=0., bool to_canvas=True,"
    " bool to_probe=True, bool to_positions=True) -> (Tensor values, Tensor scale_slopes, Tensor canvas_correction,"
    " Tensor probe_correction, Tensor position_correction)",
    "pattern_step_backward(Tensor? grad_correction, Tensor? grad_values, Tensor? grad_scale_slopes, Tensor canvas,"
    " Tensor positions, Tensor probe, Tensor counts, Tensor? mask=None, Tensor? scale=None, Tensor? weights=None,"
    " str loss=\"poisson\", float background=0., bool to_canvas=True, bool to_probe=True) -> (Tensor, Tensor)",
};

}  // namespace ptycho
