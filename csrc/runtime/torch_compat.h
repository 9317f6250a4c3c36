// SPDX-License-Identifier: BSD-3-Clause
// The only header that names torch's types. It draws on the stable ABI alone, so that one build serves every torch from
// the target version on, and turns tensors into the plain views the kernels work on. torch's headers write their errors
// through iostreams, which crash where libstdc++ is linked statically: the macros that do so are replaced here, and the
// include path has runtime/without_iostream before <iostream>.
#pragma once

#define STRIP_ERROR_MESSAGES  // STD_TORCH_CHECK without std::ostringstream
#include <torch/headeronly/util/shim_utils.h>

#include "runtime/errors.h"
#undef TORCH_ERROR_CODE_CHECK
#define TORCH_ERROR_CODE_CHECK(call)                        \
  if ((call) != TORCH_SUCCESS) [[unlikely]] {               \
    ::ptycho::throw_torch_error(#call, __FILE__, __LINE__); \
  }

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "maths/tile_plan.h"
#include "maths/views.h"

// Where the operators' CUDA side is registered. The tests build it once more, for the CPU and under another name.
#ifndef PTYCHO_LIBRARY
#define PTYCHO_LIBRARY ptycho
#define PTYCHO_DEVICE CUDA
#endif

namespace ptycho {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using torch::stable::accelerator::DeviceGuard;
using MaybeTensor = std::optional<Tensor>;
using Sizes = std::vector<int64_t>;                            // an operator's argument
using Shape = torch::headeronly::HeaderOnlyArrayRef<int64_t>;  // sizes of a tensor, which owns them

// The types that operators take. Tensor::scalar_type() searches through all that torch has.
enum class DataType { float32, float64, complex64, complex128, int64, other };

inline int32_t type_code(const Tensor& tensor) {
  int32_t code;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(tensor.get(), &code));
  return code;
}

inline int32_t type_code(DataType type) {
  static const int32_t codes[] = {aoti_torch_dtype_float32(), aoti_torch_dtype_float64(), aoti_torch_dtype_complex64(),
                                  aoti_torch_dtype_complex128(), aoti_torch_dtype_int64()};
  return codes[static_cast<int>(type)];
}

inline DataType data_type(const Tensor& tensor) {
  const int32_t code = type_code(tensor);
  for (const DataType type :
       {DataType::float32, DataType::float64, DataType::complex64, DataType::complex128, DataType::int64})
    if (code == type_code(type)) return type;
  return DataType::other;
}

inline bool is_double(DataType type) {
  return type == DataType::float64 || type == DataType::complex128;
}
inline bool is_complex(DataType type) {
  return type == DataType::complex64 || type == DataType::complex128;
}
inline DataType real_type(DataType type) {
  return is_double(type) ? DataType::float64 : DataType::float32;
}
inline int64_t lanes_of(const Tensor& tensor) {
  return is_complex(data_type(tensor)) ? 2 : 1;
}

// All but the last `inner` sizes.
inline Shape leading(const Tensor& tensor, size_t inner) {
  const Shape sizes = tensor.sizes();
  return {sizes.data(), sizes.size() - inner};
}

// The last two sizes, as far as there are any.
inline Shape trailing(const Tensor& tensor) {
  const Shape sizes = tensor.sizes();
  const size_t count = std::min<size_t>(sizes.size(), 2);
  return {sizes.data() + sizes.size() - count, count};
}

inline int64_t product(Shape sizes) {
  int64_t total = 1;
  for (const int64_t size : sizes) total *= size;
  return total;
}

// An uninitialised, contiguous tensor of sizes `first` and then `last`, on the model's device. One call into torch:
// torch::stable::new_empty looks the operator up by its name each time.
inline Tensor new_tensor(const Tensor& model, Shape first, Shape last, int32_t code) {
  constexpr size_t few = 8;
  const size_t count = first.size() + last.size();
  int64_t on_stack[2 * few];
  std::vector<int64_t> on_heap(count > few ? 2 * count : 0);
  int64_t* const sizes = count > few ? on_heap.data() : on_stack;
  int64_t* const strides = sizes + count;
  std::copy(first.begin(), first.end(), sizes);
  std::copy(last.begin(), last.end(), sizes + first.size());
  int64_t stride = 1;
  for (size_t i = count; i-- > 0; stride *= std::max<int64_t>(sizes[i], 1)) strides[i] = stride;
  int32_t device_type;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(model.get(), &device_type));
  AtenTensorHandle made;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(count), sizes, strides, code, device_type,
                                                  model.get_device_index(), &made));
  return Tensor(made);
}

inline Tensor new_tensor(const Tensor& model, int64_t count, int32_t code) {
  return new_tensor(model, Shape(&count, 1), Shape(), code);
}
inline Tensor new_indices(const Tensor& model, int64_t count) {
  return new_tensor(model, count, aoti_torch_dtype_int64());
}

// The tensor itself where it is contiguous.
inline Tensor as_contiguous(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

// Data of a known type; Tensor::const_data_ptr<T>() looks the type up again.
template <typename T>
inline const T* read(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}
template <typename T>
inline T* write(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// Contiguous images (..., rows, cols) as real lanes; the checks have admitted nothing but the four data types.
template <typename T>
inline ImageStack<T> image_stack(const Tensor& tensor) {
  const Shape sizes = tensor.sizes();
  const size_t dims = sizes.size();
  T* data;
  if constexpr (std::is_const_v<T>) {
    data = read<std::remove_const_t<T>>(tensor);
  } else {
    data = write<T>(tensor);
  }
  return {data, product({sizes.data(), dims - 2}), sizes[dims - 2], sizes[dims - 1], lanes_of(tensor)};
}

// positions: (..., n, 2), contiguous; patch_size: (h, w)
inline Scan scan_of(const Tensor& positions, Shape patch_size) {
  const Shape sizes = positions.sizes();
  return {read<double>(positions), product({sizes.data(), sizes.size() - 2}), sizes[sizes.size() - 2], patch_size[0],
          patch_size[1]};
}

// Calls body with a zero of the data's real type.
template <typename Body>
inline void with_real_type(const Tensor& data, const Body& body) {
  if (is_double(data_type(data))) {
    body(double{});
  } else {
    body(float{});
  }
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
