// SPDX-License-Identifier: BSD-3-Clause
// exit_waves on the CPU, its adjoints and its derivative with respect to the positions. No stack of patches and none of
// products is made: some rows of a patch, or of a sum over the modes, are written to a thread's scratch, which stays in
// the L1 cache, and used from there. Each output has one writer.
#include "ops/exit_waves/dispatch.h"
#include "runtime/cpu/row_blocks.h"
#include "runtime/cpu/tile_sums.h"

namespace ptycho::cpu {
namespace {

constexpr int64_t kScratchBytes = int64_t{1} << 13;  // of the rows that are at hand

// Rows of a patch, each of `scalars`, that are made together.
template <typename T>
int64_t rows_at_once(int64_t scalars) {
  return clamp(kScratchBytes / static_cast<int64_t>(sizeof(T)) / std::max<int64_t>(1, scalars), 1, kBlockRows);
}

// Images of M modes for every patch, or for all of them, as one stack.
template <typename T>
struct Modes {
  ImageStack<T> images;
  int64_t count;  // M
  bool shared;

  explicit Modes(const Tensor& tensor)
      : images(image_stack<T>(tensor)), count(modes_shape(tensor)[0]), shared(tensor.dim() == 3) {}
  int64_t row_stride() const { return images.cols * images.lanes; }
  int64_t stride() const { return images.rows * row_stride(); }
  T* row(int64_t k, int64_t r) const { return images.data + (shared ? 0 : k) * count * stride() + r * row_stride(); }
};

Write write_of(const Tensor& out) {
  return exceeds_cache(out) ? Write::stream : Write::store;
}

// Calls use(k, first row, rows, patch) for all rows of all patches, some at a time. patch: those rows, in scratch.
template <typename T, typename Use>
void for_each_part_of_patch(const ImageStack<const T>& canvases, const Scan& scan, const Order& order, const Use& use) {
  const int64_t stride = scan.w * canvases.lanes;
  const int64_t rows = rows_at_once<T>(stride);
  const int64_t blocks = blocks_of(scan.h, rows);
  for_each_block<T>(
      canvases, scan, order,
      [&](const PatchView<T>& view, int64_t block, int64_t, T* scratch) {
        T* const patch = scratch + scratch_size<T>(scan.w, canvases.lanes);
        kernels<T>().interpolate(view, patch, stride, Write::store, scratch);
        use(block / blocks, block % blocks * rows, view.rows, patch);
      },
      rows * stride, rows);
}

// A patch that is used once is multiplied in registers.
template <typename T>
void one_mode_kernel(const ImageStack<const T>& canvases, const Scan& scan, const Order& order,
                     const Modes<const T>& probe, const Modes<T>& out, Write write) {
  const int64_t stride = out.row_stride(), blocks = blocks_of(scan.h);
  if ((reinterpret_cast<uintptr_t>(out.images.data) | (stride * sizeof(T))) % 64) write = Write::store;
  for_each_block<T>(canvases, scan, order, [&](PatchView<T> view, int64_t block, int64_t, T* scratch) {
    const int64_t k = block / blocks, row = block % blocks * kBlockRows;
    view.weights = probe.row(k, row);
    view.complex_weights = canvases.lanes == 2;
    kernels<T>().interpolate(view, out.row(k, row), stride, write, scratch);
  });
}

void exit_waves_into(const Host&, const Tensor& canvas, const Tensor& positions, const Tensor& probe,
                     const MaybeTensor& order, Tensor& waves) {
  const Tensor source = as_contiguous(canvas);
  const Tensor at = as_contiguous(positions);
  const Tensor factors = as_contiguous(probe);
  const char* const op = "exit_waves";
  check_finite(op, "positions", at);
  const Scan scan = scan_of(at, trailing(waves));
  const Order sequence(op, scan, at, bytes_of(canvas), order);
  const Write write = write_of(waves);
  with_real_type(canvas, [&](auto zero) {
    using T = decltype(zero);
    const Modes<const T> modes(factors);
    const Modes<T> out(waves);
    const int64_t lanes = out.images.lanes;
    if (out.count == 1) return one_mode_kernel(image_stack<const T>(source), scan, sequence, modes, out, write);
    for_each_part_of_patch<T>(
        image_stack<const T>(source), scan, sequence, [&](int64_t k, int64_t row, int64_t rows, const T* patch) {
          for (int64_t m = 0; m < out.count; ++m)
            kernels<T>().multiply(patch, modes.row(k, row) + m * out.stride(), false, lanes,
                                  out.row(k, row) + m * out.stride(), rows * out.row_stride(), write);
        });
  });
}

// Adds to a tile's sums its part of the patch sum_m conj(probe[m]) * waves[m]; next: the first wave of the tile's next
// patch. The lines of the sum over the modes that the rows of the tile are interpolated from are made some at a time;
// those of one real mode are made in registers.
template <typename T>
void add_waves(T* sums, const Tile& tile, const Modes<const T>& waves, const Modes<const T>& probe, const Scan& scan,
               int64_t k, const T* next, T* scratch) {
  const int64_t lanes = waves.images.lanes, stride = waves.row_stride();
  if (waves.count == 1 && lanes == 1) {
    Splat<T> splat(tile, waves.row(k, 0), lanes, scan, k, next);
    splat.view.factors = probe.row(k, 0);
    kernels<T>().interpolate(splat.view, sums + splat.pixel, tile.stride<T>(), Write::add, scratch);
    return;
  }
  T* const lines = scratch + scratch_size<T>(tile.width(), lanes);
  const Splat<T> splat(tile, nullptr, lanes, scan, k, nullptr);
  const int64_t at_once = rows_at_once<T>(stride);
  Span made{0, 0};
  for (int64_t r = 0; r < splat.view.rows; r += at_once) {
    PatchView<T> part = splat.view;
    part.rows = std::min(at_once, splat.view.rows - r);
    part.y.first += r;
    const Span needed = clip({part.y.first, part.y.first + part.rows + 1}, 0, scan.h);
    const int64_t kept = made.end > made.begin && made.end == needed.begin + 1 ? 1 : 0;  // the last line made
    if (kept > 0) std::copy_n(lines + (made.end - 1 - made.begin) * stride, stride, lines);
    const int64_t first = needed.begin + kept;
    const T* const from = waves.row(k, first);
    part.next = r + at_once < splat.view.rows ? from + at_once * stride : next;
    kernels<T>().sum_modes(from, probe.row(k, first), waves.count, waves.stride(), lanes, lines + kept * stride,
                           (needed.end - first) * stride, part.next);
    part.source = lines;
    part.source_rows = needed.end - needed.begin;
    part.y.first -= needed.begin;
    kernels<T>().interpolate(part, sums + (splat.pixel + r * tile.stride<T>()) * lanes, tile.stride<T>() * lanes,
                             Write::add, scratch);
    made = needed;
  }
}

void adjoint_into(const Host&, const Tensor& waves, const Tensor& positions, const Tensor& probe,
                  const MaybeTensor& tile_start, const MaybeTensor& tile_patches, Tensor& canvas) {
  const Tensor source = as_contiguous(waves);
  const Tensor at = as_contiguous(positions);
  const Tensor factors = as_contiguous(probe);
  const char* const op = "exit_waves_adjoint";
  check_finite(op, "positions", at);
  const Scan scan = scan_of(at, trailing(waves));
  const TileGrid grid = tile_grid(scan.groups, trailing(canvas)[0], trailing(canvas)[1]);
  const Tiles tiles(op, grid, scan, at, tile_start, tile_patches);
  const bool past_caches = exceeds_cache(canvas);
  with_real_type(waves, [&](auto zero) {
    using T = decltype(zero);
    const Modes<const T> from(source), modes(factors);
    const ImageStack<T> to = image_stack<T>(canvas);
    const int64_t lanes = to.lanes, stride = from.row_stride();
    for_each_tile<T>(
        tiles, lanes, lanes,
        [&](int64_t t, const Tile& tile, T* sums, T* scratch) {
          for (int64_t i = tiles.start[t]; i < tiles.start[t + 1]; ++i) {
            const int64_t k = tiles.patches[i];
            const int64_t after = tiles.patches[std::min(i + 1, tiles.start[t + 1] - 1)];
            const T* const next = first_sample<T>(tile, from.row(after, 0), lanes, scan, after);
            add_waves<T>(sums, tile, from, modes, scan, k, next, scratch);
          }
          write_tile(to[tile.group], tile, sums, past_caches);
        },
        (rows_at_once<T>(stride) + 1) * stride);
  });
}

// The sum over all patches is divided into so many at most, each of successive patches; added in their order.
constexpr int64_t kPartsAtMost = 16;
constexpr int64_t kPatchesOfPart = 8;  // at least

// sums = the sum over patches [begin, end) of conj(patch) * waves, for rows [row, row + rows). sums: as the probe
template <typename T>
void sum_part(const ImageStack<const T>& canvases, const Scan& scan, const Modes<const T>& waves, Span patches,
              int64_t row, int64_t rows, T* sums, T* scratch) {
  const int64_t lanes = canvases.lanes, stride = waves.row_stride(), count = rows * stride;
  T* const patch = scratch + scratch_size<T>(scan.w, lanes);
  for (int64_t m = 0; m < waves.count; ++m) {
    T* const to = sums + m * waves.stride() + row * stride;
    std::fill(to, to + count, T(0));
  }
  for (int64_t k = patches.begin; k < patches.end; ++k) {
    const PatchView<T> view = view_of(canvases[scan.group_of(k)], scan.positions + 2 * k, row, rows, scan.w);
    kernels<T>().interpolate(view, patch, stride, Write::store, scratch);
    for (int64_t m = 0; m < waves.count; ++m) {
      const T* const from = waves.row(k, row) + m * waves.stride();
      const T* const next = k + 1 < patches.end ? from + waves.count * waves.stride() : nullptr;
      kernels<T>().add_products(from, patch, lanes, sums + m * waves.stride() + row * stride, count, next);
    }
  }
}

template <typename T>
void shared_probe_kernel(const ImageStack<const T>& canvases, const Scan& scan, const Modes<const T>& waves, T* probe) {
  const int64_t parts = clamp(scan.count() / kPatchesOfPart, 1, kPartsAtMost);
  const int64_t stride = waves.row_stride(), size = waves.count * waves.stride();
  const int64_t rows = rows_at_once<T>(stride), blocks = blocks_of(scan.h, rows);
  const Workspace<T> partial(parts > 1 ? parts * size : 0);
  T* const sums = parts > 1 ? partial.data() : probe;
  for_each_chunk(parts * blocks, 1, [&] {
    return [&, scratch = Workspace<T>(scratch_size<T>(scan.w, canvases.lanes) + rows * stride)](int64_t i, int64_t) {
      const int64_t part = i / blocks, row = i % blocks * rows;
      const Span patches{part * scan.count() / parts, (part + 1) * scan.count() / parts};
      sum_part(canvases, scan, waves, patches, row, std::min(rows, scan.h - row), sums + part * size, scratch.data());
    };
  });
  if (parts == 1) return;
  parallel_for(size, grain(parts), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      T sum = sums[i];
      for (int64_t part = 1; part < parts; ++part) sum += sums[part * size + i];
      probe[i] = sum;
    }
  });
}

void adjoint_probe_into(const Host&, const Tensor& waves, const Tensor& canvas, const Tensor& positions, bool shared,
                        const MaybeTensor& order, Tensor& probe) {
  const Tensor from = as_contiguous(waves);
  const Tensor source = as_contiguous(canvas);
  const Tensor at = as_contiguous(positions);
  const char* const op = "exit_waves_adjoint_probe";
  check_finite(op, "positions", at);
  const Scan scan = scan_of(at, trailing(waves));
  const Order sequence(op, scan, at, shared ? 0 : bytes_of(canvas), order);
  const Write write = write_of(probe);
  with_real_type(canvas, [&](auto zero) {
    using T = decltype(zero);
    const Modes<const T> in(from);
    const ImageStack<const T> canvases = image_stack<const T>(source);
    if (shared) return shared_probe_kernel(canvases, scan, in, ptycho::write<T>(probe));
    const Modes<T> out(probe);
    for_each_part_of_patch<T>(canvases, scan, sequence, [&](int64_t k, int64_t row, int64_t rows, const T* patch) {
      for (int64_t m = 0; m < out.count; ++m)
        kernels<T>().multiply(in.row(k, row) + m * in.stride(), patch, true, canvases.lanes,
                              out.row(k, row) + m * out.stride(), rows * out.row_stride(), write);
    });
  });
}

void grad_positions_into(const Host&, const Tensor& grad_waves, const Tensor& canvas, const Tensor& positions,
                         const Tensor& probe, const MaybeTensor& order, Tensor& result) {
  const Tensor grads = as_contiguous(grad_waves);
  const Tensor source = as_contiguous(canvas);
  const Tensor at = as_contiguous(positions);
  const Tensor factors = as_contiguous(probe);
  const char* const op = "exit_waves_grad_positions";
  check_finite(op, "positions", at);
  const Scan scan = scan_of(at, trailing(grads));
  const Order sequence(op, scan, at, bytes_of(canvas), order);
  with_real_type(canvas, [&](auto zero) {
    using T = decltype(zero);
    const Modes<const T> from(grads), modes(factors);
    const ImageStack<const T> canvases = image_stack<const T>(source);
    const int64_t blocks = blocks_of(scan.h), stride = from.row_stride();
    std::vector<double> sums(2 * scan.count() * blocks, 0.0);
    for_each_block<T>(
        canvases, scan, sequence,
        [&](const PatchView<T>& view, int64_t block, int64_t next, T* scratch) {
          T* const products = scratch + scratch_size<T>(scan.w, canvases.lanes);
          const int64_t k = block / blocks, row = block % blocks * kBlockRows;
          const T* const after = from.row(next / blocks, next % blocks * kBlockRows);
          kernels<T>().sum_modes(from.row(k, row), modes.row(k, row), from.count, from.stride(), canvases.lanes,
                                 products, view.rows * stride, after);
          kernels<T>().position_gradient(view, products, nullptr, sums.data() + 2 * block, scratch);
        },
        std::min(kBlockRows, scan.h) * stride);
    sum_blocks(sums, scan.count(), blocks, write<double>(result));
  });
}

}  // namespace
}  // namespace ptycho::cpu

STABLE_TORCH_LIBRARY_IMPL(ptycho, CPU, m) {
  namespace dispatch = ptycho::dispatch;
  namespace backend = ptycho::cpu;
  using backend::Host;
  m.impl("exit_waves", TORCH_BOX((&dispatch::exit_waves<Host, backend::exit_waves_into>)));
  m.impl("exit_waves_out", TORCH_BOX((&dispatch::exit_waves_out<Host, backend::exit_waves_into>)));
  m.impl("exit_waves_adjoint", TORCH_BOX((&dispatch::exit_waves_adjoint<Host, backend::adjoint_into>)));
  m.impl("exit_waves_adjoint_out", TORCH_BOX((&dispatch::exit_waves_adjoint_out<Host, backend::adjoint_into>)));
  m.impl("exit_waves_adjoint_probe",
         TORCH_BOX((&dispatch::exit_waves_adjoint_probe<Host, backend::adjoint_probe_into>)));
  m.impl("exit_waves_adjoint_probe_out",
         TORCH_BOX((&dispatch::exit_waves_adjoint_probe_out<Host, backend::adjoint_probe_into>)));
  m.impl("exit_waves_grad_positions",
         TORCH_BOX((&dispatch::exit_waves_grad_positions<Host, backend::grad_positions_into>)));
}
