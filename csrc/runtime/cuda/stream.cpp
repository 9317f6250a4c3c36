// SPDX-License-Identifier: BSD-3-Clause
// The one thing that is wanted of libtorch_cuda itself. It is looked up in the library that torch has loaded instead of
// being linked to, so that this library builds against, and loads under, a torch without CUDA.
#include "runtime/cuda/stream.h"

#include <dlfcn.h>

#include <stdexcept>

namespace ptycho::cuda {
namespace {

using GetStream = int32_t (*)(int32_t device_index, void** stream);  // of torch/csrc/inductor/aoti_torch/c/shim.h

GetStream find_get_stream() {
  void* const torch_cuda = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
  void* const function = torch_cuda ? dlsym(torch_cuda, "aoti_torch_get_current_cuda_stream") : nullptr;
  if (!function) throw std::runtime_error("ptycho_ext: torch must be a build with CUDA, got one without its streams");
  return reinterpret_cast<GetStream>(function);
}

}  // namespace

cudaStream_t current_stream(int32_t device_index) {
  static const GetStream get_stream = find_get_stream();
  void* stream = nullptr;
  if (get_stream(device_index, &stream) != 0)
    throw std::runtime_error("ptycho_ext: torch must have a current CUDA stream, got an error");
  return static_cast<cudaStream_t>(stream);
}

}  // namespace ptycho::cuda
