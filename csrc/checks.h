// SPDX-License-Identifier: BSD-3-Clause
// What every operator demands of its inputs, shared by forward and adjoint and by all backends. The sentences are those
// of ptycho_ext/ops/_checks.py, word for word: "<op>: <argument> must <rule>, got <value>".
#pragma once

#include <optional>
#include <string>

#include "torch_compat.h"

namespace ptycho {

// canvas (..., H, W), positions (..., n, 2), size (h, w)
void check_extract_patches_inputs(const Tensor& canvas, const Tensor& positions, const Sizes& patch_size);

// patches (..., n, h, w), positions (..., n, 2), size (H, W)
void check_extract_patches_adjoint_inputs(const Tensor& patches, const Tensor& positions, const Sizes& canvas_size);

// grad_patches (..., n, h, w), canvas (..., H, W), positions (..., n, 2)
void check_extract_patches_grad_positions_inputs(const Tensor& grad_patches, const Tensor& canvas,
                                                 const Tensor& positions);

// positions (..., n, 2), sizes (h, w) and (H, W)
void check_plan_tiles_inputs(const Tensor& positions, const Sizes& patch_size, const Sizes& canvas_size);

// A tensor to write to: of the model's type and device, of these sizes, contiguous.
void check_out(const char* op, const char* argument, const Tensor& out, const Tensor& model, const Sizes& sizes);

// images (..., H, W), shifts (..., 2), mode "bilinear" or "nearest"
void check_translate_images_inputs(const char* op, const Tensor& images, const Tensor& shifts, const std::string& mode);

// patches (..., n, h, w), positions (..., n, 2), weights (h, w) or (..., n, h, w), size (H, W)
void check_reassemble_patches_inputs(const Tensor& patches, const Tensor& positions, const Tensor& weights,
                                     const Sizes& canvas_size);

// image (..., H, W), positions (..., n, 2), weights (h, w) or (..., n, h, w)
void check_reassemble_patches_adjoint_inputs(const Tensor& image, const Tensor& positions, const Tensor& weights);

// as reassemble_patches
void check_overlap_project_inputs(const Tensor& patches, const Tensor& positions, const Tensor& weights,
                                  const Sizes& canvas_size);

// What makes a plan another's.
void check_plan(bool ok, const char* op);

// A list of a plan, contiguous: int64, on the positions' device.
std::optional<Tensor> plan_list(const char* op, const Tensor& positions, const std::optional<Tensor>& list);

// The one rule that has to read the data. coordinates: contiguous, on the CPU.
void check_finite(const char* op, const char* argument, const Tensor& coordinates);

}  // namespace ptycho
