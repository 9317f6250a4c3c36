// SPDX-License-Identifier: BSD-3-Clause
// reassemble_patches on the CPU: the weighted patches and the weights, summed onto canvases in one pass over tiles.
// Each patch row is multiplied by its weights in scratch memory just before it is summed, so no weighted copy of all
// patches is made, and numerator and denominator see the very same weights.
#include "checks.h"
#include "cpu/outputs.h"
#include "cpu/tiles.h"

namespace ptycho::cpu {
namespace {

// product = patch * weights over the given rows; a complex pixel has two lanes and one weight.
template <typename T>
void multiply_rows(T* __restrict product, const Image<const T>& patch, const Image<const T>& weights, Span rows) {
  const int64_t begin = rows.begin * patch.cols;
  const int64_t end = rows.end * patch.cols;
  if (patch.lanes == 1) {
    for (int64_t m = begin; m < end; ++m) product[m] = patch.data[m] * weights.data[m];
  } else {
    for (int64_t m = begin; m < end; ++m) {
      product[2 * m] = patch.data[2 * m] * weights.data[m];
      product[2 * m + 1] = patch.data[2 * m + 1] * weights.data[m];
    }
  }
}

template <typename T>
struct Scratch {
  std::vector<T> product;
  std::vector<T> row;
};

template <typename T>
void reassemble_kernel(const ImageStack<const T>& patches, const double* positions, const ImageStack<const T>& weights,
                       const ImageStack<T>& images, const ImageStack<T>& weight_sums) {
  const TilePlan plan = plan_canvases(images, positions, patches);
  const bool shared_weights = weights.count == 1;
  for_each_tile<Scratch<T>>(
      plan,
      [&](const Tile& tile) {
        clear_tile(images[tile.group], tile);
        clear_tile(weight_sums[tile.group], tile);
      },
      [&](const Tile& tile, int64_t k, Scratch<T>& scratch) {
        scratch.product.resize(patches.rows * patches.cols * patches.lanes);
        scratch.row.resize((plan.grid.tile_cols + 1) * patches.lanes);
        const Placement<T> place(positions + 2 * k, patches.rows, patches.cols);
        const Image<const T> weight = weights[shared_weights ? 0 : k];
        multiply_rows(scratch.product.data(), patches[k], weight, place.patch_rows(tile));
        const Image<const T> weighted{scratch.product.data(), patches.rows, patches.cols, patches.lanes};
        add_patch(images[tile.group], tile, weighted, place, scratch.row.data());
        add_patch(weight_sums[tile.group], tile, weight, place, scratch.row.data());
      });
}

std::tuple<Tensor, Tensor> reassemble_patches(const Tensor& patches, const Tensor& positions, const Tensor& weights,
                                              const Sizes& canvas_size) {
  check_reassemble_patches_inputs(patches, positions, weights, canvas_size);
  const Tensor source = torch::stable::contiguous(patches);
  const Tensor weight = torch::stable::contiguous(weights);
  const Tensor at = torch::stable::contiguous(positions);
  check_finite("reassemble_patches", "positions", at);
  const Sizes sizes = join(leading(patches, 3), {canvas_size[0], canvas_size[1]});
  Tensor image = new_output(patches, sizes);
  Tensor weight_sum = new_output(weights, sizes);
  with_real_type(patches, [&](auto zero) {
    using T = decltype(zero);
    reassemble_kernel<T>(image_stack<const T>(source), at.const_data_ptr<double>(), image_stack<const T>(weight),
                         image_stack<T>(image), image_stack<T>(weight_sum));
  });
  return {image, weight_sum};
}

}  // namespace
}  // namespace ptycho::cpu

STABLE_TORCH_LIBRARY_IMPL(ptycho, CPU, m) {
  m.impl("reassemble_patches", TORCH_BOX(&ptycho::cpu::reassemble_patches));
}
