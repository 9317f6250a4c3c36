// SPDX-License-Identifier: BSD-3-Clause
// The schemas of overlap_project; library.cpp states what they have in common.
#pragma once

namespace ptycho {

inline constexpr const char* overlap_project_schemas[] = {
    "overlap_project(Tensor patches, Tensor positions, Tensor weights, SymInt[2] canvas_size, float eps) -> Tensor",
    "overlap_project_out(Tensor patches, Tensor positions, Tensor weights, SymInt[2] canvas_size, float eps,"
    " Tensor(a!) out) -> ()",
};

}  // namespace ptycho
