# SPDX-License-Identifier: BSD-3-Clause
"""Power and centre of the probe."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ptychopinn.decisions import ProbeScale
from ptychopinn.errors import InputError
from ptychopinn.findings.centre import in_fft_order, probe_far_field
from ptychopinn.mending.blocks import mean_of
from ptychopinn.mending.experiments import require_far_field, with_probe
from ptychopinn.mending.notes import Note
from ptychopinn.mending.pixels import good_pixels, with_counts
from ptychopinn.scan import Scan


def scaled_by_reader(scan: Scan) -> bool:
    """Whether the reader scaled the probe to the counts, so that it depends on faulty pixels and patterns."""
    scale = scan.decisions.probe_scale
    return scale is not None and scale.from_counts


def scale_probe(scan: Scan) -> tuple[Scan, Note]:
    """Scale the probe to the counts: its far-field intensity on good pixels becomes the mean counts of a pattern there.

    As readers scale a probe whose unit is not known. Patterns without counts are not used.

    Raises:
        InputError: the far field of the probe, or the patterns, have nothing on good pixels.
    """
    good = good_pixels(scan)
    counts = float(mean_of(with_counts(scan).counts)[good].sum())
    power = float(probe_far_field(scan.probe)[good].sum())
    if not (counts > 0 and power > 0):
        raise InputError(
            f"{scan.name}: expected counts and a far field of the probe on good pixels, found none; "
            "state another probe with --probe"
        )
    factor = float(np.sqrt(counts / power))
    earlier = scan.decisions.probe_scale
    total = factor if earlier is None else factor * earlier.factor
    scale = ProbeScale(total, "its intensity on good pixels is the mean counts of a pattern", True)
    text = f"probe multiplied by {factor:.6g}: {counts:.6g} counts on good pixels, as the mean of the patterns"
    mended = replace(
        scan,
        probe=scan.probe * np.float32(factor),
        decisions=replace(scan.decisions, probe_scale=scale),
        experiment=with_probe(scan.experiment, lambda field: field * np.float32(factor)),
    )
    return mended, Note("scale_probe", text, {"factor": factor})


def centre_probe(scan: Scan) -> tuple[Scan, Note]:
    """Roll the probe by integer pixels so that its centre of mass is at sample N//2.

    Positions move with it, so that it illuminates the same part of the object. A probe in FFT order, which is in the
    corners of its patch, is only reordered.
    """
    size = scan.patch_size
    intensity = np.square(np.abs(scan.probe.astype(np.complex128))).sum(0)
    turn = np.exp(2j * np.pi * (np.arange(size) - size // 2) / size)  # a centre of mass on a periodic grid
    offset = [round(float(np.angle(intensity.sum(1 - axis) @ turn)) * size / (2 * np.pi)) for axis in (0, 1)]
    reordered = in_fft_order((float(offset[0]), float(offset[1])), size)
    if not any(offset):
        return scan, Note("centre_probe", "the probe is at the centre of its patch")
    require_far_field(scan, "centre_probe")

    def roll(field: NDArray[np.complex64]) -> NDArray[np.complex64]:
        return np.roll(field, (-offset[0], -offset[1]), (1, 2))

    probe, experiment = roll(scan.probe), with_probe(scan.experiment, roll)
    positions = scan.positions if reordered else scan.positions + np.array(offset, np.float64)
    moved = " from FFT order" if reordered else ", and the positions by the opposite"
    text = f"probe rolled by ({-offset[0]}, {-offset[1]}) px{moved}"
    note = Note("centre_probe", text, {"pixels": [-offset[0], -offset[1]]})
    return replace(scan, probe=probe, positions=positions, experiment=experiment), note
