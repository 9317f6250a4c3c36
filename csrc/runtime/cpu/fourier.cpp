// SPDX-License-Identifier: BSD-3-Clause
// DFTI is reached at run time, so that one build serves every torch. Its functions and constants are those of Intel's
// reference (oneMKL, "Fourier Transform Functions").
#include "runtime/cpu/fourier.h"

#include <dlfcn.h>

#include <map>
#include <mutex>
#include <tuple>
#include <type_traits>

namespace ptycho::cpu {
namespace {

enum Parameter : int { kThreadLimit = 27, kComplex = 32 };  // DFTI_THREAD_LIMIT, DFTI_COMPLEX

struct Functions {
  using Create = long (*)(void** descriptor, int domain, long dimensions, const long* lengths);
  using Set = long (*)(void* descriptor, int parameter, ...);
  using Commit = long (*)(void* descriptor);
  using Compute = long (*)(void* descriptor, void* image, ...);

  Create create_single = nullptr;
  Create create_double = nullptr;
  Set set = nullptr;
  Commit commit = nullptr;
  Compute forward = nullptr;
  Compute backward = nullptr;

  bool complete() const { return create_single && create_double && set && commit && forward && backward; }
};

Functions find_functions() {
  Functions found;
  void* const library = dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD);
  if (!library) return found;
  const auto find = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
  };
  find(found.create_single, "DftiCreateDescriptor_s_md");
  find(found.create_double, "DftiCreateDescriptor_d_md");
  find(found.set, "DftiSetValue");
  find(found.commit, "DftiCommitDescriptor");
  find(found.forward, "DftiComputeForward");
  find(found.backward, "DftiComputeBackward");
  return found;
}

const Functions& functions() {
  static const Functions found = find_functions();
  return found;
}

}  // namespace

bool FourierPlan::available() {
  return functions().complete();
}

const FourierPlan* FourierPlan::of(int64_t rows, int64_t cols, bool is_double) {
  if (!available() || rows <= 0 || cols <= 0) return nullptr;
  static std::mutex mutex;
  static std::map<std::tuple<int64_t, int64_t, bool>, std::unique_ptr<const FourierPlan>> plans;
  const std::lock_guard lock(mutex);
  std::unique_ptr<const FourierPlan>& plan = plans[{rows, cols, is_double}];
  if (plan) return plan.get();
  const Functions& call = functions();
  const long lengths[] = {static_cast<long>(rows), static_cast<long>(cols)};
  void* descriptor = nullptr;
  // One thread: several images are transformed at once.
  if ((is_double ? call.create_double : call.create_single)(&descriptor, kComplex, 2, lengths) != 0 ||
      call.set(descriptor, kThreadLimit, 1L) != 0 || call.commit(descriptor) != 0)
    return nullptr;
  plan.reset(new FourierPlan(descriptor));
  return plan.get();
}

void FourierPlan::forward(void* image) const {
  functions().forward(descriptor_, image);
}

void FourierPlan::backward(void* image) const {
  functions().backward(descriptor_, image);
}

}  // namespace ptycho::cpu
