// SPDX-License-Identifier: BSD-3-Clause
// Replaces CUDA in runtime/cuda/launch.h: block programs are run on the CPU, block after block and phase after phase.
// Blocks, and in every other phase threads, are run from the last to the first, and shared memory, of either kind,
// begins as garbage, so that a program that depends on an order, or lacks a barrier between a write and a read, gives
// other results. Grids are kept small, so that blocks walk on as they do in a grid that is full. Atomics are plain: no
// two threads run at once, but the order in which they come is as reversed as theirs.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <vector>

#include "maths/block.h"
#include "runtime/torch_compat.h"

namespace ptycho::cuda {

inline constexpr int64_t kBlocksAtMost = 7;
inline constexpr int64_t kMemoryAtMost = 96 << 10;  // bytes of a block, in all

struct Queue {
  explicit Queue(const Tensor&) {}
  Tensor output(const Tensor& model, Shape first, Shape last) const {
    return new_tensor(model, first, last, type_code(model));
  }
};

template <typename Program>
bool has_memory(const Queue&, int64_t bytes) {
  return bytes + static_cast<int64_t>(sizeof(typename Program::Shared)) <= kMemoryAtMost;
}

template <typename Program>
class Block {
 public:
  Block(const Program& program, int64_t index, int64_t count)
      : index_(index), count_(count), shared_(garbage(sizeof(Shared))) {
    if constexpr (requires { program.memory_bytes(); }) {
      memory_ = garbage(program.memory_bytes());
    }
  }
  int64_t index() const { return index_; }
  int64_t count() const { return count_; }
  auto& shared() { return *reinterpret_cast<typename Program::Shared*>(shared_.get()); }
  unsigned char* memory() { return memory_.get(); }
  template <typename State>
  std::vector<State> registers() {
    return std::vector<State>(Program::kThreads);
  }
  template <typename Phase>
  void each(const Phase& phase) {
    for (int i = 0; i < Program::kThreads; ++i) phase(forwards_ ? i : Program::kThreads - 1 - i);
    forwards_ = !forwards_;
  }
  template <typename State, typename Phase>
  void each(std::vector<State>& states, const Phase& phase) {
    each([&](int thread) { phase(thread, states[thread]); });
  }
  template <typename Phase>
  void end(const Phase& phase) {
    each(phase);
  }
  template <typename Integer>
  void add(Integer* at, Integer value) {
    static_assert(std::is_integral_v<Integer>);
    *at += value;
  }
  template <typename Integer>
  void most(Integer* at, Integer value) {
    static_assert(std::is_unsigned_v<Integer>);
    *at = std::max(*at, value);
  }
  bool last(int64_t* at, int64_t count) { return ++*at == count; }

 private:
  using Shared = typename Program::Shared;
  static std::unique_ptr<unsigned char[]> garbage(int64_t bytes) {
    auto memory = std::make_unique_for_overwrite<unsigned char[]>(bytes);
    std::memset(memory.get(), 0xa5, bytes);
    return memory;
  }
  int64_t index_;
  int64_t count_;
  bool forwards_ = true;
  std::unique_ptr<unsigned char[]> shared_;
  std::unique_ptr<unsigned char[]> memory_;
};

// As if there were one multiprocessor.
template <typename Program>
int64_t resident_blocks(const Queue&) {
  return minimum_blocks<Program>();
}

template <typename Program>
void launch(const Queue&, const Program& program, int64_t blocks) {
  static_assert(std::is_trivially_copyable_v<Program>);
  const int64_t grid = std::min(blocks, kBlocksAtMost);
  for (int64_t i = grid - 1; i >= 0; --i) {
    Block<Program> block(program, i, grid);
    program(block);
  }
}

inline void zero(const Queue&, void* memory, size_t bytes) {
  if (bytes > 0) std::memset(memory, 0, bytes);
}

template <typename Key>
void sort_by_key(const Queue&, const Tensor&, const Key* keys, Key* sorted_keys, const int64_t* values,
                 int64_t* sorted_values, int64_t count, int bits) {
  const Key mask = bits >= static_cast<int>(8 * sizeof(Key)) ? ~Key(0) : (Key(1) << bits) - 1;
  std::vector<int64_t> order(count);
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return (keys[a] & mask) < (keys[b] & mask); });
  for (int64_t i = 0; i < count; ++i) {
    sorted_keys[i] = keys[order[i]];
    sorted_values[i] = values[order[i]];
  }
}

}  // namespace ptycho::cuda
