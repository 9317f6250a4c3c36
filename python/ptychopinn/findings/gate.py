# SPDX-License-Identifier: BSD-3-Clause
"""The check of a scan before it is used: problems stop, unless they are mended or accepted.

Everything that takes a scan asks here: training, refinement, reconstruction, and the commands of these names. A scan is
measured once, however often it is asked about: what is known of a `Scan` is kept as long as it lives.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from ptychopinn._one_line import one_line
from ptychopinn.errors import InputError
from ptychopinn.findings.centre import pattern_of_probe
from ptychopinn.findings.finding import Finding
from ptychopinn.findings.geometry import ScanGeometry, measure_geometry
from ptychopinn.findings.measure import PatternStatistics, measure_patterns
from ptychopinn.findings.rules import findings_of, indices_in_words
from ptychopinn.findings.signs import measure_signs
from ptychopinn.runtime.process_settings import own_defaults
from ptychopinn.scan import Scan
from ptychopinn.storage.arrays import blocks_of
from ptychopinn.storage.atomic import write_text

#: Accepts every finding.
ALL = "all"
#: Keys of all findings of the check, which `accept` takes.
KEYS = (
    "background", "beamstop", "centre", "correlated_noise", "dead_pixels", "dose_spread", "duplicates",
    "empty_patterns", "faint_patterns", "few_photons", "fft_order", "fractional_counts", "gain", "glaring_patterns",
    "hot_pixels", "intermittent_pixels", "line", "mask", "measurement", "near_field", "offset", "outlying_positions",
    "overlap", "oversampling", "positions", "probe_centre", "probe_edge", "probe_patterns", "repeated_patterns",
    "saturated", "smooth_background", "stuck_pixels", "transmission", "units_of_positions",
)  # fmt: skip
#: A key that is accepted -> others that it accepts as well.
_IMPLIED = {"centre": ("fft_order",)}
#: Findings that the reader of the file has logged already.
_LOGGED_BY_READER = ("measurement", "fractional_counts")
#: Largest number of times that a scan is mended: some faults are found once others are mended.
_PASSES = 4
#: Name of the file beside a result.
FILE = "findings.json"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checked:
    """What the check knows of a scan.

    Attributes:
        patterns, geometry: its statistics.
        findings: its findings, worst first.
        accepted: keys of its problems that the caller accepted.
        changes: what was done to the scan of the file, in words.
    """

    patterns: PatternStatistics
    geometry: ScanGeometry
    findings: tuple[Finding, ...]
    accepted: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()

    __repr__ = one_line

    def to_json(self) -> dict[str, Any]:
        """The findings as JSON types, for the files of a result."""
        findings = [asdict(finding) for finding in self.findings]
        return {"findings": findings, "accepted": list(self.accepted), "changes": list(self.changes)}


_known: WeakKeyDictionary[Scan, Checked] = WeakKeyDictionary()


def check_scan(
    scan: Scan,
    accept: str | Collection[str] = (),
    *,
    drop_outliers: bool = False,
    mask_faulty: bool = False,
    file: str | Path | None = None,
) -> Scan:
    """Check a scan before it is used; omit patterns without counts, and mend what the caller asks for.

    Takes a fifth of a second for 10,000 patterns of 64 px in memory. Findings are logged once.

    Args:
        scan: the scan.
        accept: keys of problems to accept, "all", or such keys separated by commas.
        drop_outliers: omit patterns whose position is far from all others, or whose counts are below 1 % or above 5
            times the median.
        mask_faulty: ignore dead, stuck, hot and saturated pixels.
        file: of the scan, for messages; None: its name.

    Returns:
        The scan, or the one that was made of it; it is not checked again.

    Raises:
        InputError: there is a problem that is neither mended nor accepted; the message names the options for both.

    Example:
        >>> from ptychopinn.physics.simulate import simulate
        >>> scan = simulate(patterns=25, size=32)
        >>> scan.counts[20:] = 0
        >>> check_scan(scan).n
        20
    """
    keys, name = accepted_keys(accept), str(file or scan.name)
    checked = _check(scan, name)
    mended = scan
    for _ in range(_PASSES):
        mended, changes = _mended(mended, checked.patterns, checked.geometry, drop_outliers, mask_faulty)
        if not changes:
            break
        for change in changes:
            _log.warning("%s: %s", name, change)
        checked = replace(_check(mended, name), changes=(*checked.changes, *changes))
        _known[mended] = checked
    _refuse_problems(mended, checked, keys, name, "SCAN" if file is None else str(file))
    return mended


def require_sound(scan: Scan, accept: str | Collection[str] = ()) -> Checked:
    """Check a scan as it is; :func:`check_scan` is not needed before.

    Args:
        scan: the scan.
        accept: see :func:`check_scan`.

    Returns:
        What is known of it.

    Raises:
        InputError: there is a problem that is not accepted.
    """
    return _refuse_problems(scan, _check(scan), accepted_keys(accept), scan.name, "SCAN")


def accepted_keys(accept: str | Collection[str]) -> frozenset[str]:
    """Keys of findings, from a collection or from text with commas.

    Raises:
        InputError: there is no such key.
    """
    given = [word.strip() for word in accept.split(",")] if isinstance(accept, str) else list(accept)
    unknown = [key for key in given if key not in (*KEYS, ALL, "")]
    if unknown:
        raise InputError(f"accept must be {ALL} or keys of findings ({', '.join(KEYS)}), got {unknown[0]!r}")
    if ALL in given:
        return frozenset(KEYS)
    return frozenset(given) | {other for key in given for other in _IMPLIED.get(key, ())}


def write_findings(scans: Iterable[Scan], path: Path) -> Path:
    """Write what the check knows of scans to a JSON file, by name of the scan, and return its path."""
    known = {scan.name: _known[scan].to_json() for scan in scans if scan in _known}
    write_text(path, json.dumps(known, indent=1) + "\n")
    return path


def check_metadata(scans: Sequence[Scan]) -> dict[str, Any]:
    """What the check knows of scans, for the metadata of a result: "check", or nothing if there is nothing to tell."""
    known = [_known[scan].to_json() for scan in scans if scan in _known]
    told = {key: found for key in ("findings", "accepted", "changes") if (found := [v for k in known for v in k[key]])}
    return {"check": told} if told else {}


def _check(scan: Scan, name: str | None = None) -> Checked:
    """What is known of a scan, measured and logged under this name if it is asked about for the first time."""
    if scan not in _known:
        with own_defaults():
            patterns = measure_patterns(scan)
            geometry, signs = measure_geometry(scan, patterns), measure_signs(scan, patterns)
        findings = findings_of(patterns, geometry, scan.decisions.measurement, signs, scan.experiment)
        _known[scan] = Checked(patterns, geometry, findings)
        for finding in _known[scan].findings:
            if finding.severity != "problem" and finding.key not in _LOGGED_BY_READER:
                level = logging.WARNING if finding.severity == "warning" else logging.INFO
                _log.log(level, "%s: %s", name or scan.name, finding)
    return _known[scan]


def _refuse_problems(scan: Scan, checked: Checked, accept: frozenset[str], name: str, path: str) -> Checked:
    problems = [finding for finding in checked.findings if finding.severity == "problem"]
    refused = [finding for finding in problems if finding.key not in accept | set(checked.accepted)]
    if refused:
        for finding in refused[1:]:
            _log.warning("%s: %s", name, finding)
        first = refused[0]
        more = f" ({len(refused) - 1} more above)" if len(refused) > 1 else ""
        advice = first.advice.replace("SCAN", path)
        keys = ",".join(finding.key for finding in refused)
        raise InputError(
            f"{name}: {first.sentence}: {advice}; --accept {keys} uses the scan as it is (in Python accept=; "
            f"ptychopinn.check_scan mends){more}"
        )
    for finding in problems:
        if finding.key not in checked.accepted:
            _log.warning("%s: accepted: %s", name, finding.sentence)
    checked = replace(checked, accepted=tuple(sorted({*checked.accepted, *(finding.key for finding in problems)})))
    _known[scan] = checked
    return checked


def _mended(
    scan: Scan, patterns: PatternStatistics, geometry: ScanGeometry, drop_outliers: bool, mask_faulty: bool
) -> tuple[Scan, tuple[str, ...]]:
    """The scan without what is to be omitted and masked, and what was done in words."""
    changes, dropped = list[str](), set(patterns.empty)
    if patterns.empty:
        changes.append(f"omitted patterns without counts: {indices_in_words(patterns.empty)}")
    if drop_outliers:
        for indices, reason in (
            (geometry.outliers, "far from all others"),
            (patterns.faint, "with hardly any counts"),
            (patterns.bright, "with far too many counts"),
        ):
            if indices:
                changes.append(f"omitted patterns {reason}: {indices_in_words(indices)}")
                dropped |= set(indices)
    if dropped:
        kept = np.setdiff1d(np.arange(scan.n), sorted(dropped))
        if not kept.size:
            raise InputError(
                f"{scan.name}: expected patterns with counts and of one field, found none; "
                "`ptychopinn inspect` shows them"
            )
        scan = scan.subset(kept)
    if mask_faulty and patterns.faulty.any():
        changes.append(f"ignored {int(patterns.faulty.sum())} faulty pixels")
        scan = with_bad_pixels(scan, patterns.masked | patterns.faulty)
    return scan, tuple(changes)


def with_bad_pixels(scan: Scan, mask: NDArray[np.bool_]) -> Scan:
    """The scan with this mask of bad pixels (N, N); a probe that was scaled to the counts is scaled again.

    Raises:
        InputError: no pixel is good.
    """
    if mask.all():
        raise InputError(
            f"{scan.name}: expected at least one good pixel, found faulty pixels only; `ptychopinn inspect` shows them"
        )
    scale = scan.decisions.probe_scale
    if scale is None or not scale.from_counts:
        return replace(scan, bad_pixels=mask)
    before = np.ones_like(mask) if scan.bad_pixels is None else ~scan.bad_pixels
    mean = sum(block.sum(0, dtype=np.float64) for _, block in blocks_of(scan.counts)) / scan.n
    far = pattern_of_probe(scan)
    ratio = (mean[~mask].sum() / far[~mask].sum()) / (mean[before].sum() / far[before].sum())
    factor = math.sqrt(ratio) if math.isfinite(ratio) and ratio > 0 else 1.0
    decisions = replace(scan.decisions, probe_scale=replace(scale, factor=scale.factor * factor))
    experiment = scan.experiment
    if experiment.probe_variations is not None:
        experiment = replace(experiment, probe_variations=experiment.probe_variations * np.float32(factor))
    probe = scan.probe * np.float32(factor)
    return replace(scan, bad_pixels=mask, probe=probe, decisions=decisions, experiment=experiment)
