// SPDX-License-Identifier: BSD-3-Clause
// Fourier transforms of images, compiled once per instruction set (PTYCHO_LEVEL names the namespace). A panel of as
// many columns, or rows, as a vector has scalars is transformed at once, with real and imaginary parts in vectors of
// their own: scalar s of every vector belongs to column s, so that the stages have no shuffles. Columns are divided
// into real and imaginary parts as the first stage reads them; rows are transposed, in blocks that fit into the
// registers, on their way to the panel and back. Every level performs the same operations in the same order on each
// scalar, with no fused multiply-add, so results are bitwise the same on all.
#include "maths/simd/fourier.h"

#include "maths/butterflies.h"
#include "maths/simd/vectors.h"

namespace ptycho::cpu::PTYCHO_LEVEL {
namespace {

#define PTYCHO_INLINE __attribute__((always_inline))

template <typename T>
using Complex = ptycho::Complex<Vector<T>>;

// A panel in memory: of element i the real parts, then the imaginary parts.
template <typename T>
struct Panel {
  T* data;

  PTYCHO_INLINE inline Complex<T> get(int64_t i) const {
    return {load(data + 2 * i * kWide<T>), load(data + (2 * i + 1) * kWide<T>)};
  }
  PTYCHO_INLINE inline void put(int64_t i, const Complex<T>& value) const {
    store(data + 2 * i * kWide<T>, value.re);
    store(data + (2 * i + 1) * kWide<T>, value.im);
  }
};

// The same with the parts exchanged, which turns a transform into its inverse where it is read and where it is written.
template <typename T, typename Place, bool swapped>
struct Exchanged {
  Place place;

  PTYCHO_INLINE inline Complex<T> get(int64_t i) const {
    const Complex<T> value = place.get(i);
    if constexpr (swapped) return exchanged(value);
    return value;
  }
  PTYCHO_INLINE inline void put(int64_t i, const Complex<T>& value) const {
    if constexpr (swapped) {
      place.put(i, exchanged(value));
    } else {
      place.put(i, value);
    }
  }
};

// A column of vectors of pixels of an image; `complete`: all of them are in the image, otherwise the first `count`.
template <typename T, bool complete>
struct Columns {
  T* first;
  int64_t stride;  // scalars from row to row
  int64_t count;

  PTYCHO_INLINE inline Complex<T> get(int64_t i) const {
    const T* const from = first + i * stride;
    Vector<T> low, high;
    if constexpr (complete) {
      low = load(from);
      high = load(from + kWide<T>);
    } else {
      low = Part<T>(0, static_cast<int>(2 * count < kWide<T> ? 2 * count : kWide<T>)).load(from);
      high =
          2 * count > kWide<T> ? Part<T>(0, static_cast<int>(2 * count - kWide<T>)).load(from + kWide<T>) : Vector<T>{};
    }
    return [&]<int... s>(std::integer_sequence<int, s...>) PTYCHO_INLINE {
      return Complex<T>{__builtin_shufflevector(low, high, (2 * s)...),
                        __builtin_shufflevector(low, high, (2 * s + 1)...)};
    }(std::make_integer_sequence<int, kWide<T>>{});
  }
  PTYCHO_INLINE inline void put(int64_t i, const Complex<T>& value) const {
    T* const to = first + i * stride;
    const Vector<T> re = value.re, im = value.im;
    [&]<int... s>(std::integer_sequence<int, s...>) PTYCHO_INLINE {
      constexpr int wide = kWide<T>;
      const Vector<T> low = __builtin_shufflevector(re, im, (s / 2 + (s % 2) * wide)...);
      const Vector<T> high = __builtin_shufflevector(re, im, (s / 2 + wide / 2 + (s % 2) * wide)...);
      if constexpr (complete) {
        store(to, low);
        store(to + wide, high);
      } else {
        store_first(to, low, 2 * count < wide ? 2 * count : wide);
        if (2 * count > wide) store_first(to + wide, high, 2 * count - wide);
      }
    }(std::make_integer_sequence<int, kWide<T>>{});
  }
};

template <typename T, int radix, typename From, typename To>
PTYCHO_INLINE inline void do_stage(const FourierStage& stage, const T* twiddles, const From& from, const To& to) {
  const int64_t m = stage.m, s = stage.s;
  for (int64_t p = 0; p < m; ++p) {
    const T* const factors = twiddles + 2 * p * (radix - 1);
    for (int64_t q = 0; q < s; ++q) {
      Complex<T> a[radix];
#pragma GCC unroll 8
      for (int k = 0; k < radix; ++k) a[k] = from.get(q + s * (p + m * k));
      transform_few<T>(a);
      const int64_t at = q + s * radix * p;
      to.put(at, a[0]);
      if (p == 0) {
#pragma GCC unroll 8
        for (int k = 1; k < radix; ++k) to.put(at + s * k, a[k]);
      } else {
#pragma GCC unroll 8
        for (int k = 1; k < radix; ++k) to.put(at + s * k, times(a[k], factors[2 * k - 2], factors[2 * k - 1]));
      }
    }
  }
}

template <typename T, typename From, typename To>
void run_stage(const FourierStage& stage, const T* twiddles, const From& from, const To& to) {
  twiddles += stage.twiddles;
  switch (stage.radix) {
    case 2:
      return do_stage<T, 2>(stage, twiddles, from, to);
    case 3:
      return do_stage<T, 3>(stage, twiddles, from, to);
    case 4:
      return do_stage<T, 4>(stage, twiddles, from, to);
    case 5:
      return do_stage<T, 5>(stage, twiddles, from, to);
    default:
      return do_stage<T, 8>(stage, twiddles, from, to);
  }
}

// From one place to another, through the panels in `scratch` (of n elements each).
template <typename T, typename From, typename To>
PTYCHO_INLINE inline void transform_panel(const FourierAxis<T>& axis, const From& from, const To& to, T* scratch) {
  const auto count = static_cast<int64_t>(axis.stages.size());
  const T* const twiddles = axis.twiddles.data();
  const FourierStage* const stages = axis.stages.data();
  if (count == 1) return run_stage(stages[0], twiddles, from, to);
  Panel<T> one{scratch}, other{scratch + 2 * axis.n * kWide<T>};
  run_stage(stages[0], twiddles, from, one);
  for (int64_t i = 1; i + 1 < count; ++i) {
    run_stage(stages[i], twiddles, one, other);
    std::swap(one, other);
  }
  run_stage(stages[count - 1], twiddles, one, to);
}

template <typename T, bool inverse>
void transform_columns(const FourierPlan<T>& plan, T* image, T* scratch) {
  const int64_t w = plan.across.n;
  if (plan.down.stages.empty()) return;
  int64_t x = 0;
  for (; x + kWide<T> <= w; x += kWide<T>) {
    const Exchanged<T, Columns<T, true>, inverse> columns{{image + 2 * x, 2 * w, kWide<T>}};
    transform_panel(plan.down, columns, columns, scratch);
  }
  if (x == w) return;
  const Exchanged<T, Columns<T, false>, inverse> rest{{image + 2 * x, 2 * w, w - x}};
  transform_panel(plan.down, rest, rest, scratch);
}

// Transposes as many vectors as a vector has scalars.
template <typename T>
PTYCHO_INLINE inline void transpose(Vector<T> (&rows)[kWide<T>]) {
  constexpr int wide = kWide<T>;
  const auto exchange = [&]<int d, int... s>(std::integral_constant<int, d>, std::integer_sequence<int, s...>)
                            PTYCHO_INLINE {
#pragma GCC unroll 16
                              for (int i = 0; i < wide; ++i) {
                                if (i & d) continue;
                                const Vector<T> a = rows[i], b = rows[i + d];
                                rows[i] = __builtin_shufflevector(a, b, ((s & d) ? wide + s - d : s)...);
                                rows[i + d] = __builtin_shufflevector(a, b, ((s & d) ? wide + s : s + d)...);
                              }
                            };
  constexpr std::make_integer_sequence<int, wide> all{};
  if constexpr (wide >= 16) exchange(std::integral_constant<int, 8>{}, all);
  if constexpr (wide >= 8) exchange(std::integral_constant<int, 4>{}, all);
  if constexpr (wide >= 4) exchange(std::integral_constant<int, 2>{}, all);
  exchange(std::integral_constant<int, 1>{}, all);
}

// Calls use(x, scalars) for the vectors of a row of w pixels.
template <typename T, typename Use>
PTYCHO_INLINE inline void for_each_block(int64_t w, const Use& use) {
  for (int64_t at = 0; at < 2 * w; at += kWide<T>) use(at, 2 * w - at < kWide<T> ? 2 * w - at : kWide<T>);
}

// Rows of an image (rows of 2 w scalars) to and from a panel of w elements.
template <typename T>
void rows_to_panel(const T* image, int64_t w, int64_t rows, T* panel) {
  for_each_block<T>(w, [&](int64_t at, int64_t scalars) PTYCHO_INLINE {
    Vector<T> block[kWide<T>];
    if (scalars == kWide<T> && rows == kWide<T>) {
#pragma GCC unroll 16
      for (int r = 0; r < kWide<T>; ++r) block[r] = load(image + r * 2 * w + at);
    } else {
      const Part<T> part(0, static_cast<int>(scalars));
      for (int r = 0; r < kWide<T>; ++r) block[r] = r < rows ? part.load(image + r * 2 * w + at) : Vector<T>{};
    }
    transpose<T>(block);
    T* const to = panel + at * kWide<T>;
#pragma GCC unroll 16
    for (int j = 0; j < kWide<T>; ++j)
      if (j < scalars) store(to + j * kWide<T>, block[j]);
  });
}

template <typename T>
void panel_to_rows(const T* panel, int64_t w, int64_t rows, T* image) {
  for_each_block<T>(w, [&](int64_t at, int64_t scalars) PTYCHO_INLINE {
    Vector<T> block[kWide<T>];
    const T* const from = panel + at * kWide<T>;
#pragma GCC unroll 16
    for (int j = 0; j < kWide<T>; ++j) block[j] = j < scalars ? load(from + j * kWide<T>) : Vector<T>{};
    transpose<T>(block);
    if (scalars == kWide<T> && rows == kWide<T>) {
#pragma GCC unroll 16
      for (int r = 0; r < kWide<T>; ++r) store(image + r * 2 * w + at, block[r]);
    } else {
      for (int r = 0; r < rows; ++r) store_first(image + r * 2 * w + at, block[r], scalars);
    }
  });
}

template <typename T, bool inverse>
void transform_rows(const FourierPlan<T>& plan, T* image, T* scratch) {
  const int64_t h = plan.down.n, w = plan.across.n, size = 2 * w * kWide<T>;
  const auto count = static_cast<int64_t>(plan.across.stages.size());
  if (count == 0) return;
  T *const one = scratch, *const other = scratch + size;
  for (int64_t y = 0; y < h; y += kWide<T>) {
    const int64_t rows = h - y < kWide<T> ? h - y : kWide<T>;
    rows_to_panel(image + y * 2 * w, w, rows, one);
    Panel<T> from{one}, to{other};
    for (int64_t i = 0; i < count; ++i) {
      const FourierStage& stage = plan.across.stages[i];
      const T* const twiddles = plan.across.twiddles.data();
      if (!inverse || (i > 0 && i + 1 < count)) {
        run_stage(stage, twiddles, from, to);
      } else if (count == 1) {
        run_stage(stage, twiddles, Exchanged<T, Panel<T>, true>{from}, Exchanged<T, Panel<T>, true>{to});
      } else if (i == 0) {
        run_stage(stage, twiddles, Exchanged<T, Panel<T>, true>{from}, to);
      } else {
        run_stage(stage, twiddles, from, Exchanged<T, Panel<T>, true>{to});
      }
      std::swap(from, to);
    }
    panel_to_rows(from.data, w, rows, image + y * 2 * w);
  }
}

template <typename T>
void transform(const FourierPlan<T>& plan, T* image, bool inverse, T* scratch) {
  if (inverse) {
    transform_columns<T, true>(plan, image, scratch);
    transform_rows<T, true>(plan, image, scratch);
  } else {
    transform_columns<T, false>(plan, image, scratch);
    transform_rows<T, false>(plan, image, scratch);
  }
}

#undef PTYCHO_INLINE

}  // namespace

template <typename T>
const FourierKernels<T>& fourier_table() {
  static constexpr FourierKernels<T> table{transform<T>};
  return table;
}

template const FourierKernels<float>& fourier_table<float>();
template const FourierKernels<double>& fourier_table<double>();

}  // namespace ptycho::cpu::PTYCHO_LEVEL
