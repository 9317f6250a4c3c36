// SPDX-License-Identifier: BSD-3-Clause
// The rules of checks.h and their sentences. Functions that make text are called by failing rules only. No iostreams.
#include "runtime/checks.h"

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <stdexcept>

namespace ptycho {
namespace {

[[gnu::cold]] std::string text(Shape first, Shape last = Shape()) {  // as Python prints a tuple
  std::string result = "(";
  const size_t count = first.size() + last.size();
  for (size_t i = 0; i < count; ++i) {
    if (i > 0) result += ", ";
    result += std::to_string(i < first.size() ? first[i] : last[i - first.size()]);
  }
  return result + (count == 1 ? ",)" : ")");
}

[[gnu::cold]] std::string text(ScalarType type) {
  switch (type) {
    case ScalarType::Bool:
      return "bool";
    case ScalarType::Byte:
      return "uint8";
    case ScalarType::Char:
      return "int8";
    case ScalarType::Short:
      return "int16";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Long:
      return "int64";
    case ScalarType::UInt16:
      return "uint16";
    case ScalarType::UInt32:
      return "uint32";
    case ScalarType::UInt64:
      return "uint64";
    case ScalarType::Half:
      return "float16";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Float:
      return "float32";
    case ScalarType::Double:
      return "float64";
    case ScalarType::ComplexHalf:
      return "complex32";
    case ScalarType::ComplexFloat:
      return "complex64";
    case ScalarType::ComplexDouble:
      return "complex128";
    default:
      return torch::headeronly::toString(type);
  }
}

[[gnu::cold]] std::string text(DataType type) {
  constexpr const char* names[] = {"float32", "float64", "complex64", "complex128", "int64", "another type"};
  return names[static_cast<int>(type)];
}

[[gnu::cold]] std::string device_text(const Tensor& tensor, bool with_index) {
  const std::string kind = tensor.is_cpu() ? "cpu" : tensor.is_cuda() ? "cuda" : "another device";
  return with_index ? kind + ":" + std::to_string(tensor.get_device_index()) : kind;
}

int32_t device_type(const Tensor& tensor) {
  int32_t type;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(tensor.get(), &type));
  return type;
}

bool same_device(const Tensor& a, const Tensor& b) {
  return device_type(a) == device_type(b) && a.get_device_index() == b.get_device_index();
}

}  // namespace

void throw_other_plan(const char* op) {
  throw std::runtime_error(std::string(op) +
                           ": plan must be made for these positions and sizes, got another's (make a new ScanPlan)");
}

void Check::data(const char* argument, const Tensor& tensor) const {
  const DataType type = data_type(tensor);
  if (type == DataType::int64 || type == DataType::other) [[unlikely]]
    throw_rule(op_, argument, "be float32, float64, complex64 or complex128", text(tensor.scalar_type()));
}

void Check::type(const char* argument, const Tensor& tensor, DataType wanted) const {
  if (type_code(tensor) != type_code(wanted)) [[unlikely]]
    throw_rule(op_, argument, "be " + text(wanted), text(tensor.scalar_type()));
}

void Check::wrong_type(const char* argument, const Tensor& tensor, const char* rule) const {
  throw_rule(op_, argument, rule, text(tensor.scalar_type()));
}

void Check::dims(const char* argument, const Tensor& tensor, int64_t least, const char* shape) const {
  if (tensor.dim() < least) [[unlikely]]
    throw_rule(op_, argument, std::string("have shape ") + shape, text(tensor.sizes()));
}

void Check::shape(const char* argument, const Tensor& tensor, Shape first, Shape last) const {
  const Shape sizes = tensor.sizes();
  const bool same = sizes.size() == first.size() + last.size() &&
                    std::equal(first.begin(), first.end(), sizes.begin()) &&
                    std::equal(last.begin(), last.end(), sizes.begin() + first.size());
  if (!same) [[unlikely]]
    throw_rule(op_, argument, "have shape " + text(first, last), text(sizes));
}

void Check::device(const char* argument, const Tensor& tensor, const Tensor& data) const {
  if (same_device(tensor, data)) [[likely]]
    return;
  const bool with_index = device_type(tensor) == device_type(data);
  throw_rule(op_, argument, "be on device " + device_text(data, with_index), device_text(tensor, with_index));
}

void Check::size(const char* argument, Shape sizes) const {
  if (sizes.size() != 2 || sizes[0] <= 0 || sizes[1] <= 0) [[unlikely]]
    throw_rule(op_, argument, "be two positive integers", text(sizes));
}

void Check::holds_patch(const char* argument, Shape canvas_size, Shape patch_size) const {
  if (canvas_size[0] < patch_size[0] || canvas_size[1] < patch_size[1]) [[unlikely]]
    throw_rule(op_, argument, "be at least a patch's " + text(patch_size), text(canvas_size));
}

void Check::positions_of_canvas(const Tensor& positions, const Tensor& canvas) const {
  type("positions", positions, DataType::float64);
  dims("positions", positions, 2, "(..., n, 2)");
  shape("positions", positions, leading(canvas, 2), {trailing(positions)[0], 2});
  device("positions", positions, canvas);
}

void Check::positions_of_patches(const Tensor& positions, const Tensor& patches) const {
  type("positions", positions, DataType::float64);
  shape("positions", positions, leading(patches, 2), {2});
  device("positions", positions, patches);
}

void Check::weighted_patches(const Tensor& patches, const Tensor& positions, const Tensor& weights,
                             Shape canvas_size) const {
  data("patches", patches);
  dims("patches", patches, 3, "(..., n, h, w)");
  positions_of_patches(positions, patches);
  type("weights", weights, real_type(data_type(patches)));
  shape("weights", weights, weights.dim() == 2 ? Shape() : leading(patches, 2), trailing(patches));
  device("weights", weights, patches);
  size("canvas_size", canvas_size);
  holds_patch("canvas_size", canvas_size, trailing(patches));
}

void Check::out(const char* argument, const Tensor& out, const Tensor& model, Shape first, Shape last) const {
  if (type_code(out) != type_code(model)) [[unlikely]]
    throw_rule(op_, argument, "be " + text(model.scalar_type()), text(out.scalar_type()));
  shape(argument, out, first, last);
  device(argument, out, model);
  if (!out.is_contiguous()) [[unlikely]]
    throw_rule(op_, argument, "be contiguous", "other strides");
}

void Check::threshold(double eps) const {
  if (eps >= 0.0) [[likely]]
    return;
  char value[32];
  std::snprintf(value, sizeof(value), "%g", eps);
  throw_rule(op_, "eps", "be at least 0", std::isnan(eps) ? "nan" : value);
}

void Check::apart(const char* argument, const Tensor& out, std::initializer_list<const Tensor*> others) const {
  const auto bytes = [](const Tensor& tensor) {
    const auto begin = reinterpret_cast<uintptr_t>(tensor.const_data_ptr());
    return std::pair(begin, begin + static_cast<uintptr_t>(tensor.numel()) * tensor.element_size());
  };
  const auto [begin, end] = bytes(out);
  for (const Tensor* const other : others) {
    if (!other->is_contiguous()) continue;
    const auto [first, last] = bytes(*other);
    if (begin < last && first < end && begin < end && first < last) [[unlikely]]
      throw_rule(op_, argument, "have memory of its own", "that of an input or another result");
  }
}

MaybeTensor plan_list(const char* op, const Tensor& positions, const MaybeTensor& list) {
  if (!list) return std::nullopt;
  check_plan(type_code(*list) == type_code(DataType::int64) && list->dim() == 1 && same_device(*list, positions), op);
  return as_contiguous(*list);
}

void check_finite(const char* op, const char* argument, const Tensor& coordinates) {
  const double* const values = read<double>(coordinates);
  const int64_t count = coordinates.numel();
  int64_t wrong = 0;  // without a branch, so that the loop is compiled to vectors
  for (int64_t i = 0; i < count; ++i) wrong |= !(std::fabs(values[i]) <= std::numeric_limits<double>::max());
  if (!wrong) [[likely]]
    return;
  for (int64_t i = 0; i < count; ++i)
    if (!std::isfinite(values[i]))
      throw_rule(op, argument, "be finite", std::isnan(values[i]) ? "nan" : values[i] > 0 ? "inf" : "-inf");
}

}  // namespace ptycho
