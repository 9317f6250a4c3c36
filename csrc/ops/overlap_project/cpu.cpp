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

// A plan is of no use to a pass per group; one that was given is checked all the same.
void check_given_plan(const char* op, const Scan& scan, Shape canvas_size, const Tensor& positions,
                      const MaybeTensor& order, const MaybeTensor& tile_start, const MaybeTensor& tile_patches) {
  if (order) const Order sequence(op, scan, positions, 0, order);
  if (tile_start || tile_patches)
    const Tiles tiles(op, tile_grid(scan.groups, canvas_size[0], canvas_size[1]), scan, positions, tile_start,
                      tile_patches);
}

void project_into(const Host&, const Tensor& patches, const Tensor& positions, const Tensor& weights,
                  const Sizes& canvas_size, double eps, const MaybeTensor& order, const MaybeTensor& tile_start,
                  const MaybeTensor& tile_patches, Tensor& projected) {
  const Tensor source = as_contiguous(patches);
  const Tensor weight = as_contiguous(weights);
  const Tensor at = as_contiguous(positions);
  check_finite("overlap_project", "positions", at);
  const Scan scan = scan_of(at, trailing(patches));
  check_given_plan("overlap_project", scan, canvas_size, at, order, tile_start, tile_patches);
  with_real_type(patches, [&](auto zero) {
    using T = decltype(zero);
    overlap_kernel<T>(image_stack<const T>(source), image_stack<const T>(weight), scan, canvas_size, eps,
                      image_stack<T>(projected));
  });
}

// What the backward pass keeps of a group: of the mean image = S / W the gradients of S and of W.
template <typename T>
class GroupGradients {
 public:
  GroupGradients(const Scan& scan, Shape canvas_size, int64_t lanes, T eps)
      : scan_(scan),
        canvas_size_{canvas_size[0], canvas_size[1]},
        lanes_(lanes),
        eps_(eps),
        scratch_(scratch_size<T>(scan.w + 1, lanes)),
        patch_(2 * scan.h * scan.w * lanes) {}

  // patches: null where the gradient of W is not wanted
  void sum(int64_t group, const ImageStack<const T>& grads, const ImageStack<const T>* patches,
           const ImageStack<const T>& weights) {
    box_ = touched(scan_, group, {canvas_size_, 2});
    const int64_t pixels = box_.height() * box_.template stride<T>();
    grad_sum_ = grad_sum_memory_.zeros(pixels * lanes_);
    T* weight = weight_memory_.zeros(pixels);
    T* image = patches ? image_memory_.zeros(pixels * lanes_) : nullptr;
    for (int64_t k = group * scan_.per_group; k < (group + 1) * scan_.per_group; ++k) {
      const T* patch_weight = weights[weights.count == 1 ? 0 : k].data;
      if (patches) {
        add_weighted_patch<T>(image, weight, box_, (*patches)[k].data, {patch_weight, nullptr}, lanes_, scan_, k,
                              nullptr, scratch_.data());
      } else {
        add_patch<T>(weight, box_, patch_weight, 1, scan_, k, nullptr, scratch_.data());
      }
      add_patch<T>(grad_sum_, box_, grads[k].data, lanes_, scan_, k, nullptr, scratch_.data());
    }
    if (patches) normalize(image, weight, pixels, lanes_, eps_);
    normalize(grad_sum_, weight, pixels, lanes_, eps_);
    if (!patches) return;
    grad_total_ = weight;  // in its place
    for (int64_t m = 0; m < pixels; ++m) grad_total_[m] = -product(image + m * lanes_, grad_sum_ + m * lanes_);
  }

  void of_patch(int64_t k, const T* weight, T* grad_patch) {
    cut(k, grad_sum_, lanes_, patch_.data());
    for (int64_t m = 0; m < scan_.h * scan_.w; ++m)
      for (int64_t lane = 0; lane < lanes_; ++lane)
        grad_patch[m * lanes_ + lane] = patch_.data()[m * lanes_ + lane] * weight[m];
  }

  // After of_patch of the same patch; stored, or added.
  void of_weight(int64_t k, const T* patch, T* grad_weight, bool add) {
    T* const spread = patch_.data();
    T* const total = spread + scan_.h * scan_.w * lanes_;
    cut(k, grad_total_, 1, total);
    for (int64_t m = 0; m < scan_.h * scan_.w; ++m) {
      const T value = product(patch + m * lanes_, spread + m * lanes_) + total[m];
      grad_weight[m] = add ? grad_weight[m] + value : value;
    }
  }

 private:
  // Re(conj(a) b) of a pixel.
  T product(const T* a, const T* b) const { return lanes_ == 2 ? a[0] * b[0] + a[1] * b[1] : a[0] * b[0]; }

  void cut(int64_t k, const T* image, int64_t lanes, T* out) {
    Taps<T> y = gather_taps<T>(scan_.positions[2 * k]), x = gather_taps<T>(scan_.positions[2 * k + 1]);
    y.first -= box_.rows.begin;
    x.first -= box_.cols.begin;
    const PatchView<T> view{image, box_.height(), box_.template stride<T>(), lanes, y, x, scan_.h, scan_.w, nullptr};
    kernels<T>().interpolate(view, out, scan_.w * lanes, Write::store, scratch_.data());
  }

  const Scan& scan_;
  const int64_t canvas_size_[2];
  const int64_t lanes_;
  const T eps_;
  Workspace<T> scratch_;
  Workspace<T> patch_;
  Workspace<T> grad_sum_memory_;
  Workspace<T> weight_memory_;
  Workspace<T> image_memory_;
  Tile box_;
  T* grad_sum_ = nullptr;
  T* grad_total_ = nullptr;
};

// The gradient of weights that all patches share is a sum over all of them: over each of at most so many parts of the
// groups in index order, then over the parts, so that its bits depend on the sizes alone.
constexpr int64_t kWeightParts = 64;

// grad_weights: null where not wanted
template <typename T>
void backward_kernel(const ImageStack<const T>& grads, const ImageStack<const T>& patches,
                     const ImageStack<const T>& weights, const Scan& scan, Shape canvas_size, T eps,
                     const ImageStack<T>& grad_patches, const ImageStack<T>* grad_weights, bool shared) {
  const int64_t lanes = grads.lanes, pixels = scan.h * scan.w;
  const int64_t chunk =
      shared ? (scan.groups + kWeightParts - 1) / kWeightParts : grain(4 * scan.per_group * scan.h * scan.w * lanes);
  const int64_t chunks = chunk > 0 ? (scan.groups + chunk - 1) / chunk : 0;
  std::vector<T> parts(shared ? chunks * pixels : 0, T(0));
  parallel_for(chunks, 1, [&](int64_t begin, int64_t end) {
    GroupGradients<T> gradients(scan, canvas_size, lanes, eps);
    for (int64_t group = begin * chunk; group < std::min(end * chunk, scan.groups); ++group) {
      gradients.sum(group, grads, grad_weights ? &patches : nullptr, weights);
      for (int64_t k = group * scan.per_group; k < (group + 1) * scan.per_group; ++k) {
        gradients.of_patch(k, weights[weights.count == 1 ? 0 : k].data, grad_patches[k].data);
        if (!grad_weights) continue;
        T* const to = shared ? parts.data() + group / chunk * pixels : (*grad_weights)[k].data;
        gradients.of_weight(k, patches[k].data, to, shared);
      }
    }
  });
  if (!shared) return;
  T* const sum = grad_weights->data;
  std::fill(sum, sum + pixels, T(0));
  for (int64_t part = 0; part < chunks; ++part)
    for (int64_t m = 0; m < pixels; ++m) sum[m] += parts[part * pixels + m];
}

void backward_into(const Host&, const Tensor& grad, const Tensor& patches, const Tensor& positions,
                   const Tensor& weights, const Sizes& canvas_size, double eps, const MaybeTensor& order,
                   const MaybeTensor& tile_start, const MaybeTensor& tile_patches, Tensor& grad_patches,
                   Tensor* grad_weights) {
  const char* const op = "overlap_project_backward";
  const Tensor source = as_contiguous(patches);
  const Tensor grads = as_contiguous(grad);
  const Tensor weight = as_contiguous(weights);
  const Tensor at = as_contiguous(positions);
  check_finite(op, "positions", at);
  const Scan scan = scan_of(at, trailing(patches));
  check_given_plan(op, scan, canvas_size, at, order, tile_start, tile_patches);
  with_real_type(patches, [&](auto zero) {
    using T = decltype(zero);
    ImageStack<T> by_weights{};
    if (grad_weights) by_weights = image_stack<T>(*grad_weights);
    backward_kernel<T>(image_stack<const T>(grads), image_stack<const T>(source), image_stack<const T>(weight), scan,
                       canvas_size, static_cast<T>(eps), image_stack<T>(grad_patches),
                       grad_weights ? &by_weights : nullptr, grad_weights && weights.dim() == 2);
  });
}

}  // namespace
}  // namespace ptycho::cpu

STABLE_TORCH_LIBRARY_IMPL(ptycho, CPU, m) {
  namespace dispatch = ptycho::dispatch;
  namespace backend = ptycho::cpu;
  using backend::Host;
  m.impl("overlap_project", TORCH_BOX((&dispatch::overlap_project<Host, backend::project_into>)));
  m.impl("overlap_project_backward", TORCH_BOX((&dispatch::overlap_project_backward<Host, backend::backward_into>)));
  m.impl("overlap_project_out", TORCH_BOX((&dispatch::overlap_project_out<Host, backend::project_into>)));
}
