// SPDX-License-Identifier: BSD-3-Clause
// From tensors that have passed the checks to the plain views of maths/canvas_update.h.
#pragma once

#include "maths/canvas_update.h"
#include "ops/update_canvas/checks.h"

namespace ptycho {

inline MaybeTensor as_contiguous(const MaybeTensor& tensor) {
  return tensor ? std::optional(as_contiguous(*tensor)) : std::nullopt;
}

// The inputs' contiguous tensors, alive while the view is used.
class ContiguousUpdate {
 public:
  explicit ContiguousUpdate(const UpdateInputs& inputs)
      : canvas_(as_contiguous(inputs.canvas)),
        numerator_(as_contiguous(inputs.numerator)),
        inverse_illumination_(as_contiguous(inputs.inverse_illumination)),
        floor_(as_contiguous(inputs.floor)),
        factors_(as_contiguous(inputs.factors)),
        velocity_(as_contiguous(inputs.velocity)),
        momentum_(inputs.momentum) {}

  template <typename T>
  CanvasUpdate<T> view() const {
    const Shape size = trailing(canvas_);
    return {read<Complex<T>>(canvas_),
            read<Complex<T>>(numerator_),
            read<T>(inverse_illumination_),
            read<T>(floor_),
            read<T>(factors_),
            velocity_ ? read<Complex<T>>(*velocity_) : nullptr,
            momentum_ ? read<T>(*momentum_) : nullptr,
            product(leading(canvas_, 2)),
            size[0] * size[1]};
  }

 private:
  Tensor canvas_;
  Tensor numerator_;
  Tensor inverse_illumination_;
  Tensor floor_;
  Tensor factors_;
  MaybeTensor velocity_;
  MaybeTensor momentum_;
};

// The same for the gradients of the outputs.
class ContiguousUpdateGrads {
 public:
  explicit ContiguousUpdateGrads(const UpdateGrads& grads)
      : canvas_(as_contiguous(grads.canvas)),
        velocity_(as_contiguous(grads.velocity)),
        direction_(as_contiguous(grads.direction)) {}

  template <typename T>
  UpdateGradsView<T> view() const {
    const auto data = [](const MaybeTensor& tensor) { return tensor ? read<Complex<T>>(*tensor) : nullptr; };
    return {data(canvas_), data(velocity_), data(direction_)};
  }

 private:
  MaybeTensor canvas_;
  MaybeTensor velocity_;
  MaybeTensor direction_;
};

}  // namespace ptycho
