// SPDX-License-Identifier: BSD-3-Clause
// overlap_project on CUDA: a reassembly and an extraction from it. Unlike on the CPU the canvases of all groups exist,
// as workspace.
#include "ops/extract_patches/cuda.h"
#include "ops/overlap_project/dispatch.h"
#include "ops/reassemble_patches/cuda.h"

namespace ptycho::cuda {
namespace {

void project_into(const Queue& queue, const Tensor& patches, const Tensor& positions, const Tensor& weights,
                  const Sizes& canvas_size, double eps, Tensor& projected) {
  Tensor image = queue.output(patches, leading(patches, 3), canvas_size);
  Tensor weight_sum = queue.output(weights, leading(patches, 3), canvas_size);
  merge_into(queue, "overlap_project", patches, positions, weights, eps, std::nullopt, std::nullopt, image, weight_sum);
  const Tensor at = as_contiguous(positions);
  const Scan scan = scan_of(at, trailing(patches));
  launch_extract(queue, image, scan, 1.0, nullptr, std::nullopt, projected);
}

}  // namespace
}  // namespace ptycho::cuda

STABLE_TORCH_LIBRARY_IMPL(PTYCHO_LIBRARY, PTYCHO_DEVICE, m) {
  namespace dispatch = ptycho::dispatch;
  namespace backend = ptycho::cuda;
  using backend::Queue;
  m.impl("overlap_project", TORCH_BOX((&dispatch::overlap_project<Queue, backend::project_into>)));
  m.impl("overlap_project_out", TORCH_BOX((&dispatch::overlap_project_out<Queue, backend::project_into>)));
}
