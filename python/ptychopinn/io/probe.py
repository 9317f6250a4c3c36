# SPDX-License-Identifier: BSD-3-Clause
"""The probe of a scan: from the caller or the file, scaled to counts; otherwise estimated from the patterns.

Probes from files are scaled in this module only.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ptychopinn.acquisition import wavelength_of
from ptychopinn.decisions import Decision, Decisions, ProbeScale
from ptychopinn.errors import InputError
from ptychopinn.experiment import Experiment
from ptychopinn.io.fields import OpenFile
from ptychopinn.io.options import ReadOptions
from ptychopinn.io.probe_file import probe_pixel_size, read_probe_file
from ptychopinn.io.probe_layout import arrange, arranged
from ptychopinn.storage.arrays import blocks_of
from ptychopinn.storage.frames import resample_probe
from ptychopinn.storage.stored import StoredPatterns

#: A transfer function (N, N) in FFT order; None: the far field.
Transfer = NDArray[np.complex128] | None
#: Value of the key `probe_units` for a probe in sqrt(counts).
PROBE_UNITS = "sqrt_counts"

#: Smallest fraction of a probe's power on good pixels from which the probe can be scaled.
_SMALLEST_FRACTION = 0.05
#: Relative difference of pixel sizes from which a probe is likely of another geometry.
_DISAGREEMENT = 0.01

_log = logging.getLogger(__name__)


def stacked(file: OpenFile, key: str, probe: NDArray[Any]) -> NDArray[np.complex64]:
    """A probe of a file as (M, N, N) complex64; see :func:`~ptychopinn.io.probe_layout.arrange`."""
    return arranged(file, key, probe)[0]


def probe_of(
    file: OpenFile,
    probe: NDArray[np.complex64] | None,
    scale_known: str | None,
    counts: NDArray[Any] | StoredPatterns,
    bad: NDArray[np.bool_] | None,
    options: ReadOptions,
    decisions: Decisions,
    transfer: Transfer = None,
    pixel_size: float | None = None,
) -> tuple[NDArray[np.complex64], Decisions]:
    """Determine the probe in sqrt(counts): the option, else the file's, else an estimate from the patterns.

    Args:
        file: named in errors.
        probe: (M, N, N) as in the file, or None.
        scale_known: the reason why the file's probe is known to be in sqrt(counts); None if it is not known.
        counts: (n, N, N) photon counts.
        bad: (N, N) bool, bad pixels.
        options: from the caller.
        decisions: on the scan so far.
        transfer: (N, N), of the detector in the near field; None: in the far field.
        pixel_size: metres per object pixel, to which a probe of another size is resampled.

    Returns:
        (M, N, N) complex64, and the decisions with `probe` and `probe_scale`. Unless its scale is known, the probe is
        scaled so that its intensity at the detector, summed over modes and good pixels, is the mean number of counts of
        a pattern there; without bad pixels this is sum |P|^2 over modes.

    Raises:
        InputError: the probe of the options cannot be read, or has another shape.
    """
    size = counts.shape[-1]
    if options.probe is not None:
        (probe, layout), scale_known = given_probe(options.probe, size, pixel_size), None
        decisions = replace(decisions, probe=Decision("given", "as requested"), probe_layout=layout)
    elif probe is None:
        probe = guess_probe(counts, bad, transfer)
        focus = "focus of" if transfer is None else "propagation to the sample of"
        reason = f"the file has none: {focus} the mean pattern's root"
        decisions = replace(decisions, probe=Decision("guessed", reason))
        _log.warning("%s: no probe in the file: it is guessed from the mean pattern; state probe=", file.path)
    if scale_known is not None:
        earlier = decisions.probe_scale  # of a file of this package, which stores the scaled probe
        return probe, replace(decisions, probe_scale=earlier or ProbeScale(1.0, scale_known))
    probe, scale = scaled_probe(probe, counts, bad, transfer)
    return probe, replace(decisions, probe_scale=scale)


def scaled_probe(
    probe: NDArray[np.complex64],
    counts: NDArray[Any] | StoredPatterns,
    bad: NDArray[np.bool_] | None,
    transfer: Transfer = None,
) -> tuple[NDArray[np.complex64], ProbeScale]:
    """Scale a probe (M, N, N) to the mean number of counts of a pattern, see :func:`probe_of`."""
    good = np.ones(counts.shape[1:], np.bool_) if bad is None else ~bad
    total = sum(float(block.sum(axis=0, dtype=np.float64)[good].sum()) for _, block in blocks_of(counts))
    power, reason = (
        float(np.square(np.abs(probe.astype(np.complex128))).sum()),
        "sum |P|^2 over modes is the mean counts",
    )
    # Bad pixels reduce the intensity of the patterns, and that of the probe in the same way.
    intensity = 0.0 if bad is None else _intensity(probe, transfer)[good].sum()
    if intensity > _SMALLEST_FRACTION * power:
        power, reason = intensity, "its intensity on good pixels is the mean counts"
    factor = float(np.sqrt(total / counts.shape[0] / power))
    return (probe * factor).astype(np.complex64), ProbeScale(factor, f"{reason} of a pattern", True)


def near_transfer(size: int, experiment: Experiment, pixel_size: float | None, energy: float | None) -> Transfer:
    """Transfer function (N, N) from the sample to a detector in the near field, in FFT order; None: the far field."""
    if experiment.fresnel_number is None:
        return None
    from ptychopinn.physics.simulate_waves import free_space  # scipy.fft, which the start of a command does without

    known = pixel_size is not None and energy is not None
    ratio = wavelength_of(energy, experiment.radiation) / pixel_size if known else 0.0  # type: ignore[arg-type,operator]
    return free_space(size, experiment.fresnel_number, ratio)


def _intensity(probe: NDArray[np.complex64], transfer: Transfer) -> NDArray[np.float64]:
    """Intensity (N, N) at the detector, summed over modes; in the far field with the zero frequency at N//2."""
    exact = probe.astype(np.complex128)
    if transfer is not None:
        return np.asarray(np.square(np.abs(np.fft.ifft2(np.fft.fft2(exact) * transfer))).sum(axis=0))
    waves = np.fft.fft2(np.fft.ifftshift(exact, axes=(1, 2)), norm="ortho")
    intensity: NDArray[np.float64] = np.fft.fftshift(np.square(np.abs(waves)), axes=(1, 2)).sum(axis=0)
    return intensity


def guess_probe(
    counts: NDArray[Any] | StoredPatterns, bad: NDArray[np.bool_] | None = None, transfer: Transfer = None
) -> NDArray[np.complex64]:
    """Estimate the probe as the inverse Fourier transform of the square root of the mean pattern.

    The estimate has the aperture and the power of the probe, and no defocus. In the near field the root of the mean
    pattern is propagated back to the sample. It is an initial value for refinement.

    Args:
        counts: (n, N, N) photon counts, zero frequency at (N//2, N//2).
        bad: (N, N) bool, pixels to ignore.
        transfer: (N, N), of the detector in the near field, in FFT order; None: in the far field.

    Returns:
        (1, N, N) complex64 in sqrt(counts).

    Example:
        >>> probe = guess_probe(np.ones((3, 8, 8), np.uint8))
        >>> probe.shape, round(float(np.sum(np.abs(probe) ** 2)))
        ((1, 8, 8), 64)
    """
    mean = sum(block.sum(axis=0, dtype=np.float64) for _, block in blocks_of(counts)) / counts.shape[0]
    if bad is not None:
        mean = np.where(bad, 0, mean)
    if transfer is not None:
        back = np.fft.ifft2(np.fft.fft2(np.sqrt(mean)) * np.conj(transfer))
        return back[np.newaxis].astype(np.complex64)
    wave = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(np.sqrt(mean)), norm="ortho"))
    return wave[np.newaxis].astype(np.complex64)


def given_probe(
    probe: NDArray[Any] | str | Path, size: int, pixel_size: float | None = None
) -> tuple[NDArray[np.complex64], Decision | None]:
    """The probe (M, N, N) that a caller states, and how its axes were arranged, if there was a choice.

    A probe of another size in a file that states its pixels is resampled to those of the scan, with a warning.

    Args:
        probe: array or file.
        size: N.
        pixel_size: metres per object pixel of the scan.

    Raises:
        InputError: it cannot be read, or has another shape.
    """
    where, array = ("probe=", probe) if isinstance(probe, np.ndarray) else read_probe_file(probe)
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iufc":
        found = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise InputError(f"{where}: expected a probe as a numeric array, found {found}; state another with --probe")
    if not np.isfinite(array).all():
        raise InputError(f"{where}: expected finite values, found others; state another with --probe")

    def fail(expected: str, found: str) -> NoReturn:
        raise InputError(
            f"{where}: expected a probe of shape (M, {size}, {size}), complex with the axes (modes, y, x): "
            f"{expected}, found {found}"
        )

    own = None if isinstance(probe, np.ndarray) or pixel_size is None else probe_pixel_size(probe)
    if own is None or pixel_size is None:
        return arrange(array, size, where, fail)
    modes, layout = arrange(array, None, where, fail)
    if modes.shape[-1] == size:
        if abs(own / pixel_size - 1) > _DISAGREEMENT:
            text = "%s: the probe is used as it is, but its pixels are %.4g nm, those of the scan %.4g nm"
            _log.warning(text, where, own * 1e9, pixel_size * 1e9)
        return modes, layout
    text = f"of {modes.shape[-1]} px of {own * 1e9:.4g} nm"
    _log.warning("%s: the probe %s is resampled to %d px of %.4g nm", where, text, size, pixel_size * 1e9)
    resampled = resample_probe(modes, pixel_size / own, size)
    if not resampled.any():
        fail("a probe within the field of view of the patterns", text)
    return resampled, layout
