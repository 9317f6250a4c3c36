// SPDX-License-Identifier: BSD-3-Clause
// What torch's dispatcher calls, written once for all backends: the inputs are checked, the result is made or checked,
// and the backend does the work. A backend gives its work as functions `into` that write to given tensors, and a
// Context: made from the tensor that names the device, it is there while the work is done, and makes results.
#pragma once

#include <optional>

#include "checks.h"

namespace ptycho::entries {

using Maybe = std::optional<Tensor>;

inline Sizes patches_of(const Tensor& positions, const Sizes& patch_size) {
  return join(leading(positions, 1), {patch_size[0], patch_size[1]});
}

inline Sizes canvases_of(const Tensor& patches, const Sizes& canvas_size) {
  return join(leading(patches, 3), {canvas_size[0], canvas_size[1]});
}

// into(context, op, canvas, positions, order, weights, patches)
template <typename Context, auto into>
Tensor extract_patches(const Tensor& canvas, const Tensor& positions, const Sizes& patch_size, const Maybe& order) {
  check_extract_patches_inputs(canvas, positions, patch_size);
  const Context context(canvas);
  Tensor patches = context.output(canvas, patches_of(positions, patch_size));
  into(context, "extract_patches", canvas, positions, order, std::nullopt, patches);
  return patches;
}

template <typename Context, auto into>
void extract_patches_out(const Tensor& canvas, const Tensor& positions, const Maybe& order, Tensor out) {
  const Sizes patch_size = trailing(out);
  check_extract_patches_inputs(canvas, positions, patch_size);
  check_out("extract_patches", "out", out, canvas, patches_of(positions, patch_size));
  into(Context(canvas), "extract_patches", canvas, positions, order, std::nullopt, out);
}

template <typename Context, auto into>
Tensor reassemble_patches_adjoint(const Tensor& image, const Tensor& positions, const Tensor& weights,
                                  const Maybe& order) {
  check_reassemble_patches_adjoint_inputs(image, positions, weights);
  const Context context(image);
  Tensor patches = context.output(image, patches_of(positions, trailing(weights)));
  into(context, "reassemble_patches_adjoint", image, positions, order, weights, patches);
  return patches;
}

// into(context, patches, positions, tile_start, tile_patches, canvas)
template <typename Context, auto into>
Tensor extract_patches_adjoint(const Tensor& patches, const Tensor& positions, const Sizes& canvas_size,
                               const Maybe& tile_start, const Maybe& tile_patches) {
  check_extract_patches_adjoint_inputs(patches, positions, canvas_size);
  const Context context(patches);
  Tensor canvas = context.output(patches, canvases_of(patches, canvas_size));
  into(context, patches, positions, tile_start, tile_patches, canvas);
  return canvas;
}

template <typename Context, auto into>
void extract_patches_adjoint_out(const Tensor& patches, const Tensor& positions, const Maybe& tile_start,
                                 const Maybe& tile_patches, Tensor out) {
  const Sizes canvas_size = trailing(out);
  check_extract_patches_adjoint_inputs(patches, positions, canvas_size);
  check_out("extract_patches_adjoint", "out", out, patches, canvases_of(patches, canvas_size));
  into(Context(patches), patches, positions, tile_start, tile_patches, out);
}

// into(context, grad_patches, canvas, positions, order, result)
template <typename Context, auto into>
Tensor extract_patches_grad_positions(const Tensor& grad_patches, const Tensor& canvas, const Tensor& positions,
                                      const Maybe& order) {
  check_extract_patches_grad_positions_inputs(grad_patches, canvas, positions);
  const Context context(canvas);
  Tensor result = context.output(positions, sizes_of(positions));
  into(context, grad_patches, canvas, positions, order, result);
  return result;
}

// into(context, op, images, shifts, mode, whether to transpose, result)
template <typename Context, auto into>
Tensor translated(const char* op, const Tensor& images, const Tensor& shifts, const std::string& mode, bool adjoint) {
  check_translate_images_inputs(op, images, shifts, mode);
  const Context context(images);
  Tensor result = context.output(images, sizes_of(images));
  into(context, op, images, shifts, mode, adjoint, result);
  return result;
}

template <typename Context, auto into>
Tensor translate_images(const Tensor& images, const Tensor& shifts, StringHandle mode) {
  return translated<Context, into>("translate_images", images, shifts, take_string(mode), false);
}

template <typename Context, auto into>
Tensor translate_images_adjoint(const Tensor& images, const Tensor& shifts, StringHandle mode) {
  return translated<Context, into>("translate_images_adjoint", images, shifts, take_string(mode), true);
}

template <typename Context, auto into>
void translate_images_out(const Tensor& images, const Tensor& shifts, StringHandle mode_handle, Tensor out) {
  const std::string mode = take_string(mode_handle);
  check_translate_images_inputs("translate_images", images, shifts, mode);
  check_out("translate_images", "out", out, images, sizes_of(images));
  into(Context(images), "translate_images", images, shifts, mode, false, out);
}

// into(context, patches, positions, weights, eps, tile_start, tile_patches, image, weight_sum)
template <typename Context, auto into>
std::tuple<Tensor, Tensor> reassemble_patches(const Tensor& patches, const Tensor& positions, const Tensor& weights,
                                              const Sizes& canvas_size, std::optional<double> eps,
                                              const Maybe& tile_start, const Maybe& tile_patches) {
  check_reassemble_patches_inputs(patches, positions, weights, canvas_size);
  const Context context(patches);
  Tensor image = context.output(patches, canvases_of(patches, canvas_size));
  Tensor weight_sum = context.output(weights, canvases_of(patches, canvas_size));
  into(context, patches, positions, weights, eps, tile_start, tile_patches, image, weight_sum);
  return {image, weight_sum};
}

template <typename Context, auto into>
void reassemble_patches_out(const Tensor& patches, const Tensor& positions, const Tensor& weights,
                            std::optional<double> eps, const Maybe& tile_start, const Maybe& tile_patches, Tensor image,
                            Tensor weight_sum) {
  const Sizes canvas_size = trailing(image);
  check_reassemble_patches_inputs(patches, positions, weights, canvas_size);
  check_out("reassemble_patches", "out[0]", image, patches, canvases_of(patches, canvas_size));
  check_out("reassemble_patches", "out[1]", weight_sum, weights, canvases_of(patches, canvas_size));
  into(Context(patches), patches, positions, weights, eps, tile_start, tile_patches, image, weight_sum);
}

// into(context, patches, positions, weights, canvas_size, eps, projected)
template <typename Context, auto into>
Tensor overlap_project(const Tensor& patches, const Tensor& positions, const Tensor& weights, const Sizes& canvas_size,
                       double eps) {
  check_overlap_project_inputs(patches, positions, weights, canvas_size);
  const Context context(patches);
  Tensor projected = context.output(patches, sizes_of(patches));
  into(context, patches, positions, weights, canvas_size, eps, projected);
  return projected;
}

template <typename Context, auto into>
void overlap_project_out(const Tensor& patches, const Tensor& positions, const Tensor& weights,
                         const Sizes& canvas_size, double eps, Tensor out) {
  check_overlap_project_inputs(patches, positions, weights, canvas_size);
  check_out("overlap_project", "out", out, patches, sizes_of(patches));
  into(Context(patches), patches, positions, weights, canvas_size, eps, out);
}

}  // namespace ptycho::entries
