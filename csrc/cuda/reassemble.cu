// SPDX-License-Identifier: BSD-3-Clause
// reassemble_patches on CUDA, and overlap_project, which is a reassembly and an extraction from it. One launch sums
// patches times weights and the weights, and takes the mean while they are in registers; a second one, which reads next
// to nothing, applies the threshold to the tiles that have a weight below it.
#include "checks.h"
#include "cuda/plan.h"
#include "cuda/types.h"
#include "ptycho/blocks/extract.h"

namespace ptycho::cuda {
namespace {

// Blocks that share the second launch: enough to fill a GPU, few enough for each to look at the ranges of all tiles.
constexpr int64_t kDarkenBlocks = 132;

template <typename T, int lanes>
void launch_reassemble(const Queue& queue, const Tensor& patches, const Tensor& weights, const Scan& scan,
                       const Tiles& tiles, std::optional<double> eps, Tensor& image, Tensor& weight_sum) {
  using Program = SumTiles<T, lanes, true>;
  const TileGrid& grid = tiles.grid;
  std::optional<Tensor> memory;
  WeightRange<T>* ranges = nullptr;
  if (eps) {
    memory = torch::stable::new_empty(weights, Sizes{grid.tiles(), 2});
    ranges = static_cast<WeightRange<T>*>(memory->mutable_data_ptr());
  }
  const Program program{image_stack<const T>(patches), image_stack<const T>(weights), scan,  grid, tiles.lists,
                        image_stack<T>(image),         image_stack<T>(weight_sum),    ranges};
  launch(queue, program, grid.tiles());
  if (!eps || grid.groups == 0) return;
  const int64_t blocks = clamp(grid.tiles() / grid.groups, 1, std::max<int64_t>(1, kDarkenBlocks / grid.groups));
  const Darken<T> darken{
      ranges, grid, static_cast<T>(*eps), blocks, image_stack<T>(image), image_stack<const T>(weight_sum)};
  launch(queue, darken, grid.groups * blocks);
}

void reassemble_into(const Queue& queue, const char* op, const Tensor& patches, const Tensor& positions,
                     const Tensor& weights, std::optional<double> eps, const std::optional<Tensor>& tile_start,
                     const std::optional<Tensor>& tile_patches, Tensor& image, Tensor& weight_sum) {
  const Tensor source = torch::stable::contiguous(patches);
  const Tensor weight = torch::stable::contiguous(weights);
  const Tensor at = torch::stable::contiguous(positions);
  const Scan scan = scan_of(at, patches.size(patches.dim() - 2), patches.size(patches.dim() - 1));
  const Sizes canvas_size = trailing(image);
  const Tiles tiles(queue, op, square_tiles(scan.groups, canvas_size[0], canvas_size[1]), scan, at, tile_start,
                    tile_patches);
  with_data_type(patches, [&](auto zero, auto lanes) {
    launch_reassemble<decltype(zero), lanes.value>(queue, source, weight, scan, tiles, eps, image, weight_sum);
  });
}

std::tuple<Tensor, Tensor> reassemble_patches(const Tensor& patches, const Tensor& positions, const Tensor& weights,
                                              const Sizes& canvas_size, std::optional<double> eps,
                                              const std::optional<Tensor>& tile_start,
                                              const std::optional<Tensor>& tile_patches) {
  check_reassemble_patches_inputs(patches, positions, weights, canvas_size);
  const Queue queue(patches);
  const Sizes sizes = join(leading(patches, 3), {canvas_size[0], canvas_size[1]});
  Tensor image = torch::stable::new_empty(patches, sizes);
  Tensor weight_sum = torch::stable::new_empty(weights, sizes);
  reassemble_into(queue, "reassemble_patches", patches, positions, weights, eps, tile_start, tile_patches, image,
                  weight_sum);
  return {image, weight_sum};
}

void reassemble_patches_out(const Tensor& patches, const Tensor& positions, const Tensor& weights,
                            std::optional<double> eps, const std::optional<Tensor>& tile_start,
                            const std::optional<Tensor>& tile_patches, Tensor image, Tensor weight_sum) {
  const Sizes canvas_size = trailing(image);
  check_reassemble_patches_inputs(patches, positions, weights, canvas_size);
  const Queue queue(patches);
  const Sizes sizes = join(leading(patches, 3), {canvas_size[0], canvas_size[1]});
  check_out("reassemble_patches", "out[0]", image, patches, sizes);
  check_out("reassemble_patches", "out[1]", weight_sum, weights, sizes);
  reassemble_into(queue, "reassemble_patches", patches, positions, weights, eps, tile_start, tile_patches, image,
                  weight_sum);
}

void project_into(const Queue& queue, const Tensor& patches, const Tensor& positions, const Tensor& weights,
                  const Sizes& canvas_size, double eps, Tensor& projected) {
  const Sizes sizes = join(leading(patches, 3), {canvas_size[0], canvas_size[1]});
  Tensor image = torch::stable::new_empty(patches, sizes);
  Tensor weight_sum = torch::stable::new_empty(weights, sizes);
  reassemble_into(queue, "overlap_project", patches, positions, weights, eps, std::nullopt, std::nullopt, image,
                  weight_sum);
  const Tensor at = torch::stable::contiguous(positions);
  const Scan scan = scan_of(at, patches.size(patches.dim() - 2), patches.size(patches.dim() - 1));
  with_data_type(patches, [&](auto zero, auto lanes) {
    using T = decltype(zero);
    using Program = Extract<T, lanes.value, false>;
    const Program program{image_stack<const T>(image),
                          scan,
                          1.0,
                          nullptr,
                          {},
                          image_stack<T>(projected),
                          StripGrid(scan.count(), scan.h, scan.w)};
    launch(queue, program, program.blocks());
  });
}

Tensor overlap_project(const Tensor& patches, const Tensor& positions, const Tensor& weights, const Sizes& canvas_size,
                       double eps) {
  check_overlap_project_inputs(patches, positions, weights, canvas_size);
  const Queue queue(patches);
  Tensor projected = torch::stable::new_empty(patches, sizes_of(patches));
  project_into(queue, patches, positions, weights, canvas_size, eps, projected);
  return projected;
}

void overlap_project_out(const Tensor& patches, const Tensor& positions, const Tensor& weights,
                         const Sizes& canvas_size, double eps, Tensor out) {
  check_overlap_project_inputs(patches, positions, weights, canvas_size);
  check_out("overlap_project", "out", out, patches, sizes_of(patches));
  const Queue queue(patches);
  project_into(queue, patches, positions, weights, canvas_size, eps, out);
}

}  // namespace
}  // namespace ptycho::cuda

STABLE_TORCH_LIBRARY_IMPL(PTYCHO_LIBRARY, PTYCHO_DEVICE, m) {
  m.impl("reassemble_patches", TORCH_BOX(&ptycho::cuda::reassemble_patches));
  m.impl("reassemble_patches_out", TORCH_BOX(&ptycho::cuda::reassemble_patches_out));
  m.impl("overlap_project", TORCH_BOX(&ptycho::cuda::overlap_project));
  m.impl("overlap_project_out", TORCH_BOX(&ptycho::cuda::overlap_project_out));
}
