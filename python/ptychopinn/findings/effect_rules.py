# SPDX-License-Identifier: BSD-3-Clause
"""Rules that turn signs of effects of the experiment into findings, each with the option for the effect.

Thresholds were chosen with simulated scans with and without each effect; rates are in docs/inspect.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ptychopinn.experiment import Experiment
from ptychopinn.findings.finding import Finding
from ptychopinn.findings.geometry import ScanGeometry
from ptychopinn.findings.measure import PatternStatistics
from ptychopinn.findings.signs import ALIKE, Signs

#: Squared contrast of dark pixels, with two standard errors, below which their counts are a background; its largest
#: error; its least part of all counts; and what the probe may predict there, of these.
_CONTRAST, _KNOWN, _LEAST_PART, _PREDICTED = 0.35, 0.15, 0.004, 0.3
#: The same contrast below which changes of a background from pattern to pattern are told from those of the sample, and
#: their least standard deviation.
_STEADY, _CHANGES = 0.05, 0.1
#: Variance over mean of dark pixels below which they have an offset, which is at least so many counts.
_UNDER, _LEAST_OFFSET = 0.5, 1.0
#: Noise relative to photons below and above which the unit is another one, and largest ratio between rings of spatial
#: frequency, since noise is white.
_LOW, _HIGH, _WHITE = 0.6, 1.7, 1.25
#: Noise of the last ring, and the same relative to the second, below which neighbours have correlated noise.
_CORRELATED, _FALLING = 0.45, 0.55
#: What tells a unit, and the part of an offset of all counts from which the others tell none.
_MULTIPLES, _VARIANCE, _CORRELATED_NOISE = "multiples", "variance", "correlated noise"
_MOSTLY_OFFSET = 0.9
#: Part of the probe's far field on bad pixels from which noise is not judged: their edges look like noise.
_HIDDEN = 1e-3
#: Displacements that a map explains, its largest difference from the reversed identity, image similarity beyond that
#: of the far field, and counts in the corners, from which patterns are images.
_MOVING, _REVERSED, _MORE_ALIKE, _FILLED = 0.55, 0.3, 0.25, 0.4


def findings_of_effects(
    patterns: PatternStatistics, geometry: ScanGeometry, signs: Signs, experiment: Experiment
) -> Iterator[Finding]:
    """Findings of effects that a scan does not state.

    Args:
        patterns: statistics of its counts.
        geometry: statistics of its positions and probe.
        signs: of effects.
        experiment: of the scan.
    """
    if not patterns.far:
        return
    if looks_near(patterns, geometry, signs):
        yield Finding(
            "warning", "near_field",
            f"patterns are images that move with the positions ({signs.moving:.0%} of the displacements between "
            "neighbours), and the far field of the probe does not look like them: a detector in the near field",
            "state it with --near-field, --energy, --distance and --detector-pixel-size",
        )  # fmt: skip
        return
    offset = _offset(patterns, signs, experiment)
    if offset:
        yield Finding(
            "warning", "offset",
            f"the darkest pixels have {signs.dark_counts:.4g} counts with a variance of "
            f"{signs.dark_fano * signs.dark_counts:.3g}, less than photons would have: an offset of the detector",
            f"--offset {signs.dark_counts:.4g}, or a dark image, subtracts it when the file is read",
        )  # fmt: skip
    kind, gain = _unit(patterns, signs, experiment, offset)
    if kind == _CORRELATED_NOISE:
        yield Finding(
            "warning", "correlated_noise",
            f"at high spatial frequencies the noise is {signs.noise[-1]:.2g} times that of photons: the noise of "
            "neighbouring pixels is correlated, as by charge sharing or interpolation",
            "--point-spread PX states the spread; read the counts of the detector before they are interpolated",
        )  # fmt: skip
    elif kind:
        found = f"the counts are multiples of {gain:.6g}"
        if kind == _VARIANCE:
            found = f"the variance of the counts is {gain:.3g} times that of photons, whatever the sample is"
        yield Finding(
            "warning", "gain", f"{found}: they are in another unit",
            f"--gain {gain:.3g} divides by it when the file is read",
        )  # fmt: skip
    known = experiment.background is not None or patterns.background or patterns.beamstop or offset
    if not known and kind != _CORRELATED_NOISE and patterns.similarity >= ALIKE:
        yield from _of_background(signs, gain)


def looks_near(patterns: PatternStatistics, geometry: ScanGeometry, signs: Signs) -> bool:
    """Whether patterns look like those of a detector in the near field."""
    if not patterns.far or signs.moving < _MOVING:
        return False
    reversed_steps = float(np.abs(signs.motion + np.eye(2)).max()) < _REVERSED
    image = signs.image_similarity > patterns.similarity + _MORE_ALIKE
    return (reversed_steps and image) or (signs.corners > _FILLED and not geometry.real_probe)


def _offset(patterns: PatternStatistics, signs: Signs, experiment: Experiment) -> bool:
    if experiment.background is not None or patterns.background or signs.dark_counts < _LEAST_OFFSET:
        return False
    # Scaled counts have less variance too, but not in dark pixels alone.
    return signs.dark_fano < _UNDER and (patterns.integer or signs.dark_fano < _UNDER * min(signs.noise[1:]))


def _unit(patterns: PatternStatistics, signs: Signs, experiment: Experiment, offset: bool) -> tuple[str, float]:
    """What the unit of the counts is told by, if it is not the photon, and values per photon."""
    if signs.unit not in (0.0, 1.0):
        return _MULTIPLES, signs.unit
    saturated = patterns.saturated_at is not None or experiment.saturation is not None
    if saturated or not math.isfinite(signs.noise[-1]) or signs.dark_part >= 1:
        return "", 1.0
    noise = np.array(signs.noise[1:])
    if offset:
        noise = (noise - signs.dark_fano * signs.dark_part) / max(1 - signs.dark_part, 1e-9)
        if signs.dark_part > _MOSTLY_OFFSET:  # little is left to judge by
            return "", 1.0
    elif noise[-1] < _CORRELATED and noise[-1] < _FALLING * noise[0]:
        return _CORRELATED_NOISE, 1.0
    white = noise.max() < _WHITE * noise.min()
    intact = patterns.hidden_fraction < _HIDDEN and not patterns.suspects.any()
    if noise.max() < _LOW or (noise.min() > _HIGH and white and intact):
        return _VARIANCE, float(noise.mean())
    return "", 1.0


def _of_background(signs: Signs, gain: float) -> Iterator[Finding]:
    if not signs.dark_counts > 0 or not math.isfinite(signs.dark_contrast):
        return
    contrast = signs.dark_contrast - (gain - 1) / signs.dark_counts
    constant = 1 - math.sqrt(min(max(contrast, 0.0), 1.0))
    part = constant * signs.dark_part
    known = signs.dark_contrast_error < _KNOWN and contrast + 2 * signs.dark_contrast_error < _CONTRAST
    if not known or part < _LEAST_PART or signs.dark_predicted > _PREDICTED:
        return
    varies = contrast < _STEADY and signs.dark_spread > _CHANGES
    yield Finding(
        "warning", "smooth_background",
        f"the darkest pixels have {constant * signs.dark_counts:.3g} counts that do not depend on the sample "
        f"({part:.1%} of all counts, if all pixels have as many)"
        + (f" and vary by {signs.dark_spread:.0%} from pattern to pattern" if varies else "")
        + ": a background",
        "refine with --refine.learn_background true, or state a measured one with --background FILE.npy"
        + (" and its factors (Experiment.background_factors)" if varies else ""),
    )  # fmt: skip
