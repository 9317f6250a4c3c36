// SPDX-License-Identifier: BSD-3-Clause
// What extract_patches, its adjoint and its derivative demand of their inputs, on every backend.
#pragma once

#include "runtime/torch_compat.h"

namespace ptycho {

// canvas (..., H, W), positions (..., n, 2), size (h, w)
void check_extract_patches_inputs(const Tensor& canvas, const Tensor& positions, Shape patch_size);

// patches (..., n, h, w), positions (..., n, 2), size (H, W)
void check_extract_patches_adjoint_inputs(const Tensor& patches, const Tensor& positions, Shape canvas_size);

// grad_patches (..., n, h, w), canvas (..., H, W), positions (..., n, 2)
void check_extract_patches_grad_positions_inputs(const Tensor& grad_patches, const Tensor& canvas,
                                                 const Tensor& positions);

}  // namespace ptycho
