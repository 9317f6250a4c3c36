// SPDX-License-Identifier: BSD-3-Clause
// exit_waves on CUDA, its adjoints and its derivative with respect to the positions. The waves move once, the canvas
// and the probe stay in the L2 cache; nothing of the size of the waves is made on the way. The shared probe and the
// derivative are summed in fixed orders that are not the CPU's.
#include "ops/exit_waves/blocks.h"
#include "ops/exit_waves/dispatch.h"
#include "ops/extract_patches/position_gradient.h"
#include "runtime/cuda/data_types.h"
#include "runtime/cuda/plan.h"
#include "runtime/cuda/tiles.h"

namespace ptycho::cuda {
namespace {

// factors: the probe, or, conjugate, waves; shared: see ExitWaves
template <bool conjugate>
void launch_exit_waves(const Queue& queue, const char* op, const Tensor& canvas, const Tensor& positions,
                       const Tensor& factors, bool shared, const MaybeTensor& order, Tensor& out) {
  const Tensor source = as_contiguous(canvas);
  const Tensor at = as_contiguous(positions);
  const Tensor by = as_contiguous(factors);
  const Scan scan = scan_of(at, trailing(out));
  const Order sequence(op, scan, at, order);
  with_data_type(canvas, [&](auto zero, auto lanes) {
    using T = decltype(zero);
    const ExitWaves<T, lanes.value, conjugate> program{image_stack<const T>(source),
                                                       scan,
                                                       sequence.data(),
                                                       image_stack<const T>(by),
                                                       shared,
                                                       image_stack<T>(out),
                                                       modes_shape(out)[0],
                                                       StripGrid(scan.count(), scan.h, scan.w)};
    launch(queue, program, program.blocks());
  });
}

void exit_waves_into(const Queue& queue, const Tensor& canvas, const Tensor& positions, const Tensor& probe,
                     const MaybeTensor& order, Tensor& waves) {
  launch_exit_waves<false>(queue, "exit_waves", canvas, positions, probe, probe.dim() == 3, order, waves);
}

void adjoint_into(const Queue& queue, const Tensor& waves, const Tensor& positions, const Tensor& probe,
                  const MaybeTensor& tile_start, const MaybeTensor& tile_patches, Tensor& canvas) {
  const Tensor source = as_contiguous(waves);
  const Tensor at = as_contiguous(positions);
  const Tensor factors = as_contiguous(probe);
  const Scan scan = scan_of(at, trailing(waves));
  const TileGrid grid = square_tiles(scan.groups, trailing(canvas)[0], trailing(canvas)[1]);
  const Tiles tiles(queue, "exit_waves_adjoint", grid, scan, at, tile_start, tile_patches);
  with_data_type(waves, [&](auto zero, auto lanes) {
    using T = decltype(zero);
    using Sums = ModeSums<T, lanes.value>;
    const Sums sums{image_stack<const T>(source), image_stack<const T>(factors), modes_shape(waves)[0]};
    const SumTiles<T, lanes.value, false, Sums> program{
        sums, {}, scan, grid, tiles.lists, image_stack<T>(canvas), {}, nullptr, tiles.state};
    launch_tiles(queue, program);
  });
}

void adjoint_probe_into(const Queue& queue, const Tensor& waves, const Tensor& canvas, const Tensor& positions,
                        bool shared, const MaybeTensor& order, Tensor& probe) {
  const char* const op = "exit_waves_adjoint_probe";
  if (!shared) return launch_exit_waves<true>(queue, op, canvas, positions, waves, waves.dim() == 3, order, probe);
  const Tensor from = as_contiguous(waves);
  const Tensor source = as_contiguous(canvas);
  const Tensor at = as_contiguous(positions);
  const Scan scan = scan_of(at, trailing(waves));
  const Order sequence(op, scan, at, order);  // checked, and not used: the sum's order is that of the patches
  with_data_type(waves, [&](auto zero, auto lanes) {
    using T = decltype(zero);
    using Program = SumProbe<T, lanes.value>;
    const StripGrid grid(scan.count(), scan.h, scan.w);
    const int64_t modes = modes_shape(waves)[0], parts = Program::parts_of(grid, modes);
    const Tensor sums = parts > 1 ? queue.output(probe, {parts}, probe.sizes()) : probe;
    const Program program{
        image_stack<const T>(source), scan, image_stack<const T>(from), modes, parts, grid, write<T>(sums)};
    launch(queue, program, program.blocks());
    if (parts == 1) return;
    const int64_t size = probe.numel() * lanes.value;
    launch(queue, SumProbeParts<T>{read<T>(sums), parts, size, write<T>(probe)}, blocks_for<SumProbeParts<T>>(size));
  });
}

void grad_positions_into(const Queue& queue, const Tensor& grad_waves, const Tensor& canvas, const Tensor& positions,
                         const Tensor& probe, const MaybeTensor& order, Tensor& result) {
  const Tensor grads = as_contiguous(grad_waves);
  const Tensor source = as_contiguous(canvas);
  const Tensor at = as_contiguous(positions);
  const Tensor factors = as_contiguous(probe);
  const Scan scan = scan_of(at, trailing(grads));
  const Order sequence("exit_waves_grad_positions", scan, at, order);
  with_data_type(canvas, [&](auto zero, auto lanes) {
    using T = decltype(zero);
    using Sums = ModeSums<T, lanes.value>;
    using Program = PositionGradient<T, lanes.value, Sums>;
    const StripGrid grid(scan.count(), scan.h, scan.w);
    const uint32_t parts = Program::parts_of(grid);
    const Tensor sums = parts > 1 ? queue.output(at, {scan.count(), parts}, {2}) : result;
    auto* const partial = write<GradientSum>(sums);
    const Program program{Sums{image_stack<const T>(grads), image_stack<const T>(factors), modes_shape(grads)[0]},
                          image_stack<const T>(source),
                          scan,
                          sequence.data(),
                          partial,
                          grid,
                          parts};
    launch(queue, program, program.blocks());
    if (parts > 1)
      launch(queue, SumParts{partial, parts, scan.count(), write<GradientSum>(result)},
             blocks_for<SumParts>(scan.count()));
  });
}

}  // namespace
}  // namespace ptycho::cuda

STABLE_TORCH_LIBRARY_IMPL(PTYCHO_LIBRARY, PTYCHO_DEVICE, m) {
  namespace dispatch = ptycho::dispatch;
  namespace backend = ptycho::cuda;
  using backend::Queue;
  m.impl("exit_waves", TORCH_BOX((&dispatch::exit_waves<Queue, backend::exit_waves_into>)));
  m.impl("exit_waves_out", TORCH_BOX((&dispatch::exit_waves_out<Queue, backend::exit_waves_into>)));
  m.impl("exit_waves_adjoint", TORCH_BOX((&dispatch::exit_waves_adjoint<Queue, backend::adjoint_into>)));
  m.impl("exit_waves_adjoint_out", TORCH_BOX((&dispatch::exit_waves_adjoint_out<Queue, backend::adjoint_into>)));
  m.impl("exit_waves_adjoint_probe",
         TORCH_BOX((&dispatch::exit_waves_adjoint_probe<Queue, backend::adjoint_probe_into>)));
  m.impl("exit_waves_adjoint_probe_out",
         TORCH_BOX((&dispatch::exit_waves_adjoint_probe_out<Queue, backend::adjoint_probe_into>)));
  m.impl("exit_waves_grad_positions",
         TORCH_BOX((&dispatch::exit_waves_grad_positions<Queue, backend::grad_positions_into>)));
}
