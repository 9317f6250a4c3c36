// SPDX-License-Identifier: BSD-3-Clause
// translate_images on CUDA and its adjoint. Bilinear: the patch of every image at minus its shift, so the program is
// that of extraction with one patch to a canvas, and the transpose is the translation by the opposite shift.
#include "ops/extract_patches/cuda.h"
#include "ops/translate_images/dispatch.h"
#include "ops/translate_images/nearest_block.h"
#include "runtime/cuda/data_types.h"

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
  const Tensor source = as_contiguous(images);
  const Tensor by = as_contiguous(shifts);
  const double* values = read<double>(by);
  if (mode == "bilinear") {
    const Scan scan{values, product(leading(images, 2)), 1, trailing(images)[0], trailing(images)[1]};
    return launch_extract(queue, source, scan, adjoint ? 1.0 : -1.0, nullptr, std::nullopt, result);
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
  namespace dispatch = ptycho::dispatch;
  namespace backend = ptycho::cuda;
  using backend::Queue;
  m.impl("translate_images", TORCH_BOX((&dispatch::translate_images<Queue, backend::translate_into>)));
  m.impl("translate_images_out", TORCH_BOX((&dispatch::translate_images_out<Queue, backend::translate_into>)));
  m.impl("translate_images_adjoint", TORCH_BOX((&dispatch::translate_images_adjoint<Queue, backend::translate_into>)));
}
