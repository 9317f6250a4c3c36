// SPDX-License-Identifier: BSD-3-Clause
// translate_images on CUDA and its adjoint. Bilinear: the window of every image at minus its shift, so the program is
// that of extraction with one patch to a canvas, and the transpose is the translation by the opposite shift.
#include "checks.h"
#include "cuda/launch.h"
#include "cuda/types.h"
#include "ptycho/blocks/extract.h"
#include "ptycho/blocks/nearest.h"

namespace ptycho::cuda {
namespace {

template <typename T, int lanes>
void launch_bilinear(const Queue& queue, const ImageStack<const T>& images, const double* shifts, double sign,
                     const ImageStack<T>& out) {
  using Program = Extract<T, lanes, false>;
  const Scan scan{shifts, out.count, 1, out.rows, out.cols};
  const Program program{images, scan, sign, nullptr, {}, out, StripGrid(out.count, out.rows, out.cols)};
  launch(queue, program, program.blocks());
}

template <typename T, int lanes, bool adjoint>
void launch_nearest(const Queue& queue, const ImageStack<const T>& images, const double* shifts,
                    const ImageStack<T>& out) {
  using Program = Nearest<T, lanes, adjoint>;
  const Program program{images, shifts, out};
  launch(queue, program, (program.pixels() + Program::kThreads - 1) / Program::kThreads);
}

void translate_into(const Queue& queue, const Tensor& images, const Tensor& shifts, const std::string& mode,
                    bool adjoint, Tensor& result) {
  if (result.numel() == 0) return;
  const Tensor source = torch::stable::contiguous(images);
  const Tensor by = torch::stable::contiguous(shifts);
  const double* values = by.const_data_ptr<double>();
  with_data_type(images, [&](auto zero, auto lanes) {
    using T = decltype(zero);
    const ImageStack<const T> from = image_stack<const T>(source);
    const ImageStack<T> to = image_stack<T>(result);
    if (mode == "bilinear") {
      launch_bilinear<T, lanes.value>(queue, from, values, adjoint ? 1.0 : -1.0, to);
    } else if (adjoint) {
      launch_nearest<T, lanes.value, true>(queue, from, values, to);
    } else {
      launch_nearest<T, lanes.value, false>(queue, from, values, to);
    }
  });
}

Tensor translated(const char* op, const Tensor& images, const Tensor& shifts, const std::string& mode, bool adjoint) {
  check_translate_images_inputs(op, images, shifts, mode);
  const Queue queue(images);
  Tensor result = torch::stable::new_empty(images, sizes_of(images));
  translate_into(queue, images, shifts, mode, adjoint, result);
  return result;
}

Tensor translate_images(const Tensor& images, const Tensor& shifts, StringHandle mode) {
  return translated("translate_images", images, shifts, take_string(mode), false);
}

void translate_images_out(const Tensor& images, const Tensor& shifts, StringHandle mode_handle, Tensor out) {
  const std::string mode = take_string(mode_handle);
  check_translate_images_inputs("translate_images", images, shifts, mode);
  check_out("translate_images", "out", out, images, sizes_of(images));
  const Queue queue(images);
  translate_into(queue, images, shifts, mode, false, out);
}

Tensor translate_images_adjoint(const Tensor& images, const Tensor& shifts, StringHandle mode) {
  return translated("translate_images_adjoint", images, shifts, take_string(mode), true);
}

}  // namespace
}  // namespace ptycho::cuda

STABLE_TORCH_LIBRARY_IMPL(PTYCHO_LIBRARY, PTYCHO_DEVICE, m) {
  m.impl("translate_images", TORCH_BOX(&ptycho::cuda::translate_images));
  m.impl("translate_images_out", TORCH_BOX(&ptycho::cuda::translate_images_out));
  m.impl("translate_images_adjoint", TORCH_BOX(&ptycho::cuda::translate_images_adjoint));
}
