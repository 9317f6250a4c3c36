# SPDX-License-Identifier: BSD-3-Clause
"""Decisions of a reader with their reasons: measurement, coordinates, probe, truth, pairing.

Readers (`ptychopinn.io`) make them, they are a field of `Scan`, and inspection, writers and clients use them.
"""

from __future__ import annotations

from dataclasses import dataclass

from ptychopinn._one_line import one_line


@dataclass(frozen=True)
class Decision:
    """A choice among several values.

    Args:
        value: the chosen value.
        reason: of the choice, in words.
        by_default: neither the file nor the caller determines the value, which may be wrong.
    """

    value: str
    reason: str
    by_default: bool = False

    __repr__ = one_line


@dataclass(frozen=True)
class ProbeScale:
    """The scale factor of a probe.

    Args:
        factor: from the probe in the file to the probe in sqrt(counts); 1 if the file has it in sqrt(counts).
        reason: of the factor, in words.
        from_counts: the factor gives the probe the power of the mean pattern.
    """

    factor: float
    reason: str
    from_counts: bool = False

    __repr__ = one_line


@dataclass(frozen=True)
class Pairing:
    """Numbers of patterns and positions that were omitted because their counterpart is missing.

    Args:
        patterns: number of patterns without a position.
        positions: number of positions without a pattern.
        reason: in words.
    """

    patterns: int
    positions: int
    reason: str

    __repr__ = one_line


@dataclass(frozen=True)
class Decisions:
    """All decisions on a scan; None if there was no choice.

    Args:
        measurement: "counts" or "amplitude", whichever the file holds.
        coordinates: sample of the patch to which coordinates in the file refer, where formats differ.
        probe: "given" by the caller, or "guessed", that is, estimated from the patterns; None: from the file.
        probe_layout: how the probe was arranged, where its shape or type leaves a choice: "complex" for real and
            imaginary part in one array, "modes", "varying" for a probe along the scan with its weights, or "first of
            several" without them.
        probe_scale: the factor to sqrt(counts).
        truth: "omitted" if the object in the file is constant or does not fit the positions.
        pairing: numbers of patterns and positions that were omitted.
        calibration: gain and offset by which values in the file became counts.
        frames: "padded" where a detector that is not square was filled up with bad pixels, "square pixels" where
            pixels that are not square were resampled; the reason has the noise of their counts.
    """

    measurement: Decision | None = None
    coordinates: Decision | None = None
    probe: Decision | None = None
    probe_layout: Decision | None = None
    probe_scale: ProbeScale | None = None
    truth: Decision | None = None
    pairing: Pairing | None = None
    calibration: Decision | None = None
    frames: Decision | None = None

    __repr__ = one_line
