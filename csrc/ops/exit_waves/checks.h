// SPDX-License-Identifier: BSD-3-Clause
// What exit_waves, its adjoints and its derivative demand of their inputs, on every backend.
#pragma once

#include "runtime/torch_compat.h"

namespace ptycho {

// (M, h, w) of waves or a probe, which have at least three dimensions
inline Shape modes_shape(const Tensor& tensor) {
  const Shape sizes = tensor.sizes();
  return {sizes.data() + sizes.size() - 3, 3};
}

// canvas (..., H, W), positions (..., n, 2), probe (M, h, w) or (..., n, M, h, w)
void check_exit_waves_inputs(const Tensor& canvas, const Tensor& positions, const Tensor& probe);

// waves (..., n, M, h, w), positions (..., n, 2), probe (M, h, w) or (..., n, M, h, w), size (H, W)
void check_exit_waves_adjoint_inputs(const Tensor& waves, const Tensor& positions, const Tensor& probe,
                                     Shape canvas_size);

// waves (..., n, M, h, w), canvas (..., H, W), positions (..., n, 2)
void check_exit_waves_adjoint_probe_inputs(const Tensor& waves, const Tensor& canvas, const Tensor& positions);

// grad_waves (..., n, M, h, w), canvas (..., H, W), positions (..., n, 2), probe (M, h, w) or (..., n, M, h, w)
void check_exit_waves_grad_positions_inputs(const Tensor& grad_waves, const Tensor& canvas, const Tensor& positions,
                                            const Tensor& probe);

}  // namespace ptycho
