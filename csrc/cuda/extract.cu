// SPDX-License-Identifier: BSD-3-Clause
// extract_patches on CUDA, its adjoint and its derivative with respect to the positions; and the adjoint of reassembly,
// which is an extraction times the weights. Extraction moves each patch once and the canvas once; it is bound by the
// patches' writes, so patches are visited in the plan's order, which keeps their part of the canvas in the second-level
// cache, and written past it.
#include "cuda/extract.h"
#include "cuda/plan.h"
#include "cuda/types.h"
#include "entries.h"
#include "ptycho/blocks/extract.h"

namespace ptycho::cuda {

void extract_windows(const Queue& queue, const Tensor& canvases, const Scan& scan, double sign, const int64_t* order,
                     const std::optional<Tensor>& weights, Tensor& patches) {
  with_data_type(canvases, [&](auto zero, auto lanes) {
    using T = decltype(zero);
    const auto run = [&](auto weighted, const ImageStack<const T>& weight) {
      const Extract<T, lanes.value, weighted.value> program{
          image_stack<const T>(canvases),         scan, sign, order, weight, image_stack<T>(patches),
          StripGrid(scan.count(), scan.h, scan.w)};
      launch(queue, program, program.blocks());
    };
    if (weights) {
      run(std::true_type{}, image_stack<const T>(*weights));
    } else {
      run(std::false_type{}, {});
    }
  });
}

namespace {

void extract_into(const Queue& queue, const char* op, const Tensor& canvas, const Tensor& positions,
                  const std::optional<Tensor>& order, const std::optional<Tensor>& weights, Tensor& patches) {
  const Tensor source = torch::stable::contiguous(canvas);
  const Tensor at = torch::stable::contiguous(positions);
  const std::optional<Tensor> weight = weights ? std::optional(torch::stable::contiguous(*weights)) : std::nullopt;
  const Scan scan = scan_of(at, patches.size(patches.dim() - 2), patches.size(patches.dim() - 1));
  const Order visits(op, scan, at, order);
  extract_windows(queue, source, scan, 1.0, visits.data(), weight, patches);
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

void grad_positions_into(const Queue& queue, const Tensor& grad_patches, const Tensor& canvas, const Tensor& positions,
                         const std::optional<Tensor>& order, Tensor& result) {
  const Tensor grads = torch::stable::contiguous(grad_patches);
  const Tensor source = torch::stable::contiguous(canvas);
  const Tensor at = torch::stable::contiguous(positions);
  const Scan scan = scan_of(at, grads.size(grads.dim() - 2), grads.size(grads.dim() - 1));
  const Order visits("extract_patches_grad_positions", scan, at, order);
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
             blocks_for<SumParts>(scan.count()));
  });
}

}  // namespace
}  // namespace ptycho::cuda

STABLE_TORCH_LIBRARY_IMPL(PTYCHO_LIBRARY, PTYCHO_DEVICE, m) {
  namespace entries = ptycho::entries;
  namespace backend = ptycho::cuda;
  using backend::Queue;
  m.impl("extract_patches", TORCH_BOX((&entries::extract_patches<Queue, backend::extract_into>)));
  m.impl("extract_patches_out", TORCH_BOX((&entries::extract_patches_out<Queue, backend::extract_into>)));
  m.impl("reassemble_patches_adjoint", TORCH_BOX((&entries::reassemble_patches_adjoint<Queue, backend::extract_into>)));
  m.impl("extract_patches_adjoint", TORCH_BOX((&entries::extract_patches_adjoint<Queue, backend::adjoint_into>)));
  m.impl("extract_patches_adjoint_out",
         TORCH_BOX((&entries::extract_patches_adjoint_out<Queue, backend::adjoint_into>)));
  m.impl("extract_patches_grad_positions",
         TORCH_BOX((&entries::extract_patches_grad_positions<Queue, backend::grad_positions_into>)));
}
