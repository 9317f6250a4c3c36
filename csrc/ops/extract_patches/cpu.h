// SPDX-License-Identifier: BSD-3-Clause
// Extraction on the CPU, for the adjoint of reassembly as well.
#pragma once

#include "runtime/cpu/outputs.h"

namespace ptycho::cpu {

// patches[k] = the patch of its canvas at position k, times its weights where there are any; see dispatch.h.
void extract_into(const Host&, const char* op, const Tensor& canvas, const Tensor& positions, const MaybeTensor& order,
                  const MaybeTensor& weights, Tensor& patches);

}  // namespace ptycho::cpu
