// SPDX-License-Identifier: BSD-3-Clause
// extract_patches on the CPU, its adjoint and its derivative with respect to the positions. Extraction is parallel over
// patch rows, the adjoint over canvas tiles (see tiles.h), the derivative over patches; each output has one writer.
#include "checks.h"
#include "cpu/outputs.h"
#include "cpu/rows.h"
#include "cpu/tiles.h"

namespace ptycho::cpu {
namespace {

template <typename T>
void extract_kernel(const ImageStack<const T>& canvases, const double* positions, const ImageStack<T>& patches) {
  const int64_t h = patches.rows;
  const int64_t w = patches.cols;
  const int64_t lanes = patches.lanes;
  const int64_t per_group = canvases.count ? patches.count / canvases.count : 0;
  torch::stable::parallel_for(0, patches.count * h, grain(w * lanes), [&](int64_t begin, int64_t end) {
    std::vector<T> buffer((w + 1) * lanes);
    for (int64_t r = begin; r < end;) {
      const int64_t k = r / h;
      const int64_t last = std::min(end, (k + 1) * h);
      const Taps<T> y = gather_taps<T>(positions[2 * k]);
      const Taps<T> x = gather_taps<T>(positions[2 * k + 1]);
      const Image<const T> canvas = canvases[k / per_group];
      const Image<T> patch = patches[k];
      for (; r < last; ++r) {
        const int64_t i = r - k * h;
        blend_rows(buffer.data(), canvas, y.first + i, y.w0, y.w1, {x.first, x.first + w + 1});
        interpolate(patch.row(i), buffer.data(), x.w0, x.w1, lanes, w * lanes);
      }
    }
  });
}

template <typename T>
void adjoint_kernel(const ImageStack<const T>& patches, const double* positions, const ImageStack<T>& canvases) {
  const TilePlan plan = plan_canvases(canvases, positions, patches);
  for_each_tile<std::vector<T>>(
      plan, [&](const Tile& tile) { clear_tile(canvases[tile.group], tile); },
      [&](const Tile& tile, int64_t k, std::vector<T>& buffer) {
        buffer.resize((plan.grid.tile_cols + 1) * canvases.lanes);
        const Placement<T> place(positions + 2 * k, patches.rows, patches.cols);
        add_patch(canvases[tile.group], tile, patches[k], place, buffer.data());
      });
}

// The sum of a[m] * value(m) in double. The partial sums are fixed in number: the order is the same on every machine,
// and no addition waits for the one before.
template <typename T, typename Value>
double dot(const T* a, int64_t count, const Value& value) {
  constexpr int64_t partials = 8;
  double sums[partials] = {};
  int64_t m = 0;
  for (; m + partials <= count; m += partials)
    for (int64_t s = 0; s < partials; ++s) sums[s] += static_cast<double>(a[m + s]) * value(m + s);
  for (; m < count; ++m) sums[0] += static_cast<double>(a[m]) * value(m);
  for (int64_t s = 1; s < partials; ++s) sums[0] += sums[s];
  return sums[0];
}

// Per patch the sums over its pixels of <g, d patch / d y> and <g, d patch / d x>.
template <typename T>
void grad_positions_kernel(const ImageStack<const T>& grads, const ImageStack<const T>& canvases,
                           const double* positions, double* result) {
  const int64_t h = grads.rows;
  const int64_t w = grads.cols;
  const int64_t lanes = grads.lanes;
  const int64_t per_group = canvases.count ? grads.count / canvases.count : 0;
  torch::stable::parallel_for(0, grads.count, grain(h * w * lanes), [&](int64_t begin, int64_t end) {
    std::vector<T> across((w + 1) * lanes);
    std::vector<T> down((w + 1) * lanes);
    for (int64_t k = begin; k < end; ++k) {
      const Taps<T> y = gather_taps<T>(positions[2 * k]);
      const Taps<T> x = gather_taps<T>(positions[2 * k + 1]);
      const Image<const T> canvas = canvases[k / per_group];
      double sum_y = 0.0;
      double sum_x = 0.0;
      for (int64_t i = 0; i < h; ++i) {
        const Span columns{x.first, x.first + w + 1};
        blend_rows(across.data(), canvas, y.first + i, y.w0, y.w1, columns);
        blend_rows(down.data(), canvas, y.first + i, T(-1), T(1), columns);
        const T* g = grads[k].row(i);
        sum_y += dot(g, w * lanes, [&](int64_t m) { return x.w0 * down[m] + x.w1 * down[m + lanes]; });
        sum_x += dot(g, w * lanes, [&](int64_t m) { return across[m + lanes] - across[m]; });
      }
      result[2 * k] = sum_y;
      result[2 * k + 1] = sum_x;
    }
  });
}

Tensor extract_patches(const Tensor& canvas, const Tensor& positions, const Sizes& patch_size) {
  check_extract_patches_inputs(canvas, positions, patch_size);
  const Tensor source = torch::stable::contiguous(canvas);
  const Tensor at = torch::stable::contiguous(positions);
  check_finite("extract_patches", "positions", at);
  Tensor patches = new_output(canvas, join(leading(positions, 1), {patch_size[0], patch_size[1]}));
  with_real_type(canvas, [&](auto zero) {
    using T = decltype(zero);
    extract_kernel<T>(image_stack<const T>(source), at.const_data_ptr<double>(), image_stack<T>(patches));
  });
  return patches;
}

Tensor extract_patches_adjoint(const Tensor& patches, const Tensor& positions, const Sizes& canvas_size) {
  check_extract_patches_adjoint_inputs(patches, positions, canvas_size);
  const Tensor source = torch::stable::contiguous(patches);
  const Tensor at = torch::stable::contiguous(positions);
  check_finite("extract_patches_adjoint", "positions", at);
  Tensor canvas = new_output(patches, join(leading(patches, 3), {canvas_size[0], canvas_size[1]}));
  with_real_type(patches, [&](auto zero) {
    using T = decltype(zero);
    adjoint_kernel<T>(image_stack<const T>(source), at.const_data_ptr<double>(), image_stack<T>(canvas));
  });
  return canvas;
}

Tensor extract_patches_grad_positions(const Tensor& grad_patches, const Tensor& canvas, const Tensor& positions) {
  check_extract_patches_grad_positions_inputs(grad_patches, canvas, positions);
  const Tensor grads = torch::stable::contiguous(grad_patches);
  const Tensor source = torch::stable::contiguous(canvas);
  const Tensor at = torch::stable::contiguous(positions);
  check_finite("extract_patches_grad_positions", "positions", at);
  Tensor result = torch::stable::new_empty(positions, sizes_of(positions));
  with_real_type(canvas, [&](auto zero) {
    using T = decltype(zero);
    grad_positions_kernel<T>(image_stack<const T>(grads), image_stack<const T>(source), at.const_data_ptr<double>(),
                             result.mutable_data_ptr<double>());
  });
  return result;
}

}  // namespace
}  // namespace ptycho::cpu

STABLE_TORCH_LIBRARY_IMPL(ptycho, CPU, m) {
  m.impl("extract_patches", TORCH_BOX(&ptycho::cpu::extract_patches));
  m.impl("extract_patches_adjoint", TORCH_BOX(&ptycho::cpu::extract_patches_adjoint));
  m.impl("extract_patches_grad_positions", TORCH_BOX(&ptycho::cpu::extract_patches_grad_positions));
}
