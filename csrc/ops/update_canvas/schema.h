// SPDX-License-Identifier: BSD-3-Clause
// The schemas of update_canvas and of its backward. canvas, numerator, velocity (..., H, W) complex,
// inverse_illumination (..., H, W), floor (...,), factors (2,), momentum (). Without `keep_direction` the direction is
// empty; so are the gradients of a velocity and a momentum that are not given.
#pragma once

namespace ptycho {

inline constexpr const char* update_canvas_schemas[] = {
    "update_canvas(Tensor canvas, Tensor numerator, Tensor inverse_illumination, Tensor floor, Tensor factors,"
    " Tensor? velocity=None, Tensor? momentum=None, bool keep_direction=True) -> (Tensor, Tensor, Tensor)",
    "update_canvas_backward(Tensor? grad_canvas, Tensor? grad_velocity, Tensor? grad_direction, Tensor canvas,"
    " Tensor numerator, Tensor inverse_illumination, Tensor floor, Tensor factors, Tensor? velocity=None,"
    " Tensor? momentum=None) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
};

}  // namespace ptycho
