// SPDX-License-Identifier: BSD-3-Clause
// What torch's dispatcher calls for translate_images and its adjoint, written once for all backends: the inputs are
// checked, the result is made or checked, and the backend's function `into` writes to it. A Context is made from the
// tensor that names the device, is alive while the work is done or enqueued, and makes results: cpu::Host, cuda::Queue.
#pragma once

#include "ops/translate_images/checks.h"
#include "runtime/checks.h"

namespace ptycho::dispatch {

// into(context, op, images, shifts, mode, whether to transpose, result)
template <typename Context, auto into>
Tensor translated(const char* op, const Tensor& images, const Tensor& shifts, const std::string& mode, bool adjoint) {
  check_translate_images_inputs(op, images, shifts, mode);
  const Context context(images);
  Tensor result = context.output(images, images.sizes(), Shape());
  into(context, op, images, shifts, mode, adjoint, result);
  return result;
}

template <typename Context, auto into>
Tensor translate_images(const Tensor& images, const Tensor& shifts, StringHandle mode) {
  return translated<Context, into>("translate_images", images, shifts, take_string(mode), false);
}

template <typename Context, auto into>
Tensor translate_images_adjoint(const Tensor& images, const Tensor& shifts, StringHandle mode) {
  return translated<Context, into>("translate_images_adjoint", images, shifts, take_string(mode), true);
}

template <typename Context, auto into>
void translate_images_out(const Tensor& images, const Tensor& shifts, StringHandle mode_handle, Tensor out) {
  const std::string mode = take_string(mode_handle);
  check_translate_images_inputs("translate_images", images, shifts, mode);
  const Check check("translate_images");
  check.out("out", out, images, images.sizes(), Shape());
  check.apart("out", out, {&images, &shifts});
  into(Context(images), "translate_images", images, shifts, mode, false, out);
}

}  // namespace ptycho::dispatch
