// SPDX-License-Identifier: BSD-3-Clause
// The launch of the block program Extract, for everything that is a window of an image at a sub-pixel position.
#pragma once

#include <optional>

#include "cuda/launch.h"

namespace ptycho::cuda {

// patches[k] = the window of canvas k / scan.per_group at `sign` times position k, times its weights where there are
// any. All tensors contiguous; order: see Extract.
void extract_windows(const Queue& queue, const Tensor& canvases, const Scan& scan, double sign, const int64_t* order,
                     const std::optional<Tensor>& weights, Tensor& patches);

}  // namespace ptycho::cuda
