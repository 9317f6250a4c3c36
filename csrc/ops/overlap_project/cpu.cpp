// SPDX-License-Identifier: BSD-3-Clause
// overlap_project on the CPU: the patches of a group are merged on the group's canvas and cut out of it again, in one
// pass per group. Parallel over groups; a thread keeps one canvas in scratch memory, no larger than what the group's
// patches touch, so nothing of the size of all canvases exists. Pixels are summed in index order: bitwise repeatable.
#include <cmath>

#include "ops/overlap_project/dispatch.h"
#include "runtime/cpu/tile_sums.h"

namespace ptycho::cpu {
namespace {

// The part of a group's canvas that its patches touch.
Tile touched(const Scan& scan, int64_t group, Shape canvas_size) {
  Tile box{group, {canvas_size[0], 0}, {canvas_size[1], 0}};
  for (int64_t k = group * scan.per_group; k < (group + 1) * scan.per_group; ++k) {
    const int64_t y = to_index(std::floor(scan.positions[2 * k]));
    const int64_t x = to_index(std::floor(scan.positions[2 * k + 1]));
    const Span rows = clip({y, y + scan.h + 1}, 0, canvas_size[0]);
    const Span cols = clip({x, x + scan.w + 1}, 0, canvas_size[1]);
    if (rows.begin == rows.end || cols.begin == cols.end) continue;
    box.rows = {std::min(box.rows.begin, rows.begin), std::max(box.rows.end, rows.end)};
    box.cols = {std::min(box.cols.begin, cols.begin), std::max(box.cols.end, cols.end)};
  }
  return box.rows.begin < box.rows.end ? box : Tile{group, {0, 0}, {0, 0}};
}

// image /= weight, and 0 where the weight is at most eps times the largest.
template <typename T>
void normalize(T* image, const T* weight, int64_t pixels, int64_t lanes, T eps) {
  Range<T> range{std::numeric_limits<T>::infinity(), T(0)};
  kernels<T>().divide(image, weight, pixels, lanes, &range);
  const T threshold = eps * range.most;
  if (range.least > threshold) return;
  for (int64_t m = 0; m < pixels; ++m)
    if (weight[m] <= threshold) std::fill(image + m * lanes, image + (m + 1) * lanes, T(0));
}

template <typename T>
void overlap_kernel(const ImageStack<const T>& patches, const ImageStack<const T>& weights, const Scan& scan,
                    Shape canvas_size, double eps, const ImageStack<T>& projected) {
  const int64_t lanes = patches.lanes;
  const int64_t work = 2 * scan.per_group * scan.h * scan.w * lanes;
  parallel_for(scan.groups, grain(work), [&](int64_t begin, int64_t end) {
    Workspace<T> image_memory, weight_memory;
    Workspace<T> scratch(scratch_size<T>(scan.w + 1, lanes));  // a patch touches one column more than it has
    for (int64_t group = begin; group < end; ++group) {
      const int64_t first = group * scan.per_group;
      const int64_t last = first + scan.per_group;
      const Tile box = touched(scan, group, canvas_size);
      const int64_t pixels = box.height() * box.stride<T>();
      T* image = image_memory.zeros(pixels * lanes);
      T* weight = weight_memory.zeros(pixels);
      for (int64_t k = first; k < last; ++k) {
        const Weights<T> patch_weight{weights[weights.count == 1 ? 0 : k].data, nullptr};
        add_weighted_patch<T>(image, weight, box, patches[k].data, patch_weight, lanes, scan, k, nullptr,
                              scratch.data());
      }
      normalize(image, weight, pixels, lanes, static_cast<T>(eps));
      for (int64_t k = first; k < last; ++k) {
        Taps<T> y = gather_taps<T>(scan.positions[2 * k]);
        Taps<T> x = gather_taps<T>(scan.positions[2 * k + 1]);
        y.first -= box.rows.begin;
        x.first -= box.cols.begin;
        const PatchView<T> view{image, box.height(), box.stride<T>(), lanes, y, x, scan.h, scan.w, nullptr};
        kernels<T>().interpolate(view, projected[k].data, scan.w * lanes, Write::store, scratch.data());
      }
    }
  });
}

void project_into(const Host&, const Tensor& patches, const Tensor& positions, const Tensor& weights,
                  const Sizes& canvas_size, double eps, Tensor& projected) {
  const Tensor source = as_contiguous(patches);
  const Tensor weight = as_contiguous(weights);
  const Tensor at = as_contiguous(positions);
  check_finite("overlap_project", "positions", at);
  const Scan scan = scan_of(at, trailing(patches));
  with_real_type(patches, [&](auto zero) {
    using T = decltype(zero);
    overlap_kernel<T>(image_stack<const T>(source), image_stack<const T>(weight), scan, canvas_size, eps,
                      image_stack<T>(projected));
  });
}

}  // namespace
}  // namespace ptycho::cpu

STABLE_TORCH_LIBRARY_IMPL(ptycho, CPU, m) {
  namespace dispatch = ptycho::dispatch;
  namespace backend = ptycho::cpu;
  using backend::Host;
  m.impl("overlap_project", TORCH_BOX((&dispatch::overlap_project<Host, backend::project_into>)));
  m.impl("overlap_project_out", TORCH_BOX((&dispatch::overlap_project_out<Host, backend::project_into>)));
}
