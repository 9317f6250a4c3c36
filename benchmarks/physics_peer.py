# SPDX-License-Identifier: BSD-3-Clause
"""Options of pty-chi's LSQML for the scans of benchmarks/physics.py; see benchmarks/refine_peer.py.

They are those that its documentation recommends for the effect, or the only ones that it has. Fly scans and sources of
finite size have no model there: incoherent modes of the probe are the recommended substitute.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from physics_scans import ENERGY, PIXEL, SPREAD, Problem

from ptychopinn.acquisition import wavelength_of
from ptychopinn.physics.probes import add_modes

Adjust = Callable[[Any], None]


def modes(problem: Problem, count: int) -> Adjust:
    """Incoherent modes, with the power of the initial probe."""
    probe = problem.scan.probe
    started = add_modes(probe[0], count, decay=0.2) * np.float32(np.linalg.norm(probe))

    def adjust(options: Any) -> None:
        options.probe_options.initial_guess = started[None]

    return adjust


def variations(problem: Problem, count: int) -> Adjust:
    """Probe variations (OPR modes) with weights, and intensities, of every pattern."""

    def adjust(options: Any) -> None:
        from ptychi.utils import add_additional_opr_probe_modes_to_probe, generate_initial_opr_mode_weights

        torch.manual_seed(0)
        probe = add_additional_opr_probe_modes_to_probe(torch.from_numpy(problem.scan.probe[None]), count)
        weights = generate_initial_opr_mode_weights(problem.scan.n, count + 1)
        options.probe_options.initial_guess = probe
        weight_options = options.opr_mode_weight_options
        weight_options.initial_weights = weights
        weight_options.optimizable = True
        weight_options.optimize_intensity_variation = True
        weight_options.update_relaxation = 0.1  # as in its examples; the default is 1

    return adjust


def spread(problem: Problem) -> Adjust:
    """The point spread of the detector."""

    def adjust(options: Any) -> None:
        options.reconstructor_options.forward_model_options.diffraction_pattern_blur_sigma = SPREAD

    return adjust


def mask(problem: Problem) -> Adjust:
    """Pixels that are saturated in a pattern are masked."""
    limit = problem.scan.experiment.saturation

    def adjust(options: Any) -> None:
        options.data_options.valid_pixel_mask = (problem.scan.counts < limit).all(0)

    return adjust


def near(problem: Problem) -> Adjust:
    """A detector in the near field."""

    def adjust(options: Any) -> None:
        data = options.data_options
        data.free_space_propagation_distance_m, data.fft_shift = problem.distance, False
        data.wavelength_m = wavelength_of(ENERGY, "photon")
        options.object_options.pixel_size_m = PIXEL

    return adjust


def slices(problem: Problem, regularised: float = 0.0) -> Adjust:
    """Two slices at their known distance, optionally with the regularisation of their phases."""

    def adjust(options: Any) -> None:
        sample = options.object_options
        sample.initial_guess = np.repeat(np.asarray(sample.initial_guess), 2, axis=0)
        sample.slice_spacings_m, sample.pixel_size_m = [problem.distance], PIXEL
        options.data_options.wavelength_m = wavelength_of(ENERGY, "photon")
        if regularised:
            sample.multislice_regularization.enabled = True
            sample.multislice_regularization.weight = regularised

    return adjust
