# SPDX-License-Identifier: BSD-3-Clause
"""What was decided when a scan was read, each value with its reason: units, coordinates, probe, truth, pairing.

Readers decide (`ptychopinn.io`), a `Scan` carries the decisions, and inspection, writers and clients read them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Decision:
    """A value that was chosen among several.

    Args:
        value: what was chosen.
        reason: why, in words.
        by_default: nothing in the file and nothing that the caller states supports it: it may be wrong.
    """

    value: str
    reason: str
    by_default: bool = False


@dataclass(frozen=True)
class ProbeScale:
    """The factor from the amplitude of a file's probe to sqrt(counts).

    Args:
        factor: what the probe was multiplied by; 1 where it was in sqrt(counts) already.
        reason: what sets it, in words.
    """

    factor: float
    reason: str


@dataclass(frozen=True)
class Pairing:
    """How many patterns and positions were omitted, because the other part of the pair is missing.

    Args:
        patterns: without a position.
        positions: without a pattern.
        reason: in words.
    """

    patterns: int
    positions: int
    reason: str


@dataclass(frozen=True)
class Decisions:
    """All decisions on a scan; None where there was nothing to decide.

    Args:
        measurement: what the patterns in the file are, "counts" or "amplitude".
        coordinates: which sample of the patch the file's coordinates are of, where formats differ.
        probe: "given" by the caller, or "guessed"; None: the file's.
        probe_scale: the factor to sqrt(counts).
        truth: "omitted" where the file's object does not fit the positions.
        pairing: what was omitted when patterns and positions were paired by their indexes.
    """

    measurement: Decision | None = None
    coordinates: Decision | None = None
    probe: Decision | None = None
    probe_scale: ProbeScale | None = None
    truth: Decision | None = None
    pairing: Pairing | None = None
