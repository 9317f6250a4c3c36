// SPDX-License-Identifier: BSD-3-Clause
// reassemble_patches on the CPU: the weighted patches and the weights, summed onto canvases in one pass over tiles. A
// patch is multiplied by its weights in registers while it is summed, so no weighted copy of the patches is made. The
// mean is taken while a tile is in the cache; the threshold, which depends on the largest weight of all tiles, is
// applied afterwards, and only to the tiles that hold a positive weight below it. The adjoint is an extraction times
// the weights.
#include "ops/extract_patches/cpu.h"

#include "ops/reassemble_patches/dispatch.h"
#include "ops/reassemble_patches/mean_backward.h"
#include "runtime/cpu/tile_sums.h"

namespace ptycho::cpu {
namespace {

template <typename T>
void apply_threshold(const Image<T>& image, const Image<T>& weight_sum, const Tile& tile, T threshold) {
  for (int64_t r = tile.rows.begin; r < tile.rows.end; ++r)
    for (int64_t c = tile.cols.begin; c < tile.cols.end; ++c)
      if (weight_sum.row(r)[c] <= threshold)
        std::fill(image.row(r) + c * image.lanes, image.row(r) + (c + 1) * image.lanes, T(0));
}

// eps: relative threshold of the mean; none for the sum.
template <typename T>
void reassemble_kernel(const ImageStack<const T>& patches, const ImageStack<const T>& weights, const Scan& scan,
                       const Tiles& tiles, std::optional<double> eps, bool past_caches, const ImageStack<T>& images,
                       const ImageStack<T>& weight_sums) {
  const int64_t lanes = patches.lanes;
  std::vector<Range<T>> ranges(eps ? tiles.grid.tiles() : 0, {std::numeric_limits<T>::infinity(), T(0)});
  for_each_tile<T>(tiles, lanes + 1, lanes, [&](int64_t t, const Tile& tile, T* image, T* scratch) {
    const int64_t pixels = tile.height() * tile.stride<T>();
    T* weight_sum = image + pixels * lanes;
    for (int64_t i = tiles.start[t]; i < tiles.start[t + 1]; ++i) {
      const int64_t k = tiles.patches[i];
      const int64_t after = tiles.patches[std::min(i + 1, tiles.start[t + 1] - 1)];
      const T* next = first_sample<T>(tile, patches[after].data, lanes, scan, after);
      Weights<T> weight{weights[0].data, nullptr};
      if (weights.count > 1) weight = {weights[k].data, first_sample<T>(tile, weights[after].data, 1, scan, after)};
      add_weighted_patch<T>(image, weight_sum, tile, patches[k].data, weight, lanes, scan, k, next, scratch);
    }
    if (eps) kernels<T>().divide(image, weight_sum, pixels, lanes, &ranges[t]);
    write_tile(images[tile.group], tile, image, past_caches);
    write_tile(weight_sums[tile.group], tile, weight_sum, past_caches);
  });
  if (!eps) return;
  const int64_t of_group = tiles.grid.tiles_down() * tiles.grid.tiles_across();
  for (int64_t first = 0; first < tiles.grid.tiles(); first += of_group) {
    T most(0);
    for (int64_t t = first; t < first + of_group; ++t) most = std::max(most, ranges[t].most);
    for (int64_t t = first; t < first + of_group; ++t) ranges[t].most = most;  // of the group
  }
  parallel_for(tiles.grid.tiles(), 1, [&](int64_t first, int64_t last) {
    for (int64_t t = first; t < last; ++t) {
      const Tile tile{tiles.grid.group_of(t), tiles.grid.rows_of(t), tiles.grid.cols_of(t)};
      const T threshold = static_cast<T>(*eps) * ranges[t].most;
      if (ranges[t].least <= threshold) apply_threshold(images[tile.group], weight_sums[tile.group], tile, threshold);
    }
  });
}

void reassemble_into(const Host&, const Tensor& patches, const Tensor& positions, const Tensor& weights,
                     std::optional<double> eps, const MaybeTensor& tile_start, const MaybeTensor& tile_patches,
                     Tensor& image, Tensor& weight_sum) {
  const Tensor source = as_contiguous(patches);
  const Tensor weight = as_contiguous(weights);
  const Tensor at = as_contiguous(positions);
  check_finite("reassemble_patches", "positions", at);
  const Scan scan = scan_of(at, trailing(patches));
  const Shape canvas_size = trailing(image);
  const Tiles tiles("reassemble_patches", tile_grid(scan.groups, canvas_size[0], canvas_size[1]), scan, at, tile_start,
                    tile_patches);
  with_real_type(patches, [&](auto zero) {
    using T = decltype(zero);
    reassemble_kernel<T>(image_stack<const T>(source), image_stack<const T>(weight), scan, tiles, eps,
                         exceeds_cache(image), image_stack<T>(image), image_stack<T>(weight_sum));
  });
}

template <typename T, int lanes>
void mean_backward_kernel(const ImageStack<const T>& grads, const T* weight_sum, double eps, const T* image,
                          T* grad_sum, T* grad_weight_sum) {
  const int64_t rows = grads.count * grads.rows, cols = grads.cols;
  std::vector<T> largest(rows, T(0));  // of a row
  parallel_for(rows, grain(cols), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      for (int64_t p = r * cols; p < (r + 1) * cols; ++p) largest[r] = larger(largest[r], weight_sum[p]);
  });
  for (int64_t r = 0; r < rows; r += grads.rows) {  // of a canvas
    T most(0);
    for (int64_t i = r; i < r + grads.rows; ++i) most = larger(most, largest[i]);
    std::fill(largest.begin() + r, largest.begin() + r + grads.rows, most);
  }
  parallel_for(rows, grain(cols * lanes), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T threshold = static_cast<T>(eps) * largest[r];
      for (int64_t p = r * cols; p < (r + 1) * cols; ++p)
        mean_backward<T, lanes>(grads.data + p * lanes, weight_sum[p], threshold, image ? image + p * lanes : nullptr,
                                grad_sum + p * lanes, image ? grad_weight_sum + p : nullptr);
    }
  });
}

void mean_backward_into(const Host&, const Tensor& grad_image, const Tensor& weight_sum, double eps,
                        const MaybeTensor& image, Tensor& grad_sum, Tensor* grad_weight_sum) {
  if (grad_image.numel() == 0) return;
  const Tensor grads = as_contiguous(grad_image), weights = as_contiguous(weight_sum);
  const MaybeTensor mean = image ? MaybeTensor(as_contiguous(*image)) : std::nullopt;
  with_real_type(grads, [&](auto zero) {
    using T = decltype(zero);
    const auto kernel = lanes_of(grads) == 1 ? mean_backward_kernel<T, 1> : mean_backward_kernel<T, 2>;
    kernel(image_stack<const T>(grads), read<T>(weights), eps, mean ? read<T>(*mean) : nullptr, write<T>(grad_sum),
           grad_weight_sum ? write<T>(*grad_weight_sum) : nullptr);
  });
}

}  // namespace
}  // namespace ptycho::cpu

STABLE_TORCH_LIBRARY_IMPL(ptycho, CPU, m) {
  namespace dispatch = ptycho::dispatch;
  namespace backend = ptycho::cpu;
  using backend::Host;
  m.impl("reassemble_patches", TORCH_BOX((&dispatch::reassemble_patches<Host, backend::reassemble_into>)));
  m.impl("reassemble_patches_out", TORCH_BOX((&dispatch::reassemble_patches_out<Host, backend::reassemble_into>)));
  m.impl("reassemble_patches_adjoint", TORCH_BOX((&dispatch::reassemble_patches_adjoint<Host, backend::extract_into>)));
  m.impl("reassemble_patches_backward",
         TORCH_BOX((&dispatch::reassemble_patches_backward<Host, backend::mean_backward_into, backend::extract_into>)));
  m.impl("reassemble_patches_mean_backward",
         TORCH_BOX((&dispatch::reassemble_patches_mean_backward<Host, backend::mean_backward_into>)));
}
