// SPDX-License-Identifier: BSD-3-Clause
// extract_patches on CUDA, its adjoint and its derivative with respect to the positions; and the adjoint of reassembly,
// which is an extraction times the weights. Extraction moves each patch once and the canvas once; it is bound by the
// patches' writes, so patches are visited in the plan's order, which keeps their part of the canvas in the second-level
// cache, and written past it.
#include "checks.h"
#include "cuda/plan.h"
#include "cuda/types.h"
#include "ptycho/blocks/extract.h"

namespace ptycho::cuda {
namespace {

template <typename T, int lanes, bool weighted>
void launch_extract(const Queue& queue, const ImageStack<const T>& canvases, const Scan& scan, const int64_t* order,
                    const ImageStack<const T>& weights, const ImageStack<T>& out) {
  using Program = Extract<T, lanes, weighted>;
  const Program program{canvases, scan, 1.0, order, weights, out, StripGrid(scan.count(), out.rows, out.cols)};
  launch(queue, program, program.blocks());
}

void extract_into(const Queue& queue, const char* op, const Tensor& canvas, const Tensor& positions,
                  const std::optional<Tensor>& order, const std::optional<Tensor>& weights, Tensor& patches) {
  const Tensor source = torch::stable::contiguous(canvas);
  const Tensor at = torch::stable::contiguous(positions);
  const Scan scan = scan_of(at, patches.size(patches.dim() - 2), patches.size(patches.dim() - 1));
  const Order visits(op, scan, at, order);
  with_data_type(canvas, [&](auto zero, auto lanes) {
    using T = decltype(zero);
    const auto from = image_stack<const T>(source);
    const auto to = image_stack<T>(patches);
    if (weights) {
      launch_extract<T, lanes.value, true>(queue, from, scan, visits.data(), image_stack<const T>(*weights), to);
    } else {
      launch_extract<T, lanes.value, false>(queue, from, scan, visits.data(), {}, to);
    }
  });
}

Tensor extract_patches(const Tensor& canvas, const Tensor& positions, const Sizes& patch_size,
                       const std::optional<Tensor>& order) {
  check_extract_patches_inputs(canvas, positions, patch_size);
  const Queue queue(canvas);
  Tensor patches = torch::stable::new_empty(canvas, join(leading(positions, 1), {patch_size[0], patch_size[1]}));
  extract_into(queue, "extract_patches", canvas, positions, order, std::nullopt, patches);
  return patches;
}

void extract_patches_out(const Tensor& canvas, const Tensor& positions, const std::optional<Tensor>& order,
                         Tensor out) {
  const Sizes patch_size = trailing(out);
  check_extract_patches_inputs(canvas, positions, patch_size);
  check_out("extract_patches", "out", out, canvas, join(leading(positions, 1), {patch_size[0], patch_size[1]}));
  const Queue queue(canvas);
  extract_into(queue, "extract_patches", canvas, positions, order, std::nullopt, out);
}

Tensor reassemble_patches_adjoint(const Tensor& image, const Tensor& positions, const Tensor& weights,
                                  const std::optional<Tensor>& order) {
  check_reassemble_patches_adjoint_inputs(image, positions, weights);
  const Queue queue(image);
  const Sizes patch_size = trailing(weights);
  Tensor patches = torch::stable::new_empty(image, join(leading(positions, 1), {patch_size[0], patch_size[1]}));
  const Tensor weight = torch::stable::contiguous(weights);
  extract_into(queue, "reassemble_patches_adjoint", image, positions, order, weight, patches);
  return patches;
}

void adjoint_into(const Queue& queue, const Tensor& patches, const Tensor& positions,
                  const std::optional<Tensor>& tile_start, const std::optional<Tensor>& tile_patches, Tensor& canvas) {
  const Tensor source = torch::stable::contiguous(patches);
  const Tensor at = torch::stable::contiguous(positions);
  const Scan scan = scan_of(at, patches.size(patches.dim() - 2), patches.size(patches.dim() - 1));
  const TileGrid grid = square_tiles(scan.groups, canvas.size(canvas.dim() - 2), canvas.size(canvas.dim() - 1));
  const Tiles tiles(queue, "extract_patches_adjoint", grid, scan, at, tile_start, tile_patches);
  with_data_type(patches, [&](auto zero, auto lanes) {
    using T = decltype(zero);
    using Program = SumTiles<T, lanes.value, false>;
    const Program program{image_stack<const T>(source), {}, scan,   grid, tiles.lists,
                          image_stack<T>(canvas),       {}, nullptr};
    launch(queue, program, grid.tiles());
  });
}

Tensor extract_patches_adjoint(const Tensor& patches, const Tensor& positions, const Sizes& canvas_size,
                               const std::optional<Tensor>& tile_start, const std::optional<Tensor>& tile_patches) {
  check_extract_patches_adjoint_inputs(patches, positions, canvas_size);
  const Queue queue(patches);
  Tensor canvas = torch::stable::new_empty(patches, join(leading(patches, 3), {canvas_size[0], canvas_size[1]}));
  adjoint_into(queue, patches, positions, tile_start, tile_patches, canvas);
  return canvas;
}

void extract_patches_adjoint_out(const Tensor& patches, const Tensor& positions,
                                 const std::optional<Tensor>& tile_start, const std::optional<Tensor>& tile_patches,
                                 Tensor out) {
  const Sizes canvas_size = trailing(out);
  check_extract_patches_adjoint_inputs(patches, positions, canvas_size);
  check_out("extract_patches_adjoint", "out", out, patches,
            join(leading(patches, 3), {canvas_size[0], canvas_size[1]}));
  const Queue queue(patches);
  adjoint_into(queue, patches, positions, tile_start, tile_patches, out);
}

Tensor extract_patches_grad_positions(const Tensor& grad_patches, const Tensor& canvas, const Tensor& positions,
                                      const std::optional<Tensor>& order) {
  check_extract_patches_grad_positions_inputs(grad_patches, canvas, positions);
  const Queue queue(canvas);
  const Tensor grads = torch::stable::contiguous(grad_patches);
  const Tensor source = torch::stable::contiguous(canvas);
  const Tensor at = torch::stable::contiguous(positions);
  const Scan scan = scan_of(at, grads.size(grads.dim() - 2), grads.size(grads.dim() - 1));
  const Order visits("extract_patches_grad_positions", scan, at, order);
  Tensor result = torch::stable::new_empty(positions, sizes_of(positions));
  with_data_type(canvas, [&](auto zero, auto lanes) {
    using T = decltype(zero);
    using Program = SlopeOfPatches<T, lanes.value>;
    const StripGrid grid(scan.count(), scan.h, scan.w);
    const uint32_t parts = Program::parts_of(grid);
    const Tensor sums = parts > 1 ? torch::stable::new_empty(at, Sizes{scan.count(), parts, 2}) : result;
    auto* const partial = static_cast<SlopeSum*>(sums.mutable_data_ptr());
    const Program program{
        image_stack<const T>(grads), image_stack<const T>(source), scan, visits.data(), partial, grid, parts};
    launch(queue, program, program.blocks());
    if (parts > 1)
      launch(queue, SumParts{partial, parts, scan.count(), static_cast<SlopeSum*>(result.mutable_data_ptr())},
             (scan.count() + SumParts::kThreads - 1) / SumParts::kThreads);
  });
  return result;
}

}  // namespace
}  // namespace ptycho::cuda

STABLE_TORCH_LIBRARY_IMPL(PTYCHO_LIBRARY, PTYCHO_DEVICE, m) {
  m.impl("extract_patches", TORCH_BOX(&ptycho::cuda::extract_patches));
  m.impl("extract_patches_out", TORCH_BOX(&ptycho::cuda::extract_patches_out));
  m.impl("reassemble_patches_adjoint", TORCH_BOX(&ptycho::cuda::reassemble_patches_adjoint));
  m.impl("extract_patches_adjoint", TORCH_BOX(&ptycho::cuda::extract_patches_adjoint));
  m.impl("extract_patches_adjoint_out", TORCH_BOX(&ptycho::cuda::extract_patches_adjoint_out));
  m.impl("extract_patches_grad_positions", TORCH_BOX(&ptycho::cuda::extract_patches_grad_positions));
}
