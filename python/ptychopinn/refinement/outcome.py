# SPDX-License-Identifier: BSD-3-Clause
"""The state of a refinement as a reconstruction, in the scan's coordinates, with its ambiguities removed."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ptycho_ext import CanvasGeometry
from ptychopinn.config import RefineConfig
from ptychopinn.experiment import Experiment
from ptychopinn.findings.gate import check_metadata
from ptychopinn.physics.overlap import accumulate_weight
from ptychopinn.physics.propagation import squared_modulus
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.refinement.ambiguities import fit_affine, mode_powers, orthogonalise_modes, probe_drift
from ptychopinn.refinement.joint import Joint
from ptychopinn.refinement.state import State
from ptychopinn.refinement.variations import orthogonalise_variations
from ptychopinn.refinement_report import RefinementReport
from ptychopinn.scan import Scan


def as_reconstruction(
    scan: Scan,
    experiment: Experiment,
    geometry: CanvasGeometry,
    state: State,
    residuals: Tensor,
    initial_probe: Tensor,
    config: RefineConfig,
    report: RefinementReport,
    joint: Joint | None = None,
) -> Reconstruction:
    """Make a reconstruction of a state, in the scan's coordinates and with its ambiguities removed.

    Args:
        scan: the scan.
        experiment: that the refinement began with.
        geometry: of the canvas.
        state: refined.
        residuals: (n,), deviance of every pattern per detector pixel.
        initial_probe: complex, (M, N, N), whose power and centre are kept.
        config: of the refinement.
        report: of the refinement; the powers of modes and the affine map of the positions are added.
        joint: if the scan is several; of those with a probe each, the probe has the modes of all, in their basis.
    """
    mean_probe, variations, coefficients = state.probe, state.variations, state.coefficients
    if config.learn_variation_coefficients:
        mean_probe, variations, coefficients = orthogonalise_variations(mean_probe, variations, coefficients)
    # With variations of the first mode, the modes are no longer a choice of basis.
    each = joint is not None and joint.labels is not None
    probe = mean_probe if len(variations) or each else orthogonalise_modes(mean_probe)
    if config.probe_support is not None or config.probe_threshold:
        # The change of the basis rounds.
        inside = (state.probe != 0).any(0)
        probe, variations = probe * inside, variations * inside
    slices = state.object if state.object.dim() == 3 else None
    image = state.object if slices is None else state.object.prod(0)
    if config.keep_power:
        factor = torch.sqrt(squared_modulus(initial_probe).sum() / squared_modulus(probe).sum())
        probe, variations, image = probe * factor, variations * factor, image / factor
        if slices is not None:
            slices = slices * factor ** (-1 / len(slices))
    # A disc that contains the probe has its place in the array.
    free = config.centre_probe and config.probe_support is None
    drift = probe_drift(probe, initial_probe) if free else (0, 0)
    probe, variations = (part.roll((-drift[0], -drift[1]), (1, 2)) for part in (probe, variations))
    patch_positions = state.positions + state.positions.new_tensor(drift)
    origin = tuple(float(v - d) for v, d in zip(geometry.origin, drift, strict=True))
    illumination, error = (
        sum(
            accumulate_weight(squared_modulus(modes).sum(0), patch_positions[rows], values[rows], geometry.shape)
            for modes, rows in ([(probe, slice(None))] if joint is None else joint.probes_of(probe))
        )
        for values in (torch.ones_like(residuals), residuals)
    )
    assert isinstance(illumination, Tensor) and isinstance(error, Tensor)
    positions = geometry.to_scan(state.positions.cpu()).numpy()
    ((a, b), (c, d)), (y, x) = (part.tolist() for part in fit_affine(scan.positions, positions))
    return Reconstruction(
        object=image.to("cpu", copy=True).numpy(),  # the engine continues in its own memory
        weights=illumination.cpu().numpy(),
        origin=(origin[0], origin[1]),
        probe=probe.cpu().numpy(),
        positions=positions,
        residuals=residuals.to("cpu", copy=True).numpy(),
        error_map=(error / illumination.clamp_min(1e-6 * float(illumination.max()))).cpu().numpy(),
        intensities=torch.exp(state.intensities).cpu().numpy() if config.learn_intensities else None,
        pixel_size=scan.pixel_size,
        metadata={"scan": scan.name, "patterns": scan.n, **check_metadata([scan])},
        acquisition=scan.acquisition,
        orientation=scan.orientation,
        slices=None if slices is None else slices.to("cpu", copy=True).numpy(),
        experiment=_found_experiment(experiment, state, variations, coefficients),
        refinement=dataclasses.replace(
            report,
            mode_powers=tuple(mode_powers(probe).tolist()),
            affine_matrix=((a, b), (c, d)),
            affine_shift=(y, x),
        ),
    )


def _found_experiment(experiment: Experiment, state: State, variations: Tensor, coefficients: Tensor) -> Experiment:
    """The experiment with what was refined of it."""
    found: dict[str, Any] = {}
    if len(variations):
        found["probe_variations"] = variations.cpu().numpy()
        found["variation_coefficients"] = coefficients.cpu().numpy()
    if state.background.numel():
        background = np.fft.fftshift(state.background.square().cpu().numpy())
        found["background"] = background.astype(np.float32)
    if state.distances.numel():
        found["slice_distances"] = tuple(state.distances.tolist())
    return dataclasses.replace(experiment, **found)
