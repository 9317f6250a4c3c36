// SPDX-License-Identifier: BSD-3-Clause
// The schemas of overlap_project and its backward pass; library.cpp states what they have in common.
#pragma once

namespace ptycho {

inline constexpr const char* overlap_project_schemas[] = {
    "overlap_project(Tensor patches, Tensor positions, Tensor weights, SymInt[2] canvas_size, float eps,"
    " Tensor? order=None, Tensor? tile_start=None, Tensor? tile_patches=None) -> Tensor",
    "overlap_project_backward(Tensor grad, Tensor patches, Tensor positions, Tensor weights, SymInt[2] canvas_size,"
    " float eps, bool for_weights, Tensor? order=None, Tensor? tile_start=None, Tensor? tile_patches=None)"
    " -> (Tensor grad_patches, Tensor grad_weights)",
    "overlap_project_out(Tensor patches, Tensor positions, Tensor weights, SymInt[2] canvas_size, float eps,"
    " Tensor? order, Tensor? tile_start, Tensor? tile_patches, Tensor(a!) out) -> ()",
};

}  // namespace ptycho
