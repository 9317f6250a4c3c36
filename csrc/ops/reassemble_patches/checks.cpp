// SPDX-License-Identifier: BSD-3-Clause
// The rules of reassemble_patches' inputs, in the order in which they are applied.
#include "ops/reassemble_patches/checks.h"

#include "runtime/checks.h"

namespace ptycho {
namespace {

void check_adjoint_inputs(const Check& check, const char* argument, const Tensor& image, const Tensor& positions,
                          const Tensor& weights) {
  check.data(argument, image);
  check.dims(argument, image, 2, "(..., H, W)");
  check.positions_of_canvas(positions, image);
  check.type("weights", weights, real_type(data_type(image)));
  check.dims("weights", weights, 2, "(..., h, w)");
  if (weights.dim() > 2) check.shape("weights", weights, leading(positions, 1), trailing(weights));
  check.device("weights", weights, image);
  check.size("weights' size", trailing(weights));
  check.holds_patch(argument, trailing(image), trailing(weights));
}

void check_weight_sum(const Check& check, const Tensor& weight_sum, const Tensor& grad_image) {
  check.type("weight_sum", weight_sum, real_type(data_type(grad_image)));
  check.shape("weight_sum", weight_sum, grad_image.sizes(), Shape());
  check.device("weight_sum", weight_sum, grad_image);
}

}  // namespace

void check_reassemble_patches_inputs(const Tensor& patches, const Tensor& positions, const Tensor& weights,
                                     Shape canvas_size, std::optional<double> eps) {
  const Check check("reassemble_patches");
  check.weighted_patches(patches, positions, weights, canvas_size);
  if (eps) check.threshold(*eps);
}

void check_reassemble_patches_adjoint_inputs(const Tensor& image, const Tensor& positions, const Tensor& weights) {
  check_adjoint_inputs(Check("reassemble_patches_adjoint"), "image", image, positions, weights);
}

void check_reassemble_patches_backward_inputs(const Tensor& grad_image, const Tensor& positions, const Tensor& weights,
                                              const Tensor& weight_sum, double eps) {
  const Check check("reassemble_patches_backward");
  check_adjoint_inputs(check, "grad_image", grad_image, positions, weights);
  check_weight_sum(check, weight_sum, grad_image);
  check.threshold(eps);
}

void check_reassemble_patches_mean_backward_inputs(const Tensor& grad_image, const Tensor& weight_sum, double eps,
                                                   const MaybeTensor& image) {
  const Check check("reassemble_patches_mean_backward");
  check.data("grad_image", grad_image);
  check.dims("grad_image", grad_image, 2, "(..., H, W)");
  check_weight_sum(check, weight_sum, grad_image);
  check.threshold(eps);
  if (!image) return;
  check.type("image", *image, data_type(grad_image));
  check.shape("image", *image, grad_image.sizes(), Shape());
  check.device("image", *image, grad_image);
}

}  // namespace ptycho
