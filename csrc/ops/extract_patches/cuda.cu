// SPDX-License-Identifier: BSD-3-Clause
// extract_patches on CUDA, its adjoint and its derivative with respect to the positions. Extraction moves each patch
// once and the canvas once; it is bound by the patches' writes, so patches are processed in the plan's order, which
// keeps their part of the canvas in the L2 cache, and written past it.
#include "maths/blocks/extract.h"
#include "ops/extract_patches/cuda.h"
#include "ops/extract_patches/dispatch.h"
#include "ops/extract_patches/position_gradient.h"
#include "runtime/cuda/data_types.h"
#include "runtime/cuda/plan.h"
#include "runtime/cuda/tiles.h"

namespace ptycho::cuda {

void launch_extract(const Queue& queue, const Tensor& canvases, const Scan& scan, double sign, const int64_t* order,
                    const MaybeTensor& weights, Tensor& patches) {
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

void extract_into(const Queue& queue, const char* op, const Tensor& canvas, const Tensor& positions,
                  const MaybeTensor& order, const MaybeTensor& weights, Tensor& patches) {
  const Tensor source = as_contiguous(canvas);
  const Tensor at = as_contiguous(positions);
  const MaybeTensor weight = weights ? std::optional(as_contiguous(*weights)) : std::nullopt;
  const Scan scan = scan_of(at, trailing(patches));
  const Order sequence(op, scan, at, order);
  launch_extract(queue, source, scan, 1.0, sequence.data(), weight, patches);
}

namespace {

void adjoint_into(const Queue& queue, const Tensor& patches, const Tensor& positions, const MaybeTensor& tile_start,
                  const MaybeTensor& tile_patches, Tensor& canvas) {
  const Tensor source = as_contiguous(patches);
  const Tensor at = as_contiguous(positions);
  const Scan scan = scan_of(at, trailing(patches));
  const TileGrid grid = square_tiles(scan.groups, trailing(canvas)[0], trailing(canvas)[1]);
  const Tiles tiles(queue, "extract_patches_adjoint", grid, scan, at, tile_start, tile_patches);
  with_data_type(patches, [&](auto zero, auto lanes) {
    using T = decltype(zero);
    using Program = SumTiles<T, lanes.value, false>;
    const Program program{{image_stack<const T>(source)}, {}, scan,    grid,       tiles.lists,
                          image_stack<T>(canvas),         {}, nullptr, tiles.state};
    launch_tiles(queue, program);
  });
}

void grad_positions_into(const Queue& queue, const Tensor& grad_patches, const Tensor& canvas, const Tensor& positions,
                         const MaybeTensor& order, Tensor& result) {
  const Tensor grads = as_contiguous(grad_patches);
  const Tensor source = as_contiguous(canvas);
  const Tensor at = as_contiguous(positions);
  const Scan scan = scan_of(at, trailing(grads));
  const Order sequence("extract_patches_grad_positions", scan, at, order);
  with_data_type(canvas, [&](auto zero, auto lanes) {
    using T = decltype(zero);
    using Program = PositionGradient<T, lanes.value>;
    const StripGrid grid(scan.count(), scan.h, scan.w);
    const uint32_t parts = Program::parts_of(grid);
    const Tensor sums = parts > 1 ? queue.output(at, {scan.count(), parts}, {2}) : result;
    auto* const partial = write<GradientSum>(sums);
    const Program program{
        {image_stack<const T>(grads)}, image_stack<const T>(source), scan, sequence.data(), partial, grid, parts};
    launch(queue, program, program.blocks());
    if (parts > 1)
      launch(queue, SumParts{partial, parts, scan.count(), write<GradientSum>(result)},
             blocks_for<SumParts>(scan.count()));
  });
}

}  // namespace
}  // namespace ptycho::cuda

STABLE_TORCH_LIBRARY_IMPL(PTYCHO_LIBRARY, PTYCHO_DEVICE, m) {
  namespace dispatch = ptycho::dispatch;
  namespace backend = ptycho::cuda;
  using backend::Queue;
  m.impl("extract_patches", TORCH_BOX((&dispatch::extract_patches<Queue, backend::extract_into>)));
  m.impl("extract_patches_out", TORCH_BOX((&dispatch::extract_patches_out<Queue, backend::extract_into>)));
  m.impl("extract_patches_adjoint", TORCH_BOX((&dispatch::extract_patches_adjoint<Queue, backend::adjoint_into>)));
  m.impl("extract_patches_adjoint_out",
         TORCH_BOX((&dispatch::extract_patches_adjoint_out<Queue, backend::adjoint_into>)));
  m.impl("extract_patches_grad_positions",
         TORCH_BOX((&dispatch::extract_patches_grad_positions<Queue, backend::grad_positions_into>)));
}
