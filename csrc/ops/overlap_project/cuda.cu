// SPDX-License-Identifier: BSD-3-Clause
// overlap_project on CUDA: a block to a group where the group's canvas fits its shared memory, else a reassembly and an
// extraction from it, and then the canvases of all groups exist, as workspace.
#include "ops/extract_patches/cuda.h"
#include "ops/overlap_project/dispatch.h"
#include "ops/overlap_project/gradient_blocks.h"
#include "ops/overlap_project/group_blocks.h"
#include "ops/reassemble_patches/cuda.h"
#include "runtime/cuda/data_types.h"
#include "runtime/cuda/plan.h"
#include "runtime/cuda/tiles.h"

namespace ptycho::cuda {
namespace {

constexpr int64_t kGroupPixels = int64_t{1} << 20;  // more fit no shared memory

// What fits is known from the sizes alone, for the host does not see the positions.
bool has_small_groups(const Scan& scan, Shape canvas_size) {
  return scan.per_group <= kGroupPatches && canvas_size[0] <= kGroupPixels && canvas_size[1] <= kGroupPixels &&
         canvas_size[0] * canvas_size[1] <= kGroupPixels;
}

template <typename T>
Group<T> group_of(const Scan& scan, Shape canvas_size) {
  return {scan, static_cast<int>(canvas_size[0]), static_cast<int>(canvas_size[1])};
}

template <typename Program>
bool launched(const Queue& queue, const Program& program) {
  const bool fits = has_memory<Program>(queue, program.memory_bytes());
  if (fits) launch(queue, program, program.group.scan.groups);
  return fits;
}

// The lists of a plan that is not used are looked at as far as the host can.
void check_lists(const char* op, const Scan& scan, Shape canvas_size, const Tensor& positions,
                 const MaybeTensor& tile_start, const MaybeTensor& tile_patches) {
  const MaybeTensor start = plan_list(op, positions, tile_start), patches = plan_list(op, positions, tile_patches);
  check_plan(start.has_value() == patches.has_value(), op);
  check_plan(!start || start->numel() == square_tiles(scan.groups, canvas_size[0], canvas_size[1]).tiles() + 1, op);
}

void project_into(const Queue& queue, const Tensor& patches, const Tensor& positions, const Tensor& weights,
                  const Sizes& canvas_size, double eps, const MaybeTensor& order, const MaybeTensor& tile_start,
                  const MaybeTensor& tile_patches, Tensor& projected) {
  const char* const op = "overlap_project";
  const Tensor source = as_contiguous(patches);
  const Tensor weight = as_contiguous(weights);
  const Tensor at = as_contiguous(positions);
  const Scan scan = scan_of(at, trailing(patches));
  const Order sequence(op, scan, at, order);
  check_lists(op, scan, canvas_size, at, tile_start, tile_patches);
  bool done = false;
  if (has_small_groups(scan, canvas_size))
    with_data_type(patches, [&](auto zero, auto lanes) {
      using T = decltype(zero);
      const ProjectGroups<T, lanes.value> program{image_stack<const T>(source), image_stack<const T>(weight),
                                                  group_of<T>(scan, canvas_size), static_cast<T>(eps),
                                                  image_stack<T>(projected)};
      done = launched(queue, program);
    });
  if (done) return;
  Tensor image = queue.output(patches, leading(patches, 3), canvas_size);
  Tensor weight_sum = queue.output(weights, leading(patches, 3), canvas_size);
  merge_into(queue, op, source, at, weight, eps, tile_start, tile_patches, image, weight_sum);
  launch_extract(queue, image, scan, 1.0, sequence.data(), std::nullopt, projected);
}

// grad_patches and grad_weights of canvases of any size; grad_weights: one for every patch, or null.
template <typename T, int lanes>
void backward_by_canvases(const Queue& queue, const Tensor& grads, const Tensor& patches, const Tensor& at,
                          const Tensor& weights, const Scan& scan, Shape canvas_size, double eps, const int64_t* order,
                          const MaybeTensor& tile_start, const MaybeTensor& tile_patches, Tensor& grad_patches,
                          Tensor* grad_weights) {
  const TileGrid grid = square_tiles(scan.groups, canvas_size[0], canvas_size[1]);
  const Tiles tiles(queue, "overlap_project_backward", grid, scan, at, tile_start, tile_patches, true);
  const auto canvases = [&](const Tensor& model) { return queue.output(model, {scan.groups}, canvas_size); };
  const Tensor image = canvases(patches), grad_sum = canvases(patches);
  const Tensor weight_sum = canvases(weights), grad_total = canvases(weights);
  const Tensor least = queue.output(weights, {grid.tiles()}, {});
  // A mean without its threshold, which the next program but one applies to its gradient.
  const SumTiles<T, lanes, true> means{image_stack<const T>(patches),
                                       image_stack<const T>(weights),
                                       scan,
                                       grid,
                                       tiles.lists,
                                       image_stack<T>(image),
                                       image_stack<T>(weight_sum),
                                       write<T>(least),
                                       tiles.state};
  launch_tiles(queue, means);
  const SumTiles<T, lanes, false> sums{image_stack<const T>(grads), {}, scan,    grid,   tiles.lists,
                                       image_stack<T>(grad_sum),    {}, nullptr, nullptr};
  launch_tiles(queue, sums);
  const int64_t pixels = product(canvas_size);
  using Divide = DivideGradients<T, lanes>;
  const Divide divide{tiles.state,        static_cast<T>(eps), pixels, scan.groups, read<T>(weight_sum), read<T>(image),
                      write<T>(grad_sum), write<T>(grad_total)};
  launch(queue, divide, blocks_for<Divide>(scan.groups * pixels));
  launch_extract(queue, grad_sum, scan, 1.0, order, weights, grad_patches);
  if (!grad_weights) return;
  Tensor spread = queue.output(patches, patches.sizes(), Shape());
  launch_extract(queue, grad_sum, scan, 1.0, order, std::nullopt, spread);
  launch_extract(queue, grad_total, scan, 1.0, order, std::nullopt, *grad_weights);
  using Products = AddProducts<T, lanes>;
  const int64_t samples = scan.count() * scan.h * scan.w;
  const Products products{read<T>(patches), read<T>(spread), samples, write<T>(*grad_weights)};
  launch(queue, products, blocks_for<Products>(samples));
}

// The gradient of weights that all patches share: as on the CPU over each of at most so many parts of the groups, then
// over the parts.
constexpr int64_t kWeightParts = 64;

template <typename T>
void sum_patches(const Queue& queue, const Tensor& each, const Scan& scan, Tensor& result) {
  const int64_t pixels = scan.h * scan.w;
  const int64_t chunk = (scan.groups + kWeightParts - 1) / kWeightParts * scan.per_group;
  SumImages<T> program{read<T>(each), scan.count(), chunk, pixels, nullptr};
  const int64_t parts = program.parts();
  const Tensor sums = queue.output(result, {parts}, trailing(result));
  program.sums = write<T>(sums);
  launch(queue, program, blocks_for<SumImages<T>>(parts * pixels));
  const SumImages<T> last{read<T>(sums), parts, parts, pixels, write<T>(result)};
  launch(queue, last, blocks_for<SumImages<T>>(pixels));
}

void backward_into(const Queue& queue, const Tensor& grad, const Tensor& patches, const Tensor& positions,
                   const Tensor& weights, const Sizes& canvas_size, double eps, const MaybeTensor& order,
                   const MaybeTensor& tile_start, const MaybeTensor& tile_patches, Tensor& grad_patches,
                   Tensor* grad_weights) {
  const char* const op = "overlap_project_backward";
  const Tensor grads = as_contiguous(grad);
  const Tensor source = as_contiguous(patches);
  const Tensor weight = as_contiguous(weights);
  const Tensor at = as_contiguous(positions);
  const Scan scan = scan_of(at, trailing(patches));
  const Order sequence(op, scan, at, order);
  check_lists(op, scan, canvas_size, at, tile_start, tile_patches);
  const bool shared = weights.dim() == 2;
  MaybeTensor each;
  if (grad_weights) each = shared ? queue.output(weights, leading(patches, 2), trailing(patches)) : *grad_weights;
  with_data_type(patches, [&](auto zero, auto lanes) {
    using T = decltype(zero);
    const auto in_groups = [&](auto for_weights, const ImageStack<T>& by_weights) {
      if (!has_small_groups(scan, canvas_size)) return false;
      using Program = ProjectGroupsBackward<T, lanes.value, for_weights.value>;
      return launched(queue, Program{image_stack<const T>(grads), image_stack<const T>(source),
                                     image_stack<const T>(weight), group_of<T>(scan, canvas_size), static_cast<T>(eps),
                                     image_stack<T>(grad_patches), by_weights});
    };
    const bool done = each ? in_groups(std::true_type{}, image_stack<T>(*each)) : in_groups(std::false_type{}, {});
    if (!done)
      backward_by_canvases<T, lanes.value>(queue, grads, source, at, weight, scan, canvas_size, eps, sequence.data(),
                                           tile_start, tile_patches, grad_patches, each ? &*each : nullptr);
    if (grad_weights && shared) sum_patches<T>(queue, *each, scan, *grad_weights);
  });
}

}  // namespace
}  // namespace ptycho::cuda

STABLE_TORCH_LIBRARY_IMPL(PTYCHO_LIBRARY, PTYCHO_DEVICE, m) {
  namespace dispatch = ptycho::dispatch;
  namespace backend = ptycho::cuda;
  using backend::Queue;
  m.impl("overlap_project", TORCH_BOX((&dispatch::overlap_project<Queue, backend::project_into>)));
  m.impl("overlap_project_backward", TORCH_BOX((&dispatch::overlap_project_backward<Queue, backend::backward_into>)));
  m.impl("overlap_project_out", TORCH_BOX((&dispatch::overlap_project_out<Queue, backend::project_into>)));
}
