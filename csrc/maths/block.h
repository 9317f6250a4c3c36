// SPDX-License-Identifier: BSD-3-Clause
// The work of a GPU block in plain C++ without CUDA, so that the CPU can run it too. A block program is a plain struct
// of its arguments with
//   kThreads                    threads of a block
//   kBlocks                     blocks that a multiprocessor should have room for, which limits registers; 1 if absent
//   Shared                      what they share; uninitialised
//   void operator()(Block&)     the block's work, in phases
// and a Block offers
//   index(), count()            of this block and of all
//   shared()                    the block's Shared
//   memory()                    as many bytes, shared too, as the program's memory_bytes() asks for; for any type
//   registers<State>()          a State for every thread, that lives from phase to phase
//   each(f), each(state, f)     a phase: f(thread) or f(thread, its state) for every thread, then a barrier
//   end(f), end(state, f)       the last phase, without the barrier
//   add(at, value), most(at, value)   atomics, of integers only: sums and maxima that do not depend on an order
//   last(at, count)             true for the one of `count` calls that sees what others' blocks wrote before theirs;
//                               all threads of a block call it together, and `at` points to a zero in global memory
// Code between phases is run by every thread alike, on values that are the same for all of them. On the GPU
// (runtime/cuda/launch.h) a phase runs on the block's threads; the tests (tests/native/launch_serially.h) run it in a
// loop.
#pragma once

#include <cstring>
#include <type_traits>

#include "maths/geometry.h"

namespace ptycho {

struct Nothing {};

template <typename Program>
constexpr int minimum_blocks() {
  if constexpr (requires { Program::kBlocks; }) {
    return Program::kBlocks;
  } else {
    return 1;
  }
}

// The bits of a number that is not negative, whose order is that of the numbers.
template <typename T>
PTYCHO_HD inline uint64_t ordered_bits(T value) {
  std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t> bits;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}

template <typename T>
PTYCHO_HD inline T from_ordered_bits(uint64_t ordered) {
  const auto bits = static_cast<std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>>(ordered);
  T value;
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

// a / b, in 32 bits where that is enough: a division of 64 bits costs as much as a dozen pixels.
PTYCHO_HD inline int64_t quotient(int64_t a, uint32_t b) {
  return a >> 32 == 0 ? int64_t{static_cast<uint32_t>(a) / b} : a / b;
}

// A divisor that the host knows before, so that the device multiplies: a / b is (a * factor / 2^32 + a) / 2^shift,
// where 2^(shift - 1) < b <= 2^shift and factor is 2^32 (2^shift - b) / b + 1, rounded down (Granlund and Montgomery,
// 1994). Exact for every a of 32 bits; larger ones are divided.
class Divisor {
 public:
  explicit Divisor(uint32_t b) : by_(b > 0 ? b : 1), shift_(0) {
    while ((uint64_t{1} << shift_) < by_) ++shift_;
    factor_ = static_cast<uint32_t>((((uint64_t{1} << shift_) - by_) << 32) / by_ + 1);
  }
  PTYCHO_HD uint32_t value() const { return by_; }
  PTYCHO_HD uint32_t quotient(uint32_t a) const {
    return static_cast<uint32_t>(((uint64_t{a} * factor_ >> 32) + a) >> shift_);
  }
  PTYCHO_HD int64_t quotient(int64_t a) const {
    return a >> 32 == 0 ? int64_t{quotient(static_cast<uint32_t>(a))} : a / by_;
  }

 private:
  uint32_t by_;  // 1 for 0, which divides nothing
  uint32_t factor_;
  uint32_t shift_;
};

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
