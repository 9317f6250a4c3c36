// SPDX-License-Identifier: BSD-3-Clause
// update_canvas on the CPU and its backward, parallel over the parts of groups, in loops that compilers turn into
// vectors: what is optional is a constant of the loop.
#include "ops/update_canvas/dispatch.h"
#include "runtime/cpu/outputs.h"
#include "runtime/cpu/workers.h"

namespace ptycho::cpu {
namespace {

// Calls work(begin, end, scalars of the group, number of the part) for every part of every group.
template <typename T, typename Work>
void for_each_part(const CanvasUpdate<T>& update, const Work& work) {
  const int64_t parts = update.parts();
  const T momentum = update.momentum_or_zero();
  parallel_for(update.groups * parts, grain(4 * std::min(update.pixels, kUpdatePart)), [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) {
      const int64_t group = b / parts, begin = (b - group * parts) * kUpdatePart;
      const int64_t size = std::min(update.pixels - begin, kUpdatePart), at = group * update.pixels + begin;
      work(at, at + size, UpdateScalars<T>{update.floor[group], update.factors[0], update.factors[1], momentum}, b);
    }
  });
}

template <bool moving, typename T>
PTYCHO_INLINE UpdatePixel<T> pixel_of(const CanvasUpdate<T>& update, int64_t i) {
  return {update.canvas[i], update.numerator[i], update.inverse_illumination[i],
          moving ? update.velocity[i] : Complex<T>{0, 0}};
}

template <bool moving, bool directed, typename T>
void update_pixels(const CanvasUpdate<T>& update, int64_t begin, int64_t end, const UpdateScalars<T> by,
                   const UpdateOutputs<T> to) {
#pragma GCC ivdep
  for (int64_t i = begin; i < end; ++i) {
    const UpdatedPixel<T> updated = update_pixel(pixel_of<moving>(update, i), by);
    to.canvas[i] = updated.canvas;
    to.velocity[i] = updated.velocity;
    if constexpr (directed) to.direction[i] = updated.direction;
  }
}

// The summands of kSumLanes pixels, and sums over such rows of pixels.
template <typename T>
struct SumRows {
  alignas(64) T along[kSumLanes], across[kSumLanes], momentum[kSumLanes], floor[kSumLanes];
};

class LaneSums {
 public:
  template <typename T>
  void add(const T* values, int count) {
    for (int i = 0; i < count; ++i) at_[i] += static_cast<double>(values[i]);
  }
  double total() {
    for (int half = kSumLanes / 2; half > 0; half /= 2)
      for (int i = 0; i < half; ++i) at_[i] += at_[i + half];
    return at_[0];
  }

 private:
  alignas(64) double at_[kSumLanes] = {};
};

template <bool moving, typename T>
void pass_back_row(const CanvasUpdate<T>& update, int64_t begin, int count, const UpdateScalars<T> by,
                   const UpdateGradsView<T> grads, const UpdateGradOutputs<T> to, SumRows<T>& rows) {
#pragma GCC ivdep
  for (int j = 0; j < count; ++j) {
    const int64_t i = begin + j;
    const UpdatePixelGrads<T> pixel = pass_back_update(pixel_of<moving>(update, i), by, grads.at(i));
    to.canvas[i] = pixel.canvas;
    to.numerator[i] = pixel.numerator;
    to.inverse_illumination[i] = pixel.inverse_illumination;
    if constexpr (moving) to.velocity[i] = pixel.velocity;
    rows.along[j] = pixel.along;
    rows.across[j] = pixel.across;
    rows.momentum[j] = pixel.momentum;
    rows.floor[j] = pixel.floor;
  }
}

template <bool moving, typename T>
UpdateSums pass_back_part(const CanvasUpdate<T>& update, int64_t begin, int64_t end, const UpdateScalars<T>& by,
                          const UpdateGradsView<T>& grads, const UpdateGradOutputs<T>& to) {
  SumRows<T> rows;
  LaneSums along, across, momentum, floor;
  for (int64_t first = begin; first < end; first += kSumLanes) {
    const int count = static_cast<int>(std::min<int64_t>(end - first, kSumLanes));
    pass_back_row<moving>(update, first, count, by, grads, to, rows);
    along.add(rows.along, count);
    across.add(rows.across, count);
    if constexpr (moving) momentum.add(rows.momentum, count);
    floor.add(rows.floor, count);
  }
  return {along.total(), across.total(), momentum.total(), floor.total()};
}

template <typename T>
void add_sums(const std::vector<UpdateSums>& sums, int64_t groups, int64_t parts, const UpdateGradOutputs<T>& to) {
  for (int64_t group = 0; group < groups; ++group) {
    double total = 0;
    for (int64_t part = 0; part < parts; ++part) total += sums[group * parts + part].floor;
    to.floor[group] = static_cast<T>(total);
  }
  UpdateSums lanes[kSumLanes] = {};
  for (size_t b = 0; b < sums.size(); ++b) lanes[b % kSumLanes] = lanes[b % kSumLanes].plus(sums[b]);
  for (int half = kSumLanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) lanes[i] = lanes[i].plus(lanes[i + half]);
  to.factors[0] = static_cast<T>(lanes[0].along);
  to.factors[1] = static_cast<T>(lanes[0].across);
  if (to.momentum) *to.momentum = static_cast<T>(lanes[0].momentum);
}

template <typename Body>
void with_constant(bool value, const Body& body) {
  if (value) {
    body(std::true_type{});
  } else {
    body(std::false_type{});
  }
}

void update_into(const Host&, const UpdateInputs& inputs, const Tensor& canvas, const Tensor& velocity,
                 const Tensor* direction) {
  const ContiguousUpdate source(inputs);
  with_real_type(inputs.canvas, [&](auto zero) {
    using T = decltype(zero);
    const CanvasUpdate<T> update = source.view<T>();
    const UpdateOutputs<T> to{write<Complex<T>>(canvas), write<Complex<T>>(velocity),
                              direction ? write<Complex<T>>(*direction) : nullptr};
    with_constant(update.velocity != nullptr, [&](auto moving) {
      with_constant(direction != nullptr, [&](auto directed) {
        for_each_part(update, [&](int64_t begin, int64_t end, const UpdateScalars<T>& by, int64_t) {
          update_pixels<moving.value, directed.value>(update, begin, end, by, to);
        });
      });
    });
  });
}

void pass_back_into(const Host&, const UpdateInputs& inputs, const UpdateGrads& grads,
                    const dispatch::UpdateGradients& results) {
  const ContiguousUpdate source(inputs);
  const ContiguousUpdateGrads source_grads(grads);
  with_real_type(inputs.canvas, [&](auto zero) {
    using T = decltype(zero);
    const CanvasUpdate<T> update = source.view<T>();
    const UpdateGradsView<T> outputs = source_grads.view<T>();
    const auto to = dispatch::outputs_of<T>(results, inputs);
    std::vector<UpdateSums> sums(update.groups * update.parts());
    with_constant(update.velocity != nullptr, [&](auto moving) {
      for_each_part(update, [&](int64_t begin, int64_t end, const UpdateScalars<T>& by, int64_t b) {
        sums[b] = pass_back_part<moving.value>(update, begin, end, by, outputs, to);
      });
    });
    add_sums(sums, update.groups, update.parts(), to);
  });
}

}  // namespace
}  // namespace ptycho::cpu

STABLE_TORCH_LIBRARY_IMPL(ptycho, CPU, m) {
  namespace dispatch = ptycho::dispatch;
  namespace backend = ptycho::cpu;
  using backend::Host;
  m.impl("update_canvas", TORCH_BOX((&dispatch::update_canvas<Host, backend::update_into>)));
  m.impl("update_canvas_backward", TORCH_BOX((&dispatch::update_canvas_backward<Host, backend::pass_back_into>)));
}
