# SPDX-License-Identifier: BSD-3-Clause
"""What mends of patterns, probe and positions mean for the experiment of a scan, and where they cannot follow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn.errors import InputError
from ptychopinn.experiment import Experiment
from ptychopinn.io.experiments import fitted_experiment
from ptychopinn.scan import Scan

ProbeChange = Callable[[NDArray[np.complex64]], NDArray[np.complex64]]


def require_far_field(scan: Scan, name: str, way: str = "mend the file in another program") -> None:
    """Raise InputError for a scan in the near field, where a pattern is an image on the grid of the probe."""
    if scan.experiment.fresnel_number is not None:
        raise InputError(f"{name} must have a scan in the far field, got one in the near field; {way}")


def with_patterns(experiment: Experiment, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Experiment:
    """The experiment after a change that moves the pixels of all patterns (..., N, N) alike."""
    if experiment.background is None:
        return experiment
    return replace(experiment, background=change(experiment.background))


def with_probe(experiment: Experiment, change: ProbeChange) -> Experiment:
    """The experiment after a linear change of the probe (M, N, N), which its variations follow."""
    if experiment.probe_variations is None:
        return experiment
    return replace(experiment, probe_variations=change(experiment.probe_variations).astype(np.complex64, copy=False))


def resized(experiment: Experiment, size: int, factor: int, ratio: float, change: ProbeChange) -> Experiment:
    """The experiment after crop, padding or bins; arguments as of :func:`~ptychopinn.io.experiments.fitted_experiment`.

    Args:
        experiment: before.
        size: pixels along a pattern before bins.
        factor: K, of bins.
        ratio: of the object pixels, new to old.
        change: of the probe.
    """
    changed = with_probe(experiment, change)
    return fitted_experiment(changed, size, factor, ratio, changed.probe_variations)


def moved(experiment: Experiment, matrix: NDArray[np.float64]) -> Experiment:
    """The experiment after a linear map (2, 2) of the positions, which the path of an exposure follows."""
    if experiment.exposure is None:
        return experiment
    return replace(experiment, exposure=np.ascontiguousarray(experiment.exposure @ matrix.T))


def divided(scan: Scan, exposures: NDArray[np.float64]) -> Experiment:
    """The experiment after the patterns were divided by their exposures (n,).

    Raises:
        InputError: the detector is saturated, from counts that would differ between patterns.
    """
    experiment = scan.experiment
    if experiment.saturation is not None:
        raise InputError(
            "even_dose must have a scan without saturation, as its limit would differ between patterns, got "
            f"{experiment.saturation:g} counts; refine with learn_intensities, which keeps the counts"
        )
    if experiment.background is None:
        return experiment
    factors = np.ones(scan.n) if experiment.background_factors is None else experiment.background_factors
    return replace(experiment, background_factors=factors / exposures)


def subtracted(experiment: Experiment, counts: float) -> Experiment:
    """The experiment after the same number of counts was subtracted from all patterns.

    Raises:
        InputError: the background differs between patterns.
    """
    values: dict[str, Any] = {}
    if experiment.background is not None:
        if experiment.background_factors is not None:
            raise InputError(
                "subtract must have a background without factors of the patterns, got one that differs between them; "
                "refinement takes it into account as it is"
            )
        values["background"] = np.maximum(experiment.background - np.float32(counts), 0)
    if experiment.saturation is not None and experiment.saturation > counts:
        values["saturation"] = experiment.saturation - counts
    return replace(experiment, **values)
