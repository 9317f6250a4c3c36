// SPDX-License-Identifier: BSD-3-Clause
// The inner loops, compiled once per instruction set (PTYCHO_LEVEL names the namespace). Interpolation is separable:
// each source line is interpolated along itself once, and two such lines are blended; a line is kept for the next
// output row in registers, or in a buffer from one block of rows to the next. Source lines are not copied; vectors at
// an edge are read in part, the rest of them being zero. Every level performs the same operations in the same order on
// each scalar, with no fused multiply-add, so results are bitwise the same on all.
#include "maths/simd/kernels.h"

#include <cstring>

#include "maths/simd/lines.h"

namespace ptycho::cpu::PTYCHO_LEVEL {
namespace {

template <typename T>
inline void add(T* target, Vector<T> value) {
  store(target, load(target) + value);
}

template <typename T, int64_t lanes, Write write, bool weighted>
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
  const T* const top = lines[0];
  vectors.template for_each<kWide<T>>([&](int64_t m, auto edge) __attribute__((always_inline)) {
    const auto at = vectors.at(m, edge);
    store(vectors.in(above, m), vectors.blend(at.left(top), at.right(top)));
  });
  for_row_blocks(lines, view.rows, [&](int64_t r, auto rows) __attribute__((always_inline)) {
    const T* const line = lines[r + 1];
    T* const row = out + r * stride;
    vectors.template for_each<kWide<T>>([&](int64_t m, auto edge) __attribute__((always_inline)) {
      const auto at = vectors.at(m, edge);
      Vector<T> last = load(vectors.in(above, m));
#pragma GCC unroll 4
      for (int64_t q = 0; q < rows.value; ++q) {
        const T* const taps = line + q * lines.stride();
        const Vector<T> next = vectors.blend(at.left(taps), at.right(taps));
        Vector<T> value = y0 * last + y1 * next;
        if constexpr (weighted) value = value * at.own(view.weights + (r + q) * vectors.size());
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

template <typename T, int64_t lanes>
void interpolate_lanes(const PatchView<T>& view, T* out, int64_t stride, Write write, T* scratch) {
  if (write == Write::add) {
    interpolate_as<T, lanes, Write::add, false>(view, out, stride, scratch);
  } else if (write == Write::stream && view.weights) {
    interpolate_as<T, lanes, Write::stream, true>(view, out, stride, scratch);
  } else if (write == Write::stream) {
    interpolate_as<T, lanes, Write::stream, false>(view, out, stride, scratch);
  } else if (view.weights) {
    interpolate_as<T, lanes, Write::store, true>(view, out, stride, scratch);
  } else {
    interpolate_as<T, lanes, Write::store, false>(view, out, stride, scratch);
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

template <typename T>
struct TwoVectors {
  Vector<T> left;
  Vector<T> right;
};

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
  const int64_t room = scratch_line<T>(view.cols, lanes);
  T* const above = scratch;  // the line interpolated last, and that of the weights
  T* const above_weights = above + room;
  T* const zeros = above_weights + room;
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

// Sums of a view's products, scalar m of a row in slot m % kLine: in T while they are short, then in double. The
// slots and the order within them are the same on every level.
template <typename T>
struct GradientSums {
  T y[kLine<T>] = {};
  T x[kLine<T>] = {};
  double by_y[kLine<T>] = {};
  double by_x[kLine<T>] = {};

  void flush() {
    for (int64_t s = 0; s < kLine<T>; ++s) {
      by_y[s] += static_cast<double>(y[s]);
      by_x[s] += static_cast<double>(x[s]);
      y[s] = x[s] = T(0);
    }
  }
};

constexpr int64_t kTerms = 128;  // that a slot sums in T

// grads: rows of `stride` scalars.
template <typename T, int64_t lanes>
void gradient_of_strip(const PatchView<T>& view, const T* grads, int64_t stride, const T* next_grads,
                       GradientSums<T>& sums_of_slots, T* scratch) {
  const LineVectors<T, lanes> vectors(view, 0);
  if (!vectors.overlaps()) return;
  const T y0 = view.y.w0, y1 = view.y.w1;
  const int64_t room = scratch_line<T>(view.cols, lanes);
  T* const above = scratch;  // the line interpolated last, and its steps from pixel to pixel
  T* const across = above + room;
  const Lines<T> lines(view, across + room, view.next);
  const T* const top = lines[0];
  vectors.template for_each<kWide<T>>([&](int64_t m, auto edge) __attribute__((always_inline)) {
    const auto at = vectors.at(m, edge);
    const Vector<T> left = at.left(top), right = at.right(top);
    store(above + m, vectors.blend(left, right));
    store(across + m, right - left);
  });
  const int64_t terms_of_row = (vectors.size() + kLine<T> - 1) / kLine<T>;
  int64_t terms = 0;
  for_row_blocks(lines, view.rows, [&](int64_t r, auto rows) __attribute__((always_inline)) {
    const T* const line = lines[r + 1];
    for (int64_t q = 0; q < rows.value; ++q) {
      const int64_t ahead = r + q + kRowsAhead;
      if (ahead < view.rows) {
        prefetch(grads + ahead * stride, vectors.size());
      } else if (next_grads) {
        prefetch(next_grads + (ahead - view.rows) * stride, vectors.size());
      }
    }
    const T* const grad_row = grads + r * stride;
    Vector<T> sum_y[kVectors], sum_x[kVectors];
    for (int64_t u = 0; u < kVectors; ++u) {
      sum_y[u] = load(sums_of_slots.y + u * kWide<T>);
      sum_x[u] = load(sums_of_slots.x + u * kWide<T>);
    }
    vectors.template for_each<kLine<T>>([&](int64_t first, auto edge) __attribute__((always_inline)) {
#pragma GCC unroll 4
      for (int64_t u = 0; u < kVectors; ++u) {
        const int64_t m = first + u * kWide<T>;
        const auto at = vectors.at(m, edge);
        Vector<T> last = load(above + m);
        Vector<T> last_step = load(across + m);
#pragma GCC unroll 4
        for (int64_t q = 0; q < rows.value; ++q) {
          const T* const taps = line + q * lines.stride();
          const Vector<T> left = in_register(at.left(taps)), right = in_register(at.right(taps));
          const Vector<T> grad = in_register(at.own(grad_row + q * stride));
          const Vector<T> next = vectors.blend(left, right);
          const Vector<T> step = right - left;
          sum_y[u] += grad * (next - last);
          sum_x[u] += grad * (y0 * last_step + y1 * step);
          last = next;
          last_step = step;
        }
        store(above + m, last);
        store(across + m, last_step);
      }
    });
    for (int64_t u = 0; u < kVectors; ++u) {
      store(sums_of_slots.y + u * kWide<T>, sum_y[u]);
      store(sums_of_slots.x + u * kWide<T>, sum_x[u]);
    }
    terms += rows.value * terms_of_row;
    if (terms >= kTerms) {
      sums_of_slots.flush();
      terms = 0;
    }
  });
  sums_of_slots.flush();
}

template <typename T, int64_t lanes>
void gradient_of_lanes(const PatchView<T>& view, const T* grads, const T* next_grads, double* sums, T* scratch) {
  constexpr int64_t strip = kTerms / kRowsAtOnce * kLine<T> / lanes;
  GradientSums<T> sums_of_slots;
  for (int64_t c = 0; c < view.cols; c += strip) {
    PatchView<T> part = view;
    part.x.first += c;
    part.cols = view.cols - c < strip ? view.cols - c : strip;
    const bool whole = part.cols == view.cols;
    if (!whole) part.next = nullptr;
    gradient_of_strip<T, lanes>(part, grads + c * lanes, view.cols * lanes, whole ? next_grads : nullptr, sums_of_slots,
                                scratch);
  }
  for (int64_t s = 0; s < kLine<T>; ++s) {
    sums[0] += sums_of_slots.by_y[s];
    sums[1] += sums_of_slots.by_x[s];
  }
}

template <typename T>
void position_gradient(const PatchView<T>& view, const T* grads, const T* next_grads, double* sums, T* scratch) {
  if (view.lanes == 1) {
    gradient_of_lanes<T, 1>(view, grads, next_grads, sums, scratch);
  } else {
    gradient_of_lanes<T, 2>(view, grads, next_grads, sums, scratch);
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

// values * factors, or values * conj(factors), of vectors of whole pixels.
template <typename T, int64_t lanes, bool conjugate>
__attribute__((always_inline)) inline Vector<T> product_of(Vector<T> values, Vector<T> factors) {
  if constexpr (lanes == 1) {
    return values * factors;
  } else {
    return [&]<int... s>(std::integer_sequence<int, s...>) __attribute__((always_inline)) {
      const Vector<T> real = __builtin_shufflevector(factors, factors, (s & ~1)...);
      const Vector<T> imaginary = __builtin_shufflevector(factors, factors, (s | 1)...);
      const Vector<T> swapped = __builtin_shufflevector(values, values, (s ^ 1)...);
      const Vector<T> sign{((s & 1) == int{conjugate} ? T(-1) : T(1))...};
      return values * real + sign * (swapped * imaginary);
    }(std::make_integer_sequence<int, kWide<T>>{});
  }
}

// Calls at(m, load, store) for the vectors of `count` scalars, then for one that is shorter. `load` and `store` take the
// address of the vector.
template <typename T, typename At>
__attribute__((always_inline)) inline void for_each_vector(int64_t begin, int64_t count, const At& at) {
  int64_t m = begin;
  for (; m + kWide<T> <= count; m += kWide<T>)
    at(
        m, [](const T* from) __attribute__((always_inline)) { return load(from); },
        [](T* to, Vector<T> value) __attribute__((always_inline)) { store(to, value); });
  if (m >= count) return;
  const int64_t rest = count - m;
  const Part<T> part(0, static_cast<int>(rest));
  at(
      m, [&](const T* from) __attribute__((always_inline)) { return part.load(from); },
      [&](T* to, Vector<T> value) __attribute__((always_inline)) { store_first(to, value, rest); });
}

template <typename T, int64_t lanes, bool conjugate>
void multiply_lanes(const T* values, const T* factors, T* out, int64_t count, Write write) {
  const auto make = [&](int64_t m, const auto& load_at, const auto& store_at) __attribute__((always_inline)) {
    store_at(out + m, product_of<T, lanes, conjugate>(load_at(values + m), load_at(factors + m)));
  };
  int64_t m = 0;
  if (write == Write::stream) {
    const int64_t past = static_cast<int64_t>(reinterpret_cast<uintptr_t>(out) % kLineBytes / sizeof(T));
    const int64_t head = past ? kLine<T> - past : 0;
    for_each_vector<T>(0, head < count ? head : count, make);
    for (m = head; m + kWide<T> <= count; m += kWide<T>)
      stream_store(out + m, product_of<T, lanes, conjugate>(load(values + m), load(factors + m)));
  }
  for_each_vector<T>(m, count, make);
}

template <typename T>
void multiply(const T* values, const T* factors, bool conjugate, int64_t lanes, T* out, int64_t count, Write write) {
  if (lanes == 1) {
    multiply_lanes<T, 1, false>(values, factors, out, count, write);
  } else if (conjugate) {
    multiply_lanes<T, 2, true>(values, factors, out, count, write);
  } else {
    multiply_lanes<T, 2, false>(values, factors, out, count, write);
  }
}

template <typename T, int64_t lanes>
void add_products_lanes(const T* values, const T* factors, T* sums, int64_t count, const T* next) {
  for_each_vector<T>(0, count, [&](int64_t m, const auto& load_at, const auto& store_at) __attribute__((always_inline)) {
    if (next && m % kLine<T> == 0) __builtin_prefetch(next + m, 0, 2);
    store_at(sums + m, load_at(sums + m) + product_of<T, lanes, true>(load_at(values + m), load_at(factors + m)));
  });
}

template <typename T>
void add_products(const T* values, const T* factors, int64_t lanes, T* sums, int64_t count, const T* next) {
  if (lanes == 1) {
    add_products_lanes<T, 1>(values, factors, sums, count, next);
  } else {
    add_products_lanes<T, 2>(values, factors, sums, count, next);
  }
}

constexpr int64_t kTogether = 4;  // cache lines whose sums are made together

template <typename T, int64_t lanes>
void sum_modes_lanes(const T* values, const T* factors, int64_t modes, int64_t stride, T* out, int64_t count,
                     const T* next) {
  constexpr int64_t together = kTogether * kLine<T>;
  int64_t m = 0;
  for (; m + together <= count; m += together) {
    Vector<T> sums[kTogether * kVectors] = {};
    for (int64_t mode = 0; mode < modes; ++mode) {
      const T* const value = values + mode * stride + m;
      const T* const factor = factors + mode * stride + m;
      if (next)
        for (int64_t u = 0; u < kTogether; ++u) __builtin_prefetch(next + mode * stride + m + u * kLine<T>, 0, 2);
#pragma GCC unroll 16
      for (int64_t u = 0; u < kTogether * kVectors; ++u)
        sums[u] += product_of<T, lanes, true>(load(value + u * kWide<T>), load(factor + u * kWide<T>));
    }
#pragma GCC unroll 16
    for (int64_t u = 0; u < kTogether * kVectors; ++u) store(out + m + u * kWide<T>, sums[u]);
  }
  for_each_vector<T>(m, count, [&](int64_t m, const auto& load_at, const auto& store_at) __attribute__((always_inline)) {
    Vector<T> sum{};
    for (int64_t mode = 0; mode < modes; ++mode)
      sum += product_of<T, lanes, true>(load_at(values + mode * stride + m), load_at(factors + mode * stride + m));
    store_at(out + m, sum);
  });
}

template <typename T>
void sum_modes(const T* values, const T* factors, int64_t modes, int64_t stride, int64_t lanes, T* out, int64_t count,
               const T* next) {
  if (lanes == 1) {
    sum_modes_lanes<T, 1>(values, factors, modes, stride, out, count, next);
  } else {
    sum_modes_lanes<T, 2>(values, factors, modes, stride, out, count, next);
  }
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
