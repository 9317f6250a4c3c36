// SPDX-License-Identifier: BSD-3-Clause
// The launch of SumTiles, a block to each tile, in that of its two versions which leaves fewer slots empty.
#pragma once

#include "maths/blocks/sum.h"
#include "maths/blocks/waves.h"
#include "runtime/cuda/launch.h"

namespace ptycho::cuda {

template <typename Program>
void launch_tiles(const Queue& queue, const Program& program) {
  const int64_t tiles = program.grid.tiles();
  if constexpr (Program::kCrowdedBlocks > 0) {
    if (wants_crowding(tiles, resident_blocks<Program>(queue), resident_blocks<Crowded<Program>>(queue)))
      return launch(queue, Crowded<Program>{program}, tiles);
  }
  launch(queue, program, tiles);
}

}  // namespace ptycho::cuda
