// SPDX-License-Identifier: BSD-3-Clause
// reassemble_patches on CUDA, and overlap_project, which is a reassembly and an extraction from it. One launch sums
// patches times weights and the weights, and takes the mean while they are in registers; a second one, which reads next
// to nothing, applies the threshold to the tiles that have a weight below it.
#include "cuda/extract.h"
#include "cuda/plan.h"
#include "cuda/types.h"
#include "entries.h"

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

void merge_into(const Queue& queue, const char* op, const Tensor& patches, const Tensor& positions,
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

void reassemble_into(const Queue& queue, const Tensor& patches, const Tensor& positions, const Tensor& weights,
                     std::optional<double> eps, const std::optional<Tensor>& tile_start,
                     const std::optional<Tensor>& tile_patches, Tensor& image, Tensor& weight_sum) {
  merge_into(queue, "reassemble_patches", patches, positions, weights, eps, tile_start, tile_patches, image,
             weight_sum);
}

void project_into(const Queue& queue, const Tensor& patches, const Tensor& positions, const Tensor& weights,
                  const Sizes& canvas_size, double eps, Tensor& projected) {
  const Sizes sizes = entries::canvases_of(patches, canvas_size);
  Tensor image = queue.output(patches, sizes);
  Tensor weight_sum = queue.output(weights, sizes);
  merge_into(queue, "overlap_project", patches, positions, weights, eps, std::nullopt, std::nullopt, image, weight_sum);
  const Tensor at = torch::stable::contiguous(positions);
  const Scan scan = scan_of(at, patches.size(patches.dim() - 2), patches.size(patches.dim() - 1));
  extract_windows(queue, image, scan, 1.0, nullptr, std::nullopt, projected);
}

}  // namespace
}  // namespace ptycho::cuda

STABLE_TORCH_LIBRARY_IMPL(PTYCHO_LIBRARY, PTYCHO_DEVICE, m) {
  namespace entries = ptycho::entries;
  namespace backend = ptycho::cuda;
  using backend::Queue;
  m.impl("reassemble_patches", TORCH_BOX((&entries::reassemble_patches<Queue, backend::reassemble_into>)));
  m.impl("reassemble_patches_out", TORCH_BOX((&entries::reassemble_patches_out<Queue, backend::reassemble_into>)));
  m.impl("overlap_project", TORCH_BOX((&entries::overlap_project<Queue, backend::project_into>)));
  m.impl("overlap_project_out", TORCH_BOX((&entries::overlap_project_out<Queue, backend::project_into>)));
}
