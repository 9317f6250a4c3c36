// SPDX-License-Identifier: BSD-3-Clause
// What plan_tiles demands of its inputs, on every backend.
#pragma once

#include "runtime/torch_compat.h"

namespace ptycho {

// positions (..., n, 2), sizes (h, w) and (H, W)
void check_plan_tiles_inputs(const Tensor& positions, Shape patch_size, Shape canvas_size);

}  // namespace ptycho
