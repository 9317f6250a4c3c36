// SPDX-License-Identifier: BSD-3-Clause
// The schemas of plan_tiles; library.cpp states what they have in common.
#pragma once

namespace ptycho {

inline constexpr const char* plan_tiles_schemas[] = {
    "plan_tiles(Tensor positions, SymInt[2] patch_size, SymInt[2] canvas_size)"
    " -> (Tensor order, Tensor tile_start, Tensor tile_patches)",
};

}  // namespace ptycho
