// SPDX-License-Identifier: BSD-3-Clause
// What torch's dispatcher calls for extract_patches, its adjoint and its derivative, written once for all backends: the
// inputs are checked, the result is made or checked, and the backend's function `into` writes to it. A Context is made
// from the tensor that names the device, is alive while the work is done or enqueued, and makes results: cpu::Host,
// cuda::Queue.
#pragma once

#include "ops/extract_patches/checks.h"
#include "runtime/checks.h"

namespace ptycho::dispatch {

// into(context, op, canvas, positions, order, weights, patches)
template <typename Context, auto into>
Tensor extract_patches(const Tensor& canvas, const Tensor& positions, const Sizes& patch_size,
                       const MaybeTensor& order) {
  check_extract_patches_inputs(canvas, positions, patch_size);
  const Context context(canvas);
  Tensor patches = context.output(canvas, leading(positions, 1), patch_size);
  into(context, "extract_patches", canvas, positions, order, std::nullopt, patches);
  return patches;
}

template <typename Context, auto into>
void extract_patches_out(const Tensor& canvas, const Tensor& positions, const MaybeTensor& order, Tensor out) {
  check_extract_patches_inputs(canvas, positions, trailing(out));
  const Check check("extract_patches");
  check.out("out", out, canvas, leading(positions, 1), trailing(out));
  check.apart("out", out, {&canvas, &positions});
  into(Context(canvas), "extract_patches", canvas, positions, order, std::nullopt, out);
}

// into(context, patches, positions, tile_start, tile_patches, canvas)
template <typename Context, auto into>
Tensor extract_patches_adjoint(const Tensor& patches, const Tensor& positions, const Sizes& canvas_size,
                               const MaybeTensor& tile_start, const MaybeTensor& tile_patches) {
  check_extract_patches_adjoint_inputs(patches, positions, canvas_size);
  const Context context(patches);
  Tensor canvas = context.output(patches, leading(patches, 3), canvas_size);
  into(context, patches, positions, tile_start, tile_patches, canvas);
  return canvas;
}

template <typename Context, auto into>
void extract_patches_adjoint_out(const Tensor& patches, const Tensor& positions, const MaybeTensor& tile_start,
                                 const MaybeTensor& tile_patches, Tensor out) {
  check_extract_patches_adjoint_inputs(patches, positions, trailing(out));
  const Check check("extract_patches_adjoint");
  check.out("out", out, patches, leading(patches, 3), trailing(out));
  check.apart("out", out, {&patches, &positions});
  into(Context(patches), patches, positions, tile_start, tile_patches, out);
}

// into(context, grad_patches, canvas, positions, order, result)
template <typename Context, auto into>
Tensor extract_patches_grad_positions(const Tensor& grad_patches, const Tensor& canvas, const Tensor& positions,
                                      const MaybeTensor& order) {
  check_extract_patches_grad_positions_inputs(grad_patches, canvas, positions);
  const Context context(canvas);
  Tensor result = context.output(positions, positions.sizes(), Shape());
  into(context, grad_patches, canvas, positions, order, result);
  return result;
}

}  // namespace ptycho::dispatch
