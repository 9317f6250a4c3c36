// SPDX-License-Identifier: BSD-3-Clause
// reassemble_patches on CUDA. One launch sums patches times weights and the weights, and takes the mean while they are
// in registers; a second one, which reads little, applies the threshold to the tiles that have a weight below
// it. The adjoint is an extraction times the weights.
#include "ops/extract_patches/cuda.h"
#include "ops/reassemble_patches/cuda.h"
#include "ops/reassemble_patches/dispatch.h"
#include "ops/reassemble_patches/mean_backward.h"
#include "ops/reassemble_patches/threshold.h"
#include "runtime/cuda/data_types.h"
#include "runtime/cuda/plan.h"
#include "runtime/cuda/tiles.h"

namespace ptycho::cuda {
namespace {

template <typename T, int lanes>
void launch_reassemble(const Queue& queue, const Tensor& patches, const Tensor& weights, const Scan& scan,
                       const Tiles& tiles, std::optional<double> eps, Tensor& image, Tensor& weight_sum) {
  using Program = SumTiles<T, lanes, true>;
  const TileGrid& grid = tiles.grid;
  MaybeTensor memory;
  T* least = nullptr;
  if (eps) {
    memory = queue.output(weights, {grid.tiles()}, {});
    least = write<T>(*memory);
  }
  const Program program{{image_stack<const T>(patches)}, image_stack<const T>(weights), scan,  grid,       tiles.lists,
                        image_stack<T>(image),           image_stack<T>(weight_sum),    least, tiles.state};
  launch_tiles(queue, program);
  if (!eps) return;
  const ApplyThreshold<T> threshold{
      least, tiles.state, grid, static_cast<T>(*eps), image_stack<T>(image), image_stack<const T>(weight_sum)};
  launch(queue, threshold, threshold.blocks());
}

}  // namespace

void merge_into(const Queue& queue, const char* op, const Tensor& patches, const Tensor& positions,
                const Tensor& weights, std::optional<double> eps, const MaybeTensor& tile_start,
                const MaybeTensor& tile_patches, Tensor& image, Tensor& weight_sum) {
  const Tensor source = as_contiguous(patches);
  const Tensor weight = as_contiguous(weights);
  const Tensor at = as_contiguous(positions);
  const Scan scan = scan_of(at, trailing(patches));
  const Shape canvas_size = trailing(image);
  const Tiles tiles(queue, op, square_tiles(scan.groups, canvas_size[0], canvas_size[1]), scan, at, tile_start,
                    tile_patches, eps.has_value());
  with_data_type(patches, [&](auto zero, auto lanes) {
    launch_reassemble<decltype(zero), lanes.value>(queue, source, weight, scan, tiles, eps, image, weight_sum);
  });
}

namespace {

void reassemble_into(const Queue& queue, const Tensor& patches, const Tensor& positions, const Tensor& weights,
                     std::optional<double> eps, const MaybeTensor& tile_start, const MaybeTensor& tile_patches,
                     Tensor& image, Tensor& weight_sum) {
  merge_into(queue, "reassemble_patches", patches, positions, weights, eps, tile_start, tile_patches, image,
             weight_sum);
}

void mean_backward_into(const Queue& queue, const Tensor& grad_image, const Tensor& weight_sum, double eps,
                        const MaybeTensor& image, Tensor& grad_sum, Tensor* grad_weight_sum) {
  if (grad_image.numel() == 0) return;
  constexpr int64_t kBlocks = 1056;  // eight for each multiprocessor
  const Tensor grads = as_contiguous(grad_image), weights = as_contiguous(weight_sum);
  const MaybeTensor mean = image ? MaybeTensor(as_contiguous(*image)) : std::nullopt;
  with_data_type(grads, [&](auto zero, auto lanes) {
    using T = decltype(zero);
    using Program = MeanBackward<T, lanes.value>;
    const ImageStack<const T> stack = image_stack<const T>(grads);
    const int64_t pixels = stack.rows * stack.cols;
    const int64_t parts = clamp(kBlocks / stack.count, 1, blocks_for<Program>(pixels));
    const int64_t sizes[] = {stack.count, parts};
    const Tensor largest = queue.output(weights, Shape(sizes, 2), Shape());
    const LargestWeight<T> find{read<T>(weights), pixels, parts, stack.count, write<T>(largest)};
    launch(queue, find, stack.count * parts);
    const Program program{stack.data,
                          read<T>(weights),
                          mean ? read<T>(*mean) : nullptr,
                          read<T>(largest),
                          static_cast<T>(eps),
                          pixels,
                          parts,
                          stack.count,
                          write<T>(grad_sum),
                          grad_weight_sum ? write<T>(*grad_weight_sum) : nullptr};
    launch(queue, program, stack.count * parts);
  });
}

}  // namespace
}  // namespace ptycho::cuda

STABLE_TORCH_LIBRARY_IMPL(PTYCHO_LIBRARY, PTYCHO_DEVICE, m) {
  namespace dispatch = ptycho::dispatch;
  namespace backend = ptycho::cuda;
  using backend::Queue;
  m.impl("reassemble_patches", TORCH_BOX((&dispatch::reassemble_patches<Queue, backend::reassemble_into>)));
  m.impl("reassemble_patches_out", TORCH_BOX((&dispatch::reassemble_patches_out<Queue, backend::reassemble_into>)));
  m.impl("reassemble_patches_adjoint",
         TORCH_BOX((&dispatch::reassemble_patches_adjoint<Queue, backend::extract_into>)));
  m.impl(
      "reassemble_patches_backward",
      TORCH_BOX((&dispatch::reassemble_patches_backward<Queue, backend::mean_backward_into, backend::extract_into>)));
  m.impl("reassemble_patches_mean_backward",
         TORCH_BOX((&dispatch::reassemble_patches_mean_backward<Queue, backend::mean_backward_into>)));
}
