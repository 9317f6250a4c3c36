// SPDX-License-Identifier: BSD-3-Clause
// What torch's dispatcher calls for overlap_project, written once for all backends: the inputs are checked, the result
// is made or checked, and the backend's function `into` writes to it. A Context is made from the tensor that names the
// device, is alive while the work is done or enqueued, and makes results: cpu::Host, cuda::Queue.
#pragma once

#include "ops/overlap_project/checks.h"
#include "runtime/checks.h"

namespace ptycho::dispatch {

// into(context, patches, positions, weights, canvas_size, eps, projected)
template <typename Context, auto into>
Tensor overlap_project(const Tensor& patches, const Tensor& positions, const Tensor& weights, const Sizes& canvas_size,
                       double eps) {
  check_overlap_project_inputs(patches, positions, weights, canvas_size, eps);
  const Context context(patches);
  Tensor projected = context.output(patches, patches.sizes(), Shape());
  into(context, patches, positions, weights, canvas_size, eps, projected);
  return projected;
}

template <typename Context, auto into>
void overlap_project_out(const Tensor& patches, const Tensor& positions, const Tensor& weights,
                         const Sizes& canvas_size, double eps, Tensor out) {
  const Check check("overlap_project");
  check_overlap_project_inputs(patches, positions, weights, canvas_size, eps);
  check.out("out", out, patches, patches.sizes(), Shape());
  check.apart("out", out, {&patches, &positions, &weights});
  into(Context(patches), patches, positions, weights, canvas_size, eps, out);
}

}  // namespace ptycho::dispatch
