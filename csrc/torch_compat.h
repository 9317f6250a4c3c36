// SPDX-License-Identifier: BSD-3-Clause
// The only header that names torch's types. It draws on the stable ABI alone, so that one build serves every torch from
// the target version on, and turns tensors into the plain views the kernels work on.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "ptycho/tile_plan.h"
#include "ptycho/views.h"

// Where the operators of csrc/cuda are registered. The tests build them once more, for the CPU and under another name.
#ifndef PTYCHO_LIBRARY
#define PTYCHO_LIBRARY ptycho
#define PTYCHO_DEVICE CUDA
#endif

namespace ptycho {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using torch::stable::accelerator::DeviceGuard;
using Sizes = std::vector<int64_t>;

inline Sizes sizes_of(const Tensor& tensor) {
  const auto sizes = tensor.sizes();
  return {sizes.begin(), sizes.end()};
}

// The leading dimensions: all but the last `inner`.
inline Sizes leading(const Tensor& tensor, int64_t inner) {
  Sizes sizes = sizes_of(tensor);
  sizes.resize(sizes.size() - inner);
  return sizes;
}

// The last two sizes, as far as there are any.
inline Sizes trailing(const Tensor& tensor) {
  Sizes sizes = sizes_of(tensor);
  sizes.erase(sizes.begin(), sizes.end() - std::min<size_t>(sizes.size(), 2));
  return sizes;
}

inline Sizes join(Sizes head, std::initializer_list<int64_t> tail) {
  head.insert(head.end(), tail);
  return head;
}

inline int64_t product(const Sizes& sizes) {
  int64_t total = 1;
  for (const int64_t size : sizes) total *= size;
  return total;
}

inline bool is_double(ScalarType type) {
  return type == ScalarType::Double || type == ScalarType::ComplexDouble;
}
inline bool is_complex(ScalarType type) {
  return type == ScalarType::ComplexFloat || type == ScalarType::ComplexDouble;
}
inline ScalarType real_type(ScalarType type) {
  return is_double(type) ? ScalarType::Double : ScalarType::Float;
}
inline int64_t lanes_of(const Tensor& tensor) {
  return is_complex(tensor.scalar_type()) ? 2 : 1;
}

// Contiguous images (..., rows, cols) as real lanes; the checks have admitted nothing but the four data types.
template <typename T>
inline ImageStack<T> image_stack(const Tensor& tensor) {
  const int64_t dims = tensor.dim();
  const int64_t rows = tensor.size(dims - 2);
  const int64_t cols = tensor.size(dims - 1);
  T* data;
  if constexpr (std::is_const_v<T>) {
    data = static_cast<T*>(tensor.const_data_ptr());
  } else {
    data = static_cast<T*>(tensor.mutable_data_ptr());
  }
  return {data, product(leading(tensor, 2)), rows, cols, lanes_of(tensor)};
}

// positions: (..., n, 2), contiguous
inline Scan scan_of(const Tensor& positions, int64_t h, int64_t w) {
  const int64_t per_group = positions.size(positions.dim() - 2);
  return {positions.const_data_ptr<double>(), product(leading(positions, 2)), per_group, h, w};
}

// Calls body with a zero of the data's real type.
template <typename Body>
inline void with_real_type(const Tensor& data, const Body& body) {
  if (is_double(data.scalar_type())) {
    body(double{});
  } else {
    body(float{});
  }
}

// Work items per chunk, such that a chunk is worth a thread.
inline int64_t grain(int64_t work_per_item) {
  return std::max<int64_t>(1, 32768 / std::max<int64_t>(1, work_per_item));
}

// Takes ownership of a `str` argument (the conversion to std::string in torch's header leaks it up to 2.13).
inline std::string take_string(StringHandle handle) {
  size_t length = 0;
  const char* text = nullptr;
  TORCH_ERROR_CODE_CHECK(torch_string_length(handle, &length));
  TORCH_ERROR_CODE_CHECK(torch_string_c_str(handle, &text));
  std::string result(text, length);
  TORCH_ERROR_CODE_CHECK(torch_delete_string(handle));
  return result;
}

}  // namespace ptycho
