// SPDX-License-Identifier: BSD-3-Clause
// Reassembly on CUDA, for the operators that begin with one.
#pragma once

#include "runtime/cuda/launch.h"

namespace ptycho::cuda {

// image: the patches' sum, or for an eps their mean, weighted; weight_sum: of the weights. See dispatch.h.
void merge_into(const Queue& queue, const char* op, const Tensor& patches, const Tensor& positions,
                const Tensor& weights, std::optional<double> eps, const MaybeTensor& tile_start,
                const MaybeTensor& tile_patches, Tensor& image, Tensor& weight_sum);

}  // namespace ptycho::cuda
