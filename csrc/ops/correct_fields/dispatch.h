// SPDX-License-Identifier: BSD-3-Clause
// What torch's dispatcher calls for correct_fields and its backward, written once for all backends: the inputs are
// checked, the results are made or checked, and the backend's function `into` writes to them. A Context is made from
// the tensor that names the device, is alive while the work is done or enqueued, and makes results: cpu::Host,
// cuda::Queue.
#pragma once

#include "ops/correct_fields/checks.h"
#include "ops/correct_fields/patterns.h"
#include "runtime/checks.h"

namespace ptycho::dispatch {

inline Tensor per_pattern(const Tensor& fields) {
  return new_tensor(fields, leading(fields, 3), Shape(), aoti_torch_dtype_float64());
}

// into(context, inputs, correction or nothing, values, scale_slopes)
template <typename Context, auto into>
std::tuple<Tensor, Tensor, Tensor> correct_fields(const Tensor& fields, const Tensor& counts, const MaybeTensor& mask,
                                                  const MaybeTensor& scale, StringHandle loss, double background,
                                                  bool correct) {
  const Comparison inputs{fields, counts, mask, scale, take_string(loss), background};
  check_correct_fields_inputs("correct_fields", inputs);
  const Context context(fields);
  const Shape sizes = fields.sizes(), size = trailing(fields);
  const int64_t no_modes[] = {0, size[0], size[1]};
  Tensor correction =
      correct ? context.output(fields, sizes, Shape()) : context.output(fields, leading(fields, 3), Shape(no_modes, 3));
  Tensor values = per_pattern(fields), scale_slopes = per_pattern(fields);
  into(context, inputs, correct ? &correction : nullptr, values, scale_slopes);
  return {std::move(correction), std::move(values), std::move(scale_slopes)};
}

template <typename Context, auto into>
std::tuple<Tensor, Tensor> correct_fields_out(const Tensor& fields, const Tensor& counts, const MaybeTensor& mask,
                                              const MaybeTensor& scale, StringHandle loss, double background,
                                              Tensor out) {
  const Comparison inputs{fields, counts, mask, scale, take_string(loss), background};
  check_correct_fields_inputs("correct_fields", inputs);
  Check("correct_fields").out("out", out, fields, fields.sizes(), Shape());
  Tensor values = per_pattern(fields), scale_slopes = per_pattern(fields);
  into(Context(fields), inputs, &out, values, scale_slopes);
  return {std::move(values), std::move(scale_slopes)};
}

// into(context, inputs, grad_correction, grad_values, grad_scale_slopes, grad_fields, grad_scale)
template <typename Context, auto into>
std::tuple<Tensor, Tensor> correct_fields_backward(const MaybeTensor& grad_correction, const MaybeTensor& grad_values,
                                                   const MaybeTensor& grad_scale_slopes, const Tensor& fields,
                                                   const Tensor& counts, const MaybeTensor& mask,
                                                   const MaybeTensor& scale, StringHandle loss, double background) {
  const Comparison inputs{fields, counts, mask, scale, take_string(loss), background};
  check_correct_fields_inputs("correct_fields_backward", inputs);
  check_correct_fields_grads(inputs, grad_correction, grad_values, grad_scale_slopes);
  const Context context(fields);
  Tensor grad_fields = context.output(fields, fields.sizes(), Shape()), grad_scale = per_pattern(fields);
  into(context, inputs, grad_correction, grad_values, grad_scale_slopes, grad_fields, grad_scale);
  return {std::move(grad_fields), std::move(grad_scale)};
}

}  // namespace ptycho::dispatch
