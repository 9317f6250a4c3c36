// SPDX-License-Identifier: BSD-3-Clause
// Fresh outputs. Beyond the allocator's reuse limit the memory of an output comes new from the system at every call,
// and touching it page by page costs more than filling it; huge pages take that cost away where the system grants them.
#pragma once

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "torch_compat.h"

namespace ptycho::cpu {

// An uninitialised tensor of the given sizes, otherwise like the model.
inline Tensor new_output(const Tensor& model, const Sizes& sizes) {
  Tensor output = torch::stable::new_empty(model, sizes);
#ifdef __linux__
  constexpr uintptr_t huge = uintptr_t{1} << 21;
  const auto begin = reinterpret_cast<uintptr_t>(output.mutable_data_ptr());
  const uintptr_t first = (begin + huge - 1) / huge * huge;
  const uintptr_t last = (begin + output.numel() * output.element_size()) / huge * huge;
  // Advice only: a refusal changes nothing but the speed.
  if (last >= first + 8 * huge) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
  return output;
}

// The CPU as entries.h knows it.
struct Host {
  explicit Host(const Tensor&) {}
  Tensor output(const Tensor& model, const Sizes& sizes) const { return new_output(model, sizes); }
};

// Outputs that fill a cache are written past the caches: they would only drive out what is still needed.
inline constexpr int64_t kStreamBytes = int64_t{32} << 20;

inline bool exceeds_cache(const Tensor& output) {
  return output.numel() * output.element_size() >= kStreamBytes;
}

}  // namespace ptycho::cpu
