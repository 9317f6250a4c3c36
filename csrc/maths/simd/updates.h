// SPDX-License-Identifier: BSD-3-Clause
// The inner loops of update_canvas and its backward, as a table of functions: updates.cpp is compiled once per
// instruction set, as kernels.cpp is. A call works on a part of one group.
#pragma once

#include <cstdint>

#include "maths/canvas_update.h"

namespace ptycho::cpu {

template <typename T>
struct UpdateKernels {
  // Of pixels [begin, end) of all groups' ones.
  void (*update)(const CanvasUpdate<T>& update, int64_t begin, int64_t end, const UpdateScalars<T>& by,
                 const UpdateOutputs<T>& to);
  // Writes the gradients of these pixels, and what they contribute to those of the scalars.
  void (*pass_back)(const CanvasUpdate<T>& update, int64_t begin, int64_t end, const UpdateScalars<T>& by,
                    const UpdateGradsView<T>& grads, const UpdateGradOutputs<T>& to, UpdateSums* sums);
};

// The table of the level chosen for this process.
template <typename T>
const UpdateKernels<T>& update_kernels();

// One table per compiled level.
namespace baseline {
template <typename T>
const UpdateKernels<T>& update_table();
}
namespace avx2 {
template <typename T>
const UpdateKernels<T>& update_table();
}
namespace avx512 {
template <typename T>
const UpdateKernels<T>& update_table();
}

}  // namespace ptycho::cpu
