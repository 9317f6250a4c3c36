// SPDX-License-Identifier: BSD-3-Clause
// plan_tiles on CUDA: keys are made by a thread per patch and sorted; see maths/blocks/plan.h and runtime/cuda/plan.h.
#include <bit>

#include "maths/blocks/plan.h"
#include "ops/plan_tiles/checks.h"
#include "runtime/cuda/plan.h"

namespace ptycho::cuda {
namespace {

Tensor make_order(const Queue& queue, const Scan& scan, Shape canvas_size, const Tensor& positions) {
  const Tensor keys = new_indices(positions, scan.count()), sorted_keys = new_indices(positions, scan.count());
  const Tensor values = new_indices(positions, scan.count()), order = new_indices(positions, scan.count());
  auto* const unsorted = write<uint64_t>(keys);
  const OrderKeys program(scan, canvas_size[0], canvas_size[1], unsorted, write<int64_t>(values));
  launch(queue, program, blocks_for<OrderKeys>(scan.count()));
  if (scan.count() > 0)
    sort_by_key(queue, positions, unsorted, write<uint64_t>(sorted_keys), read<int64_t>(values), write<int64_t>(order),
                scan.count(), std::bit_width(program.largest()));
  return order;
}

std::tuple<Tensor, Tensor, Tensor> plan_tiles(const Tensor& positions, const Sizes& patch_size,
                                              const Sizes& canvas_size) {
  check_plan_tiles_inputs(positions, patch_size, canvas_size);
  const Queue queue(positions);
  const Tensor at = as_contiguous(positions);
  const Scan scan = scan_of(at, patch_size);
  Lists lists = make_lists(queue, square_tiles(scan.groups, canvas_size[0], canvas_size[1]), scan, at);
  return {make_order(queue, scan, canvas_size, at), lists.start, lists.patches};
}

}  // namespace
}  // namespace ptycho::cuda

STABLE_TORCH_LIBRARY_IMPL(PTYCHO_LIBRARY, PTYCHO_DEVICE, m) {
  m.impl("plan_tiles", TORCH_BOX(&ptycho::cuda::plan_tiles));
}
