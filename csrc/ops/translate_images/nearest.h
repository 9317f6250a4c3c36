// SPDX-License-Identifier: BSD-3-Clause
// The nearest-sample translation along one axis: which input an output reads, and which outputs may read an input.
#pragma once

#include "maths/views.h"

namespace ptycho {

// The map does not decrease, so an input is read by a run of outputs.
struct NearestMap {
  double shift;
  int64_t n;

  // The sample that output q reads, -1 for none.
  PTYCHO_HD int64_t operator()(int64_t q) const { return nearest_sample(static_cast<double>(q) - shift, n); }

  // All outputs that read sample i are among these: q reads rint(q - shift), so it is within one of i + shift.
  PTYCHO_HD Span near(int64_t i) const {
    const int64_t centre = to_index(std::floor(static_cast<double>(i) + shift));
    return clip({centre - 1, centre + 3}, 0, n);
  }
};

}  // namespace ptycho
