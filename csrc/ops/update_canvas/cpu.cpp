// SPDX-License-Identifier: BSD-3-Clause
// update_canvas on the CPU and its backward, parallel over the parts of groups.
#include "maths/simd/updates.h"
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
  const int64_t cost = 4 * std::min(update.pixels, kUpdatePart);
  parallel_for(update.groups * parts, grain(cost), [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) {
      const int64_t group = b / parts, begin = (b - group * parts) * kUpdatePart;
      const int64_t size = std::min(update.pixels - begin, kUpdatePart), at = group * update.pixels + begin;
      work(at, at + size, UpdateScalars<T>{update.floor[group], update.factors[0], update.factors[1], momentum}, b);
    }
  });
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

void update_into(const Host&, const UpdateInputs& inputs, const Tensor& canvas, const Tensor& velocity,
                 const Tensor* direction) {
  const ContiguousUpdate source(inputs);
  with_real_type(inputs.canvas, [&](auto zero) {
    using T = decltype(zero);
    const CanvasUpdate<T> update = source.view<T>();
    const UpdateOutputs<T> to{write<Complex<T>>(canvas), write<Complex<T>>(velocity),
                              direction ? write<Complex<T>>(*direction) : nullptr};
    for_each_part(update, [&](int64_t begin, int64_t end, const UpdateScalars<T>& by, int64_t) {
      update_kernels<T>().update(update, begin, end, by, to);
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
    for_each_part(update, [&](int64_t begin, int64_t end, const UpdateScalars<T>& by, int64_t b) {
      update_kernels<T>().pass_back(update, begin, end, by, outputs, to, &sums[b]);
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
