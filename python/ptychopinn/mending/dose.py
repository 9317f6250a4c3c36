# SPDX-License-Identifier: BSD-3-Clause
"""Exposure that varies from pattern to pattern, judged by patterns that see nearly the same part of the object."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from ptychopinn.errors import InputError
from ptychopinn.mending.blocks import scaled, totals_of
from ptychopinn.mending.experiments import divided
from ptychopinn.mending.notes import Note
from ptychopinn.mending.pixels import good_pixels
from ptychopinn.scan import Scan

#: Number of neighbours: more average better, and lie further away.
_NEIGHBOURS = 24
_FEWEST = 10


def exposures(scan: Scan) -> NDArray[np.float64]:
    """Exposure of every pattern relative to the median, (n,): its counts by the median of those of its neighbours.

    Of patterns without counts it is 1. A slow drift, and the transmission of the object, are not told apart.

    Raises:
        InputError: the scan has fewer than 10 patterns with counts.
    """
    totals = totals_of(scan.counts, good_pixels(scan))
    some = totals > 0
    number = int(some.sum())
    if number < _FEWEST:
        raise InputError(
            f"{scan.name}: expected at least {_FEWEST} patterns with counts for even_dose, found {number}; "
            "omit --even-dose"
        )
    positions = scan.positions[some]
    nearest = KDTree(positions).query(positions, k=min(_NEIGHBOURS + 1, len(positions)))[1]
    exposure = np.ones(scan.n)
    exposure[some] = totals[some] / np.median(totals[some][nearest], axis=1)
    exposure[some] /= np.median(exposure[some])
    return exposure


def even_dose(scan: Scan) -> tuple[Scan, Note]:
    """Divide every pattern by its exposure, see :func:`exposures`.

    The counts become fractions, float32. Refinement with `learn_intensities` fits the exposure and keeps the counts,
    which is better where it is available.

    Raises:
        InputError: the scan has fewer than 10 patterns with counts, or a saturated detector.
    """
    exposure = exposures(scan)
    low, high = float(exposure.min()), float(exposure.max())
    text = f"patterns divided by their exposure, from {low:.3g} to {high:.3g} times the median; counts are float32 now"
    mended = replace(scan, counts=scaled(scan.counts, 1 / exposure), experiment=divided(scan, exposure))
    return mended, Note("even_dose", text, {"lowest": low, "highest": high})
