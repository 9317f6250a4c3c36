// SPDX-License-Identifier: BSD-3-Clause
// What one GPU thread interpolates: a column of pixels. Threads next to each other have columns next to each other, so
// rows are read and written whole, and which lines lie in the source is the same for all of them; the sub-pixel
// position has no alignment that 16-byte reads could use without moving every scalar first. Lines are read a few ahead
// of their use. Each scalar is made by the operations of maths/simd/kernels.cpp in their order, hence the results are
// those of the CPU, bit for bit.
#pragma once

#include "maths/views.h"

#ifdef __CUDA_ARCH__
#define PTYCHO_UNROLL _Pragma("unroll")
#define PTYCHO_NO_UNROLL _Pragma("unroll 1")
#else
#define PTYCHO_UNROLL
#define PTYCHO_NO_UNROLL
#endif

namespace ptycho {

// A pixel in one access, of data that no thread writes meanwhile.
template <typename T, int lanes>
PTYCHO_HD inline void load_pixel(const T* from, T (&pixel)[lanes]) {
#ifdef __CUDA_ARCH__
  if constexpr (lanes == 1) {
    pixel[0] = __ldg(from);
  } else if constexpr (sizeof(T) == 4) {
    const float2 both = __ldg(reinterpret_cast<const float2*>(from));
    pixel[0] = both.x, pixel[1] = both.y;
  } else {
    const double2 both = __ldg(reinterpret_cast<const double2*>(from));
    pixel[0] = both.x, pixel[1] = both.y;
  }
#else
  for (int lane = 0; lane < lanes; ++lane) pixel[lane] = from[lane];
#endif
}

// A pixel in one access, marked as not to be read soon.
template <typename T, int lanes>
PTYCHO_HD inline void store_pixel(T* to, const T (&pixel)[lanes]) {
#ifdef __CUDA_ARCH__
  if constexpr (lanes == 1) {
    __stcs(to, pixel[0]);
  } else if constexpr (sizeof(T) == 4) {
    __stcs(reinterpret_cast<float2*>(to), make_float2(pixel[0], pixel[1]));
  } else {
    __stcs(reinterpret_cast<double2*>(to), make_double2(pixel[0], pixel[1]));
  }
#else
  for (int lane = 0; lane < lanes; ++lane) to[lane] = pixel[lane];
#endif
}

// Bits q = 0 ... lines - 1, set where row + q lies in [0, rows).
PTYCHO_HD inline uint32_t lines_inside(int64_t row, int64_t rows, int lines) {
  const auto begin = static_cast<int>(clamp(-row, 0, lines));
  const auto end = static_cast<int>(clamp(rows - row, 0, lines));
  return end > begin ? ((1u << end) - 1u) & ~((1u << begin) - 1u) : 0u;
}

// The same in 32 bits.
PTYCHO_HD inline uint32_t lines_inside(int row, int rows, int lines) {
  const int begin = row < 0 ? -row : 0, end = rows - row < lines ? rows - row : lines;
  return begin < end ? ((1u << end) - 1u) & ~((1u << begin) - 1u) : 0u;
}

// The four weights of a sub-pixel position.
template <typename T>
struct Blend {
  T y0;
  T y1;
  T x0;
  T x1;
};

template <typename T>
PTYCHO_HD inline Blend<T> blend_of(const Taps<T>& y, const Taps<T>& x) {
  return {y.w0, y.w1, x.w0, x.w1};
}

inline constexpr int kWarp = 32;  // threads that have neighbouring columns

inline constexpr int64_t kWidestLine = int64_t{1} << 26;  // pixels, for its bytes to fit 32 bits

// The two taps of a column whose lines all lie in the source, so that what is to be asked of a tap is asked once.
template <typename T, int lanes>
class FullReader {
 public:
  // at, left, right: as PixelReader's; step: bytes, in 32 bits, which makes an address one instruction
  PTYCHO_HD FullReader(uintptr_t at, uint32_t step, bool left, bool right)
      : at_(at), step_(step), left_(left), right_(right) {}

  PTYCHO_HD void next(int q, T (&left)[lanes], T (&right)[lanes]) const {
    const uintptr_t at = at_ + uint64_t{step_} * static_cast<uint32_t>(q);
    PTYCHO_UNROLL
    for (int lane = 0; lane < lanes; ++lane) left[lane] = right[lane] = T(0);
    if (left_) load_pixel(reinterpret_cast<const T*>(at), left);
    if (right_) load_pixel(reinterpret_cast<const T*>(at + lanes * sizeof(T)), right);
  }

 private:
  uintptr_t at_;
  uint32_t step_;
  bool left_;
  bool right_;
};

// The same of two columns `apart` pixels from each other, as one of twice the lanes: one address serves both.
template <typename T, int lanes, int apart>
class PairReader {
 public:
  PTYCHO_HD PairReader(uintptr_t at, uint32_t step) : at_(at), step_(step) {}

  PTYCHO_HD void next(int q, T (&left)[2 * lanes], T (&right)[2 * lanes]) const {
    const auto* const at = reinterpret_cast<const T*>(at_ + uint64_t{step_} * static_cast<uint32_t>(q));
    PTYCHO_UNROLL
    for (int column = 0; column < 2; ++column) {
      T near[lanes], far[lanes];
      load_pixel(at + column * apart * lanes, near);
      load_pixel(at + (column * apart + 1) * lanes, far);
      PTYCHO_UNROLL
      for (int lane = 0; lane < lanes; ++lane)
        left[column * lanes + lane] = near[lane], right[column * lanes + lane] = far[lane];
    }
  }

 private:
  uintptr_t at_;
  uint32_t step_;
};

// Row q of two such columns as line q + 1, for what is multiplied with them: there may be no second one.
template <typename T, int lanes, int apart>
class PairRows {
 public:
  // at: address of the first column's pixel in row 0
  PTYCHO_HD PairRows(uintptr_t at, int64_t step, bool second)
      : at_(at), step_(static_cast<uint32_t>(step)), second_(second) {}

  PTYCHO_HD void next(int q, T (&rows)[2 * lanes], T (&)[2 * lanes]) const {
    T first[lanes] = {}, second[lanes] = {};
    if (q > 0) {
      const auto* const at = reinterpret_cast<const T*>(at_ + uint64_t{step_} * static_cast<uint32_t>(q - 1));
      load_pixel(at, first);
      if (second_) load_pixel(at + apart * lanes, second);
    }
    PTYCHO_UNROLL
    for (int lane = 0; lane < lanes; ++lane) rows[lane] = first[lane], rows[lanes + lane] = second[lane];
  }

 private:
  uintptr_t at_;
  uint32_t step_;
  bool second_;
};

// The two taps of a column on successive lines of a source that is zero outside.
template <typename T, int lanes>
class PixelReader {
 public:
  static constexpr int64_t kPixel = lanes * sizeof(T);

  // at: address of the left tap on line 0; step: bytes from line to line; left, right: bit q is set where the tap of
  // line q lies in the source
  PTYCHO_HD PixelReader(uintptr_t at, int64_t step, uint32_t left, uint32_t right)
      : at_(at), step_(step), left_(left), right_(right) {}

  // The lines [row, row + lines), fewer than 32, and pixel x of the left tap.
  PTYCHO_HD PixelReader(const Image<const T>& source, int64_t row, int64_t x, int lines)
      : at_(address(source, row, x)),
        step_(source.cols * kPixel),
        left_(x >= 0 && x < source.cols ? lines_inside(row, source.rows, lines) : 0u),
        right_(x >= -1 && x < source.cols - 1 ? lines_inside(row, source.rows, lines) : 0u) {}

  // Of a pixel that may lie outside: a number, not a pointer.
  PTYCHO_HD static uintptr_t address(const Image<const T>& source, int64_t row, int64_t x) {
    return reinterpret_cast<uintptr_t>(source.data) +
           (static_cast<uintptr_t>(row) * static_cast<uintptr_t>(source.cols) + static_cast<uintptr_t>(x)) * kPixel;
  }

  PTYCHO_HD bool sees() const { return (left_ | right_) != 0; }

  // Whether both taps of all `lines` lie in the source, and then the reader that need not ask.
  PTYCHO_HD bool is_full(int lines) const { return (left_ & right_) == (1u << lines) - 1u; }
  PTYCHO_HD FullReader<T, lanes> full() const { return {at_, static_cast<uint32_t>(step_), true, true}; }

  // Line q; lines are read one after the other.
  PTYCHO_HD void next(int q, T (&left)[lanes], T (&right)[lanes]) {
    PTYCHO_UNROLL
    for (int lane = 0; lane < lanes; ++lane) left[lane] = right[lane] = T(0);
    if (left_ & (1u << q)) load_pixel(reinterpret_cast<const T*>(at_), left);
    if (right_ & (1u << q)) load_pixel(reinterpret_cast<const T*>(at_ + kPixel), right);
    at_ += step_;
  }

 private:
  uintptr_t at_;
  int64_t step_;
  uint32_t left_;
  uint32_t right_;
};

// A pixel that is moved in one access.
template <typename T, int lanes>
struct alignas(lanes * sizeof(T)) Pixel {
  T lane[lanes];
};

// The same of an image that a block has in its shared memory, and may have written itself.
template <typename T, int lanes>
class SharedReader {
 public:
  // at: pixel of the left tap on line 0; step: pixels from line to line; left, right: as PixelReader's
  PTYCHO_HD SharedReader(const Pixel<T, lanes>* image, int at, int step, uint32_t left, uint32_t right)
      : image_(image), at_(at), step_(step), left_(left), right_(right) {}

  PTYCHO_HD bool sees() const { return (left_ | right_) != 0; }

  PTYCHO_HD void next(int q, T (&left)[lanes], T (&right)[lanes]) {
    Pixel<T, lanes> left_pixel{}, right_pixel{};
    if (left_ & (1u << q)) left_pixel = image_[at_];
    if (right_ & (1u << q)) right_pixel = image_[at_ + 1];
    PTYCHO_UNROLL
    for (int lane = 0; lane < lanes; ++lane) left[lane] = left_pixel.lane[lane], right[lane] = right_pixel.lane[lane];
    at_ += step_;
  }

 private:
  const Pixel<T, lanes>* image_;
  int at_;
  int step_;
  uint32_t left_;
  uint32_t right_;
};

inline constexpr int kLinesAhead = 4;  // read at once, unless a program has its own number

// Calls use(q, left, right) for the lines q = 0 ... rows that the rows of a column are made of.
// Reader: PixelReader, or what has its functions sees() and next().
template <typename T, int lanes, int rows, int ahead = kLinesAhead, typename Reader, typename Use>
PTYCHO_HD inline void for_each_line(Reader reader, const Use& use) {
  static_assert(rows < 31);
  PTYCHO_UNROLL
  for (int first = 0; first <= rows; first += ahead) {
    T left[ahead][lanes], right[ahead][lanes];
    PTYCHO_UNROLL
    for (int u = 0; u < ahead; ++u)
      if (first + u <= rows) reader.next(first + u, left[u], right[u]);
    PTYCHO_UNROLL
    for (int u = 0; u < ahead; ++u)
      if (first + u <= rows) use(first + u, left[u], right[u]);
  }
}

// Calls use(q, pixel) for the rows q of a column, interpolated from its lines q and q + 1.
template <typename T, int lanes, int rows, int ahead = kLinesAhead, typename Reader, typename Use>
PTYCHO_HD inline void gather(const Reader& source, const Blend<T>& by, const Use& use) {
  T above[lanes];
  for_each_line<T, lanes, rows, ahead>(source, [&](int q, auto& left, auto& right) {
    T pixel[lanes];
    PTYCHO_UNROLL
    for (int lane = 0; lane < lanes; ++lane) {
      const T next = by.x0 * left[lane] + by.x1 * right[lane];
      pixel[lane] = q > 0 ? by.y0 * above[lane] + by.y1 * next : T(0);
      above[lane] = next;
    }
    if (q > 0) use(q - 1, pixel);
  });
}

// Adds to a column what it receives of source * weights and of the weights, which are read one to a pixel.
template <typename T, int lanes, int rows, int ahead = kLinesAhead, typename Reader, typename WeightReader>
PTYCHO_HD inline void add_weighted(const Reader& source, WeightReader weights, const Blend<T>& by,
                                   T (&sums)[rows][lanes], T (&weight_sums)[rows]) {
  T above[lanes], above_weights(0);
  for_each_line<T, lanes, rows, ahead>(source, [&](int q, auto& left, auto& right) {
    T left_weight[1], right_weight[1];
    weights.next(q, left_weight, right_weight);
    const T by_left = by.x0 * left_weight[0], by_right = by.x1 * right_weight[0];
    if (q > 0) weight_sums[q - 1] += by.y0 * above_weights + by.y1 * (by_left + by_right);
    above_weights = by_left + by_right;
    PTYCHO_UNROLL
    for (int lane = 0; lane < lanes; ++lane) {
      const T next = left[lane] * by_left + right[lane] * by_right;
      if (q > 0) sums[q - 1][lane] += by.y0 * above[lane] + by.y1 * next;
      above[lane] = next;
    }
  });
}

// Sums over a column of <grads, d out / d y> and <grads, d out / d x>.
template <typename T>
struct Gradient {
  T y;
  T x;
};

// For `columns` columns, whose pixels are read as one of all their lanes. grads: its line q + 1 holds what row q is
// multiplied by.
template <typename T, int lanes, int rows, int columns, typename Source, typename Reader>
PTYCHO_HD inline void position_gradient(const Source& source, Reader grads, const Blend<T>& by,
                                        Gradient<T> (&sums)[columns]) {
  constexpr int scalars = columns * lanes;
  T above[scalars] = {}, above_step[scalars] = {};
  for_each_line<T, scalars, rows>(source, [&](int q, auto& left, auto& right) {
    T grad[scalars], unused[scalars];
    grads.next(q, grad, unused);
    PTYCHO_UNROLL
    for (int i = 0; i < scalars; ++i) {
      const T next = by.x0 * left[i] + by.x1 * right[i];
      const T step = right[i] - left[i];
      if (q > 0) {
        sums[i / lanes].y += grad[i] * (next - above[i]);
        sums[i / lanes].x += grad[i] * (by.y0 * above_step[i] + by.y1 * step);
      }
      above[i] = next;
      above_step[i] = step;
    }
  });
}

}  // namespace ptycho
