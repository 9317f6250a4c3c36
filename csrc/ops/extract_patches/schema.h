// SPDX-License-Identifier: BSD-3-Clause
// The schemas of extract_patches, its adjoint and its derivative with respect to the positions; library.cpp states what
// they have in common.
#pragma once

namespace ptycho {

inline constexpr const char* extract_patches_schemas[] = {
    "extract_patches(Tensor canvas, Tensor positions, SymInt[2] patch_size, Tensor? order=None) -> Tensor",
    "extract_patches_out(Tensor canvas, Tensor positions, Tensor? order, Tensor(a!) out) -> ()",
    "extract_patches_adjoint(Tensor patches, Tensor positions, SymInt[2] canvas_size, Tensor? tile_start=None,"
    " Tensor? tile_patches=None) -> Tensor",
    "extract_patches_adjoint_out(Tensor patches, Tensor positions, Tensor? tile_start, Tensor? tile_patches,"
    " Tensor(a!) out) -> ()",
    "extract_patches_grad_positions(Tensor grad_patches, Tensor canvas, Tensor positions, Tensor? order=None)"
    " -> Tensor",
};

}  // namespace ptycho
