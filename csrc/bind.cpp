// SPDX-License-Identifier: BSD-3-Clause
// The module _C: how the native side was built and what this processor offers, for `ptychopinn doctor` and bug reports.
// No tensors pass through here; the operators are reached through torch's dispatcher. Its path also tells the
// Python side where the other libraries are.
#include <pybind11/pybind11.h>

#include "maths/simd/simd_level.h"

namespace py = pybind11;
using namespace py::literals;

namespace {

py::dict build_info() {
  return py::dict("version"_a = PTYCHO_VERSION, "compiler"_a = PTYCHO_COMPILER, "build_type"_a = PTYCHO_BUILD_TYPE,
                  "cxx_standard"_a = static_cast<long>(__cplusplus), "flags"_a = PTYCHO_FLAGS,
                  "native"_a = static_cast<bool>(PTYCHO_NATIVE), "torch_version"_a = PTYCHO_TORCH_VERSION,
                  "torch_target_abi"_a = PTYCHO_TORCH_TARGET, "parallel_backend"_a = "torch", "openmp"_a = false,
                  "cuda"_a = PTYCHO_CUDA_VERSION, "cuda_architectures"_a = PTYCHO_CUDA_TARGETS);
}

#if defined(__x86_64__) || defined(__i386__)
const char* processor_level() {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f")) return "avx512";
  if (__builtin_cpu_supports("avx2")) return "avx2";
  if (__builtin_cpu_supports("avx")) return "avx";
  return "sse2";
}
#elif defined(__ARM_NEON)
const char* processor_level() {
  return "neon";
}
#else
const char* processor_level() {
  return "scalar";
}
#endif

py::dict simd_level() {
  const char* chosen = ptycho::cpu::simd_name(ptycho::cpu::simd_level());
  return py::dict("processor"_a = processor_level(), "operators"_a = chosen);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Build and processor information of ptycho_ext.";
  m.def("build_info", &build_info, "How the native libraries were built, as a dict.");
  m.def("simd_level", &simd_level, "Vector instruction sets: what the processor has and what the operators use.");
}
