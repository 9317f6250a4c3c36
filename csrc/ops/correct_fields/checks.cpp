// SPDX-License-Identifier: BSD-3-Clause
// The rules of the inputs of correct_fields and its backward, in the order in which they are applied.
#include "ops/correct_fields/checks.h"

#include <cstdio>
#include <limits>

#include "runtime/checks.h"

namespace ptycho {
namespace {

std::optional<CountType> find_count_type(const Tensor& counts) {
  static const int32_t codes[] = {aoti_torch_dtype_uint8(),   aoti_torch_dtype_int16(),  aoti_torch_dtype_uint16(),
                                  aoti_torch_dtype_int32(),   aoti_torch_dtype_uint32(), aoti_torch_dtype_int64(),
                                  aoti_torch_dtype_float32(), aoti_torch_dtype_float64()};
  const int32_t code = type_code(counts);
  for (size_t i = 0; i < std::size(codes); ++i)
    if (codes[i] == code) return static_cast<CountType>(i);
  return std::nullopt;
}

[[gnu::cold]] std::string text(double value) {
  char digits[32];
  std::snprintf(digits, sizeof(digits), "%g", value);
  return digits;
}

}  // namespace

CountType count_type(const Tensor& counts) {
  return *find_count_type(counts);
}

void check_measurement(const char* op, const Tensor& data, Shape patterns, Shape size, const Measurement& inputs) {
  const Check check(op);
  if (!find_count_type(inputs.counts)) [[unlikely]]
    check.wrong_type("counts", inputs.counts, "be uint8, int16, uint16, int32, uint32, int64, float32 or float64");
  check.shape("counts", inputs.counts, patterns, size);
  check.device("counts", inputs.counts, data);
  if (inputs.mask) {
    if (type_code(*inputs.mask) != aoti_torch_dtype_bool()) [[unlikely]]
      check.wrong_type("mask", *inputs.mask, "be bool");
    check.shape("mask", *inputs.mask, inputs.mask->dim() == 2 ? Shape() : patterns, size);
    check.device("mask", *inputs.mask, data);
  }
  if (inputs.scale) {
    check.type("scale", *inputs.scale, real_type(data_type(data)));
    check.shape("scale", *inputs.scale, patterns);
    check.device("scale", *inputs.scale, data);
  }
  if (inputs.loss != "poisson" && inputs.loss != "amplitude") [[unlikely]]
    throw_rule(op, "loss", "be 'poisson' or 'amplitude'", "'" + inputs.loss + "'");
  if (!(inputs.background >= 0 && inputs.background <= std::numeric_limits<float>::max())) [[unlikely]]
    throw_rule(op, "background", "be finite and not negative", text(inputs.background));
}

void check_correct_fields_inputs(const char* op, const Comparison& inputs) {
  const Check check(op);
  check.data("fields", inputs.fields);
  check.dims("fields", inputs.fields, 3, "(..., M, h, w)");
  check_measurement(op, inputs.fields, leading(inputs.fields, 3), trailing(inputs.fields), inputs);
}

void check_correct_fields_grads(const Comparison& inputs, const MaybeTensor& grad_correction,
                                const MaybeTensor& grad_values, const MaybeTensor& grad_scale_slopes) {
  const Check check("correct_fields_backward");
  const Tensor& fields = inputs.fields;
  if (grad_correction) {
    check.type("grad_correction", *grad_correction, data_type(fields));
    check.shape("grad_correction", *grad_correction, fields.sizes());
    check.device("grad_correction", *grad_correction, fields);
  }
  const auto per_pattern = [&](const char* argument, const MaybeTensor& grad) {
    if (!grad) return;
    check.type(argument, *grad, DataType::float64);
    check.shape(argument, *grad, leading(fields, 3));
    check.device(argument, *grad, fields);
  };
  per_pattern("grad_values", grad_values);
  per_pattern("grad_scale_slopes", grad_scale_slopes);
}

}  // namespace ptycho
