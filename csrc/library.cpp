// SPDX-License-Identifier: BSD-3-Clause
// Every operator's schema, in API order: the table of contents of the native side. Backends register their kernels at
// the end of their own files. All are functional (fresh outputs, inputs untouched) and take any leading dimensions:
// canvas (..., H, W), positions (..., n, 2), patches (..., n, h, w), images (..., H, W), shifts (..., 2).
#include "torch_compat.h"

STABLE_TORCH_LIBRARY(ptycho, m) {
  m.def("extract_patches(Tensor canvas, Tensor positions, SymInt[2] patch_size) -> Tensor");
  m.def("extract_patches_adjoint(Tensor patches, Tensor positions, SymInt[2] canvas_size) -> Tensor");
  m.def("extract_patches_grad_positions(Tensor grad_patches, Tensor canvas, Tensor positions) -> Tensor");

  m.def("translate_images(Tensor images, Tensor shifts, str mode) -> Tensor");
  m.def("translate_images_adjoint(Tensor images, Tensor shifts, str mode) -> Tensor");

  m.def(
      "reassemble_patches(Tensor patches, Tensor positions, Tensor weights, SymInt[2] canvas_size)"
      " -> (Tensor image_sum, Tensor weight_sum)");
}
