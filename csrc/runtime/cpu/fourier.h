// SPDX-License-Identifier: BSD-3-Clause
// The plans of the Fourier transforms that this process has made: a plan is read only, and threads share it.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "maths/simd/fourier.h"

namespace ptycho::cpu {

// The plan for images (h, w), whose sides have stages.
template <typename T>
std::shared_ptr<const FourierPlan<T>> fourier_plan(int64_t h, int64_t w) {
  constexpr size_t most = 64;  // kept; a program uses few sizes
  static std::mutex mutex;
  static std::map<std::pair<int64_t, int64_t>, std::shared_ptr<const FourierPlan<T>>> plans;
  const std::lock_guard lock(mutex);
  const auto found = plans.find({h, w});
  if (found != plans.end()) return found->second;
  if (plans.size() == most) plans.clear();
  return plans[{h, w}] = std::make_shared<const FourierPlan<T>>(h, w);
}

}  // namespace ptycho::cpu
