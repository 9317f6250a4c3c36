// SPDX-License-Identifier: BSD-3-Clause
// The maths of one canvas pixel in update_canvas, and of what it passes back. With O the canvas, S the numerator, w the
// inverse illumination, V the velocity, m the momentum, f the floor and a, b the factors:
//   D = w S,  V' = D + m V,  U = O / sqrt(|O|^2 + f^2),  t = V' conj(U),  O' = O + U (a Re t + i b Im t)
// Gradients are those of autograd: of a complex number the derivative by its real part plus i times that by its
// imaginary part. The sums over pixels are formed as those of likelihood.h, in smaller parts.
#pragma once

#include <cmath>
#include <cstdint>

#include "maths/likelihood.h"

namespace ptycho {

// Small, so that one canvas has work for several blocks.
inline constexpr int64_t kUpdatePart = 2 * kSumLanes;

template <typename T>
struct Complex {
  T re;
  T im;
};

template <typename T>
PTYCHO_INLINE Complex<T> operator+(Complex<T> x, Complex<T> y) {
  return {x.re + y.re, x.im + y.im};
}
template <typename T>
PTYCHO_INLINE Complex<T> operator*(T factor, Complex<T> x) {
  return {factor * x.re, factor * x.im};
}
template <typename T>
PTYCHO_INLINE Complex<T> operator*(Complex<T> x, Complex<T> y) {
  return {x.re * y.re - x.im * y.im, x.re * y.im + x.im * y.re};
}
template <typename T>
PTYCHO_INLINE Complex<T> conj(Complex<T> x) {
  return {x.re, -x.im};
}
template <typename T>
PTYCHO_INLINE T dot(Complex<T> x, Complex<T> y) {  // Re(conj(x) y)
  return x.re * y.re + x.im * y.im;
}

// All of a tensor's groups, contiguous; velocity and momentum are both null or both not.
template <typename T>
struct CanvasUpdate {
  const Complex<T>* canvas;       // (groups, pixels)
  const Complex<T>* numerator;    // (groups, pixels)
  const T* inverse_illumination;  // (groups, pixels)
  const T* floor;                 // (groups)
  const T* factors;               // (2)
  const Complex<T>* velocity;     // (groups, pixels)
  const T* momentum;              // ()
  int64_t groups;
  int64_t pixels;

  PTYCHO_HD int64_t parts() const { return (pixels + kUpdatePart - 1) / kUpdatePart; }  // of a group
  PTYCHO_HD T momentum_or_zero() const { return momentum ? *momentum : T(0); }
};

// Gradients of the outputs; null for zeros.
template <typename T>
struct UpdateGradsView {
  const Complex<T>* canvas;
  const Complex<T>* velocity;
  const Complex<T>* direction;
};

// What is written to; null for nothing.
template <typename T>
struct UpdateOutputs {
  Complex<T>* canvas;
  Complex<T>* velocity;
  Complex<T>* direction;
};

template <typename T>
struct UpdateGradOutputs {
  Complex<T>* canvas;
  Complex<T>* numerator;
  T* inverse_illumination;
  T* floor;
  T* factors;
  Complex<T>* velocity;
  T* momentum;
};

// The sums that a part of a group contributes: to the gradients of both factors, the momentum and the floor.
struct UpdateSums {
  double along;
  double across;
  double momentum;
  double floor;

  PTYCHO_HD UpdateSums plus(const UpdateSums& other) const {
    return {along + other.along, across + other.across, momentum + other.momentum, floor + other.floor};
  }
};

// What the pixels of a group have in common.
template <typename T>
struct UpdateScalars {
  T floor;
  T along;   // factor of the component parallel to the canvas's value
  T across;  // and of the perpendicular one
  T momentum;
};

template <typename T>
struct UpdatePixel {
  Complex<T> canvas;
  Complex<T> numerator;
  T inverse_illumination;
  Complex<T> velocity;  // zero without one
};

template <typename T>
struct UpdatedPixel {
  Complex<T> canvas;
  Complex<T> velocity;
  Complex<T> direction;
};

template <typename T>
PTYCHO_INLINE UpdatedPixel<T> update_pixel(const UpdatePixel<T>& pixel, const UpdateScalars<T>& by) {
  const Complex<T> direction = pixel.inverse_illumination * pixel.numerator;
  const Complex<T> velocity = direction + by.momentum * pixel.velocity;
  const T inverse = T(1) / std::sqrt(dot(pixel.canvas, pixel.canvas) + by.floor * by.floor);
  const Complex<T> unit = inverse * pixel.canvas;
  const Complex<T> relative = velocity * conj(unit);
  const Complex<T> change = unit * Complex<T>{by.along * relative.re, by.across * relative.im};
  return {pixel.canvas + change, velocity, direction};
}

template <typename T>
struct UpdatePixelGrads {
  Complex<T> canvas;
  Complex<T> numerator;
  T inverse_illumination;
  Complex<T> velocity;
  T along;  // these four are summands
  T across;
  T momentum;
  T floor;
};

template <typename T>
PTYCHO_INLINE UpdatePixelGrads<T> pass_back_update(const UpdatePixel<T>& pixel, const UpdateScalars<T>& by,
                                                   const UpdatedPixel<T>& grads) {
  const Complex<T> velocity = pixel.inverse_illumination * pixel.numerator + by.momentum * pixel.velocity;
  const T inverse = T(1) / std::sqrt(dot(pixel.canvas, pixel.canvas) + by.floor * by.floor);
  const Complex<T> unit = inverse * pixel.canvas;
  const Complex<T> relative = velocity * conj(unit);
  const Complex<T> scaled{by.along * relative.re, by.across * relative.im};
  const Complex<T> of_scaled = conj(unit) * grads.canvas;
  const Complex<T> of_relative{by.along * of_scaled.re, by.across * of_scaled.im};
  const Complex<T> of_unit = grads.canvas * conj(scaled) + conj(of_relative) * velocity;
  const T radial = dot(of_unit, unit);
  const Complex<T> of_velocity = grads.velocity + of_relative * unit;
  const Complex<T> of_direction = of_velocity + grads.direction;
  return {grads.canvas + inverse * (of_unit + -radial * unit),
          pixel.inverse_illumination * of_direction,
          dot(pixel.numerator, of_direction),
          by.momentum * of_velocity,
          of_scaled.re * relative.re,
          of_scaled.im * relative.im,
          dot(pixel.velocity, of_velocity),
          -(by.floor * (inverse * inverse) * radial)};
}

}  // namespace ptycho
