// SPDX-License-Identifier: BSD-3-Clause
// The schemas of reassemble_patches, its adjoint and its backward pass; library.cpp states what they have in common.
#pragma once

namespace ptycho {

inline constexpr const char* reassemble_patches_schemas[] = {
    "reassemble_patches(Tensor patches, Tensor positions, Tensor weights, SymInt[2] canvas_size, float? eps=None,"
    " Tensor? tile_start=None, Tensor? tile_patches=None) -> (Tensor image, Tensor weight_sum)",
    "reassemble_patches_adjoint(Tensor image, Tensor positions, Tensor weights, Tensor? order=None) -> Tensor",
    "reassemble_patches_out(Tensor patches, Tensor positions, Tensor weights, float? eps, Tensor? tile_start,"
    " Tensor? tile_patches, Tensor(a!) image, Tensor(b!) weight_sum) -> ()",
    // grad_weight_sum is empty where there is no image.
    "reassemble_patches_mean_backward(Tensor grad_image, Tensor weight_sum, float eps, Tensor? image=None)"
    " -> (Tensor grad_sum, Tensor grad_weight_sum)",
    // Of the mean by the patches alone.
    "reassemble_patches_backward(Tensor grad_image, Tensor positions, Tensor weights, Tensor weight_sum, float eps,"
    " Tensor? order=None) -> Tensor",
};

}  // namespace ptycho
