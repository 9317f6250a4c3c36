// SPDX-License-Identifier: BSD-3-Clause
// The maths of one detector pixel: measured counts beside a predicted intensity, their likelihood, and how far the
// field is to be changed. Every quotient is a difference divided once, so nothing cancels where prediction and
// measurement agree; the logarithm is a series of products and sums, which has the same bits on every processor. A
// prediction below kLeastPrediction counts as that in the quotients, so that all is finite. Equations: docs/maths.md.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "maths/geometry.h"

// Inlined by force: compiled once per instruction set, where the linker would keep one level's copy for all.
#define PTYCHO_INLINE PTYCHO_HD __attribute__((always_inline)) inline

namespace ptycho {

enum class CountType { uint8, int16, uint16, int32, uint32, int64, float32, float64 };

// Counts in the type of their file.
struct Counts {
  const void* data;
  CountType type;

  // Calls body(pointer to the first count).
  template <typename Body>
  PTYCHO_INLINE void typed(const Body& body) const {
    switch (type) {
      case CountType::uint8:
        return body(static_cast<const uint8_t*>(data));
      case CountType::int16:
        return body(static_cast<const int16_t*>(data));
      case CountType::uint16:
        return body(static_cast<const uint16_t*>(data));
      case CountType::int32:
        return body(static_cast<const int32_t*>(data));
      case CountType::uint32:
        return body(static_cast<const uint32_t*>(data));
      case CountType::int64:
        return body(static_cast<const int64_t*>(data));
      case CountType::float32:
        return body(static_cast<const float*>(data));
      case CountType::float64:
        return body(static_cast<const double*>(data));
    }
  }
};

// The sums over a pattern: its pixels are divided into parts, those of a part are dealt out to kSumLanes sums, which
// are then added pairwise, and the parts' sums are added in their order. On every backend.
inline constexpr int kSumLanes = 256;
inline constexpr int64_t kPartPixels = 4096;

inline constexpr double kLeastPrediction = 1.0 / (int64_t{1} << 40);  // counts

// p = I + b and m = c + b
template <typename T>
struct Quotients {
  T difference;  // m - p
  T measured;    // m
  T predicted;   // p
  T inverse;     // 1 / p
  T excess;      // (m - p) / p
  T ratio;       // m / p
};

template <typename T>
PTYCHO_INLINE Quotients<T> quotients(T intensity, T counts, T background) {
  const T measured = counts + background, predicted = intensity + background, difference = counts - intensity;
  constexpr T least = static_cast<T>(kLeastPrediction);
  const T inverse = T(1) / (predicted < least ? least : predicted);
  return {difference, measured, predicted, inverse, difference * inverse, measured * inverse};
}

template <typename T>
struct FloatBits;
template <>
struct FloatBits<float> {
  using Integer = uint32_t;
  static constexpr int kMantissa = 23;
  static constexpr Integer kOne = 0x3f800000, kRootHalf = 0x3f3504f3;
  static constexpr Integer kCounting = 0x4b000000;          // 2^23, whose last bit is one
  static constexpr float kCountingBias = 8388608.0f + 127;  // and the exponent's bias
  static constexpr float kLeast = 0x1p-126f;
  static constexpr int kTerms = 4;  // of the series: the rest is below 2e-8 of the sum
};
template <>
struct FloatBits<double> {
  using Integer = uint64_t;
  static constexpr int kMantissa = 52;
  static constexpr Integer kOne = 0x3ff0000000000000, kRootHalf = 0x3fe6a09e667f3bcd;
  static constexpr Integer kCounting = 0x4330000000000000;
  static constexpr double kCountingBias = 4503599627370496.0 + 1023;
  static constexpr double kLeast = 0x1p-1022;
  static constexpr int kTerms = 10;  // below 4e-18
};

template <typename To, typename From>
PTYCHO_INLINE To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

// s - log(1 + s) for 1 + s from sqrt(1/2) to sqrt(2), without cancellation: log(1 + s) = 2 artanh(z), z = s / (2 + s).
template <typename T>
PTYCHO_INLINE T above_log(T s) {
  const T z = s / (s + T(2)), square = z * z;
  constexpr int terms = FloatBits<T>::kTerms;
  T series = T(2) / T(2 * terms + 1);
#ifdef __CUDA_ARCH__
#pragma unroll
#else
#pragma GCC unroll 10
#endif
  for (int n = terms - 1; n > 0; --n) series = series * square + T(2) / T(2 * n + 1);
  return z * (s - series * square);
}

// m log(m / p) - (m - p): twice the Poisson value. NaN where m < 0, and the limit where m = 0.
template <typename T>
PTYCHO_INLINE T poisson_deviance(const Quotients<T>& q) {
  using Bits = FloatBits<T>;
  using Integer = typename Bits::Integer;
  // ratio = 2^exponent (1 + s), exactly
  const T ratio = q.ratio > Bits::kLeast ? q.ratio : Bits::kLeast;
  const Integer shifted = bits_as<Integer>(ratio) + (Bits::kOne - Bits::kRootHalf);
  const T exponent = bits_as<T>((shifted >> Bits::kMantissa) | Bits::kCounting) - Bits::kCountingBias;
  constexpr Integer fraction = (Integer{1} << Bits::kMantissa) - 1;
  const T rest = bits_as<T>((shifted & fraction) + Bits::kRootHalf) - T(1);
  const bool near = exponent == T(0);
  const T s = near ? q.excess : rest;
  constexpr T log2 = static_cast<T>(0.693147180559945309417232121458);
  const T sum = q.measured * (exponent * log2 + s) - q.difference;  // as if log(1 + s) were s
  const T value = (near ? q.difference * q.excess : sum) - q.measured * above_log(s);
  return q.measured < T(0) ? static_cast<T>(NAN) : value;
}

// r of docs/maths.md, from which all else follows: the value's derivative by the intensity is -r.
template <bool poisson, typename T>
PTYCHO_INLINE T step_of(const Quotients<T>& q) {
  if constexpr (poisson) {
    return q.excess * T(0.5);
  } else {
    return q.excess / (T(1) + std::sqrt(q.ratio));  // sqrt(m / p) - 1
  }
}

template <bool poisson, typename T>
PTYCHO_INLINE T value_of(const Quotients<T>& q, T step) {
  if constexpr (poisson) {
    return poisson_deviance(q) * T(0.5);
  } else {
    return step * step *
           (q.predicted < static_cast<T>(kLeastPrediction) ? static_cast<T>(kLeastPrediction) : q.predicted);
  }
}

// The step's derivative by the intensity, times a factor.
template <bool poisson, typename T>
PTYCHO_INLINE T derivative_of(const Quotients<T>& q, T factor) {
  const T part = q.predicted < static_cast<T>(kLeastPrediction) ? T(0) : factor * q.inverse;
  return T(-0.5) * part * (poisson ? q.ratio : std::sqrt(q.ratio));
}

// The whole of a pixel, forward.
template <typename T>
struct Correction {
  T step;      // r
  T value;     // J of the pixel
  T by_scale;  // its derivative by the logarithm of the scale
};

// A bad pixel counts as measured as predicted.
template <bool poisson, typename T>
PTYCHO_INLINE Correction<T> correct_pixel(T intensity, T counts, bool good, T background) {
  const Quotients<T> q = quotients(intensity, good ? counts : intensity, background);
  const T step = step_of<poisson>(q);
  return {step, value_of<poisson>(q, step), -step * intensity};
}

// What a pixel passes back.
template <typename T>
struct Passed {
  T step;    // r, the factor of the correction's gradient
  T weight;  // the gradient by the intensity
};

// product: sum of Re(conj(grad) field) over the modes
template <bool poisson, typename T>
PTYCHO_INLINE Passed<T> pass_back(T intensity, T counts, bool good, T background, T scale, T product, T grad_value,
                                  T grad_by_scale) {
  const Quotients<T> q = quotients(intensity, good ? counts : intensity, background);
  const T step = step_of<poisson>(q);
  const T weight =
      derivative_of<poisson>(q, scale * product - grad_by_scale * intensity) - (grad_value + grad_by_scale) * step;
  return {step, good ? weight : T(0)};
}

}  // namespace ptycho
