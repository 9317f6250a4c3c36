// SPDX-License-Identifier: BSD-3-Clause
// The inner loops, compiled once per instruction set (PTYCHO_LEVEL names the namespace). Interpolation is separable:
// each source line is interpolated along itself once, and two such lines are blended; a line is kept for the next
// output row in registers, or in a buffer from one block of rows to the next. Source lines are read where they stand; a
// shuffle shifts in the zeros beyond a source's edge. Every level performs the same operations in the same order on
// each number, with no fused multiply-add, so results are bitwise the same on all. Nothing inline is called from a
// header: the linker would keep one level's copy of it for every level.
#include "cpu/kernels.h"

#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ptycho::cpu::PTYCHO_LEVEL {
namespace {

#if defined(__AVX512F__)
constexpr int64_t kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int64_t kVectorBytes = 32;
#else
constexpr int64_t kVectorBytes = 16;
#endif
constexpr int64_t kLineBytes = 64;
constexpr int64_t kVectors = kLineBytes / kVectorBytes;  // of a line

template <typename T>
constexpr int64_t kWide = kVectorBytes / static_cast<int64_t>(sizeof(T));  // numbers of a vector
template <typename T>
constexpr int64_t kLine = kLineBytes / static_cast<int64_t>(sizeof(T));  // numbers of a line

template <typename T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kVectorBytes), aligned(alignof(T)), may_alias));
};
template <typename T>
using Vector = typename VectorOf<T>::type;

template <typename T>
inline Vector<T> load(const T* from, int64_t v) {
  return reinterpret_cast<const Vector<T>*>(from)[v];
}

template <typename T>
inline void store(T* to, int64_t v, Vector<T> value) {
  reinterpret_cast<Vector<T>*>(to)[v] = value;
}

// Vector `part` of the lanes of a vector of pixels: every number as often as a pixel has lanes.
template <typename T, int64_t lanes, int64_t part>
inline Vector<T> to_lanes(Vector<T> pixels) {
  if constexpr (lanes == 1) return pixels;
  return [&]<int... s>(std::integer_sequence<int, s...>) {
    return __builtin_shufflevector(pixels, pixels, ((int{part * kWide<T>} + s) / int{lanes})...);
  }(std::make_integer_sequence<int, kWide<T>>{});
}

// Calls each(part) for the parts that to_lanes makes of a vector of pixels.
template <int64_t lanes, typename Each>
__attribute__((always_inline)) inline void for_each_part(const Each& each) {
  each(std::integral_constant<int64_t, 0>{});
  if constexpr (lanes == 2) each(std::integral_constant<int64_t, 1>{});
}

// `lanes` zeros, and then the vector as far as it fits.
template <typename T, int64_t lanes>
inline Vector<T> after_zeros(Vector<T> vector) {
  return [&]<int... s>(std::integer_sequence<int, s...>) {
    return __builtin_shufflevector(vector, Vector<T>{}, (s < lanes ? int{kWide<T>} : s - int{lanes})...);
  }(std::make_integer_sequence<int, kWide<T>>{});
}

// to: on a vector's boundary.
template <typename T>
inline void stream_store(T* to, int64_t v, Vector<T> value) {
#if defined(__AVX512F__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to) + v, reinterpret_cast<__m512i>(value));
#elif defined(__AVX2__)
  _mm256_stream_si256(reinterpret_cast<__m256i*>(to) + v, reinterpret_cast<__m256i>(value));
#elif defined(__x86_64__)
  _mm_stream_si128(reinterpret_cast<__m128i*>(to) + v, reinterpret_cast<__m128i>(value));
#else
  store(to, v, value);
#endif
}

void fence() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

// So many rows before their use memory is asked for them: the processor foresees neither the next row of a canvas nor
// the next patch of a tile.
constexpr int64_t kRowsAhead = 6;
constexpr int64_t kRowsAtOnce = 4;  // output rows made together: a line stays in registers between two of them

// Inlined by force: GCC takes a function that only prefetches for one without effect, and drops its calls.
template <typename T>
__attribute__((always_inline)) inline void prefetch(const T* row, int64_t count) {
  for (int64_t m = 0; m < count; m += kLine<T>) __builtin_prefetch(row + m);
}

// The output columns of a window that see the source; none where its rows do not. Beyond the source's edges lies zero.
template <typename T>
struct Columns {
  int64_t begin;  // of the output
  int64_t count;
  int64_t full;    // of them have their right tap inside: all, or all but the last
  bool left_edge;  // of the first only the right tap lies inside
  Taps<T> x;

  explicit Columns(const Window<T>& w) : x(w.x) {
    begin = -w.x.first - 1 > 0 ? -w.x.first - 1 : 0;
    if (begin > w.cols) begin = w.cols;
    const int64_t end = w.source_cols - w.x.first < w.cols ? w.source_cols - w.x.first : w.cols;
    const bool seen = w.source_cols > 0 && w.y.first + w.rows >= 0 && w.y.first < w.source_rows;
    count = seen && end > begin ? end - begin : 0;
    full = count && w.x.first + end == w.source_cols ? count - 1 : count;
    left_edge = count && w.x.first + begin == -1;
  }

  // Calls vectors(m, whether at the left edge) for every `step` numbers, and numbers(m) for those that are left.
  template <int64_t lanes, int64_t step, typename Vectors, typename Numbers>
  __attribute__((always_inline)) void for_each(const Vectors& vectors, const Numbers& numbers) const {
    int64_t m = 0;
    if (left_edge && step <= full * lanes) {
      vectors(m, std::true_type{});
      m += step;
    }
    for (; m + step <= full * lanes; m += step) vectors(m, std::false_type{});
    for (; m < count * lanes; ++m) numbers(m);
  }

  Vector<T> blend(Vector<T> left, Vector<T> right) const { return x.w0 * left + x.w1 * right; }
  T blend(T left, T right) const { return x.w0 * left + x.w1 * right; }

  // Interpolated along a line of source samples, of which line[m] is the right tap of number m.
  template <int64_t lanes, bool edge>
  Vector<T> vector(const T* line, int64_t m) const {
    return blend(left_taps<lanes, edge>(line, m), load(line + m, 0));
  }
  template <int64_t lanes>
  T number(const T* line, int64_t m) const {
    return blend(left_tap<lanes>(line, m), right_tap<lanes>(line, m));
  }

  template <int64_t lanes, bool edge>
  static Vector<T> left_taps(const T* line, int64_t m) {
    if constexpr (edge) return after_zeros<T, lanes>(load(line + m, 0));
    return load(line + m - lanes, 0);
  }
  template <int64_t lanes>
  T left_tap(const T* line, int64_t m) const {
    return left_edge && m < lanes ? T(0) : line[m - lanes];
  }
  template <int64_t lanes>
  T right_tap(const T* line, int64_t m) const {
    return m < full * lanes ? line[m] : T(0);
  }
};

// The source lines of a window, from the one above its first output row on; outside the source they are zero.
template <typename T>
class Lines {
 public:
  // zeros: room for a line
  Lines(const Window<T>& window, const Columns<T>& columns, T* zeros)
      : first_(window.source + (window.x.first + columns.begin + 1) * window.lanes),
        next_(window.next),
        zeros_(zeros + window.lanes),
        stride_(window.source_cols * window.lanes),
        wanted_(columns.full * window.lanes),
        top_(window.y.first),
        rows_(window.source_rows),
        bottom_(top_ + window.rows + 1 < rows_ ? top_ + window.rows + 1 : rows_) {
    if (top_ < 0 || top_ + window.rows + 1 > rows_)
      std::memset(zeros, 0, (columns.count + 2) * window.lanes * sizeof(T));
  }

  const T* operator[](int64_t line) const { return inside(line, 1) ? first_ + (top_ + line) * stride_ : zeros_; }

  // Whether `count` lines from this one on lie in the source, `stride` numbers apart.
  bool inside(int64_t line, int64_t count) const { return top_ + line >= 0 && top_ + line + count <= rows_; }
  int64_t stride() const { return stride_; }

  // Asks for the line kRowsAhead behind this one, in the next window where this one has fewer.
  __attribute__((always_inline)) void prefetch_behind(int64_t line) const {
    const int64_t r = top_ + line + kRowsAhead;
    if (r < bottom_) {
      prefetch(first_ + r * stride_, wanted_);
    } else if (next_) {
      prefetch(next_ + (r - bottom_) * stride_, wanted_);
    }
  }

 private:
  const T* first_;
  const T* next_;
  const T* zeros_;
  int64_t stride_;
  int64_t wanted_;  // numbers of a line that lie in the source
  int64_t top_;
  int64_t rows_;
  int64_t bottom_;  // the row after the last that this window needs
};

// Calls rows_at(r, how many) for all rows of a window: kRowsAtOnce where their lines lie inside the source, else one.
template <typename T, typename RowsAt>
__attribute__((always_inline)) inline void for_row_blocks(const Lines<T>& lines, int64_t rows, const RowsAt& rows_at) {
  for (int64_t r = 0; r < rows;) {
    if (r + kRowsAtOnce <= rows && lines.inside(r + 1, kRowsAtOnce)) {
      for (int64_t q = 1; q <= kRowsAtOnce; ++q) lines.prefetch_behind(r + q);
      rows_at(r, std::integral_constant<int64_t, kRowsAtOnce>{});
      r += kRowsAtOnce;
    } else {
      lines.prefetch_behind(r + 1);
      rows_at(r, std::integral_constant<int64_t, 1>{});
      ++r;
    }
  }
}

template <typename T, Write write>
inline void put(T* target, Vector<T> value) {
  if constexpr (write == Write::add) {
    store(target, 0, load(target, 0) + value);
  } else if constexpr (write == Write::stream) {
    stream_store(target, 0, value);
  } else {
    store(target, 0, value);
  }
}

template <typename T, int64_t lanes, Write write>
void interpolate_as(const Window<T>& window, T* out, int64_t stride, T* scratch) {
  const Columns<T> columns(window);
  const int64_t skip = columns.begin * lanes;
  const int64_t count = columns.count * lanes;
  if constexpr (write != Write::add) {
    const int64_t rest = window.cols * lanes - skip - count;
    for (int64_t r = 0; r < window.rows && skip + rest; ++r) {
      std::memset(out + r * stride, 0, skip * sizeof(T));
      std::memset(out + r * stride + skip + count, 0, rest * sizeof(T));
    }
  }
  if (!count) return;
  const T y0 = window.y.w0, y1 = window.y.w1;
  T* above = scratch;  // the line interpolated last
  const Lines<T> lines(window, columns, scratch + count + kLine<T>);
  const T* const top = lines[0];
  columns.template for_each<lanes, kWide<T>>(
      [&](int64_t m, auto edge) { store(above + m, 0, columns.template vector<lanes, edge.value>(top, m)); },
      [&](int64_t m) { above[m] = columns.template number<lanes>(top, m); });
  for_row_blocks(lines, window.rows, [&](int64_t r, auto rows) __attribute__((always_inline)) {
    const T* const line = lines[r + 1];
    T* const row = out + r * stride + skip;
    columns.template for_each<lanes, kWide<T>>(
        [&](int64_t m, auto edge) __attribute__((always_inline)) {
          Vector<T> last = load(above + m, 0);
#pragma GCC unroll 4
          for (int64_t q = 0; q < rows.value; ++q) {
            const Vector<T> next = columns.template vector<lanes, edge.value>(line + q * lines.stride(), m);
            put<T, write>(row + q * stride + m, y0 * last + y1 * next);
            last = next;
          }
          store(above + m, 0, last);
        },
        [&](int64_t m) __attribute__((always_inline)) {
          T last = above[m];
          for (int64_t q = 0; q < rows.value; ++q) {
            const T next = columns.template number<lanes>(line + q * lines.stride(), m);
            const T value = y0 * last + y1 * next;
            T& target = row[q * stride + m];
            target = write == Write::add ? target + value : value;
            last = next;
          }
          above[m] = last;
        });
  });
}

template <typename T, int64_t lanes>
void interpolate_lanes(const Window<T>& window, T* out, int64_t stride, Write write, T* scratch) {
  if (write == Write::add) {
    interpolate_as<T, lanes, Write::add>(window, out, stride, scratch);
  } else if (write == Write::stream && window.x.first >= 0 && window.x.first + window.cols < window.source_cols) {
    interpolate_as<T, lanes, Write::stream>(window, out, stride, scratch);
  } else {
    interpolate_as<T, lanes, Write::store>(window, out, stride, scratch);
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

template <typename T>
struct TwoNumbers {
  T left;
  T right;
};

// The window of source * weights, and that of the weights, in one pass: a pixel has `lanes` numbers and one weight.
template <typename T, int64_t lanes>
void add_weighted_lanes(const Window<T>& window, const T* weights, T* image, T* weight_sum, int64_t stride,
                        T* scratch) {
  const Columns<T> columns(window);
  const int64_t count = columns.count;
  if (!count) return;
  const T y0 = window.y.w0, y1 = window.y.w1;
  T* above = scratch;  // the line interpolated last, and that of the weights
  T* above_weights = above + count * lanes + kLine<T>;
  T* zeros = above_weights + count + kLine<T>;
  Window<T> window_of_weights = window;
  window_of_weights.source = weights;
  window_of_weights.lanes = 1;
  window_of_weights.next = nullptr;
  const Lines<T> lines(window, columns, zeros);
  const Lines<T> lines_of_weights(window_of_weights, columns, zeros);

  // What the weights of both taps of a pixel come to, the interpolation along the line included.
  const auto tap_weights = [&](auto edge, const T* weight, int64_t p) __attribute__((always_inline)) {
    return TwoVectors<T>{columns.x.w0 * Columns<T>::template left_taps<1, edge.value>(weight, p),
                         columns.x.w1 * load(weight + p, 0)};
  };
  const auto tap_weights_of_one = [&](const T* weight, int64_t p) __attribute__((always_inline)) {
    return TwoNumbers<T>{columns.x.w0 * columns.template left_tap<1>(weight, p),
                         columns.x.w1 * columns.template right_tap<1>(weight, p)};
  };
  // Vector `part` of the lanes of the pixels from p on; number m.
  const auto weighted = [&](auto part, auto edge, const T* line, int64_t p,
                            const TwoVectors<T>& by) __attribute__((always_inline)) {
    const int64_t m = p * lanes + part * kWide<T>;
    const Vector<T> left = Columns<T>::template left_taps < lanes, edge.value && part.value == 0 > (line, m);
    return left * to_lanes<T, lanes, part.value>(by.left) +
           load(line + m, 0) * to_lanes<T, lanes, part.value>(by.right);
  };
  const auto weighted_one = [&](const T* line, int64_t m, const TwoNumbers<T>& by) __attribute__((always_inline)) {
    return columns.template left_tap<lanes>(line, m) * by.left + columns.template right_tap<lanes>(line, m) * by.right;
  };

  const T* const top = lines[0];
  const T* const top_weights = lines_of_weights[0];
  columns.template for_each<1, kWide<T>>(
      [&](int64_t p, auto edge) {
        const TwoVectors<T> by = tap_weights(edge, top_weights, p);
        store(above_weights + p, 0, by.left + by.right);
        for_each_part<lanes>([&](auto part) { store(above + p * lanes, part, weighted(part, edge, top, p, by)); });
      },
      [&](int64_t p) {
        const TwoNumbers<T> by = tap_weights_of_one(top_weights, p);
        above_weights[p] = by.left + by.right;
        for (int64_t m = p * lanes; m < (p + 1) * lanes; ++m) above[m] = weighted_one(top, m, by);
      });
  for_row_blocks(lines, window.rows, [&](int64_t r, auto rows) __attribute__((always_inline)) {
    const T* const line = lines[r + 1];
    const T* const weight = lines_of_weights[r + 1];
    const int64_t line_stride = lines.stride();
    const int64_t weight_stride = lines_of_weights.stride();
    T* const row = image + (r * stride + columns.begin) * lanes;
    T* const weight_row = weight_sum + r * stride + columns.begin;
    columns.template for_each<1, kWide<T>>(
        [&](int64_t p, auto edge) __attribute__((always_inline)) {
          Vector<T> last_weights = load(above_weights + p, 0);
          Vector<T> last[lanes];
          for (int64_t part = 0; part < lanes; ++part) last[part] = load(above + p * lanes, part);
#pragma GCC unroll 4
          for (int64_t q = 0; q < rows.value; ++q) {
            const TwoVectors<T> by = tap_weights(edge, weight + q * weight_stride, p);
            put<T, Write::add>(weight_row + q * stride + p, y0 * last_weights + y1 * (by.left + by.right));
            last_weights = by.left + by.right;
            T* const target = row + (q * stride + p) * lanes;
            for_each_part<lanes>([&](auto part) __attribute__((always_inline)) {
              const Vector<T> next = weighted(part, edge, line + q * line_stride, p, by);
              put<T, Write::add>(target + part * kWide<T>, y0 * last[part] + y1 * next);
              last[part] = next;
            });
          }
          store(above_weights + p, 0, last_weights);
          for (int64_t part = 0; part < lanes; ++part) store(above + p * lanes, part, last[part]);
        },
        [&](int64_t p) __attribute__((always_inline)) {
          for (int64_t q = 0; q < rows.value; ++q) {
            const TwoNumbers<T> by = tap_weights_of_one(weight + q * weight_stride, p);
            weight_row[q * stride + p] += y0 * above_weights[p] + y1 * (by.left + by.right);
            above_weights[p] = by.left + by.right;
            for (int64_t m = p * lanes; m < (p + 1) * lanes; ++m) {
              const T next = weighted_one(line + q * line_stride, m, by);
              row[q * stride * lanes + m] += y0 * above[m] + y1 * next;
              above[m] = next;
            }
          }
        });
  });
}

template <typename T>
void add_weighted(const Window<T>& window, const T* weights, T* image, T* weight_sum, int64_t stride, T* scratch) {
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
  const Columns<T> columns(window);
  const int64_t count = columns.count * lanes;
  if (!count) return;
  const T y0 = window.y.w0, y1 = window.y.w1;
  T* above = scratch;  // the line interpolated last, and its steps from pixel to pixel
  T* across = above + count + kLine<T>;
  const Lines<T> lines(window, columns, across + count + kLine<T>);
  const T* const top = lines[0];
  columns.template for_each<lanes, kWide<T>>(
      [&](int64_t m, auto edge) {
        const Vector<T> left = Columns<T>::template left_taps<lanes, edge.value>(top, m);
        const Vector<T> right = load(top + m, 0);
        store(above + m, 0, columns.blend(left, right));
        store(across + m, 0, right - left);
      },
      [&](int64_t m) {
        const T left = columns.template left_tap<lanes>(top, m);
        const T right = columns.template right_tap<lanes>(top, m);
        above[m] = columns.blend(left, right);
        across[m] = right - left;
      });
  const int64_t terms_of_row = (count + kLine<T> - 1) / kLine<T>;
  int64_t terms = 0;
  for_row_blocks(lines, window.rows, [&](int64_t r, auto rows) __attribute__((always_inline)) {
    const T* const line = lines[r + 1];
    for (int64_t q = 0; q < rows.value; ++q) {
      const int64_t ahead = r + q + kRowsAhead;
      if (ahead < window.rows) {
        prefetch(grads + ahead * stride, count);
      } else if (next_grads) {
        prefetch(next_grads + (ahead - window.rows) * stride, count);
      }
    }
    const T* const grad_row = grads + r * stride + columns.begin * lanes;
    columns.template for_each<lanes, kWide<T>>(
        [&](int64_t m, auto edge) __attribute__((always_inline)) {
          const int64_t slot = m % kLine<T>;
          Vector<T> last = load(above + m, 0);
          Vector<T> last_step = load(across + m, 0);
          Vector<T> sum_y = load(slopes.y + slot, 0);
          Vector<T> sum_x = load(slopes.x + slot, 0);
#pragma GCC unroll 4
          for (int64_t q = 0; q < rows.value; ++q) {
            const Vector<T> left = Columns<T>::template left_taps<lanes, edge.value>(line + q * lines.stride(), m);
            const Vector<T> right = load(line + q * lines.stride() + m, 0);
            const Vector<T> grad = load(grad_row + q * stride + m, 0);
            const Vector<T> next = columns.blend(left, right);
            const Vector<T> step = right - left;
            sum_y += grad * (next - last);
            sum_x += grad * (y0 * last_step + y1 * step);
            last = next;
            last_step = step;
          }
          store(above + m, 0, last);
          store(across + m, 0, last_step);
          store(slopes.y + slot, 0, sum_y);
          store(slopes.x + slot, 0, sum_x);
        },
        [&](int64_t m) __attribute__((always_inline)) {
          const int64_t slot = m % kLine<T>;
          for (int64_t q = 0; q < rows.value; ++q) {
            const T left = columns.template left_tap<lanes>(line + q * lines.stride(), m);
            const T right = columns.template right_tap<lanes>(line + q * lines.stride(), m);
            const T grad = grad_row[q * stride + m];
            const T next = columns.blend(left, right);
            const T step = right - left;
            slopes.y[slot] += grad * (next - above[m]);
            slopes.x[slot] += grad * (y0 * across[m] + y1 * step);
            above[m] = next;
            across[m] = step;
          }
        });
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
    const Vector<T> weight = load(weights + p, 0);
    const Vector<T> positive = weight > T(0) ? weight : least;
    least = positive < least ? positive : least;
    most = weight > most ? weight : most;
    for_each_part<lanes>([&](auto part) {
      const Vector<T> divisor = to_lanes<T, lanes, part.value>(weight);
      T* const target = image + p * lanes;
      store(target, part, divisor > T(0) ? load(target, part) / divisor : Vector<T>{});
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
  for (; m + kLine<T> <= count; m += kLine<T>)
    for (int64_t v = 0; v < kVectors; ++v) stream_store(out + m, v, load(in + m, v));
  std::memcpy(out + m, in + m, (count - m) * sizeof(T));
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
