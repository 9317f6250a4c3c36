// SPDX-License-Identifier: BSD-3-Clause
// The operators of csrc/cuda, from their own sources, with their blocks run on the CPU: torch.ops.ptycho_blocks. The
// library's schemas are registered a second time under that name.
#define PTYCHO_LIBRARY ptycho_blocks
#define PTYCHO_DEVICE CPU

#include "cuda/extract.cu"
#include "cuda/plan.cu"
#include "cuda/reassemble.cu"
#include "cuda/translate.cu"
#include "library.cpp"
