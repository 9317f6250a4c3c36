// SPDX-License-Identifier: BSD-3-Clause
// What torch's dispatcher calls for exit_waves, its adjoints and its derivative, written once for all backends: the
// inputs are checked, the result is made or checked, and the backend's function `into` writes to it. A Context is made
// from the tensor that names the device, is alive while the work is done or enqueued, and makes results: cpu::Host,
// cuda::Queue.
#pragma once

#include "ops/exit_waves/checks.h"
#include "runtime/checks.h"

namespace ptycho::dispatch {

// into(context, canvas, positions, probe, order, waves)
template <typename Context, auto into>
Tensor exit_waves(const Tensor& canvas, const Tensor& positions, const Tensor& probe, const MaybeTensor& order) {
  check_exit_waves_inputs(canvas, positions, probe);
  const Context context(canvas);
  Tensor waves = context.output(canvas, leading(positions, 1), modes_shape(probe));
  into(context, canvas, positions, probe, order, waves);
  return waves;
}

template <typename Context, auto into>
void exit_waves_out(const Tensor& canvas, const Tensor& positions, const Tensor& probe, const MaybeTensor& order,
                    Tensor out) {
  check_exit_waves_inputs(canvas, positions, probe);
  Check("exit_waves").out("out", out, canvas, leading(positions, 1), modes_shape(probe));
  into(Context(canvas), canvas, positions, probe, order, out);
}

// into(context, waves, positions, probe, tile_start, tile_patches, canvas)
template <typename Context, auto into>
Tensor exit_waves_adjoint(const Tensor& waves, const Tensor& positions, const Tensor& probe, const Sizes& canvas_size,
                          const MaybeTensor& tile_start, const MaybeTensor& tile_patches) {
  check_exit_waves_adjoint_inputs(waves, positions, probe, canvas_size);
  const Context context(waves);
  Tensor canvas = context.output(waves, leading(waves, 4), canvas_size);
  into(context, waves, positions, probe, tile_start, tile_patches, canvas);
  return canvas;
}

template <typename Context, auto into>
void exit_waves_adjoint_out(const Tensor& waves, const Tensor& positions, const Tensor& probe,
                            const MaybeTensor& tile_start, const MaybeTensor& tile_patches, Tensor out) {
  check_exit_waves_adjoint_inputs(waves, positions, probe, trailing(out));
  Check("exit_waves_adjoint").out("out", out, waves, leading(waves, 4), trailing(out));
  into(Context(waves), waves, positions, probe, tile_start, tile_patches, out);
}

// into(context, waves, canvas, positions, shared, order, probe)
template <typename Context, auto into>
Tensor exit_waves_adjoint_probe(const Tensor& waves, const Tensor& canvas, const Tensor& positions, bool shared,
                                const MaybeTensor& order) {
  check_exit_waves_adjoint_probe_inputs(waves, canvas, positions);
  const Context context(waves);
  Tensor probe = context.output(waves, shared ? Shape() : leading(waves, 3), modes_shape(waves));
  into(context, waves, canvas, positions, shared, order, probe);
  return probe;
}

template <typename Context, auto into>
void exit_waves_adjoint_probe_out(const Tensor& waves, const Tensor& canvas, const Tensor& positions, bool shared,
                                  const MaybeTensor& order, Tensor out) {
  check_exit_waves_adjoint_probe_inputs(waves, canvas, positions);
  const Check check("exit_waves_adjoint_probe");
  check.out("out", out, waves, shared ? Shape() : leading(waves, 3), modes_shape(waves));
  into(Context(waves), waves, canvas, positions, shared, order, out);
}

// into(context, grad_waves, canvas, positions, probe, order, result)
template <typename Context, auto into>
Tensor exit_waves_grad_positions(const Tensor& grad_waves, const Tensor& canvas, const Tensor& positions,
                                 const Tensor& probe, const MaybeTensor& order) {
  check_exit_waves_grad_positions_inputs(grad_waves, canvas, positions, probe);
  const Context context(canvas);
  Tensor result = context.output(positions, positions.sizes(), Shape());
  into(context, grad_waves, canvas, positions, probe, order, result);
  return result;
}

}  // namespace ptycho::dispatch
