// SPDX-License-Identifier: BSD-3-Clause
// Fourier transforms of single images in a thread's cache, by the library that torch was built with: MKL, whose C
// interface (DFTI) torch's library exports. A torch without it has none of these; what needs them then takes another
// way.
#pragma once

#include <cstdint>
#include <memory>

namespace ptycho::cpu {

// Of complex images (rows, cols) in place, not normalised. Threads may use one plan at once.
class FourierPlan {
 public:
  // The plan of that size and type, made once; null where torch has no such library, or the size is empty.
  static const FourierPlan* of(int64_t rows, int64_t cols, bool is_double);
  static bool available();

  FourierPlan(const FourierPlan&) = delete;
  FourierPlan& operator=(const FourierPlan&) = delete;

  void forward(void* image) const;
  void backward(void* image) const;

 private:
  explicit FourierPlan(void* descriptor) : descriptor_(descriptor) {}
  void* descriptor_;
};

}  // namespace ptycho::cpu
