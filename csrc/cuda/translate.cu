// SPDX-License-Identifier: BSD-3-Clause
// translate_images on CUDA and its adjoint. Bilinear: the window of every image at minus its shift, so the program is
// that of extraction with one patch to a canvas, and the transpose is the translation by the opposite shift.
#include "cuda/extract.h"
#include "cuda/types.h"
#include "entries.h"
#include "ptycho/blocks/nearest.h"

namespace ptycho::cuda {
namespace {

template <typename T, int lanes, bool adjoint>
void launch_nearest(const Queue& queue, const ImageStack<const T>& images, const double* shifts,
                    const ImageStack<T>& out) {
  using Program = Nearest<T, lanes, adjoint>;
  const Program program{images, shifts, out};
  launch(queue, program, blocks_for<Program>(program.pixels()));
}

void translate_into(const Queue& queue, const char*, const Tensor& images, const Tensor& shifts,
                    const std::string& mode, bool adjoint, Tensor& result) {
  if (result.numel() == 0) return;
  const Tensor source = torch::stable::contiguous(images);
  const Tensor by = torch::stable::contiguous(shifts);
  const double* values = by.const_data_ptr<double>();
  if (mode == "bilinear") {
    const int64_t dims = images.dim();
    const Scan scan{values, product(leading(images, 2)), 1, images.size(dims - 2), images.size(dims - 1)};
    return extract_windows(queue, source, scan, adjoint ? 1.0 : -1.0, nullptr, std::nullopt, result);
  }
  with_data_type(images, [&](auto zero, auto lanes) {
    using T = decltype(zero);
    const ImageStack<const T> from = image_stack<const T>(source);
    const ImageStack<T> to = image_stack<T>(result);
    if (adjoint) {
      launch_nearest<T, lanes.value, true>(queue, from, values, to);
    } else {
      launch_nearest<T, lanes.value, false>(queue, from, values, to);
    }
  });
}

}  // namespace
}  // namespace ptycho::cuda

STABLE_TORCH_LIBRARY_IMPL(PTYCHO_LIBRARY, PTYCHO_DEVICE, m) {
  namespace entries = ptycho::entries;
  namespace backend = ptycho::cuda;
  using backend::Queue;
  m.impl("translate_images", TORCH_BOX((&entries::translate_images<Queue, backend::translate_into>)));
  m.impl("translate_images_out", TORCH_BOX((&entries::translate_images_out<Queue, backend::translate_into>)));
  m.impl("translate_images_adjoint", TORCH_BOX((&entries::translate_images_adjoint<Queue, backend::translate_into>)));
}
