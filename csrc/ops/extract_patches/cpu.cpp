// SPDX-License-Identifier: BSD-3-Clause
// extract_patches on the CPU, its adjoint and its derivative with respect to the positions. Extraction and derivative
// are parallel over blocks of patch rows, processed in the order of the plan; the adjoint over canvas tiles (see
// tile_sums.h). Each output has one writer.
#include "ops/extract_patches/cpu.h"

#include "ops/extract_patches/dispatch.h"
#include "runtime/cpu/row_blocks.h"
#include "runtime/cpu/tile_sums.h"

namespace ptycho::cpu {
namespace {

// weights: as the patches, or one for all, in as many scalars to a pixel; null for none.
template <typename T>
void extract_kernel(const ImageStack<const T>& canvases, const Scan& scan, const Order& order,
                    const ImageStack<const T>* weights, const ImageStack<T>& patches, bool past_caches) {
  const int64_t stride = patches.cols * patches.lanes;
  const auto uneven = (reinterpret_cast<uintptr_t>(patches.data) | (stride * sizeof(T))) % 64;
  const Write write = past_caches && !uneven ? Write::stream : Write::store;
  const BlockRows<T> rows(patches);
  for_each_block<T>(canvases, scan, order, [&](PatchView<T> view, int64_t block, int64_t, T* scratch) {
    if (weights) view.weights = BlockRows<const T>(*weights)(weights->count == 1 ? block % rows.blocks : block);
    kernels<T>().interpolate(view, rows(block), stride, write, scratch);
  });
}

// Per patch the sums over its pixels of <g, d patch / d y> and <g, d patch / d x>.
template <typename T>
void grad_positions_kernel(const ImageStack<const T>& grads, const ImageStack<const T>& canvases, const Scan& scan,
                           const Order& order, double* result) {
  const int64_t blocks = blocks_of(scan.h);
  const BlockRows<const T> rows(grads);
  std::vector<double> sums(2 * scan.count() * blocks, 0.0);
  for_each_block<T>(canvases, scan, order, [&](const PatchView<T>& view, int64_t block, int64_t next, T* scratch) {
    kernels<T>().position_gradient(view, rows(block), rows(next), sums.data() + 2 * block, scratch);
  });
  sum_blocks(sums, scan.count(), blocks, result);
}

// Every weight as often as a pixel of the data has scalars.
Tensor in_lanes(const Tensor& weights, int64_t lanes) {
  const Tensor source = as_contiguous(weights);
  if (lanes == 1) return source;
  const int64_t rows = product(leading(weights, 1)), cols = trailing(weights)[1];
  Tensor wide = Host(weights).output(weights, leading(weights, 1), {cols * lanes});
  with_real_type(weights, [&](auto zero) {
    using T = decltype(zero);
    const T* const from = read<T>(source);
    T* const to = write<T>(wide);
    parallel_for(rows, grain(cols), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin * cols; i < end * cols; ++i) to[2 * i] = to[2 * i + 1] = from[i];
    });
  });
  return wide;
}

void adjoint_into(const Host&, const Tensor& patches, const Tensor& positions, const MaybeTensor& tile_start,
                  const MaybeTensor& tile_patches, Tensor& canvas) {
  const Tensor source = as_contiguous(patches);
  const Tensor at = as_contiguous(positions);
  const char* const op = "extract_patches_adjoint";
  check_finite(op, "positions", at);
  const Scan scan = scan_of(at, trailing(patches));
  const TileGrid grid = tile_grid(scan.groups, trailing(canvas)[0], trailing(canvas)[1]);
  const Tiles tiles(op, grid, scan, at, tile_start, tile_patches);
  const bool past_caches = exceeds_cache(canvas);
  with_real_type(patches, [&](auto zero) {
    using T = decltype(zero);
    const ImageStack<const T> from = image_stack<const T>(source);
    const ImageStack<T> to = image_stack<T>(canvas);
    for_each_tile<T>(tiles, from.lanes, from.lanes, [&](int64_t t, const Tile& tile, T* sums, T* scratch) {
      for (int64_t i = tiles.start[t]; i < tiles.start[t + 1]; ++i) {
        const int64_t k = tiles.patches[i];
        const int64_t after = tiles.patches[std::min(i + 1, tiles.start[t + 1] - 1)];
        const T* next = first_sample<T>(tile, from[after].data, from.lanes, scan, after);
        add_patch<T>(sums, tile, from[k].data, from.lanes, scan, k, next, scratch);
      }
      write_tile(to[tile.group], tile, sums, past_caches);
    });
  });
}

void grad_positions_into(const Host&, const Tensor& grad_patches, const Tensor& canvas, const Tensor& positions,
                         const MaybeTensor& order, Tensor& result) {
  const Tensor grads = as_contiguous(grad_patches);
  const Tensor source = as_contiguous(canvas);
  const Tensor at = as_contiguous(positions);
  const char* const op = "extract_patches_grad_positions";
  check_finite(op, "positions", at);
  const Scan scan = scan_of(at, trailing(grads));
  const Order sequence(op, scan, at, bytes_of(canvas), order);
  with_real_type(canvas, [&](auto zero) {
    using T = decltype(zero);
    grad_positions_kernel<T>(image_stack<const T>(grads), image_stack<const T>(source), scan, sequence,
                             write<double>(result));
  });
}

}  // namespace

void extract_into(const Host&, const char* op, const Tensor& canvas, const Tensor& positions, const MaybeTensor& order,
                  const MaybeTensor& weights, Tensor& patches) {
  const Tensor source = as_contiguous(canvas);
  const Tensor at = as_contiguous(positions);
  check_finite(op, "positions", at);
  const Scan scan = scan_of(at, trailing(patches));
  const Order sequence(op, scan, at, bytes_of(canvas), order);
  const MaybeTensor wide = weights ? std::optional(in_lanes(*weights, lanes_of(canvas))) : std::nullopt;
  with_real_type(canvas, [&](auto zero) {
    using T = decltype(zero);
    std::optional<ImageStack<const T>> by;
    if (wide) by = image_stack<const T>(*wide);
    extract_kernel<T>(image_stack<const T>(source), scan, sequence, by ? &*by : nullptr, image_stack<T>(patches),
                      exceeds_cache(patches));
  });
}

}  // namespace ptycho::cpu

STABLE_TORCH_LIBRARY_IMPL(ptycho, CPU, m) {
  namespace dispatch = ptycho::dispatch;
  namespace backend = ptycho::cpu;
  using backend::Host;
  m.impl("extract_patches", TORCH_BOX((&dispatch::extract_patches<Host, backend::extract_into>)));
  m.impl("extract_patches_out", TORCH_BOX((&dispatch::extract_patches_out<Host, backend::extract_into>)));
  m.impl("extract_patches_adjoint", TORCH_BOX((&dispatch::extract_patches_adjoint<Host, backend::adjoint_into>)));
  m.impl("extract_patches_adjoint_out",
         TORCH_BOX((&dispatch::extract_patches_adjoint_out<Host, backend::adjoint_into>)));
  m.impl("extract_patches_grad_positions",
         TORCH_BOX((&dispatch::extract_patches_grad_positions<Host, backend::grad_positions_into>)));
}
