// SPDX-License-Identifier: BSD-3-Clause
// What reassemble_patches and its adjoint demand of their inputs, on every backend.
#pragma once

#include "runtime/torch_compat.h"

namespace ptycho {

// patches (..., n, h, w), positions (..., n, 2), weights (h, w) or (..., n, h, w), size (H, W)
void check_reassemble_patches_inputs(const Tensor& patches, const Tensor& positions, const Tensor& weights,
                                     Shape canvas_size, std::optional<double> eps);

// image (..., H, W), positions (..., n, 2), weights (h, w) or (..., n, h, w)
void check_reassemble_patches_adjoint_inputs(const Tensor& image, const Tensor& positions, const Tensor& weights);

// grad_image (..., H, W), weight_sum (..., H, W), image as grad_image
void check_reassemble_patches_mean_backward_inputs(const Tensor& grad_image, const Tensor& weight_sum, double eps,
                                                   const MaybeTensor& image);

// grad_image (..., H, W), positions (..., n, 2), weights (h, w) or (..., n, h, w), weight_sum (..., H, W)
void check_reassemble_patches_backward_inputs(const Tensor& grad_image, const Tensor& positions, const Tensor& weights,
                                              const Tensor& weight_sum, double eps);

}  // namespace ptycho
