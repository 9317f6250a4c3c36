// SPDX-License-Identifier: BSD-3-Clause
// The schemas of exit_waves, its adjoints and its derivative with respect to the positions; library.cpp states what they
// have in common. waves (..., n, M, h, w); probe (M, h, w), the same for all patches, or (..., n, M, h, w).
#pragma once

namespace ptycho {

inline constexpr const char* exit_waves_schemas[] = {
    "exit_waves(Tensor canvas, Tensor positions, Tensor probe, Tensor? order=None) -> Tensor",
    "exit_waves_out(Tensor canvas, Tensor positions, Tensor probe, Tensor? order, Tensor(a!) out) -> ()",
    "exit_waves_adjoint(Tensor waves, Tensor positions, Tensor probe, SymInt[2] canvas_size, Tensor? tile_start=None,"
    " Tensor? tile_patches=None) -> Tensor",
    "exit_waves_adjoint_out(Tensor waves, Tensor positions, Tensor probe, Tensor? tile_start, Tensor? tile_patches,"
    " Tensor(a!) out) -> ()",
    "exit_waves_adjoint_probe(Tensor waves, Tensor canvas, Tensor positions, bool shared, Tensor? order=None)"
    " -> Tensor",
    "exit_waves_adjoint_probe_out(Tensor waves, Tensor canvas, Tensor positions, bool shared, Tensor? order,"
    " Tensor(a!) out) -> ()",
    "exit_waves_grad_positions(Tensor grad_waves, Tensor canvas, Tensor positions, Tensor probe, Tensor? order=None)"
    " -> Tensor",
};

}  // namespace ptycho
