// SPDX-License-Identifier: BSD-3-Clause
// The rules of extract_patches' inputs, in the order in which they are applied.
#include "ops/extract_patches/checks.h"

#include "runtime/checks.h"

namespace ptycho {

void check_extract_patches_inputs(const Tensor& canvas, const Tensor& positions, Shape patch_size) {
  const Check check("extract_patches");
  check.data("canvas", canvas);
  check.dims("canvas", canvas, 2, "(..., H, W)");
  check.positions_of_canvas(positions, canvas);
  check.size("patch_size", patch_size);
  check.holds_patch("canvas", trailing(canvas), patch_size);
}

void check_extract_patches_adjoint_inputs(const Tensor& patches, const Tensor& positions, Shape canvas_size) {
  const Check check("extract_patches_adjoint");
  check.data("patches", patches);
  check.dims("patches", patches, 3, "(..., n, h, w)");
  check.positions_of_patches(positions, patches);
  check.size("canvas_size", canvas_size);
  check.holds_patch("canvas_size", canvas_size, trailing(patches));
}

void check_extract_patches_grad_positions_inputs(const Tensor& grad_patches, const Tensor& canvas,
                                                 const Tensor& positions) {
  const Check check("extract_patches_grad_positions");
  check.data("canvas", canvas);
  check.dims("canvas", canvas, 2, "(..., H, W)");
  check.positions_of_canvas(positions, canvas);
  check.type("grad_patches", grad_patches, data_type(canvas));
  check.dims("grad_patches", grad_patches, 3, "(..., n, h, w)");
  check.shape("grad_patches", grad_patches, leading(positions, 1), trailing(grad_patches));
  check.device("grad_patches", grad_patches, canvas);
  check.holds_patch("canvas", trailing(canvas), trailing(grad_patches));
}

}  // namespace ptycho
