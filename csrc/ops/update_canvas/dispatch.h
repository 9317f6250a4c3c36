// SPDX-License-Identifier: BSD-3-Clause
// What torch's dispatcher calls for update_canvas and its backward, written once for all backends: the inputs are
// checked, the results are made, and the backend's function `into` writes to them. A Context is made from the tensor
// that names the device, is alive while the work is done or enqueued, and makes results: cpu::Host, cuda::Queue.
#pragma once

#include "ops/update_canvas/checks.h"
#include "ops/update_canvas/pixels.h"

namespace ptycho::dispatch {

// into(context, inputs, canvas, velocity, direction or nothing)
template <typename Context, auto into>
std::tuple<Tensor, Tensor, Tensor> update_canvas(const Tensor& canvas, const Tensor& numerator,
                                                 const Tensor& inverse_illumination, const Tensor& floor,
                                                 const Tensor& factors, const MaybeTensor& velocity,
                                                 const MaybeTensor& momentum, bool keep_direction) {
  const UpdateInputs inputs{canvas, numerator, inverse_illumination, floor, factors, velocity, momentum};
  check_update_canvas_inputs("update_canvas", inputs);
  const Context context(canvas);
  const auto made = [&] { return context.output(canvas, canvas.sizes(), Shape()); };
  Tensor next = made(), next_velocity = made();
  Tensor direction = keep_direction ? made() : new_tensor(canvas, 0, type_code(canvas));
  into(context, inputs, next, next_velocity, keep_direction ? &direction : nullptr);
  return {std::move(next), std::move(next_velocity), std::move(direction)};
}

using UpdateGradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// into(context, inputs, gradients of the outputs, gradients of the inputs)
template <typename Context, auto into>
UpdateGradients update_canvas_backward(const MaybeTensor& grad_canvas, const MaybeTensor& grad_velocity,
                                       const MaybeTensor& grad_direction, const Tensor& canvas, const Tensor& numerator,
                                       const Tensor& inverse_illumination, const Tensor& floor, const Tensor& factors,
                                       const MaybeTensor& velocity, const MaybeTensor& momentum) {
  const UpdateInputs inputs{canvas, numerator, inverse_illumination, floor, factors, velocity, momentum};
  const UpdateGrads grads{grad_canvas, grad_velocity, grad_direction};
  check_update_canvas_inputs("update_canvas_backward", inputs);
  check_update_canvas_grads(inputs, grads);
  const Context context(canvas);
  const auto like = [&](const Tensor& tensor) { return context.output(tensor, tensor.sizes(), Shape()); };
  const auto empty = [&](const Tensor& tensor) { return new_tensor(tensor, 0, type_code(tensor)); };
  UpdateGradients results{like(canvas), like(numerator), like(inverse_illumination), like(floor), like(factors),
                          velocity ? like(*velocity) : empty(canvas), momentum ? like(*momentum) : empty(factors)};
  into(context, inputs, grads, results);
  return results;
}

template <typename T>
UpdateGradOutputs<T> outputs_of(const UpdateGradients& results, const UpdateInputs& inputs) {
  return {write<Complex<T>>(std::get<0>(results)),
          write<Complex<T>>(std::get<1>(results)),
          write<T>(std::get<2>(results)),
          write<T>(std::get<3>(results)),
          write<T>(std::get<4>(results)),
          inputs.velocity ? write<Complex<T>>(std::get<5>(results)) : nullptr,
          inputs.momentum ? write<T>(std::get<6>(results)) : nullptr};
}

}  // namespace ptycho::dispatch
