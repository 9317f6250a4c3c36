// SPDX-License-Identifier: BSD-3-Clause
// overlap_project on the CPU: the patches of a group are merged on the group's canvas and cut out of it again, in one
// pass per group. Parallel over groups; a thread keeps one canvas in scratch memory, no larger than what the group's
// patches touch, so nothing of the size of all canvases exists. Pixels are summed in index order: bitwise repeatable.
#include <cmath>

#include "checks.h"
#include "cpu/outputs.h"
#include "cpu/rows.h"

namespace ptycho::cpu {
namespace {

// The part of a canvas of the given sizes that the patches (h, w) at the positions (count, 2) touch.
struct Box {
  Span rows;
  Span cols;
};

Box touched(const double* positions, int64_t count, int64_t h, int64_t w, int64_t canvas_rows, int64_t canvas_cols) {
  Box box{{canvas_rows, 0}, {canvas_cols, 0}};
  for (int64_t k = 0; k < count; ++k) {
    const int64_t y = to_index(std::floor(positions[2 * k]));
    const int64_t x = to_index(std::floor(positions[2 * k + 1]));
    const Span rows = clip({y, y + h + 1}, 0, canvas_rows);
    const Span cols = clip({x, x + w + 1}, 0, canvas_cols);
    if (rows.begin == rows.end || cols.begin == cols.end) continue;
    box.rows = {std::min(box.rows.begin, rows.begin), std::max(box.rows.end, rows.end)};
    box.cols = {std::min(box.cols.begin, cols.begin), std::max(box.cols.end, cols.end)};
  }
  return box;
}

// canvas += the transpose of the extraction of a patch at the given taps; it touches one column more than the patch
// has, each a blend of two. buffer: (patch columns + 2) * lanes
template <typename T>
void splat(const Image<T>& canvas, const Image<const T>& patch, const Taps<T>& y, const Taps<T>& x, T* buffer) {
  const Span rows = clip({-y.first - 1, -y.first + patch.rows}, 0, canvas.rows);
  const Span cols = clip({-x.first - 1, -x.first + patch.cols}, 0, canvas.cols);
  const Span columns{cols.begin + x.first, cols.end + x.first + 1};
  const int64_t lanes = canvas.lanes;
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    blend_rows(buffer, patch, r + y.first, y.w0, y.w1, columns);
    interpolate_add(canvas.row(r) + cols.begin * lanes, buffer, x.w0, x.w1, lanes, (cols.end - cols.begin) * lanes);
  }
}

template <typename T>
void extract(const Image<T>& patch, const Image<const T>& canvas, const Taps<T>& y, const Taps<T>& x, T* buffer) {
  for (int64_t i = 0; i < patch.rows; ++i) {
    blend_rows(buffer, canvas, y.first + i, y.w0, y.w1, {x.first, x.first + patch.cols + 1});
    interpolate(patch.row(i), buffer, x.w0, x.w1, patch.lanes, patch.cols * patch.lanes);
  }
}

// out = image * weights; a complex pixel has two lanes and one weight. out may be the image.
template <typename T>
void multiply(T* out, const T* image, const T* weights, int64_t pixels, int64_t lanes) {
  if (lanes == 1) {
    for (int64_t m = 0; m < pixels; ++m) out[m] = image[m] * weights[m];
  } else {
    for (int64_t m = 0; m < pixels; ++m) {
      out[2 * m] = image[2 * m] * weights[m];
      out[2 * m + 1] = image[2 * m + 1] * weights[m];
    }
  }
}

// Weights become their reciprocals where they exceed eps times the largest, and 0 elsewhere.
template <typename T>
void invert(std::vector<T>& weights, T eps) {
  T largest = 0;
  for (const T weight : weights) largest = std::max(largest, weight);
  const T threshold = eps * largest;
  for (T& weight : weights) {
    const bool seen = weight > threshold;
    const T inverse = T(1) / (seen ? weight : T(1));
    weight = seen ? inverse : T(0);
  }
}

template <typename T>
void overlap_kernel(const ImageStack<const T>& patches, const double* positions, const ImageStack<const T>& weights,
                    const Sizes& canvas_size, double eps, int64_t groups, const ImageStack<T>& projected) {
  const int64_t h = patches.rows;
  const int64_t w = patches.cols;
  const int64_t lanes = patches.lanes;
  const int64_t per_group = groups ? patches.count / groups : 0;
  const bool shared_weights = weights.count == 1;
  torch::stable::parallel_for(0, groups, grain(2 * per_group * h * w * lanes), [&](int64_t begin, int64_t end) {
    std::vector<T> image_data;
    std::vector<T> weight_data;
    std::vector<T> product_data(h * w * lanes);
    std::vector<T> buffer((w + 2) * lanes);
    for (int64_t group = begin; group < end; ++group) {
      const int64_t first = group * per_group;
      const Box box = touched(positions + 2 * first, per_group, h, w, canvas_size[0], canvas_size[1]);
      const int64_t rows = std::max<int64_t>(0, box.rows.end - box.rows.begin);
      const int64_t cols = std::max<int64_t>(0, box.cols.end - box.cols.begin);
      image_data.assign(rows * cols * lanes, T(0));
      weight_data.assign(rows * cols, T(0));
      const Image<T> image{image_data.data(), rows, cols, lanes};
      const Image<T> weight{weight_data.data(), rows, cols, 1};
      const Image<const T> product{product_data.data(), h, w, lanes};
      for (int64_t k = first; k < first + per_group; ++k) {
        // Counted from the box's corner, a patch lies less far along and is gathered from further in.
        Taps<T> y = splat_taps<T>(positions[2 * k]);
        Taps<T> x = splat_taps<T>(positions[2 * k + 1]);
        y.first += box.rows.begin;
        x.first += box.cols.begin;
        const Image<const T> patch_weight = weights[shared_weights ? 0 : k];
        multiply(product_data.data(), patches[k].data, patch_weight.data, h * w, lanes);
        splat(image, product, y, x, buffer.data());
        splat(weight, patch_weight, y, x, buffer.data());
      }
      invert(weight_data, static_cast<T>(eps));
      multiply(image.data, image.data, weight.data, rows * cols, lanes);
      for (int64_t k = first; k < first + per_group; ++k) {
        Taps<T> y = gather_taps<T>(positions[2 * k]);
        Taps<T> x = gather_taps<T>(positions[2 * k + 1]);
        y.first -= box.rows.begin;
        x.first -= box.cols.begin;
        extract(projected[k], Image<const T>{image.data, rows, cols, lanes}, y, x, buffer.data());
      }
    }
  });
}

Tensor overlap_project(const Tensor& patches, const Tensor& positions, const Tensor& weights, const Sizes& canvas_size,
                       double eps) {
  check_overlap_project_inputs(patches, positions, weights, canvas_size);
  const Tensor source = torch::stable::contiguous(patches);
  const Tensor weight = torch::stable::contiguous(weights);
  const Tensor at = torch::stable::contiguous(positions);
  check_finite("overlap_project", "positions", at);
  Tensor projected = new_output(patches, sizes_of(patches));
  with_real_type(patches, [&](auto zero) {
    using T = decltype(zero);
    overlap_kernel<T>(image_stack<const T>(source), at.const_data_ptr<double>(), image_stack<const T>(weight),
                      canvas_size, eps, product(leading(patches, 3)), image_stack<T>(projected));
  });
  return projected;
}

}  // namespace
}  // namespace ptycho::cpu

STABLE_TORCH_LIBRARY_IMPL(ptycho, CPU, m) { m.impl("overlap_project", TORCH_BOX(&ptycho::cpu::overlap_project)); }
