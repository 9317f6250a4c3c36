// SPDX-License-Identifier: BSD-3-Clause
// Making the lists of plan.h. The number of tile-patch pairs depends on the positions, which the host does
// not see; nothing here waits for the device.
#include <bit>
#include <stdexcept>
#include <string>

#include "maths/blocks/plan.h"
#include "runtime/checks.h"
#include "runtime/cuda/plan.h"

namespace ptycho::cuda {
namespace {

Tensor new_keys(const Tensor& model, int64_t count) {
  return new_tensor(model, count, aoti_torch_dtype_int32());
}

// Tiles that a patch can touch at most, down and across.
struct Slots {
  int64_t down;
  int64_t across;

  Slots(const TileGrid& grid, const Scan& scan)
      : down(touched_at_most(scan.h, grid.tile_rows, grid.tiles_down())),
        across(touched_at_most(scan.w, grid.tile_cols, grid.tiles_across())) {}
};

}  // namespace

Lists make_lists(const Queue& queue, const TileGrid& grid, const Scan& scan, const Tensor& positions,
                 const MaybeTensor& counters) {
  const Slots slots(grid, scan);
  const int64_t length = scan.count() * slots.down * slots.across;
  const Tensor keys = new_keys(positions, length), values = new_indices(positions, length);
  const Tensor sorted_keys = new_keys(positions, length);
  Lists lists{new_indices(positions, grid.tiles() + 1), new_indices(positions, length)};
  auto* const unsorted = write<uint32_t>(keys);
  auto* const sorted = write<uint32_t>(sorted_keys);
  const EmitPairs emit{scan,
                       grid,
                       slots.down,
                       slots.across,
                       unsorted,
                       write<int64_t>(values),
                       counters ? write<int64_t>(*counters) : nullptr,
                       counters ? counters->numel() : 0};
  launch(queue, emit, blocks_for<EmitPairs>(emit.items()));
  if (length > 0)
    sort_by_key(queue, positions, unsorted, sorted, read<int64_t>(values), write<int64_t>(lists.patches), length,
                std::bit_width(static_cast<uint64_t>(grid.tiles())));
  const FindStarts find{sorted, length, grid.tiles(), write<int64_t>(lists.start)};
  launch(queue, find, blocks_for<FindStarts>(grid.tiles() + 1));
  return lists;
}

Tiles::Tiles(const Queue& queue, const char* op, const TileGrid& grid, const Scan& scan, const Tensor& positions,
             const MaybeTensor& tile_start, const MaybeTensor& tile_patches, bool for_mean)
    : grid(grid),
      lists{nullptr, nullptr, 0},
      state(nullptr),
      start_(plan_list(op, positions, tile_start)),
      patches_(plan_list(op, positions, tile_patches)) {
  check_plan(start_.has_value() == patches_.has_value(), op);
  check_plan(!start_ || start_->numel() == grid.tiles() + 1, op);
  if (scan.w > kWidestLine) [[unlikely]]
    throw std::runtime_error(std::string(op) + ": patches must be at most " + std::to_string(kWidestLine) +
                             " pixels wide, got " + std::to_string(scan.w));
  const bool needs_lists = start_ || scan.per_group > kFewPatches;
  if (needs_lists || for_mean) {
    state_ = new_indices(positions, scan.groups * (sizeof(CanvasState) / sizeof(int64_t)));
    state = write<CanvasState>(*state_);
    // Lists that are made set it to zero on the way; a memset is a launch of its own.
    if (start_ || !needs_lists) zero(queue, state, scan.groups * sizeof(CanvasState));
  }
  if (!needs_lists) return;
  if (!start_) {
    Lists made = make_lists(queue, grid, scan, positions, state_);
    start_ = made.start;
    patches_ = made.patches;
  }
  lists = {read<int64_t>(*start_), read<int64_t>(*patches_), patches_->numel()};
}

Order::Order(const char* op, const Scan& scan, const Tensor& positions, const MaybeTensor& order)
    : order_(plan_list(op, positions, order)) {
  check_plan(!order_ || order_->numel() == scan.count(), op);
}

}  // namespace ptycho::cuda
