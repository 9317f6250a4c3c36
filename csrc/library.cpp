// SPDX-License-Identifier: BSD-3-Clause
// Every operator's schema, in API order: the table of contents of the native side. Backends register their kernels at
// the end of their own files. All but the _out forms are functional (fresh outputs, inputs untouched); they take any
// leading dimensions: canvas (..., H, W), positions (..., n, 2), patches (..., n, h, w), images (..., H, W), shifts
// (..., 2). order, tile_start and tile_patches are the plan that plan_tiles makes; without it operators make their own.
// What the CPU refuses after a look at the data makes NaN on CUDA, and an order that is no permutation is not noticed.
#include "torch_compat.h"

STABLE_TORCH_LIBRARY(PTYCHO_LIBRARY, m) {
  m.def(
      "plan_tiles(Tensor positions, SymInt[2] patch_size, SymInt[2] canvas_size)"
      " -> (Tensor order, Tensor tile_start, Tensor tile_patches)");

  m.def("extract_patches(Tensor canvas, Tensor positions, SymInt[2] patch_size, Tensor? order=None) -> Tensor");
  m.def("extract_patches_out(Tensor canvas, Tensor positions, Tensor? order, Tensor(a!) out) -> ()");
  m.def(
      "extract_patches_adjoint(Tensor patches, Tensor positions, SymInt[2] canvas_size, Tensor? tile_start=None,"
      " Tensor? tile_patches=None) -> Tensor");
  m.def(
      "extract_patches_adjoint_out(Tensor patches, Tensor positions, Tensor? tile_start, Tensor? tile_patches,"
      " Tensor(a!) out) -> ()");
  m.def(
      "extract_patches_grad_positions(Tensor grad_patches, Tensor canvas, Tensor positions, Tensor? order=None)"
      " -> Tensor");

  m.def("translate_images(Tensor images, Tensor shifts, str mode) -> Tensor");
  // Not `mode`: torch passes a mutating operator's arguments by name through a function that has one of that name.
  m.def("translate_images_out(Tensor images, Tensor shifts, str interpolation, Tensor(a!) out) -> ()");
  m.def("translate_images_adjoint(Tensor images, Tensor shifts, str mode) -> Tensor");

  m.def(
      "reassemble_patches(Tensor patches, Tensor positions, Tensor weights, SymInt[2] canvas_size, float? eps=None,"
      " Tensor? tile_start=None, Tensor? tile_patches=None) -> (Tensor image, Tensor weight_sum)");
  m.def("reassemble_patches_adjoint(Tensor image, Tensor positions, Tensor weights, Tensor? order=None) -> Tensor");
  m.def(
      "reassemble_patches_out(Tensor patches, Tensor positions, Tensor weights, float? eps, Tensor? tile_start,"
      " Tensor? tile_patches, Tensor(a!) image, Tensor(b!) weight_sum) -> ()");

  m.def(
      "overlap_project(Tensor patches, Tensor positions, Tensor weights, SymInt[2] canvas_size, float eps) -> Tensor");
  m.def(
      "overlap_project_out(Tensor patches, Tensor positions, Tensor weights, SymInt[2] canvas_size, float eps,"
      " Tensor(a!) out) -> ()");
}
