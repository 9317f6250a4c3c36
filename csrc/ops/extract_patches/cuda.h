// SPDX-License-Identifier: BSD-3-Clause
// The launch of the block program Extract, for everything that is a patch of an image at a sub-pixel position.
#pragma once

#include "runtime/cuda/launch.h"

namespace ptycho::cuda {

// patches[k] = the patch of canvas k / scan.per_group at `sign` times position k, times its weights where there are
// any. All tensors contiguous; order: see Extract.
void launch_extract(const Queue& queue, const Tensor& canvases, const Scan& scan, double sign, const int64_t* order,
                    const MaybeTensor& weights, Tensor& patches);

// The same as what dispatch.h calls.
void extract_into(const Queue& queue, const char* op, const Tensor& canvas, const Tensor& positions,
                  const MaybeTensor& order, const MaybeTensor& weights, Tensor& patches);

}  // namespace ptycho::cuda
