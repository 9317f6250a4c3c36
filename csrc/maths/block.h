// SPDX-License-Identifier: BSD-3-Clause
// The work of a GPU block in plain C++ without CUDA, so that the CPU can run it too. A block program is a plain struct
// of its arguments with
//   kThreads                    threads of a block
//   Shared                      what they share; uninitialised
//   void operator()(Block&)     the block's work, in phases
// and a Block offers
//   index(), count()            of this block and of all
//   shared()                    the block's Shared
//   registers<State>()          a State for every thread, that lives from phase to phase
//   each(f), each(state, f)     a phase: f(thread) or f(thread, its state) for every thread, then a barrier
//   end(f), end(state, f)       the last phase, without the barrier
// Code between phases is run by every thread alike, on values that are the same for all of them. On the GPU
// (runtime/cuda/launch.h) a phase runs on the block's threads; the tests (tests/native/launch_serially.h) run it in a
// loop.
#pragma once

#include "maths/geometry.h"

namespace ptycho {

struct Nothing {};

template <typename Block>
PTYCHO_HD inline int64_t next_block(const Block& block, int64_t i) {  // a grid may be smaller than its work
  return i + block.count();
}

// Calls work(i) for i = 0 ... count - 1, one to a thread: a whole program whose items are independent.
template <typename Program, typename Block, typename Work>
PTYCHO_HD inline void for_each_item(Block& block, int64_t count, const Work& work) {
  constexpr int threads = Program::kThreads;
  block.end([&](int thread) {
    for (int64_t i = block.index() * threads + thread; i < count; i += block.count() * threads) work(i);
  });
}

// How many blocks that takes.
template <typename Program>
int64_t blocks_for(int64_t count) {
  return (count + Program::kThreads - 1) / Program::kThreads;
}

// Combines slots[0 ... threads) pairwise into slots[0], in an order that depends on the number of threads alone.
template <int threads, typename Block, typename Slot, typename Combine>
PTYCHO_HD inline void reduce(Block& block, Slot* slots, const Combine& combine) {
  static_assert((threads & (threads - 1)) == 0);
  for (int half = threads / 2; half > 0; half /= 2)
    block.each([&](int thread) {
      if (thread < half) slots[thread] = combine(slots[thread], slots[thread + half]);
    });
}

}  // namespace ptycho
