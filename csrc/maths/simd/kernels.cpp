// SPDX-License-Identifier: BSD-3-Clause
// The inner loops, compiled once per instruction set (PTYCHO_LEVEL names the namespace). Interpolation is separable:
// each source line is interpolated along itself once, and two such lines are blended; a line is kept for the next
// output row in registers, or in a buffer from one block of rows to the next. Source lines are not copied; vectors at
// an edge are read in part, the rest of them being zero. Every level performs the same operations in the same order on
// each scalar, with no fused multiply-add, so results are bitwise the same on all.
#include "maths/simd/kernels.h"

#include <cstring>

#include "maths/simd/lines.h"
#include "maths/simd/modes.h"
#include "maths/simd/position_gradient.h"

namespace ptycho::cpu::PTYCHO_LEVEL {
namespace {

template <typename T>
inline void add(T* target, Vector<T> value) {
  store(target, load(target) + value);
}

enum class Factor { none, real, complex, of_source };

template <typename T, int64_t lanes, Write write, Factor factor>
void interpolate_as(const PatchView<T>& view, T* out, int64_t stride, T* scratch) {
  const LineVectors<T, lanes> vectors(view, write == Write::add ? past_boundary(out) : 0);
  if (!vectors.overlaps()) {
    for (int64_t r = 0; r < view.rows && write != Write::add; ++r)
      std::memset(out + r * stride, 0, vectors.size() * sizeof(T));
    return;
  }
  const T y0 = view.y.w0, y1 = view.y.w1;
  T* const above = scratch;  // the line interpolated last
  const Lines<T> lines(view, above + scratch_line<T>(view.cols, lanes), view.next);
  const Lines<T> lines_of_factors = [&] {
    if constexpr (factor != Factor::of_source) return lines;  // not used
    PatchView<T> view_of_factors = view;
    view_of_factors.source = view.factors;
    return Lines<T>(view_of_factors, above + scratch_line<T>(view.cols, lanes), nullptr);
  }();
  // A line, interpolated; by: that of the factors.
  const auto blend = [&](const auto& at, const T* line, [[maybe_unused]] const T* by) __attribute__((always_inline)) {
    if constexpr (factor == Factor::of_source) {
      const TwoVectors<T> taps = at.products(line, by);
      return vectors.blend(taps.left, taps.right);
    } else {
      return vectors.blend(at.left(line), at.right(line));
    }
  };
  const T* const top = lines[0];
  const T* const top_factors = lines_of_factors[0];
  vectors.template for_each<kWide<T>>([&](int64_t m, auto edge) __attribute__((always_inline)) {
    store(vectors.in(above, m), blend(vectors.at(m, edge), top, top_factors));
  });
  for_row_blocks(lines, view.rows, [&](int64_t r, auto rows) __attribute__((always_inline)) {
    const T* const line = lines[r + 1];
    const T* const by = lines_of_factors[r + 1];
    T* const row = out + r * stride;
    vectors.template for_each<kWide<T>>([&](int64_t m, auto edge) __attribute__((always_inline)) {
      const auto at = vectors.at(m, edge);
      Vector<T> last = load(vectors.in(above, m));
#pragma GCC unroll 4
      for (int64_t q = 0; q < rows.value; ++q) {
        const Vector<T> next = blend(at, line + q * lines.stride(), by + q * lines.stride());
        Vector<T> value = y0 * last + y1 * next;
        if constexpr (factor == Factor::real) value = value * at.own(view.weights + (r + q) * vectors.size());
        if constexpr (factor == Factor::complex)
          value = product_of<T, lanes, false>(value, at.own(view.weights + (r + q) * vectors.size()));
        T* const target = row + q * stride + m;
        if constexpr (write == Write::add) {
          add(target, value);
        } else if constexpr (write == Write::stream) {
          stream_store(target, value);
        } else if (!edge.value || m + kWide<T> <= vectors.size()) {
          store(target, value);
        } else {
          store_first(target, value, vectors.size() - m);
        }
        last = next;
      }
      store(vectors.in(above, m), last);
    });
  });
}

template <typename T, int64_t lanes, Write write>
void interpolate_times(const PatchView<T>& view, T* out, int64_t stride, T* scratch) {
  if (!view.weights) {
    interpolate_as<T, lanes, write, Factor::none>(view, out, stride, scratch);
  } else if (lanes == 2 && view.complex_weights) {
    interpolate_as<T, lanes, write, lanes == 2 ? Factor::complex : Factor::real>(view, out, stride, scratch);
  } else {
    interpolate_as<T, lanes, write, Factor::real>(view, out, stride, scratch);
  }
}

template <typename T, int64_t lanes>
void interpolate_lanes(const PatchView<T>& view, T* out, int64_t stride, Write write, T* scratch) {
  if (write == Write::add && lanes == 1 && view.factors) {
    interpolate_as<T, lanes, Write::add, lanes == 1 ? Factor::of_source : Factor::none>(view, out, stride, scratch);
  } else if (write == Write::add) {
    interpolate_as<T, lanes, Write::add, Factor::none>(view, out, stride, scratch);
  } else if (write == Write::stream) {
    interpolate_times<T, lanes, Write::stream>(view, out, stride, scratch);
  } else {
    interpolate_times<T, lanes, Write::store>(view, out, stride, scratch);
  }
}

template <typename T>
void interpolate(const PatchView<T>& view, T* out, int64_t stride, Write write, T* scratch) {
  if (view.lanes == 1) {
    interpolate_lanes<T, 1>(view, out, stride, write, scratch);
  } else {
    interpolate_lanes<T, 2>(view, out, stride, write, scratch);
  }
}

// The view of source * weights, and that of the weights, in one pass: a pixel has `lanes` scalars and one weight.
template <typename T, int64_t lanes>
void add_weighted_lanes(const PatchView<T>& view, const Weights<T>& weights, T* image, T* weight_sum, int64_t stride,
                        T* scratch) {
  const int64_t pad = past_boundary(weight_sum);
  const LineVectors<T, 1> pixels(view, pad);
  const LineVectors<T, lanes> vectors(view, pad * lanes);
  if (!pixels.overlaps()) return;
  const T x0 = view.x.w0, x1 = view.x.w1;
  const T y0 = view.y.w0, y1 = view.y.w1;
  const int64_t line_size = scratch_line<T>(view.cols, lanes);
  T* const above = scratch;  // the line interpolated last, and that of the weights
  T* const above_weights = above + line_size;
  T* const zeros = above_weights + line_size;
  PatchView<T> view_of_weights = view;
  view_of_weights.source = weights.data;
  view_of_weights.lanes = 1;
  const Lines<T> lines(view, zeros, view.next);
  const Lines<T> lines_of_weights(view_of_weights, zeros, weights.next);

  // The weights of both taps of a pixel, times those of the interpolation along the line.
  const auto tap_weights = [&](const auto& at, const T* weight) __attribute__((always_inline)) {
    return TwoVectors<T>{x0 * at.left(weight), x1 * at.right(weight)};
  };
  // Vector `part` of the lanes of these pixels.
  const auto weighted = [&](auto part, const auto& at, const T* line, const TwoVectors<T>& by)
                            __attribute__((always_inline)) {
                              return at.left(line) * to_lanes<T, lanes, part.value>(by.left) +
                                     at.right(line) * to_lanes<T, lanes, part.value>(by.right);
                            };
  const auto lanes_at = [&](auto part, int64_t p, auto edge)
                            __attribute__((always_inline)) { return vectors.at(p * lanes + part * kWide<T>, edge); };

  const T* const top = lines[0];
  const T* const top_weights = lines_of_weights[0];
  pixels.template for_each<kWide<T>>([&](int64_t p, auto edge) __attribute__((always_inline)) {
    const TwoVectors<T> by = tap_weights(pixels.at(p, edge), top_weights);
    store(pixels.in(above_weights, p), by.left + by.right);
    for_each_part<lanes>([&](auto part) __attribute__((always_inline)) {
      store(vectors.in(above, p * lanes) + part * kWide<T>, weighted(part, lanes_at(part, p, edge), top, by));
    });
  });
  for_row_blocks(lines, view.rows, [&](int64_t r, auto rows) __attribute__((always_inline)) {
    if (weights.next)
      for (int64_t q = 1; q <= rows.value; ++q) lines_of_weights.prefetch_behind(r + q);
    const T* const line = lines[r + 1];
    const T* const weight = lines_of_weights[r + 1];
    pixels.template for_each<kWide<T>>([&](int64_t p, auto edge) __attribute__((always_inline)) {
      T* const before_weights = pixels.in(above_weights, p);
      T* const before = vectors.in(above, p * lanes);
      const auto pixels_at = pixels.at(p, edge);
      const auto low_at = lanes_at(std::integral_constant<int64_t, 0>{}, p, edge);
      const auto high_at = lanes_at(std::integral_constant<int64_t, lanes - 1>{}, p, edge);
      Vector<T> last_weights = load(before_weights);
      Vector<T> last[lanes];
      for (int64_t part = 0; part < lanes; ++part) last[part] = load(before + part * kWide<T>);
#pragma GCC unroll 4
      for (int64_t q = 0; q < rows.value; ++q) {
        const int64_t pixel = (r + q) * stride + p;
        const TwoVectors<T> by = tap_weights(pixels_at, weight + q * lines_of_weights.stride());
        add(weight_sum + pixel, y0 * last_weights + y1 * (by.left + by.right));
        last_weights = by.left + by.right;
        for_each_part<lanes>([&](auto part) __attribute__((always_inline)) {
          const Vector<T> next = weighted(part, part.value ? high_at : low_at, line + q * lines.stride(), by);
          add(image + pixel * lanes + part * kWide<T>, y0 * last[part] + y1 * next);
          last[part] = next;
        });
      }
      store(before_weights, last_weights);
      for (int64_t part = 0; part < lanes; ++part) store(before + part * kWide<T>, last[part]);
    });
  });
}

template <typename T>
void add_weighted(const PatchView<T>& view, const Weights<T>& weights, T* image, T* weight_sum, int64_t stride,
                  T* scratch) {
  if (view.lanes == 1) {
    add_weighted_lanes<T, 1>(view, weights, image, weight_sum, stride, scratch);
  } else {
    add_weighted_lanes<T, 2>(view, weights, image, weight_sum, stride, scratch);
  }
}

template <typename T, int64_t lanes>
void divide_lanes(T* __restrict image, const T* __restrict weights, int64_t pixels, Range<T>* range) {
  Vector<T> least = Vector<T>{} + range->least;
  Vector<T> most = Vector<T>{} + range->most;
  int64_t p = 0;
  for (; p + kWide<T> <= pixels; p += kWide<T>) {
    const Vector<T> weight = load(weights + p);
    const Vector<T> positive = weight > T(0) ? weight : least;
    least = positive < least ? positive : least;
    most = weight > most ? weight : most;
    for_each_part<lanes>([&](auto part) {
      const Vector<T> divisor = to_lanes<T, lanes, part.value>(weight);
      T* const target = image + p * lanes + part * kWide<T>;
      store(target, divisor <= T(0) ? Vector<T>{} : load(target) / divisor);
    });
  }
  for (int64_t s = 0; s < kWide<T>; ++s) {
    range->least = least[s] < range->least ? least[s] : range->least;
    range->most = most[s] > range->most ? most[s] : range->most;
  }
  for (; p < pixels; ++p) {
    const T weight = weights[p];
    if (weight > T(0) && weight < range->least) range->least = weight;
    if (weight > range->most) range->most = weight;
    for (int64_t m = p * lanes; m < (p + 1) * lanes; ++m) image[m] = weight <= T(0) ? T(0) : image[m] / weight;
  }
}

template <typename T>
void divide(T* image, const T* weights, int64_t pixels, int64_t lanes, Range<T>* range) {
  if (lanes == 1) {
    divide_lanes<T, 1>(image, weights, pixels, range);
  } else {
    divide_lanes<T, 2>(image, weights, pixels, range);
  }
}

template <typename T>
void stream(T* out, const T* in, int64_t count) {
  const auto past = reinterpret_cast<uintptr_t>(out) % kLineBytes;
  int64_t head = past ? static_cast<int64_t>((kLineBytes - past) / sizeof(T)) : 0;
  if (head > count) head = count;
  std::memcpy(out, in, head * sizeof(T));
  int64_t m = head;
  for (; m + kWide<T> <= count; m += kWide<T>) stream_store(out + m, load(in + m));
  std::memcpy(out + m, in + m, (count - m) * sizeof(T));
}

void fence() {
  store_fence();
}

}  // namespace

template <typename T>
const Kernels<T>& table() {
  static constexpr Kernels<T> kernels{interpolate<T>, add_weighted<T>, position_gradient<T>, divide<T>, stream<T>,
                                      multiply<T>,    add_products<T>, sum_modes<T>,         fence};
  return kernels;
}

template const Kernels<float>& table<float>();
template const Kernels<double>& table<double>();

}  // namespace ptycho::cpu::PTYCHO_LEVEL
