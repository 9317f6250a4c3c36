// SPDX-License-Identifier: BSD-3-Clause
// The inner loops of update_canvas, compiled once per instruction set (PTYCHO_LEVEL names the namespace). Pixels are
// worked through in chunks that stay in the L1 cache, with real and imaginary parts in arrays of their own, in loops
// that compilers turn into vectors; the maths is that of canvas_update.h, with no fused multiply-add, so results are
// bitwise the same on all levels. Everything has internal linkage or is inlined, see vectors.h.
#include "maths/simd/updates.h"

namespace ptycho::cpu::PTYCHO_LEVEL {
namespace {

constexpr int kChunk = kSumLanes;

template <typename T>
struct alignas(64) Row {
  T at[kChunk];
};

template <typename T>
struct alignas(64) Planes {
  T re[kChunk];
  T im[kChunk];

  // from: null for zeros
  void load(const Complex<T>* from, int64_t first, int count) {
    if (!from) {
      for (int i = 0; i < kChunk; ++i) re[i] = im[i] = T(0);
      return;
    }
    const T* const scalars = reinterpret_cast<const T*>(from + first);
    for (int i = 0; i < count; ++i) {
      re[i] = scalars[2 * i];
      im[i] = scalars[2 * i + 1];
    }
  }
  // to: null for nowhere
  void store(Complex<T>* to, int64_t first, int count) const {
    if (!to) return;
    T* const scalars = reinterpret_cast<T*>(to + first);
    for (int i = 0; i < count; ++i) {
      scalars[2 * i] = re[i];
      scalars[2 * i + 1] = im[i];
    }
  }
  __attribute__((always_inline)) Complex<T> get(int i) const { return {re[i], im[i]}; }
  __attribute__((always_inline)) void set(int i, Complex<T> value) {
    re[i] = value.re;
    im[i] = value.im;
  }
};

template <typename T>
struct Pixels {
  Planes<T> canvas, numerator, velocity;
  Row<T> inverse_illumination;

  void load(const CanvasUpdate<T>& update, int64_t first, int count) {
    canvas.load(update.canvas, first, count);
    numerator.load(update.numerator, first, count);
    velocity.load(update.velocity, first, count);
    for (int i = 0; i < count; ++i) inverse_illumination.at[i] = update.inverse_illumination[first + i];
  }
  __attribute__((always_inline)) UpdatePixel<T> get(int i) const {
    return {canvas.get(i), numerator.get(i), inverse_illumination.at[i], velocity.get(i)};
  }
};

struct alignas(64) LaneSums {
  double at[kChunk] = {};

  template <typename T>
  void add(const Row<T>& values, int count) {
    for (int i = 0; i < count; ++i) at[i] += static_cast<double>(values.at[i]);
  }
  double total() {
    for (int half = kChunk / 2; half > 0; half /= 2)
      for (int i = 0; i < half; ++i) at[i] += at[i + half];
    return at[0];
  }
};

int chunk_at(int64_t first, int64_t end) {
  return static_cast<int>(end - first < kChunk ? end - first : kChunk);
}

template <typename T>
void update(const CanvasUpdate<T>& all, int64_t begin, int64_t end, const UpdateScalars<T>& scalars,
            const UpdateOutputs<T>& to) {
  const UpdateScalars<T> by = scalars;
  Pixels<T> pixels;
  Planes<T> canvas, velocity, direction;
  for (int64_t first = begin; first < end; first += kChunk) {
    const int count = chunk_at(first, end);
    pixels.load(all, first, count);
    for (int i = 0; i < count; ++i) {
      const UpdatedPixel<T> updated = update_pixel(pixels.get(i), by);
      canvas.set(i, updated.canvas);
      velocity.set(i, updated.velocity);
      direction.set(i, updated.direction);
    }
    canvas.store(to.canvas, first, count);
    velocity.store(to.velocity, first, count);
    direction.store(to.direction, first, count);
  }
}

template <typename T>
void pass_back(const CanvasUpdate<T>& all, int64_t begin, int64_t end, const UpdateScalars<T>& scalars,
               const UpdateGradsView<T>& grads, const UpdateGradOutputs<T>& to, UpdateSums* sums) {
  const UpdateScalars<T> by = scalars;
  Pixels<T> pixels;
  Planes<T> by_canvas, by_velocity, by_direction, canvas, numerator, velocity;
  Row<T> inverse_illumination, along, across, momentum, floor;
  LaneSums along_sums, across_sums, momentum_sums, floor_sums;
  for (int64_t first = begin; first < end; first += kChunk) {
    const int count = chunk_at(first, end);
    pixels.load(all, first, count);
    by_canvas.load(grads.canvas, first, count);
    by_velocity.load(grads.velocity, first, count);
    by_direction.load(grads.direction, first, count);
    for (int i = 0; i < count; ++i) {
      const UpdatePixelGrads<T> pixel =
          pass_back_update(pixels.get(i), by, {by_canvas.get(i), by_velocity.get(i), by_direction.get(i)});
      canvas.set(i, pixel.canvas);
      numerator.set(i, pixel.numerator);
      inverse_illumination.at[i] = pixel.inverse_illumination;
      velocity.set(i, pixel.velocity);
      along.at[i] = pixel.along;
      across.at[i] = pixel.across;
      momentum.at[i] = pixel.momentum;
      floor.at[i] = pixel.floor;
    }
    canvas.store(to.canvas, first, count);
    numerator.store(to.numerator, first, count);
    for (int i = 0; i < count; ++i) to.inverse_illumination[first + i] = inverse_illumination.at[i];
    velocity.store(to.velocity, first, count);
    along_sums.add(along, count);
    across_sums.add(across, count);
    momentum_sums.add(momentum, count);
    floor_sums.add(floor, count);
  }
  *sums = {along_sums.total(), across_sums.total(), momentum_sums.total(), floor_sums.total()};
}

}  // namespace

template <typename T>
const UpdateKernels<T>& update_table() {
  static constexpr UpdateKernels<T> kernels{update<T>, pass_back<T>};
  return kernels;
}

template const UpdateKernels<float>& update_table<float>();
template const UpdateKernels<double>& update_table<double>();

}  // namespace ptycho::cpu::PTYCHO_LEVEL
