// SPDX-License-Identifier: BSD-3-Clause
// The rules of overlap_project's inputs, in the order in which they are applied.
#include "ops/overlap_project/checks.h"

#include "runtime/checks.h"

namespace ptycho {

void check_overlap_project_inputs(const Tensor& patches, const Tensor& positions, const Tensor& weights,
                                  Shape canvas_size, double eps) {
  const Check check("overlap_project");
  check.weighted_patches(patches, positions, weights, canvas_size);
  check.threshold(eps);
}

void check_overlap_project_backward_inputs(const Tensor& grad, const Tensor& patches, const Tensor& positions,
                                           const Tensor& weights, Shape canvas_size, double eps) {
  const Check check("overlap_project_backward");
  check.weighted_patches(patches, positions, weights, canvas_size);
  check.type("grad", grad, data_type(patches));
  check.shape("grad", grad, patches.sizes(), Shape());
  check.device("grad", grad, patches);
  check.threshold(eps);
}

}  // namespace ptycho
