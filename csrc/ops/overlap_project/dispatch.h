// SPDX-License-Identifier: BSD-3-Clause
// What torch's dispatcher calls for overlap_project, written once for all backends: the inputs are checked, the result
// is made or checked, and the backend's function `into` writes to it. A Context is made from the tensor that names the
// device, is alive while the work is done or enqueued, and makes results: cpu::Host, cuda::Queue.
#pragma once

#include "ops/overlap_project/checks.h"
#include "runtime/checks.h"

namespace ptycho::dispatch {

// into(context, patches, positions, weights, canvas_size, eps, order, tile_start, tile_patches, projected)
template <typename Context, auto into>
Tensor overlap_project(const Tensor& patches, const Tensor& positions, const Tensor& weights, const Sizes& canvas_size,
                       double eps, const MaybeTensor& order, const MaybeTensor& tile_start,
                       const MaybeTensor& tile_patches) {
  check_overlap_project_inputs(patches, positions, weights, canvas_size, eps);
  const Context context(patches);
  Tensor projected = context.output(patches, patches.sizes(), Shape());
  into(context, patches, positions, weights, canvas_size, eps, order, tile_start, tile_patches, projected);
  return projected;
}

template <typename Context, auto into>
void overlap_project_out(const Tensor& patches, const Tensor& positions, const Tensor& weights,
                         const Sizes& canvas_size, double eps, const MaybeTensor& order, const MaybeTensor& tile_start,
                         const MaybeTensor& tile_patches, Tensor out) {
  const Check check("overlap_project");
  check_overlap_project_inputs(patches, positions, weights, canvas_size, eps);
  check.out("out", out, patches, patches.sizes(), Shape());
  check.apart("out", out, {&patches, &positions, &weights});
  into(Context(patches), patches, positions, weights, canvas_size, eps, order, tile_start, tile_patches, out);
}

// The gradients of patches and, if they are wanted, of weights, which are else empty; without them the values of the
// patches do not matter.
// into(context, grad, patches, positions, weights, canvas_size, eps, order, tile_start, tile_patches, grad_patches,
//      grad_weights), grad_weights: null where not wanted
template <typename Context, auto into>
std::tuple<Tensor, Tensor> overlap_project_backward(const Tensor& grad, const Tensor& patches, const Tensor& positions,
                                                    const Tensor& weights, const Sizes& canvas_size, double eps,
                                                    bool for_weights, const MaybeTensor& order,
                                                    const MaybeTensor& tile_start, const MaybeTensor& tile_patches) {
  check_overlap_project_backward_inputs(grad, patches, positions, weights, canvas_size, eps);
  const Context context(patches);
  Tensor grad_patches = context.output(patches, patches.sizes(), Shape());
  const int64_t none = 0;
  Tensor grad_weights = context.output(weights, for_weights ? weights.sizes() : Shape(&none, 1), Shape());
  into(context, grad, patches, positions, weights, canvas_size, eps, order, tile_start, tile_patches, grad_patches,
       for_weights ? &grad_weights : nullptr);
  return {std::move(grad_patches), std::move(grad_weights)};
}

}  // namespace ptycho::dispatch
