// SPDX-License-Identifier: BSD-3-Clause
// The rules that the operators' checks.cpp are composed of, each stated once. The sentences are those of
// ptycho_ext/ops/_checks.py, word for word: "<op>: <argument> must <rule>, got <value>". Shapes are written with the
// project's letters (H W canvas, n patches, h w patch) and values as Python prints them. A rule compares and returns;
// only a failing one makes its sentence.
#pragma once

#include "runtime/torch_compat.h"

namespace ptycho {

class Check {
 public:
  explicit Check(const char* op) : op_(op) {}

  // One of the four types of data.
  void data(const char* argument, const Tensor& tensor) const;
  void type(const char* argument, const Tensor& tensor, DataType wanted) const;
  // Throws: for rules about types that are no data types.
  [[noreturn, gnu::cold]] void wrong_type(const char* argument, const Tensor& tensor, const char* rule) const;
  // shape: in letters
  void dims(const char* argument, const Tensor& tensor, int64_t least, const char* shape) const;
  // Sizes `first` and then `last`.
  void shape(const char* argument, const Tensor& tensor, Shape first, Shape last = Shape()) const;
  void device(const char* argument, const Tensor& tensor, const Tensor& data) const;
  // Two positive integers.
  void size(const char* argument, Shape sizes) const;
  void holds_patch(const char* argument, Shape canvas_size, Shape patch_size) const;
  // positions (..., n, 2) for canvas (..., H, W)
  void positions_of_canvas(const Tensor& positions, const Tensor& canvas) const;
  // positions (..., n, 2) for patches (..., n, h, w)
  void positions_of_patches(const Tensor& positions, const Tensor& patches) const;
  // patches (..., n, h, w), positions (..., n, 2), weights (h, w) or (..., n, h, w), size (H, W)
  void weighted_patches(const Tensor& patches, const Tensor& positions, const Tensor& weights, Shape canvas_size) const;
  // The part of the largest weight at or below which a pixel counts as not illuminated.
  void threshold(double eps) const;
  // A tensor to write to: of the model's type and device, of sizes `first` and then `last`, contiguous.
  void out(const char* argument, const Tensor& out, const Tensor& model, Shape first, Shape last) const;
  // Its memory is none that the operator reads, or writes another result to. An input that is not contiguous is copied
  // before anything is written.
  void apart(const char* argument, const Tensor& out, std::initializer_list<const Tensor*> others) const;

 private:
  const char* op_;
};

// Throws what a plan of other positions is refused with.
[[noreturn, gnu::cold]] void throw_other_plan(const char* op);

inline void check_plan(bool ok, const char* op) {
  if (!ok) [[unlikely]]
    throw_other_plan(op);
}

// A list of a plan, contiguous: int64, on the positions' device.
MaybeTensor plan_list(const char* op, const Tensor& positions, const MaybeTensor& list);

// The one rule that has to read the data. coordinates: contiguous, on the CPU.
void check_finite(const char* op, const char* argument, const Tensor& coordinates);

}  // namespace ptycho
