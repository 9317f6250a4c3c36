// SPDX-License-Identifier: BSD-3-Clause
// translate_images on the CPU and its adjoint, parallel over blocks of output rows. Bilinear: the patch of the image
// at -shift, and its transpose is the translation by the opposite shift, the hat function being even. Nearest:
// separable index maps; the map is not decreasing, so the transpose gathers a contiguous run of rows per output row.
#include "ops/translate_images/dispatch.h"
#include "ops/translate_images/nearest.h"
#include "runtime/cpu/tile_sums.h"

namespace ptycho::cpu {
namespace {

// A large image makes several units of work.
constexpr int64_t kBlockRows = 64;

// sign = 1 translates by the shifts, -1 by their opposite.
template <typename T>
void bilinear_kernel(const ImageStack<const T>& images, const double* shifts, double sign, const ImageStack<T>& out,
                     bool past_caches) {
  const int64_t lanes = images.lanes;
  const int64_t stride = out.cols * lanes;
  const auto uneven = (reinterpret_cast<uintptr_t>(out.data) | (stride * sizeof(T))) % 64;
  const Write write = past_caches && !uneven ? Write::stream : Write::store;
  const int64_t blocks = (out.rows + kBlockRows - 1) / kBlockRows;
  const int64_t work = std::min(out.rows, kBlockRows) * stride;
  parallel_for(out.count * blocks, grain(work), [&](int64_t begin, int64_t end) {
    Workspace<T> scratch(scratch_size<T>(out.cols, lanes));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t k = i / blocks;
      const int64_t first = i % blocks * kBlockRows;
      Taps<T> y = gather_taps<T>(-sign * shifts[2 * k]);
      y.first += first;
      const Taps<T> x = gather_taps<T>(-sign * shifts[2 * k + 1]);
      const PatchView<T> view{
          images[k].data, images.rows, images.cols, lanes, y, x, std::min(kBlockRows, out.rows - first),
          out.cols,       nullptr};
      kernels<T>().interpolate(view, out[k].row(first), stride, write, scratch.data());
    }
    kernels<T>().fence();
  });
}

// Source index of every output index along one axis, -1 for none.
std::vector<int64_t> nearest_map(double shift, int64_t n) {
  std::vector<int64_t> map(n);
  for (int64_t i = 0; i < n; ++i) map[i] = NearestMap{shift, n}(i);
  return map;
}

template <typename T>
void nearest_kernel(const ImageStack<const T>& images, const double* shifts, const ImageStack<T>& out) {
  const int64_t lanes = images.lanes;
  parallel_for(out.count * out.rows, grain(out.cols * lanes), [&](int64_t begin, int64_t end) {
    std::vector<int64_t> columns;
    for (int64_t r = begin; r < end; ++r) {
      const int64_t k = r / out.rows;
      const int64_t i = r % out.rows;
      if (r == begin || i == 0) columns = nearest_map(shifts[2 * k + 1], out.cols);
      const int64_t from = NearestMap{shifts[2 * k], images.rows}(i);
      T* target = out[k].row(i);
      for (int64_t j = 0; j < out.cols; ++j)
        for (int64_t lane = 0; lane < lanes; ++lane)
          target[j * lanes + lane] =
              from >= 0 && columns[j] >= 0 ? images[k].row(from)[columns[j] * lanes + lane] : T(0);
    }
  });
}

template <typename T>
void nearest_adjoint_kernel(const ImageStack<const T>& grads, const double* shifts, const ImageStack<T>& out) {
  const int64_t lanes = grads.lanes;
  parallel_for(out.count * out.rows, grain(out.cols * lanes), [&](int64_t begin, int64_t end) {
    std::vector<int64_t> columns;
    for (int64_t r = begin; r < end; ++r) {
      const int64_t k = r / out.rows;
      const int64_t i = r % out.rows;
      if (r == begin || i == 0) columns = nearest_map(shifts[2 * k + 1], out.cols);
      T* target = out[k].row(i);
      std::fill(target, target + out.cols * lanes, T(0));
      const NearestMap down{shifts[2 * k], out.rows};
      const Span near = down.near(i);
      for (int64_t q = near.begin; q < near.end; ++q) {
        if (down(q) != i) continue;
        const T* source = grads[k].row(q);
        for (int64_t j = 0; j < grads.cols; ++j)
          for (int64_t lane = 0; lane < lanes && columns[j] >= 0; ++lane)
            target[columns[j] * lanes + lane] += source[j * lanes + lane];
      }
    }
  });
}

void translate_into(const Host&, const char* op, const Tensor& images, const Tensor& shifts, const std::string& mode,
                    bool adjoint, Tensor& result) {
  const Tensor source = as_contiguous(images);
  const Tensor by = as_contiguous(shifts);
  check_finite(op, "shifts", by);
  const double* values = read<double>(by);
  with_real_type(images, [&](auto zero) {
    using T = decltype(zero);
    const ImageStack<const T> from = image_stack<const T>(source);
    const ImageStack<T> to = image_stack<T>(result);
    if (mode == "bilinear") {
      bilinear_kernel(from, values, adjoint ? -1.0 : 1.0, to, exceeds_cache(result));
    } else if (adjoint) {
      nearest_adjoint_kernel(from, values, to);
    } else {
      nearest_kernel(from, values, to);
    }
  });
}

}  // namespace
}  // namespace ptycho::cpu

STABLE_TORCH_LIBRARY_IMPL(ptycho, CPU, m) {
  namespace dispatch = ptycho::dispatch;
  namespace backend = ptycho::cpu;
  using backend::Host;
  m.impl("translate_images", TORCH_BOX((&dispatch::translate_images<Host, backend::translate_into>)));
  m.impl("translate_images_out", TORCH_BOX((&dispatch::translate_images_out<Host, backend::translate_into>)));
  m.impl("translate_images_adjoint", TORCH_BOX((&dispatch::translate_images_adjoint<Host, backend::translate_into>)));
}
