// SPDX-License-Identifier: BSD-3-Clause
// Fresh outputs. Beyond the allocator's reuse limit the memory of an output comes new from the system at every call,
// and touching it page by page costs more than filling it; huge pages take that cost away where the system grants them.
#pragma once

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "runtime/torch_compat.h"

namespace ptycho::cpu {

inline int64_t bytes_of(const Tensor& tensor) {
  return tensor.numel() * static_cast<int64_t>(tensor.element_size());
}

// The CPU as ops/<op>/dispatch.h know it.
struct Host {
  explicit Host(const Tensor&) {}

  // An uninitialised tensor of sizes `first` and then `last`, otherwise like the model.
  Tensor output(const Tensor& model, Shape first, Shape last) const {
    Tensor output = new_tensor(model, first, last, type_code(model));
#ifdef __linux__
    constexpr int64_t huge = int64_t{1} << 21;
    if (const int64_t bytes = bytes_of(output); bytes >= 8 * huge) {
      const auto begin = reinterpret_cast<uintptr_t>(output.mutable_data_ptr());
      const uintptr_t first_page = (begin + huge - 1) / huge * huge;
      const uintptr_t end = (begin + bytes) / huge * huge;
      // Advice only: where it is not taken nothing changes but the speed.
      if (end >= first_page + 8 * huge) madvise(reinterpret_cast<void*>(first_page), end - first_page, MADV_HUGEPAGE);
    }
#endif
    return output;
  }
};

// Outputs that fill a cache are written past the caches: they would only evict what is still needed.
inline constexpr int64_t kStreamBytes = int64_t{32} << 20;

inline bool exceeds_cache(const Tensor& output) {
  return bytes_of(output) >= kStreamBytes;
}

}  // namespace ptycho::cpu
