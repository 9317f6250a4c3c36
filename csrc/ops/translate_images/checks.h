// SPDX-License-Identifier: BSD-3-Clause
// What translate_images and its adjoint demand of their inputs, on every backend.
#pragma once

#include "runtime/torch_compat.h"

namespace ptycho {

// images (..., H, W), shifts (..., 2), mode "bilinear" or "nearest"
void check_translate_images_inputs(const char* op, const Tensor& images, const Tensor& shifts, const std::string& mode);

}  // namespace ptycho
