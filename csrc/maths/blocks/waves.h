// SPDX-License-Identifier: BSD-3-Clause
// How a grid fills a GPU: blocks of equal work end together, so that a grid of somewhat more blocks than run at once
// takes nearly twice as long as one of as many. Where it helps, a program is compiled a second time, for more blocks to
// a multiprocessor, each with fewer registers and hence somewhat more instructions.
#pragma once

#include <cstdint>

namespace ptycho {

// Slots for blocks that a grid takes, those included that its last wave leaves empty.
inline int64_t slots(int64_t blocks, int64_t resident) {
  return (blocks + resident - 1) / resident * resident;
}

// Whether `blocks` blocks are better run `crowded` at once than `resident`: if that saves more than the tenth that the
// additional instructions cost.
inline bool wants_crowding(int64_t blocks, int64_t resident, int64_t crowded) {
  return resident > 0 && crowded > 0 && 10 * slots(blocks, crowded) < 9 * slots(blocks, resident);
}

// The program that is compiled for as many blocks to a multiprocessor as its kCrowdedBlocks is.
template <typename Program>
struct Crowded : Program {
  static constexpr int kBlocks = Program::kCrowdedBlocks;
};

}  // namespace ptycho
