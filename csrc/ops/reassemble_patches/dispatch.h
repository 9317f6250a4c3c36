// SPDX-License-Identifier: BSD-3-Clause
// What torch's dispatcher calls for reassemble_patches and its adjoint, written once for all backends: the inputs are
// checked, the result is made or checked, and the backend's function `into` writes to it. A Context is made from the
// tensor that names the device, is alive while the work is done or enqueued, and makes results: cpu::Host, cuda::Queue.
#pragma once

#include "ops/reassemble_patches/checks.h"
#include "runtime/checks.h"

namespace ptycho::dispatch {

// into(context, patches, positions, weights, eps, tile_start, tile_patches, image, weight_sum)
template <typename Context, auto into>
std::tuple<Tensor, Tensor> reassemble_patches(const Tensor& patches, const Tensor& positions, const Tensor& weights,
                                              const Sizes& canvas_size, std::optional<double> eps,
                                              const MaybeTensor& tile_start, const MaybeTensor& tile_patches) {
  check_reassemble_patches_inputs(patches, positions, weights, canvas_size, eps);
  const Context context(patches);
  Tensor image = context.output(patches, leading(patches, 3), canvas_size);
  Tensor weight_sum = context.output(weights, leading(patches, 3), canvas_size);
  into(context, patches, positions, weights, eps, tile_start, tile_patches, image, weight_sum);
  return {std::move(image), std::move(weight_sum)};
}

template <typename Context, auto into>
void reassemble_patches_out(const Tensor& patches, const Tensor& positions, const Tensor& weights,
                            std::optional<double> eps, const MaybeTensor& tile_start, const MaybeTensor& tile_patches,
                            Tensor image, Tensor weight_sum) {
  const Check check("reassemble_patches");
  check_reassemble_patches_inputs(patches, positions, weights, trailing(image), eps);
  check.out("out[0]", image, patches, leading(patches, 3), trailing(image));
  check.out("out[1]", weight_sum, weights, leading(patches, 3), trailing(image));
  check.apart("out[0]", image, {&patches, &positions, &weights});
  check.apart("out[1]", weight_sum, {&patches, &positions, &weights, &image});
  into(Context(patches), patches, positions, weights, eps, tile_start, tile_patches, image, weight_sum);
}

// into: as that of extract_patches
template <typename Context, auto into>
Tensor reassemble_patches_adjoint(const Tensor& image, const Tensor& positions, const Tensor& weights,
                                  const MaybeTensor& order) {
  check_reassemble_patches_adjoint_inputs(image, positions, weights);
  const Context context(image);
  Tensor patches = context.output(image, leading(positions, 1), trailing(weights));
  into(context, "reassemble_patches_adjoint", image, positions, order, weights, patches);
  return patches;
}

// into(context, grad_image, weight_sum, eps, image, grad_sum, grad_weight_sum), grad_weight_sum: null where there is no
//      image
template <typename Context, auto into>
std::tuple<Tensor, Tensor> reassemble_patches_mean_backward(const Tensor& grad_image, const Tensor& weight_sum,
                                                            double eps, const MaybeTensor& image) {
  check_reassemble_patches_mean_backward_inputs(grad_image, weight_sum, eps, image);
  const Context context(grad_image);
  Tensor grad_sum = context.output(grad_image, grad_image.sizes(), Shape());
  Tensor grad_weight_sum = context.output(weight_sum, image ? weight_sum.sizes() : Shape{0}, Shape());
  into(context, grad_image, weight_sum, eps, image, grad_sum, image ? &grad_weight_sum : nullptr);
  return {std::move(grad_sum), std::move(grad_weight_sum)};
}

// mean_into: as that of reassemble_patches_mean_backward; into: as that of extract_patches
template <typename Context, auto mean_into, auto into>
Tensor reassemble_patches_backward(const Tensor& grad_image, const Tensor& positions, const Tensor& weights,
                                   const Tensor& weight_sum, double eps, const MaybeTensor& order) {
  check_reassemble_patches_backward_inputs(grad_image, positions, weights, weight_sum, eps);
  const Context context(grad_image);
  Tensor grad_sum = context.output(grad_image, grad_image.sizes(), Shape());
  mean_into(context, grad_image, weight_sum, eps, std::nullopt, grad_sum, nullptr);
  Tensor grad_patches = context.output(grad_image, leading(positions, 1), trailing(weights));
  into(context, "reassemble_patches_backward", grad_sum, positions, order, weights, grad_patches);
  return grad_patches;
}

}  // namespace ptycho::dispatch
