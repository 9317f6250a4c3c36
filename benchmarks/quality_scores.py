# SPDX-License-Identifier: BSD-3-Clause
"""Structural similarities for comparisons with PtychoPINN's studies of networks, and a stricter one of the phase.

The similarity of two phases depends on what is added to both, and on the range. There are three here:

- ``phase_ssim``: phases without their planes, divided by 2 pi, range 1; a constant image scores almost 1 where the true
  phase is weak (0.1 rad), and below 0.3 for the lines and the Siemens star;
- ``phase_ssim_mapped``: the same from -pi..pi to 0..1, that of PtychoPINN's comparisons: the phase errors that they
  publish (0.085 to 0.088 rad rms, SSIM 0.957 to 0.995) give 0.957 to 0.999 so, and at most 0.9 without the map. A
  constant image scores 0.65 to 0.77 even for the lines and the star: quote it beside their figures only;
- ``phase_ssim_strict``: in the range of the true phase; a constant image scores below 0.05. An image of the opposite
  sign scores as much as 0.7, since mean and structure of SSIM change sign at once: read it with ``phase_pearson``.

So every row has all of them, and the scores of a constant image.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ptychopinn.metrics import scores
from ptychopinn.metrics.align import Aligned

#: Columns of :func:`similarities`.
SIMILARITIES = ("amplitude_ssim", "phase_ssim", "phase_ssim_strict", "phase_ssim_mapped")


def similarities(aligned: Aligned) -> dict[str, float]:
    """Structural similarities of an aligned reconstruction.

    Returns:
        amplitude_ssim: of amplitudes with equal means, in the range (largest - smallest) of the truth.
        phase_ssim: of phases without their planes, divided by 2 pi, in a range of 1.
        phase_ssim_strict: of the same phases in the range (0.5 to 99.5 percentile) of the truth; NaN where the true
            phase is constant, since then no image has its structure.
        phase_ssim_mapped: of the same phases, -pi..pi to 0..1, in a range of 1.
    """
    image, truth = np.abs(aligned.image), np.abs(aligned.truth)
    constant_amplitude, constant_phase = scores.constant_parts(aligned.levelled()[1])
    mean = float(image.mean())
    scaled = image * (truth.mean() / mean) if mean > 0 else image
    phase, true_phase = (scores.remove_plane(part) for part in scores.matched_phases(aligned.image, aligned.truth))
    strict = math.nan if constant_phase else scores.ssim(phase, true_phase, scores.data_range(true_phase))
    span = 0.0 if constant_amplitude else float(np.ptp(truth))
    return {
        "amplitude_ssim": scores.ssim(scaled, truth, span),
        "phase_ssim": scores.ssim(phase / (2 * np.pi), true_phase / (2 * np.pi), 1.0),
        "phase_ssim_strict": strict,
        "phase_ssim_mapped": scores.ssim(phase / (2 * np.pi) + 0.5, true_phase / (2 * np.pi) + 0.5, 1.0),
    }


def constant_similarities(truth: NDArray[np.complexfloating]) -> dict[str, float]:
    """What a constant image scores against a truth: names of :func:`similarities` that end in ``_constant``."""
    constant = np.full_like(truth, truth.mean() or 1)
    everywhere = (slice(0, truth.shape[0]), slice(0, truth.shape[1]))
    flat = Aligned(constant, truth, (0.0, 0.0), (0.0, 0.0), 1 + 0j, everywhere, True)
    return {f"{name}_constant": value for name, value in similarities(flat).items()}
