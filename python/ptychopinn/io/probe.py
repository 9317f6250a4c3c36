# SPDX-License-Identifier: BSD-3-Clause
"""The probe of a scan that was read: from the file or the caller, scaled to counts; or a first guess.

This is the only place where a probe from a file meets a scale factor.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn.decisions import Decision, Decisions, ProbeScale
from ptychopinn.errors import InputError, not_found
from ptychopinn.io.fields import Source
from ptychopinn.io.options import ReadOptions
from ptychopinn.storage.arrays import pattern_blocks

#: What a file says of a probe that is already in sqrt(counts).
PROBE_UNITS = "sqrt_counts"

#: Share of a probe's light on good pixels below which it says nothing about its power.
_SEEN = 0.05

_log = logging.getLogger(__name__)


def stacked(source: Source, key: str, probe: NDArray[Any], size: int | None) -> NDArray[np.complex64]:
    """A probe of a file, (N, N), (N, N, 1) or (M, N, N), as (M, N, N); `size` is N, if it is known."""
    shape = probe.shape
    if probe.ndim == 3 and probe.shape[2] == 1 and probe.shape[0] == probe.shape[1]:
        probe = probe[:, :, 0]
    if probe.ndim == 2:
        probe = probe[np.newaxis]
    if probe.ndim != 3 or probe.shape[1] != probe.shape[2] or not probe.size:
        source.fail(key, "shape (N, N), (N, N, 1) or (M, N, N)", f"{shape}")
    if size is not None and probe.shape[1] != size:
        source.fail(key, f"a probe of the size of the patterns, {size} px", f"{probe.shape[1]} px")
    if not probe.any():
        source.fail(key, "a probe", "zeros only")
    return probe.astype(np.complex64)


def probe_of(
    source: Source,
    probe: NDArray[np.complex64] | None,
    scale_known: str | None,
    counts: NDArray[Any],
    bad: NDArray[np.bool_] | None,
    options: ReadOptions,
    decisions: Decisions,
) -> tuple[NDArray[np.complex64], Decisions]:
    """The probe in sqrt(counts): the caller's, else the file's, else a guess.

    Args:
        source: the file, for complaints and the log.
        probe: (M, N, N) as in the file, or None.
        scale_known: why the file's probe is in sqrt(counts) already; None if it is not known to be.
        counts: (n, N, N) photon counts.
        bad: (N, N) bool, pixels whose counts mean nothing.
        options: what the caller states.
        decisions: on the scan so far.

    Returns:
        (M, N, N) complex64; unless its scale is known, its light on good pixels is the mean counts of a pattern there:
        without bad ones, that is sum |P|^2 over its modes. And the decisions, with `probe` and `probe_scale`.
    """
    size = counts.shape[-1]
    if options.probe is not None:
        probe, scale_known = _given_probe(options.probe, size), None
        decisions = replace(decisions, probe=Decision("given", "as requested"))
    elif probe is None:
        probe = guess_probe(counts, bad)
        reason = "the file has none: focus of the mean pattern's root"
        decisions = replace(decisions, probe=Decision("guessed", reason))
        _log.warning("%s: no probe in the file: it is guessed from the mean pattern; state probe=", source.path)
    if scale_known is not None:
        earlier = decisions.probe_scale  # of our own file, whose probe it scaled
        return probe, replace(decisions, probe_scale=earlier or ProbeScale(1.0, scale_known))
    good = np.ones(counts.shape[1:], np.bool_) if bad is None else ~bad
    total = sum(float(counts[part].sum(axis=0, dtype=np.float64)[good].sum()) for part in pattern_blocks(counts.shape))
    power, reason = (
        float(np.square(np.abs(probe.astype(np.complex128))).sum()),
        "sum |P|^2 over modes is the mean counts",
    )
    # Behind a mask less light arrives, of the probe as of the patterns.
    arriving = 0.0 if bad is None else _light(probe)[good].sum()
    if arriving > _SEEN * power:
        power, reason = arriving, "its light on good pixels is the mean counts"
    factor = float(np.sqrt(total / counts.shape[0] / power))
    decisions = replace(decisions, probe_scale=ProbeScale(factor, f"{reason} of a pattern"))
    return (probe * factor).astype(np.complex64), decisions


def _light(probe: NDArray[np.complex64]) -> NDArray[np.float64]:
    """(N, N) intensity of all modes on the detector, zero frequency at (N//2, N//2)."""
    waves = np.fft.fft2(np.fft.ifftshift(probe.astype(np.complex128), axes=(1, 2)), norm="ortho")
    light: NDArray[np.float64] = np.fft.fftshift(np.square(np.abs(waves)), axes=(1, 2)).sum(axis=0)
    return light


def guess_probe(counts: NDArray[Any], bad: NDArray[np.bool_] | None = None) -> NDArray[np.complex64]:
    """A first guess of the probe: the root of the mean pattern, propagated back to the sample as if in focus.

    It has the right aperture and light and no defocus: a start for refinement of the probe, not a measurement.

    Args:
        counts: (n, N, N) photon counts, zero frequency at (N//2, N//2).
        bad: (N, N) bool, pixels that are left out.

    Returns:
        (1, N, N) complex64 in sqrt(counts).

    Example:
        >>> probe = guess_probe(np.ones((3, 8, 8), np.uint8))
        >>> probe.shape, round(float(np.sum(np.abs(probe) ** 2)))
        ((1, 8, 8), 64)
    """
    mean = sum(counts[part].sum(axis=0, dtype=np.float64) for part in pattern_blocks(counts.shape)) / counts.shape[0]
    if bad is not None:
        mean = np.where(bad, 0, mean)
    wave = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(np.sqrt(mean)), norm="ortho"))
    return wave[np.newaxis].astype(np.complex64)


def _given_probe(probe: NDArray[Any] | str | Path, size: int) -> NDArray[np.complex64]:
    if isinstance(probe, np.ndarray):
        where, array = "probe=", probe
    else:
        where = f"{probe}"
        try:
            array = np.load(probe, allow_pickle=False)
        except FileNotFoundError:
            raise not_found(probe) from None
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{probe}: expected an .npy file of a probe, found none that can be read") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iufc":
        raise InputError(
            f"{where}: expected a probe as an array of numbers, found {type(array).__name__} of no numbers"
        )
    if array.ndim == 2:
        array = array[np.newaxis]
    if array.ndim != 3 or array.shape[1:] != (size, size) or not array.size:
        raise InputError(f"{where}: expected a probe of shape (M, {size}, {size}), found {array.shape}")
    if not (np.isfinite(array).all() and array.any()):
        raise InputError(f"{where}: expected a probe that is finite and not all zero, found one that is not")
    return array.astype(np.complex64)
