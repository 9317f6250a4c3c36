// SPDX-License-Identifier: BSD-3-Clause
// update_canvas on CUDA and its backward: one launch, and two with the sums of the parts. For a few groups what counts
// is how many launches there are; for many, that every pixel is read and written once.
#include "ops/update_canvas/block.h"
#include "ops/update_canvas/dispatch.h"
#include "runtime/cuda/launch.h"

namespace ptycho::cuda {
namespace {

void update_into(const Queue& queue, const UpdateInputs& inputs, const Tensor& canvas, const Tensor& velocity,
                 const Tensor* direction) {
  const ContiguousUpdate source(inputs);
  with_real_type(inputs.canvas, [&](auto zero) {
    using T = decltype(zero);
    using Program = UpdateCanvas<T>;
    const auto to = [](const Tensor& tensor) { return write<Complex<T>>(tensor); };
    const Program program{source.view<T>(), {to(canvas), to(velocity), direction ? to(*direction) : nullptr}};
    launch(queue, program, program.blocks());
  });
}

void pass_back_into(const Queue& queue, const UpdateInputs& inputs, const UpdateGrads& grads,
                    const dispatch::UpdateGradients& results) {
  const ContiguousUpdate source(inputs);
  const ContiguousUpdateGrads source_grads(grads);
  with_real_type(inputs.canvas, [&](auto zero) {
    using T = decltype(zero);
    const CanvasUpdate<T> update = source.view<T>();
    const auto to = dispatch::outputs_of<T>(results, inputs);
    constexpr int64_t doubles = sizeof(UpdateSums) / sizeof(double);
    const Tensor memory =
        new_tensor(inputs.canvas, update.groups * update.parts() * doubles, aoti_torch_dtype_float64());
    auto* const sums = write<UpdateSums>(memory);
    const PassBackUpdate<T> program{update, source_grads.view<T>(), to, sums};
    launch(queue, program, program.blocks());
    launch(queue, AddUpdateSums<T>{sums, update.groups, update.parts(), to}, 1);
  });
}

}  // namespace
}  // namespace ptycho::cuda

STABLE_TORCH_LIBRARY_IMPL(PTYCHO_LIBRARY, PTYCHO_DEVICE, m) {
  namespace dispatch = ptycho::dispatch;
  namespace backend = ptycho::cuda;
  using backend::Queue;
  m.impl("update_canvas", TORCH_BOX((&dispatch::update_canvas<Queue, backend::update_into>)));
  m.impl("update_canvas_backward", TORCH_BOX((&dispatch::update_canvas_backward<Queue, backend::pass_back_into>)));
}
