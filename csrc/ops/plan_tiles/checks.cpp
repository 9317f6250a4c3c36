// SPDX-License-Identifier: BSD-3-Clause
// The rules of plan_tiles' inputs, in the order in which they are applied.
#include "ops/plan_tiles/checks.h"

#include "runtime/checks.h"

namespace ptycho {

void check_plan_tiles_inputs(const Tensor& positions, Shape patch_size, Shape canvas_size) {
  const Check check("plan_tiles");
  check.type("positions", positions, DataType::float64);
  check.dims("positions", positions, 2, "(..., n, 2)");
  check.shape("positions", positions, leading(positions, 1), {2});
  check.size("patch_size", patch_size);
  check.size("canvas_size", canvas_size);
  check.holds_patch("canvas_size", canvas_size, patch_size);
}

}  // namespace ptycho
