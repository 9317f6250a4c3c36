// SPDX-License-Identifier: BSD-3-Clause
// plan_tiles on the CPU: the lists of maths/tile_plan.h as tensors. One thread: a plan is made once per scan.
#include <cstring>

#include "ops/plan_tiles/checks.h"
#include "runtime/checks.h"
#include "runtime/cpu/plan.h"

namespace ptycho::cpu {
namespace {

Tensor to_tensor(const Tensor& model, const std::vector<int64_t>& values) {
  const auto count = static_cast<int64_t>(values.size());
  Tensor tensor = new_indices(model, count);
  if (count > 0) std::memcpy(tensor.mutable_data_ptr(), values.data(), values.size() * sizeof(int64_t));
  return tensor;
}

std::tuple<Tensor, Tensor, Tensor> plan_tiles(const Tensor& positions, const Sizes& patch_size,
                                              const Sizes& canvas_size) {
  check_plan_tiles_inputs(positions, patch_size, canvas_size);
  const Tensor at = as_contiguous(positions);
  check_finite("plan_tiles", "positions", at);
  const Scan scan = scan_of(at, patch_size);
  const TilePlan plan = ptycho::plan_tiles(tile_grid(scan.groups, canvas_size[0], canvas_size[1]), scan);
  return {to_tensor(at, patch_order(scan)), to_tensor(at, plan.start), to_tensor(at, plan.patches)};
}

}  // namespace
}  // namespace ptycho::cpu

STABLE_TORCH_LIBRARY_IMPL(ptycho, CPU, m) {
  m.impl("plan_tiles", TORCH_BOX(&ptycho::cpu::plan_tiles));
}
