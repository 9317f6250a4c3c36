// SPDX-License-Identifier: BSD-3-Clause
// What overlap_project demands of its inputs, on every backend.
#pragma once

#include "runtime/torch_compat.h"

namespace ptycho {

// patches (..., n, h, w), positions (..., n, 2), weights (h, w) or (..., n, h, w), size (H, W)
void check_overlap_project_inputs(const Tensor& patches, const Tensor& positions, const Tensor& weights,
                                  Shape canvas_size, double eps);

// grad: as the patches; the rest as above
void check_overlap_project_backward_inputs(const Tensor& grad, const Tensor& patches, const Tensor& positions,
                                           const Tensor& weights, Shape canvas_size, double eps);

}  // namespace ptycho
