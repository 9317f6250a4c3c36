// SPDX-License-Identifier: BSD-3-Clause
// The inner loops of correct_fields, compiled once per instruction set (PTYCHO_LEVEL names the namespace). A part of a
// pattern is worked through in chunks of kSumLanes pixels that stay in the L1 cache, in loops that compilers turn into
// vectors; the maths is that of likelihood.h, with no fused multiply-add, so results are bitwise the same on all
// levels. Everything has internal linkage or is inlined, see vectors.h.
#include "maths/simd/fields.h"

#include <type_traits>

namespace ptycho::cpu::PTYCHO_LEVEL {
namespace {

constexpr int kChunk = kSumLanes;

template <typename T, int lanes = 1>
struct alignas(64) Row {
  T at[kChunk * lanes];
};

struct alignas(64) LaneSums {
  double at[kChunk] = {};

  template <typename T>
  void add(const T* __restrict values, int count) {
    for (int i = 0; i < count; ++i) at[i] += static_cast<double>(values[i]);
  }
  double total() {
    for (int half = kChunk / 2; half > 0; half /= 2)
      for (int i = 0; i < half; ++i) at[i] += at[i + half];
    return at[0];
  }
};

// What bad pixels hold is not looked at.
template <typename T>
void widen(const PatternPart<T>& part, int64_t first, int count, T* __restrict counts, T* __restrict good) {
  part.counts.typed([&](const auto* all) __attribute__((always_inline)) {
    const auto* const from = all + part.first_count + first;
    if (!part.mask) {
      for (int i = 0; i < count; ++i) counts[i] = static_cast<T>(from[i]);
      return;
    }
    const auto* const mask = reinterpret_cast<const uint8_t*>(part.mask) + first;
    for (int i = 0; i < count; ++i) counts[i] = static_cast<T>(from[i]);
    for (int i = 0; i < count; ++i) good[i] = static_cast<T>(mask[i]);
  });
}

// sums[i] = sum of the products of a and b over modes and lanes: with a = b, the intensity.
template <typename T, int lanes>
void sum_products(const PatternPart<T>& part, const T* a, const T* b, int64_t first, int count, T* __restrict sums) {
  for (int i = 0; i < count; ++i) sums[i] = T(0);
  for (int64_t mode = 0; mode < part.modes; ++mode) {
    const T* const x = a + mode * part.mode_stride + first * lanes;
    const T* const y = b + mode * part.mode_stride + first * lanes;
    for (int i = 0; i < count; ++i) {
      if constexpr (lanes == 2) {
        sums[i] += x[2 * i] * y[2 * i] + x[2 * i + 1] * y[2 * i + 1];
      } else {
        sums[i] += x[i] * y[i];
      }
    }
  }
}

// One factor to a pixel, as often as it has lanes.
template <typename T, int lanes>
void spread(const T* __restrict pixels, int count, T* __restrict scalars) {
  for (int i = 0; i < count; ++i)
    for (int lane = 0; lane < lanes; ++lane) scalars[i * lanes + lane] = pixels[i];
}

template <typename T, int lanes, bool poisson, bool masked>
void correct_as(const PatternPart<T>& part, T* correction, double* sums) {
  Row<T> counts, good, intensity, factor, value, by_scale;
  Row<T, lanes> factors;
  LaneSums value_sums, derivative_sums;
  const T scale = part.scale, background = part.background;
  for (int64_t first = 0; first < part.pixels; first += kChunk) {
    const int count = static_cast<int>(part.pixels - first < kChunk ? part.pixels - first : kChunk);
    widen(part, first, count, counts.at, good.at);
    sum_products<T, lanes>(part, part.fields, part.fields, first, count, intensity.at);
    for (int i = 0; i < count; ++i) {
      const auto pixel =
          correct_pixel<poisson>(scale * intensity.at[i], counts.at[i], masked ? good.at[i] != T(0) : true, background);
      factor.at[i] = scale * pixel.step;
      value.at[i] = pixel.value;
      by_scale.at[i] = pixel.by_scale;
    }
    value_sums.add(value.at, count);
    derivative_sums.add(by_scale.at, count);
    if (!correction) continue;
    T* const scalars = factors.at;
    spread<T, lanes>(factor.at, count, scalars);
    for (int64_t mode = 0; mode < part.modes; ++mode) {
      const T* const from = part.fields + mode * part.mode_stride + first * lanes;
      T* const to = correction + mode * part.mode_stride + first * lanes;
#pragma GCC ivdep
      for (int m = 0; m < count * lanes; ++m) to[m] = scalars[m] * from[m];
    }
  }
  sums[0] = value_sums.total();
  sums[1] = derivative_sums.total();
}

template <typename T, int lanes, bool poisson, bool masked>
void pass_back_as(const PatternPart<T>& part, const T* grads, T grad_value, T grad_by_scale, T* grad_fields,
                  double* by_scale_sum) {
  Row<T> counts, good, intensity, product, of_grad, of_field, by_scale;
  Row<T, lanes> grad_factors, field_factors;
  LaneSums sums;
  const T scale = part.scale, background = part.background;
  for (int64_t first = 0; first < part.pixels; first += kChunk) {
    const int count = static_cast<int>(part.pixels - first < kChunk ? part.pixels - first : kChunk);
    widen(part, first, count, counts.at, good.at);
    sum_products<T, lanes>(part, part.fields, part.fields, first, count, intensity.at);
    if (grads) {
      sum_products<T, lanes>(part, part.fields, grads, first, count, product.at);
    } else {
      for (int i = 0; i < count; ++i) product.at[i] = T(0);
    }
    for (int i = 0; i < count; ++i) {
      const auto pixel = pass_back<poisson>(scale * intensity.at[i], counts.at[i], masked ? good.at[i] != T(0) : true,
                                            background, scale, product.at[i], grad_value, grad_by_scale);
      of_grad.at[i] = scale * pixel.step;
      of_field.at[i] = T(2) * (scale * pixel.weight);
      by_scale.at[i] = pixel.step * product.at[i] + pixel.weight * intensity.at[i];
    }
    sums.add(by_scale.at, count);
    T* const for_grads = grad_factors.at;
    T* const for_fields = field_factors.at;
    if (grads) spread<T, lanes>(of_grad.at, count, for_grads);
    spread<T, lanes>(of_field.at, count, for_fields);
    for (int64_t mode = 0; mode < part.modes; ++mode) {
      const int64_t offset = mode * part.mode_stride + first * lanes;
      const T* const field = part.fields + offset;
      const T* const grad = grads ? grads + offset : nullptr;
      T* const to = grad_fields + offset;
      if (grad) {
#pragma GCC ivdep
        for (int m = 0; m < count * lanes; ++m) to[m] = for_grads[m] * grad[m] + for_fields[m] * field[m];
      } else {
#pragma GCC ivdep
        for (int m = 0; m < count * lanes; ++m) to[m] = for_fields[m] * field[m];
      }
    }
  }
  *by_scale_sum = sums.total();
}

// Calls body with the lanes, and whether Poisson and masked, as constants.
template <typename T, typename Body>
void with_constants(const PatternPart<T>& part, const Body& body) {
  const auto lanes = [&](auto poisson, auto masked) {
    if (part.lanes == 2) {
      body(std::integral_constant<int, 2>{}, poisson, masked);
    } else {
      body(std::integral_constant<int, 1>{}, poisson, masked);
    }
  };
  const auto mask = [&](auto poisson) {
    if (part.mask) {
      lanes(poisson, std::true_type{});
    } else {
      lanes(poisson, std::false_type{});
    }
  };
  if (part.poisson) {
    mask(std::true_type{});
  } else {
    mask(std::false_type{});
  }
}

template <typename T>
void correct(const PatternPart<T>& part, T* correction, double* sums) {
  with_constants(part, [&](auto lanes, auto poisson, auto masked) {
    correct_as<T, lanes.value, poisson.value, masked.value>(part, correction, sums);
  });
}

template <typename T>
void pass_back_part(const PatternPart<T>& part, const T* grad_correction, T grad_value, T grad_by_scale, T* grad_fields,
                    double* by_scale) {
  with_constants(part, [&](auto lanes, auto poisson, auto masked) {
    pass_back_as<T, lanes.value, poisson.value, masked.value>(part, grad_correction, grad_value, grad_by_scale,
                                                              grad_fields, by_scale);
  });
}

}  // namespace

template <typename T>
const FieldKernels<T>& field_table() {
  static constexpr FieldKernels<T> kernels{correct<T>, pass_back_part<T>};
  return kernels;
}

template const FieldKernels<float>& field_table<float>();
template const FieldKernels<double>& field_table<double>();

}  // namespace ptycho::cpu::PTYCHO_LEVEL
