# SPDX-License-Identifier: BSD-3-Clause
"""Whether positions and patterns belong together: swapped axes, mirrored axes, negated positions.

Files of different makers disagree in exactly this, and nothing in a file tells. The data do: see trials.py. One of the
eight ways to map the axes of the positions onto those of the patterns makes overlapping patterns agree. The negation of
both is a special case. It is what a probe's defocus of the wrong sign looks like, too: patterns alone cannot tell these
two apart, and a probe that is like its own twin cannot tell the negation at all.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ptychopinn.errors import InputError
from ptychopinn.inspection.centre import misplaced
from ptychopinn.inspection.trials import fit_all, margin, take_sample, twin_likeness
from ptychopinn.scan import Scan

_log = logging.getLogger(__name__)


def _turn(*rows: tuple[int, int]) -> NDArray[np.int64]:
    return np.array(rows)


#: Name -> matrix that (y, x) is multiplied by. First the axes are swapped, then the new ones are flipped.
ORIENTATIONS: dict[str, NDArray[np.int64]] = {
    "given": _turn((1, 0), (0, 1)),
    "flip_y": _turn((-1, 0), (0, 1)),
    "flip_x": _turn((1, 0), (0, -1)),
    "rotate_180": _turn((-1, 0), (0, -1)),
    "swap": _turn((0, 1), (1, 0)),
    "swap_flip_y": _turn((0, -1), (1, 0)),
    "swap_flip_x": _turn((0, 1), (-1, 0)),
    "swap_rotate_180": _turn((0, -1), (-1, 0)),
}

_MEANING = {
    "given": "as they are",
    "flip_y": "with y reversed",
    "flip_x": "with x reversed",
    "rotate_180": "with y and x reversed",
    "swap": "with y and x swapped",
    "swap_flip_y": "with y and x swapped and the new y reversed",
    "swap_flip_x": "with y and x swapped and the new x reversed",
    "swap_rotate_180": "with y and x swapped and both reversed",
}

#: Fewest patterns that are worth a check.
FEWEST = 30
#: Standard errors from which a result counts as sure. Neighbours share pixels, so that three mean little: up to 3 were
#: seen with a probe that had lost its defocus, 1 on scans that have no right orientation (docs/inspect.md).
SURE = 5.0
#: Likeness of a probe to its twin from which the negation of the positions is not decided.
_TWIN = 0.95


@dataclass(frozen=True)
class OrientationReport:
    """What :func:`check_orientation` found.

    Attributes:
        best: the orientation that fits best, a name in `ORIENTATIONS`.
        given_is_best: whether the scan is right as it is, as far as can be told.
        scores: deviance per detector pixel that a few passes reach, for every orientation; lower is better.
        confidence: by how many standard errors of the patterns' deviances (see :func:`trials.margin`) the best fits
            better than the next; at :data:`SURE` and above the answer can be relied on.
        twin: the orientation that is the best with all positions negated, where the probe cannot tell the two apart;
            `confidence` is then that of the pair.
        offset: of the zero frequency from pixel (N//2, N//2), (y, x) pixels.
        patterns: how many were looked at.
        sentence: all this in words.
    """

    best: str
    given_is_best: bool
    scores: dict[str, float]
    confidence: float
    twin: str | None
    offset: tuple[float, float]
    patterns: int
    sentence: str

    @property
    def sure(self) -> bool:
        """Whether the confidence is enough to rely on."""
        return self.confidence >= SURE


def check_orientation(scan: Scan, seed: int = 0) -> OrientationReport:
    """Find the orientation of the positions in which neighbouring patterns agree with each other.

    Takes 2 to 6 CPU-seconds for patterns of 32 to 64 px. The same arguments give the same report.

    Args:
        scan: the scan, of two patterns or more; its truth is not looked at. The probe may be a guess.
        seed: of the order of the patterns in the trials.

    Returns:
        The report.

    Raises:
        InputError: the scan has a single pattern.
    """
    if scan.n < 2:
        raise InputError(f"{scan.name}: expected two patterns or more to find their orientation, found {scan.n}")
    sample = take_sample(scan)
    found = fit_all(sample, ORIENTATIONS, seed)
    scores = {name: float(values.mean()) for name, values in found.items()}
    best = min(scores, key=scores.__getitem__)
    twin = compose("rotate_180", best) if twin_likeness(scan.probe) >= _TWIN else None
    if twin == "given":
        best, twin = twin, best
    pair = [name for name in (best, twin) if name is not None]
    confidence = max(
        min(margin(found[name], values) for other, values in found.items() if other not in pair) for name in pair
    )
    report = OrientationReport(
        best, best == "given", scores, confidence, twin, sample.offset, len(sample.counts), sentence=""
    )
    return replace(report, sentence=_sentence(report))


def oriented(scan: Scan, name: str) -> Scan:
    """The scan with its positions in another orientation; the patterns and the probe stay.

    An axis is reversed within its extent, which keeps its place in pixels and in the world, so that the same part of
    the plane is covered; swapped axes swap their extents, and so the world coordinates of pixel (0, 0). The truth is
    dropped, unless nothing changes: where it lies under the changed positions is not known.
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
    return replace(scan, positions=positions, truth=None, acquisition=acquisition, orientation=total)


def compose(second: str, first: str) -> str:
    """The orientation that is ``first``, then ``second``.

    Example:
        >>> compose("flip_y", "swap"), compose("swap", "swap_flip_y")
        ('swap_flip_y', 'flip_x')
    """
    product = ORIENTATIONS[second] @ ORIENTATIONS[first]
    return next(name for name, turn in ORIENTATIONS.items() if np.array_equal(turn, product))


def require_orientation(
    scan: Scan, seed: int = 0, *, file: str | None = None, alone: bool = True
) -> OrientationReport | None:
    """Check a scan's orientation and refuse one that is surely wrong; one that is unsure is only warned of.

    Args:
        scan: the scan; with fewer than :data:`FEWEST` patterns it is not checked, and the log says so.
        seed: see :func:`check_orientation`.
        file: its name, for what is said; none: the scan's own.
        alone: an option of the command would turn this scan only.

    Returns:
        The report; None where nothing was checked.

    Raises:
        InputError: another orientation surely fits better; the sentence names the option that mends it.
    """
    name = file or scan.name
    if scan.n < FEWEST:
        _log.info("%s: orientation not checked, %d patterns are fewer than %d", name, scan.n, FEWEST)
        return None
    report = check_orientation(scan, seed)
    if report.sure and not report.given_is_best:
        mend = f"--orientation {report.best} does so"
        if not alone:
            mend = f"'ptychopinn convert {name} OUT --orientation {report.best}' does so for this scan alone"
        raise InputError(f"{name}: {report.sentence}; {mend}, --orientation given insists on the positions as they are")
    if not report.sure:
        _log.warning("%s: %s", name, report.sentence)
    elif misplaced(report.offset):
        _log.warning(
            "%s: the patterns' zero frequency lies (%.1f, %.1f) px (y, x) from the middle pixel: expect a phase ramp",
            name, *report.offset,
        )  # fmt: skip
    return report


def _sentence(report: OrientationReport) -> str:
    best, twin = report.best, report.twin
    if not report.sure:
        return (
            f"the orientation of the positions is not certain: {best} fits best, but by {report.confidence:.1f} "
            f"standard errors of {report.patterns} patterns only ({SURE:g} would do)"
        )
    measure = f"by {report.confidence:.0f} standard errors of {report.patterns} patterns"
    if best == "given":
        doubt = "" if twin is None else ", though the probe, which is like its twin, cannot tell them from negated ones"
        return f"the positions fit the patterns best as they are, {measure}{doubt}"
    text = f"expected positions that fit the patterns, found that they fit better {_MEANING[best]}, {measure}"
    if best == "rotate_180":
        text += ", as they would if the phase of the probe (its defocus) had the wrong sign"
    elif twin is not None:
        text += f" (or {_MEANING[twin]}, which this probe cannot tell apart)"
    return text
