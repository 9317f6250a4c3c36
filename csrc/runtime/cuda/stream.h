// SPDX-License-Identifier: BSD-3-Clause
// torch's current CUDA stream.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace ptycho::cuda {

cudaStream_t current_stream(int32_t device_index);

}  // namespace ptycho::cuda
