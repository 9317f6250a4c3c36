// SPDX-License-Identifier: BSD-3-Clause
// The inner loops, compiled once per instruction set (PTYCHO_LEVEL names the namespace). Interpolation is separable:
// each source line is interpolated along itself once, and two such lines are blended; a line is kept for the next
// output row in registers, or in a buffer from one block of rows to the next. Source lines are read where they stand;
// vectors at an edge are read in part, the rest of them being zero. Every level performs the same operations in the
// same order on each number, with no fused multiply-add, so results are bitwise the same on all.
#include "cpu/kernels.h"

#include <cstring>

#include "cpu/windows.h"

namespace ptycho::cpu::PTYCHO_LEVEL {
namespace {

template <typename T>
inline void add(T* target, Vector<T> value) {
  store(target, load(target) + value);
}

template <typename T, int64_t lanes, Write write, bool weighted>
void interpolate_as(const Window<T>& window, T* out, int64_t stride, T* scratch) {
  const Columns<T, lanes> columns(window, write == Write::add ? past_boundary(out) : 0);
  if (!columns.seen()) {
    for (int64_t r = 0; r < window.rows && write != Write::add; ++r)
      std::memset(out + r * stride, 0, columns.size() * sizeof(T));
    return;
  }
  const T y0 = window.y.w0, y1 = window.y.w1;
  T* const above = scratch;  // the line interpolated last
  const Lines<T> lines(window, above + scratch_line<T>(window.cols, lanes), window.next);
  const T* const top = lines[0];
  columns.template for_each<kWide<T>>([&](int64_t m, auto edge) __attribute__((always_inline)) {
    const auto at = columns.at(m, edge);
    store(columns.in(above, m), columns.blend(at.left(top), at.right(top)));
  });
  for_row_blocks(lines, window.rows, [&](int64_t r, auto rows) __attribute__((always_inline)) {
    const T* const line = lines[r + 1];
    T* const row = out + r * stride;
    columns.template for_each<kWide<T>>([&](int64_t m, auto edge) __attribute__((always_inline)) {
      const auto at = columns.at(m, edge);
      Vector<T> last = load(columns.in(above, m));
#pragma GCC unroll 4
      for (int64_t q = 0; q < rows.value; ++q) {
        const T* const taps = line + q * lines.stride();
        const Vector<T> next = columns.blend(at.left(taps), at.right(taps));
        Vector<T> value = y0 * last + y1 * next;
        if constexpr (weighted) value = value * at.own(window.weights + (r + q) * columns.size());
        T* const target = row + q * stride + m;
        if constexpr (write == Write::add) {
          add(target, value);
        } else if constexpr (write == Write::stream) {
          stream_store(target, value);
        } else if (!edge.value || m + kWide<T> <= columns.size()) {
          store(target, value);
        } else {
          store_first(target, value, columns.size() - m);
        }
        last = next;
      }
      store(columns.in(above, m), last);
    });
  });
}

template <typename T, int64_t lanes>
void interpolate_lanes(const Window<T>& window, T* out, int64_t stride, Write write, T* scratch) {
  if (write == Write::add) {
    interpolate_as<T, lanes, Write::add, false>(window, out, stride, scratch);
  } else if (write == Write::stream && window.weights) {
    interpolate_as<T, lanes, Write::stream, true>(window, out, stride, scratch);
  } else if (write == Write::stream) {
    interpolate_as<T, lanes, Write::stream, false>(window, out, stride, scratch);
  } else if (window.weights) {
    interpolate_as<T, lanes, Write::store, true>(window, out, stride, scratch);
  } else {
    interpolate_as<T, lanes, Write::store, false>(window, out, stride, scratch);
  }
}

template <typename T>
void interpolate(const Window<T>& window, T* out, int64_t stride, Write write, T* scratch) {
  if (window.lanes == 1) {
    interpolate_lanes<T, 1>(window, out, stride, write, scratch);
  } else {
    interpolate_lanes<T, 2>(window, out, stride, write, scratch);
  }
}

template <typename T>
struct TwoVectors {
  Vector<T> left;
  Vector<T> right;
};

// The window of source * weights, and that of the weights, in one pass: a pixel has `lanes` numbers and one weight.
template <typename T, int64_t lanes>
void add_weighted_lanes(const Window<T>& window, const Weights<T>& weights, T* image, T* weight_sum, int64_t stride,
                        T* scratch) {
  const int64_t pad = past_boundary(weight_sum);
  const Columns<T, 1> pixels(window, pad);
  const Columns<T, lanes> columns(window, pad * lanes);
  if (!pixels.seen()) return;
  const T x0 = window.x.w0, x1 = window.x.w1;
  const T y0 = window.y.w0, y1 = window.y.w1;
  const int64_t room = scratch_line<T>(window.cols, lanes);
  T* const above = scratch;  // the line interpolated last, and that of the weights
  T* const above_weights = above + room;
  T* const zeros = above_weights + room;
  Window<T> window_of_weights = window;
  window_of_weights.source = weights.data;
  window_of_weights.lanes = 1;
  const Lines<T> lines(window, zeros, window.next);
  const Lines<T> lines_of_weights(window_of_weights, zeros, weights.next);

  // What the weights of both taps of a pixel come to, the interpolation along the line included.
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
                            __attribute__((always_inline)) { return columns.at(p * lanes + part * kWide<T>, edge); };

  const T* const top = lines[0];
  const T* const top_weights = lines_of_weights[0];
  pixels.template for_each<kWide<T>>([&](int64_t p, auto edge) __attribute__((always_inline)) {
    const TwoVectors<T> by = tap_weights(pixels.at(p, edge), top_weights);
    store(pixels.in(above_weights, p), by.left + by.right);
    for_each_part<lanes>([&](auto part) __attribute__((always_inline)) {
      store(columns.in(above, p * lanes) + part * kWide<T>, weighted(part, lanes_at(part, p, edge), top, by));
    });
  });
  for_row_blocks(lines, window.rows, [&](int64_t r, auto rows) __attribute__((always_inline)) {
    if (weights.next)
      for (int64_t q = 1; q <= rows.value; ++q) lines_of_weights.prefetch_behind(r + q);
    const T* const line = lines[r + 1];
    const T* const weight = lines_of_weights[r + 1];
    pixels.template for_each<kWide<T>>([&](int64_t p, auto edge) __attribute__((always_inline)) {
      T* const before_weights = pixels.in(above_weights, p);
      T* const before = columns.in(above, p * lanes);
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
void add_weighted(const Window<T>& window, const Weights<T>& weights, T* image, T* weight_sum, int64_t stride,
                  T* scratch) {
  if (window.lanes == 1) {
    add_weighted_lanes<T, 1>(window, weights, image, weight_sum, stride, scratch);
  } else {
    add_weighted_lanes<T, 2>(window, weights, image, weight_sum, stride, scratch);
  }
}

// Sums of a window's products, number m of a row in slot m % kLine: in T while they are short, then in double. The
// slots and the order within them are the same on every level.
template <typename T>
struct Slopes {
  T y[kLine<T>] = {};
  T x[kLine<T>] = {};
  double by_y[kLine<T>] = {};
  double by_x[kLine<T>] = {};

  void settle() {
    for (int64_t s = 0; s < kLine<T>; ++s) {
      by_y[s] += static_cast<double>(y[s]);
      by_x[s] += static_cast<double>(x[s]);
      y[s] = x[s] = T(0);
    }
  }
};

constexpr int64_t kTerms = 128;  // that a slot sums in T

// grads: rows of `stride` numbers.
template <typename T, int64_t lanes>
void slope_of_strip(const Window<T>& window, const T* grads, int64_t stride, const T* next_grads, Slopes<T>& slopes,
                    T* scratch) {
  const Columns<T, lanes> columns(window, 0);
  if (!columns.seen()) return;
  const T y0 = window.y.w0, y1 = window.y.w1;
  const int64_t room = scratch_line<T>(window.cols, lanes);
  T* const above = scratch;  // the line interpolated last, and its steps from pixel to pixel
  T* const across = above + room;
  const Lines<T> lines(window, across + room, window.next);
  const T* const top = lines[0];
  columns.template for_each<kWide<T>>([&](int64_t m, auto edge) __attribute__((always_inline)) {
    const auto at = columns.at(m, edge);
    const Vector<T> left = at.left(top), right = at.right(top);
    store(above + m, columns.blend(left, right));
    store(across + m, right - left);
  });
  const int64_t terms_of_row = (columns.size() + kLine<T> - 1) / kLine<T>;
  int64_t terms = 0;
  for_row_blocks(lines, window.rows, [&](int64_t r, auto rows) __attribute__((always_inline)) {
    const T* const line = lines[r + 1];
    for (int64_t q = 0; q < rows.value; ++q) {
      const int64_t ahead = r + q + kRowsAhead;
      if (ahead < window.rows) {
        prefetch(grads + ahead * stride, columns.size());
      } else if (next_grads) {
        prefetch(next_grads + (ahead - window.rows) * stride, columns.size());
      }
    }
    const T* const grad_row = grads + r * stride;
    Vector<T> sum_y[kVectors], sum_x[kVectors];
    for (int64_t u = 0; u < kVectors; ++u) {
      sum_y[u] = load(slopes.y + u * kWide<T>);
      sum_x[u] = load(slopes.x + u * kWide<T>);
    }
    columns.template for_each<kLine<T>>([&](int64_t first, auto edge) __attribute__((always_inline)) {
#pragma GCC unroll 4
      for (int64_t u = 0; u < kVectors; ++u) {
        const int64_t m = first + u * kWide<T>;
        const auto at = columns.at(m, edge);
        Vector<T> last = load(above + m);
        Vector<T> last_step = load(across + m);
#pragma GCC unroll 4
        for (int64_t q = 0; q < rows.value; ++q) {
          const T* const taps = line + q * lines.stride();
          const Vector<T> left = in_register(at.left(taps)), right = in_register(at.right(taps));
          const Vector<T> grad = in_register(at.own(grad_row + q * stride));
          const Vector<T> next = columns.blend(left, right);
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
      store(slopes.y + u * kWide<T>, sum_y[u]);
      store(slopes.x + u * kWide<T>, sum_x[u]);
    }
    terms += rows.value * terms_of_row;
    if (terms >= kTerms) {
      slopes.settle();
      terms = 0;
    }
  });
  slopes.settle();
}

template <typename T, int64_t lanes>
void slope_of_lanes(const Window<T>& window, const T* grads, const T* next_grads, double* sums, T* scratch) {
  constexpr int64_t strip = kTerms / kRowsAtOnce * kLine<T> / lanes;
  Slopes<T> slopes;
  for (int64_t c = 0; c < window.cols; c += strip) {
    Window<T> part = window;
    part.x.first += c;
    part.cols = window.cols - c < strip ? window.cols - c : strip;
    const bool whole = part.cols == window.cols;
    if (!whole) part.next = nullptr;
    slope_of_strip<T, lanes>(part, grads + c * lanes, window.cols * lanes, whole ? next_grads : nullptr, slopes,
                             scratch);
  }
  for (int64_t s = 0; s < kLine<T>; ++s) {
    sums[0] += slopes.by_y[s];
    sums[1] += slopes.by_x[s];
  }
}

template <typename T>
void slope(const Window<T>& window, const T* grads, const T* next_grads, double* sums, T* scratch) {
  if (window.lanes == 1) {
    slope_of_lanes<T, 1>(window, grads, next_grads, sums, scratch);
  } else {
    slope_of_lanes<T, 2>(window, grads, next_grads, sums, scratch);
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
      store(target, divisor > T(0) ? load(target) / divisor : Vector<T>{});
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
    for (int64_t m = p * lanes; m < (p + 1) * lanes; ++m) image[m] = weight > T(0) ? image[m] / weight : T(0);
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
  static constexpr Kernels<T> kernels{interpolate<T>, add_weighted<T>, slope<T>, divide<T>, stream<T>, fence};
  return kernels;
}

template const Kernels<float>& table<float>();
template const Kernels<double>& table<double>();

}  // namespace ptycho::cpu::PTYCHO_LEVEL
