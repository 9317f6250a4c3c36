// SPDX-License-Identifier: BSD-3-Clause
// The inner loops, compiled once per instruction set (PTYCHO_LEVEL names the namespace). Interpolation is separable:
// each source row is interpolated along the row once, and two such rows are blended; a row is kept for the next output
// row in a buffer, or in registers while kRowsAtOnce output rows are made together. Every level performs the same
// operations in the same order on each number, with no fused multiply-add, so results are bitwise the same on all.
// Nothing inline is called from a header: the linker would keep one level's copy of it for every level.
#include "cpu/kernels.h"

#include <cstring>

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
constexpr int64_t kRowsAhead = 16;

// Inlined by force: GCC takes a function that only prefetches for one without effect, and drops its calls.
template <typename T>
__attribute__((always_inline)) inline void prefetch(const T* row, int64_t count) {
  for (int64_t m = 0; m < count; m += kLine<T>) __builtin_prefetch(row + m);
}

// Row `ahead` of `rows` rows from `now` on, which are followed by those of `next`; `stride` numbers apart.
template <typename T>
__attribute__((always_inline)) inline void prefetch_row(const T* now, const T* next, int64_t ahead, int64_t rows, int64_t stride, int64_t count) {
  if (ahead < rows) {
    prefetch(now + ahead * stride, count);
  } else if (next) {
    prefetch(next + (ahead - rows) * stride, count);
  }
}

// product = source * weights over `pixels` pixels; a complex pixel has two lanes and one weight.
template <typename T>
void multiply(T* __restrict product, const T* __restrict source, const T* __restrict weights, int64_t pixels,
              int64_t lanes) {
  if (lanes == 1) {
    for (int64_t m = 0; m < pixels; ++m) product[m] = source[m] * weights[m];
  } else {
    for (int64_t m = 0; m < pixels; ++m) {
      product[2 * m] = source[2 * m] * weights[m];
      product[2 * m + 1] = source[2 * m + 1] * weights[m];
    }
  }
}

// The source rows a window needs: in place where all of their samples lie inside, else copied and filled up with zeros.
template <typename T>
struct Source {
  const Window<T>& window;
  int64_t size;  // numbers of a row: one pixel more than the output has
  int64_t head;  // numbers before the source begins
  int64_t body;  // numbers inside it
  int64_t skip;  // pixels of the source before them
  int64_t bottom;  // the row after the last one inside

  explicit Source(const Window<T>& w) : window(w), size((w.cols + 1) * w.lanes) {
    const int64_t first = w.x.first;
    const int64_t last = first + w.cols + 1;
    const int64_t begin = first < 0 ? 0 : first;
    const int64_t end = last < w.source_cols ? last : w.source_cols;
    const int64_t below = w.y.first + w.rows + 1;
    bottom = below < w.source_rows ? below : w.source_rows;
    skip = begin;
    body = end > begin ? (end - begin) * w.lanes : 0;
    head = body ? (begin - first) * w.lanes : 0;
  }

  const T* row(int64_t r, T* space) const {
    if (r < 0 || r >= window.source_rows || !body) {
      std::memset(space, 0, size * sizeof(T));
      return space;
    }
    const int64_t offset = r * window.source_cols + skip;
    const T* samples = window.source + offset * window.lanes;
    const int64_t left = bottom - r;
    prefetch_row(samples, window.next, kRowsAhead, left, window.source_cols * window.lanes, body);
    if (body == size && !window.weights) return samples;
    for (int64_t m = 0; m < head; ++m) space[m] = T(0);
    if (window.weights) {
      multiply(space + head, samples, window.weights + offset, body / window.lanes, window.lanes);
    } else {
      std::memcpy(space + head, samples, body * sizeof(T));
    }
    for (int64_t m = head + body; m < size; ++m) space[m] = T(0);
    return space;
  }
};

// above: the row interpolated last; replaced by the last of these. out[q] = blend of the rows q and q + 1.
template <typename T, int64_t rows, Write write>
inline void blend_rows(T* __restrict out, int64_t stride, T* __restrict above, const T* const* source, int64_t lanes,
                       const Taps<T>& y, const Taps<T>& x, int64_t count) {
  const T y0 = y.w0, y1 = y.w1, x0 = x.w0, x1 = x.w1;
  int64_t m = 0;
  for (; m + kLine<T> <= count; m += kLine<T>) {
    Vector<T> last[kVectors];
    for (int64_t v = 0; v < kVectors; ++v) last[v] = load(above + m, v);
#pragma GCC unroll 4
    for (int64_t q = 0; q < rows; ++q) {
      T* target = out + q * stride + m;
#pragma GCC unroll 4
      for (int64_t v = 0; v < kVectors; ++v) {
        const Vector<T> next = x0 * load(source[q] + m, v) + x1 * load(source[q] + m + lanes, v);
        const Vector<T> value = y0 * last[v] + y1 * next;
        last[v] = next;
        if constexpr (write == Write::add) {
          store(target, v, load(target, v) + value);
        } else if constexpr (write == Write::stream) {
          stream_store(target, v, value);
        } else {
          store(target, v, value);
        }
      }
    }
    for (int64_t v = 0; v < kVectors; ++v) store(above + m, v, last[v]);
  }
  for (; m < count; ++m) {
    T last = above[m];
    for (int64_t q = 0; q < rows; ++q) {
      const T next = x0 * source[q][m] + x1 * source[q][m + lanes];
      const T value = y0 * last + y1 * next;
      last = next;
      T& target = out[q * stride + m];
      target = write == Write::add ? target + value : value;
    }
    above[m] = last;
  }
}

template <typename T>
inline void interpolate_row(T* __restrict out, const T* source, int64_t lanes, const Taps<T>& x, int64_t count) {
  const T x0 = x.w0, x1 = x.w1;
  for (int64_t m = 0; m < count; ++m) out[m] = x0 * source[m] + x1 * source[m + lanes];
}

template <typename T, Write write>
void interpolate_as(const Window<T>& window, T* out, int64_t stride, T* scratch) {
  const Source<T> source(window);
  const int64_t count = window.cols * window.lanes;
  const int64_t space = source.size + kLine<T>;
  T* above = scratch;
  T* copies = scratch + space;
  const T* lines[kRowsAtOnce];
  interpolate_row(above, source.row(window.y.first, copies), window.lanes, window.x, count);
  int64_t r = 0;
  for (; r + kRowsAtOnce <= window.rows; r += kRowsAtOnce) {
    for (int64_t q = 0; q < kRowsAtOnce; ++q) lines[q] = source.row(window.y.first + r + q + 1, copies + q * space);
    blend_rows<T, kRowsAtOnce, write>(out + r * stride, stride, above, lines, window.lanes, window.y, window.x, count);
  }
  for (; r < window.rows; ++r) {
    lines[0] = source.row(window.y.first + r + 1, copies);
    blend_rows<T, 1, write>(out + r * stride, stride, above, lines, window.lanes, window.y, window.x, count);
  }
}

template <typename T>
void interpolate(const Window<T>& window, T* out, int64_t stride, Write write, T* scratch) {
  if (write == Write::add) {
    interpolate_as<T, Write::add>(window, out, stride, scratch);
  } else if (write == Write::stream) {
    interpolate_as<T, Write::stream>(window, out, stride, scratch);
  } else {
    interpolate_as<T, Write::store>(window, out, stride, scratch);
  }
}

// Sums over one row. T while short, then double: kLine partial sums, the same ones on every level.
template <typename T>
struct Slope {
  double by_y[kLine<T>] = {};
  double by_x[kLine<T>] = {};

  // above, across: the row interpolated last and its differences along the row; replaced by those of `source`.
  void add_rows(const T* grads, T* __restrict above, T* __restrict across, const T* const* source, int64_t rows,
                int64_t lanes, const Taps<T>& y, const Taps<T>& x, int64_t count) {
    constexpr int64_t block = 32 * kLine<T>;
    for (int64_t begin = 0; begin < count; begin += block) {
      const int64_t end = begin + block < count ? begin + block : count;
      if (rows == kRowsAtOnce) {
        add_block<kRowsAtOnce>(grads, above, across, source, lanes, y, x, begin, end, count);
      } else {
        add_block<1>(grads, above, across, source, lanes, y, x, begin, end, count);
      }
    }
  }

  template <int64_t rows>
  inline void add_block(const T* grads, T* __restrict above, T* __restrict across, const T* const* source,
                        int64_t lanes, const Taps<T>& y, const Taps<T>& x, int64_t begin, int64_t end,
                        int64_t stride) {
    const T y0 = y.w0, y1 = y.w1, x0 = x.w0, x1 = x.w1;
    Vector<T> sum_y[kVectors] = {};
    Vector<T> sum_x[kVectors] = {};
    int64_t m = begin;
    for (; m + kLine<T> <= end; m += kLine<T>) {
#pragma GCC unroll 4
      for (int64_t v = 0; v < kVectors; ++v) {
        Vector<T> last = load(above + m, v);
        Vector<T> last_step = load(across + m, v);
#pragma GCC unroll 4
        for (int64_t q = 0; q < rows; ++q) {
          const Vector<T> left = load(source[q] + m, v);
          const Vector<T> right = load(source[q] + m + lanes, v);
          const Vector<T> grad = load(grads + q * stride + m, v);
          const Vector<T> next = x0 * left + x1 * right;
          const Vector<T> step = right - left;
          sum_y[v] += grad * (next - last);
          sum_x[v] += grad * (y0 * last_step + y1 * step);
          last = next;
          last_step = step;
        }
        store(above + m, v, last);
        store(across + m, v, last_step);
      }
    }
    T part_y[kLine<T>];
    T part_x[kLine<T>];
    for (int64_t v = 0; v < kVectors; ++v) {
      store(part_y, v, sum_y[v]);
      store(part_x, v, sum_x[v]);
    }
    for (int64_t s = 0; m < end; ++m, ++s) {
      T last = above[m];
      T last_step = across[m];
      for (int64_t q = 0; q < rows; ++q) {
        const T left = source[q][m];
        const T right = source[q][m + lanes];
        const T grad = grads[q * stride + m];
        const T next = x0 * left + x1 * right;
        const T step = right - left;
        part_y[s] += grad * (next - last);
        part_x[s] += grad * (y0 * last_step + y1 * step);
        last = next;
        last_step = step;
      }
      above[m] = last;
      across[m] = last_step;
    }
    for (int64_t s = 0; s < kLine<T>; ++s) {
      by_y[s] += static_cast<double>(part_y[s]);
      by_x[s] += static_cast<double>(part_x[s]);
    }
  }
};

template <typename T>
void slope(const Window<T>& window, const T* grads, const T* next_grads, double* sums, T* scratch) {
  const Source<T> source(window);
  const int64_t count = window.cols * window.lanes;
  const int64_t space = source.size + kLine<T>;
  T* above = scratch;
  T* across = scratch + space;
  T* copies = scratch + 2 * space;
  const T* lines[kRowsAtOnce];
  lines[0] = source.row(window.y.first, copies);
  interpolate_row(above, lines[0], window.lanes, window.x, count);
  for (int64_t m = 0; m < count; ++m) across[m] = lines[0][m + window.lanes] - lines[0][m];
  Slope<T> total;
  for (int64_t r = 0; r < window.rows;) {
    const int64_t rows = r + kRowsAtOnce <= window.rows ? kRowsAtOnce : 1;
    for (int64_t q = 0; q < rows; ++q) {
      lines[q] = source.row(window.y.first + r + q + 1, copies + q * space);
      prefetch_row(grads, next_grads, r + q + kRowsAhead, window.rows, count, count);
    }
    total.add_rows(grads + r * count, above, across, lines, rows, window.lanes, window.y, window.x, count);
    r += rows;
  }
  for (int64_t s = 0; s < kLine<T>; ++s) {
    sums[0] += total.by_y[s];
    sums[1] += total.by_x[s];
  }
}

template <typename T>
void divide(T* __restrict image, const T* __restrict weights, int64_t pixels, int64_t lanes, Range<T>* range) {
  T least[kLine<T>];
  T most[kLine<T>];
  for (int64_t s = 0; s < kLine<T>; ++s) {
    least[s] = range->least;
    most[s] = range->most;
  }
  int64_t m = 0;
  for (; m + kLine<T> <= pixels; m += kLine<T>) {
    for (int64_t s = 0; s < kLine<T>; ++s) {
      const T w = weights[m + s];
      least[s] = w > T(0) && w < least[s] ? w : least[s];
      most[s] = w > most[s] ? w : most[s];
    }
  }
  for (; m < pixels; ++m) {
    const T w = weights[m];
    least[0] = w > T(0) && w < least[0] ? w : least[0];
    most[0] = w > most[0] ? w : most[0];
  }
  for (int64_t s = 0; s < kLine<T>; ++s) {
    range->least = least[s] < range->least ? least[s] : range->least;
    range->most = most[s] > range->most ? most[s] : range->most;
  }
  if (lanes == 1) {
    for (m = 0; m < pixels; ++m) {
      const T quotient = image[m] / (weights[m] > T(0) ? weights[m] : T(1));
      image[m] = weights[m] > T(0) ? quotient : T(0);
    }
  } else {
    for (m = 0; m < pixels; ++m) {
      const T divisor = weights[m] > T(0) ? weights[m] : T(1);
      const T real = image[2 * m] / divisor;
      const T imaginary = image[2 * m + 1] / divisor;
      image[2 * m] = weights[m] > T(0) ? real : T(0);
      image[2 * m + 1] = weights[m] > T(0) ? imaginary : T(0);
    }
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
  static constexpr Kernels<T> kernels{interpolate<T>, slope<T>, divide<T>, stream<T>, fence};
  return kernels;
}

template const Kernels<float>& table<float>();
template const Kernels<double>& table<double>();

}  // namespace ptycho::cpu::PTYCHO_LEVEL
