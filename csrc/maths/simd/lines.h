// SPDX-License-Identifier: BSD-3-Clause
// How the inner loops walk a patch view: its lines in vectors, those at an edge in part, and its source lines in
// blocks, prefetched. Included by kernels.cpp alone and of internal linkage, as vectors.h is.
#pragma once

#include <cstring>

#include "maths/simd/kernels.h"
#include "maths/simd/vectors.h"

namespace ptycho::cpu::PTYCHO_LEVEL {
namespace {

// Rows are prefetched this far ahead: the processor predicts neither the next row of a canvas nor the next patch of a
// tile.
constexpr int64_t kRowsAhead = 24;
constexpr int64_t kRowsAtOnce = 4;  // output rows made together: a line stays in registers between two of them

template <typename T>
struct TwoVectors {
  Vector<T> left;
  Vector<T> right;
};

// A line of a view as vectors of scalars, of which a pixel has `lanes`. Scalar m of the output has its left tap at m of
// a source line that begins at the view's first tap, and its right tap a pixel further.
template <typename T, int64_t lanes>
class LineVectors {
 public:
  // pad: scalars by which the first vector begins before the view, so that outputs lie on boundaries of vectors
  LineVectors(const PatchView<T>& w, int64_t pad) : size_(w.cols * lanes), begin_(-pad), x_(w.x) {
    overlaps_ = w.source_cols > 0 && w.y.first >= -w.rows && w.y.first < w.source_rows && w.x.first >= -w.cols &&
                w.x.first < w.source_cols;
    if (!overlaps_) return;
    left_ = clip(-w.x.first * lanes, (w.source_cols - w.x.first) * lanes);
    right_ = clip((-w.x.first - 1) * lanes, (w.source_cols - w.x.first - 1) * lanes);
  }

  bool overlaps() const { return overlaps_; }  // whether any tap lies in the source
  int64_t size() const { return size_; }

  // Calls vectors(m, whether at an edge) for every `step` scalars from the first on.
  template <int64_t step, typename Vectors>
  __attribute__((always_inline)) void for_each(const Vectors& vectors) const {
    int64_t m = begin_;
    for (; m < left_.low && m < size_; m += step) vectors(m, std::true_type{});
    for (; m + step <= right_.high; m += step) vectors(m, std::false_type{});
    for (; m < size_; m += step) vectors(m, std::true_type{});
  }

  // The address of scalar m in a buffer, on a boundary of vectors.
  T* in(T* buffer, int64_t m) const { return buffer + m - begin_; }

  // The taps of the vector that begins at scalar m, and the same scalars of a line of the view's own size.
  auto at(int64_t m, std::false_type) const { return Inner{m}; }
  auto at(int64_t m, std::true_type) const { return Edge{m, part(left_, m), part(right_, m), part({0, size_}, m)}; }

  Vector<T> blend(Vector<T> left, Vector<T> right) const { return x_.w0 * left + x_.w1 * right; }

 private:
  struct Scalars {
    int64_t low = 0;
    int64_t high = 0;
  };
  struct Inner {
    int64_t m;
    Vector<T> left(const T* line) const { return load(line + m); }
    Vector<T> right(const T* line) const { return load(line + m + lanes); }
    Vector<T> own(const T* line) const { return load(line + m); }
    // Both taps of a line times another; of one lane. All but one of the right taps are left ones.
    TwoVectors<T> products(const T* line, const T* by) const {
      static_assert(lanes == 1);
      const Vector<T> first = left(line) * left(by);
      const Vector<T> last = Vector<T>{} + line[m + kWide<T>] * by[m + kWide<T>];
      return [&]<int... s>(std::integer_sequence<int, s...>) {
        return TwoVectors<T>{first, __builtin_shufflevector(first, last, (s + 1)...)};
      }(std::make_integer_sequence<int, kWide<T>>{});
    }
  };
  struct Edge {
    int64_t m;
    Part<T> left_part;
    Part<T> right_part;
    Part<T> own_part;
    Vector<T> left(const T* line) const { return left_part.load(line + m); }
    Vector<T> right(const T* line) const { return right_part.load(line + m + lanes); }
    Vector<T> own(const T* line) const { return own_part.load(line + m); }
    TwoVectors<T> products(const T* line, const T* by) const {
      return {left(line) * left(by), right(line) * right(by)};
    }
  };
  Scalars clip(int64_t low, int64_t high) const { return {low > 0 ? low : 0, high < size_ ? high : size_}; }
  static int within(int64_t s) { return static_cast<int>(s < 0 ? 0 : s > kWide<T> ? kWide<T> : s); }
  static Part<T> part(Scalars scalars, int64_t m) {
    const int begin = within(scalars.low - m), end = within(scalars.high - m);
    return {begin, end > begin ? end : begin};
  }

  int64_t size_;
  int64_t begin_;
  bool overlaps_;
  Scalars left_;   // whose left tap lies in the view's part of the source
  Scalars right_;  // and whose right tap does
  Taps<T> x_;
};

// Scalars by which an address lies past a boundary of vectors.
template <typename T>
inline int64_t past_boundary(const T* address) {
  return static_cast<int64_t>(reinterpret_cast<uintptr_t>(address) % kVectorBytes / sizeof(T));
}

// The source lines of a view, from the one above its first output row on; outside the source they are zero.
template <typename T>
class Lines {
 public:
  // zeros: room for a line. next: see PatchView
  Lines(const PatchView<T>& view, T* zeros, const T* next)
      : first_(view.source + view.x.first * view.lanes),
        next_(next),
        zeros_(zeros),
        stride_(view.source_cols * view.lanes),
        wanted_begin_(view.x.first < 0 ? -view.x.first * view.lanes : 0),
        wanted_((view.x.first + view.cols < view.source_cols ? view.cols + 1 : view.source_cols - view.x.first) *
                    view.lanes -
                wanted_begin_),
        top_(view.y.first),
        rows_(view.source_rows),
        bottom_(top_ + view.rows + 1 < rows_ ? top_ + view.rows + 1 : rows_) {
    if (top_ < 0 || top_ + view.rows + 1 > rows_) std::memset(zeros, 0, (view.cols + 1) * view.lanes * sizeof(T));
  }

  const T* operator[](int64_t line) const { return inside(line, 1) ? first_ + (top_ + line) * stride_ : zeros_; }

  // Whether `count` lines from this one on lie in the source, `stride` scalars apart.
  bool inside(int64_t line, int64_t count) const { return top_ + line >= 0 && top_ + line + count <= rows_; }
  int64_t stride() const { return stride_; }

  // Prefetches the line kRowsAhead after this one, of the next view where this one has fewer.
  __attribute__((always_inline)) void prefetch_behind(int64_t line) const {
    const int64_t r = top_ + line + kRowsAhead;
    if (r < bottom_) {
      prefetch(first_ + wanted_begin_ + r * stride_, wanted_);
    } else if (next_) {
      prefetch(next_ + (r - bottom_) * stride_, wanted_);
    }
  }

 private:
  const T* first_;
  const T* next_;
  const T* zeros_;
  int64_t stride_;
  int64_t wanted_begin_;
  int64_t wanted_;  // scalars of a line that lie in the source
  int64_t top_;
  int64_t rows_;
  int64_t bottom_;  // the row after the last that this view needs
};

// Calls rows_at(r, how many) for all rows of a view: kRowsAtOnce where their lines lie inside the source, else one.
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

}  // namespace
}  // namespace ptycho::cpu::PTYCHO_LEVEL
