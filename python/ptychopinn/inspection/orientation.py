# SPDX-License-Identifier: BSD-3-Clause
"""Orientation of the positions relative to the patterns: swapped, reversed and negated axes.

Files of different instruments differ in it and do not record it. It is determined by trial refinements (trials.py): in
one of the eight orientations, overlapping patterns agree on the object. Negated positions are equivalent to a probe of
opposite phase, so that patterns cannot distinguish them from a defocus of the wrong sign; with a probe that equals its
twin, they cannot be detected at all.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ptychopinn._one_line import one_line
from ptychopinn.errors import InputError
from ptychopinn.findings.centre import off_centre
from ptychopinn.runtime.process_settings import own_defaults
from ptychopinn.scan import Scan

_log = logging.getLogger(__name__)


def _matrix(*rows: tuple[int, int]) -> NDArray[np.int64]:
    return np.array(rows)


#: Name -> matrix by which (y, x) is multiplied: axes are swapped first, then reversed.
ORIENTATIONS: dict[str, NDArray[np.int64]] = {
    "given": _matrix((1, 0), (0, 1)),
    "flip_y": _matrix((-1, 0), (0, 1)),
    "flip_x": _matrix((1, 0), (0, -1)),
    "rotate_180": _matrix((-1, 0), (0, -1)),
    "swap": _matrix((0, 1), (1, 0)),
    "swap_flip_y": _matrix((0, -1), (1, 0)),
    "swap_flip_x": _matrix((0, 1), (-1, 0)),
    "swap_rotate_180": _matrix((0, -1), (-1, 0)),
}

_DESCRIPTION = {
    "given": "as they are",
    "flip_y": "with y reversed",
    "flip_x": "with x reversed",
    "rotate_180": "with y and x reversed",
    "swap": "with y and x swapped",
    "swap_flip_y": "with y and x swapped and the new y reversed",
    "swap_flip_x": "with y and x swapped and the new x reversed",
    "swap_rotate_180": "with y and x swapped and both reversed",
}

#: Minimum number of patterns for a check.
FEWEST = 30
#: Margin, standard errors, from which a result is reliable. Neighbouring patterns are not independent: margins up to 3
#: occur with a probe without defocus, and up to 1 for scans without a correct orientation (docs/inspect.md).
SURE = 5.0
#: Similarity of a probe and its twin from which negated positions cannot be detected.
_TWIN = 0.95


@dataclass(frozen=True)
class OrientationReport:
    """The result of :func:`check_orientation`.

    Attributes:
        best: the orientation that fits best, a name in `ORIENTATIONS`.
        given_is_best: whether that is the orientation of the scan.
        scores: deviance per detector pixel after a few passes, for every orientation; lower is better.
        confidence: margin between the best orientation and the next, in standard errors (see :func:`trials.margin`);
            reliable from :data:`SURE` on.
        twin: `best` with negated positions, if the probe cannot distinguish the two, otherwise None; `confidence` is
            then that of the pair.
        offset: of the zero frequency from pixel (N//2, N//2), (y, x), pixels.
        patterns: number of patterns of the trials.
        sentence: the result in words.
    """

    best: str
    given_is_best: bool
    scores: dict[str, float]
    confidence: float
    twin: str | None
    offset: tuple[float, float]
    patterns: int
    sentence: str

    __repr__ = one_line

    @property
    def sure(self) -> bool:
        """Whether the result is reliable: `confidence` is at least :data:`SURE`."""
        return self.confidence >= SURE


def check_orientation(scan: Scan, seed: int = 0) -> OrientationReport:
    """Find the orientation of the positions in which overlapping patterns agree on the object.

    Takes 2 to 6 CPU-seconds for patterns of 32 to 64 px. The result is deterministic.

    Args:
        scan: the scan, with at least two patterns; its truth is not used. The probe may be an estimate.
        seed: of the order of the batches in the trials.

    Returns:
        The orientation that fits best, with its margin.

    Raises:
        InputError: the scan has a single pattern, or neighbouring patterns need a canvas that exceeds the memory.
    """
    # With what refines, which a command that turns positions does not need.
    from ptychopinn.inspection.trials import fit_trials, margin, select_sample, twin_similarity

    if scan.n < 2:
        raise InputError(
            f"{scan.name}: expected two patterns or more to find their orientation, found {scan.n}; "
            "state it with --orientation"
        )
    with own_defaults():
        sample = select_sample(scan)
        deviances = fit_trials(sample, ORIENTATIONS, seed)
    scores = {name: float(values.mean()) for name, values in deviances.items()}
    best = min(scores, key=scores.__getitem__)
    far = scan.experiment.fresnel_number is None  # in the near field, a pattern has a direction
    twin = compose("rotate_180", best) if far and twin_similarity(scan.probe) >= _TWIN else None
    if twin == "given":
        best, twin = twin, best
    pair = [name for name in (best, twin) if name is not None]
    others = [values for name, values in deviances.items() if name not in pair]
    confidence = max(min(margin(deviances[name], values) for values in others) for name in pair)
    report = OrientationReport(
        best, best == "given", scores, confidence, twin, sample.offset, len(sample.counts), sentence=""
    )
    return replace(report, sentence=_sentence(report))


def oriented(scan: Scan, name: str) -> Scan:
    """Return the scan with its positions in another orientation; patterns and probe are the same.

    An axis is reversed within its extent, which keeps its place in pixels and in the world, so that the same part of
    the plane is covered; swapped axes swap their extents, and so the world coordinates of pixel (0, 0). The truth is
    dropped, unless nothing changes: where it lies under the changed positions is not known. The path of an exposure
    changes with the positions.
    `orientation` of the scan names what was done, all in all.

    Args:
        scan: the scan.
        name: one of `ORIENTATIONS`.

    Raises:
        InputError: there is no such orientation.

    Example:
        >>> positions = np.array([[0.0, 5.0], [1.0, 7.0], [3.0, 9.0]])
        >>> scan = Scan(np.ones((3, 8, 8), np.uint16), positions, np.ones((1, 8, 8), np.complex64))
        >>> oriented(scan, "swap_flip_y").positions.tolist()
        [[9.0, 0.0], [7.0, 1.0], [5.0, 3.0]]
    """
    if name not in ORIENTATIONS:
        raise InputError(f"orientation must be one of {', '.join(ORIENTATIONS)}, got {name!r}")
    if name == "given":
        return scan
    positions = scan.positions @ ORIENTATIONS[name].T
    low, high = scan.positions.min(0), scan.positions.max(0)
    if name.startswith("swap"):
        low, high = low[::-1], high[::-1]
    reversed_axes = ORIENTATIONS[name].sum(1) < 0
    positions[:, reversed_axes] += (low + high)[reversed_axes]
    acquisition, origin = scan.acquisition, scan.acquisition.world_origin
    if name.startswith("swap") and origin is not None:
        acquisition = replace(acquisition, world_origin=(origin[1], origin[0]))
    total = compose(name, scan.orientation)
    experiment, path = scan.experiment, scan.experiment.exposure
    if path is not None:  # it is driven by the same motors
        experiment = replace(experiment, exposure=np.ascontiguousarray(path @ ORIENTATIONS[name].T, np.float64))
    return replace(
        scan, positions=positions, truth=None, acquisition=acquisition, orientation=total, experiment=experiment
    )


def compose(second: str, first: str) -> str:
    """Compose two orientations: ``first``, then ``second``.

    Example:
        >>> compose("flip_y", "swap"), compose("swap", "swap_flip_y")
        ('swap_flip_y', 'flip_x')
    """
    product = ORIENTATIONS[second] @ ORIENTATIONS[first]
    return next(name for name, matrix in ORIENTATIONS.items() if np.array_equal(matrix, product))


def require_orientation(
    scan: Scan, seed: int = 0, *, file: str | None = None, alone: bool = True
) -> OrientationReport | None:
    """Check a scan's orientation; refuse a wrong one, and log a warning if the result is not reliable.

    Args:
        scan: the scan; with fewer than :data:`FEWEST` patterns it is not checked, which is logged.
        seed: see :func:`check_orientation`.
        file: name of the scan in messages; None: the scan's own.
        alone: the command reads this scan only, so that its option --orientation applies to this scan.

    Returns:
        The report, or None without a check.

    Raises:
        InputError: another orientation fits better, reliably; the message names the option that corrects it.
    """
    name = file or scan.name
    if scan.n < FEWEST:
        _log.info("%s: orientation not checked, %d patterns are fewer than %d", name, scan.n, FEWEST)
        return None
    report = check_orientation(scan, seed)
    if report.sure and not report.given_is_best:
        remedy = f"use --orientation {report.best}"
        if not alone:
            remedy = f"convert this scan with 'ptychopinn convert {name} OUT --orientation {report.best}'"
        raise InputError(f"{name}: {report.sentence}; {remedy}, or --orientation given to keep the positions")
    if not report.sure:
        _log.warning("%s: %s", name, report.sentence)
    elif off_centre(report.offset):
        _log.warning(
            "%s: the zero frequency of the patterns is (%.1f, %.1f) px (y, x) from the centre: expect a phase ramp",
            name, *report.offset,
        )  # fmt: skip
    return report


def _sentence(report: OrientationReport) -> str:
    best, twin = report.best, report.twin
    if not report.sure:
        return (
            f"the orientation of the positions is uncertain: {best} fits best, but only by {report.confidence:.1f} "
            f"standard errors over {report.patterns} patterns ({SURE:g} are reliable)"
        )
    margin_text = f"by {report.confidence:.0f} standard errors over {report.patterns} patterns"
    if best == "given":
        pair = "" if twin is None else "; negated positions fit equally well, because the probe equals its twin"
        return f"the positions fit the patterns best as they are, {margin_text}{pair}"
    text = f"expected positions that fit the patterns, found a better fit {_DESCRIPTION[best]}, {margin_text}"
    if best == "rotate_180":
        text += "; a probe with the wrong sign of its phase (defocus) has the same effect"
    elif twin is not None:
        text += f" (or {_DESCRIPTION[twin]}, which fits equally well with this probe)"
    return text
