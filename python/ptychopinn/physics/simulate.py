# SPDX-License-Identifier: BSD-3-Clause
"""Simulated scans with a known object, in NumPy and float64.

The simulator shares no interpolation with the reconstruction, whose errors would otherwise cancel: it never samples the
object between its pixels. A patch at (y, x) is taken at the nearest integer pixel, and the probe is moved by the
remainder, at most half a pixel, with a Fourier shift. A common shift of probe and object does not change the intensity.
Object, positions and noise draw from separate streams of one seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from ptychopinn.errors import InputError
from ptychopinn.physics.objects import OBJECTS, Shape
from ptychopinn.physics.probes import PROBES
from ptychopinn.runtime.progress import progress
from ptychopinn.scan import Scan
from ptychopinn.storage.arrays import compact_counts, pattern_blocks

MARGIN = 8
ObjectSource = (
    str | Callable[[Shape, np.random.Generator], NDArray[np.complex64]] | NDArray[np.complexfloating[Any, Any]]
)


def simulate(
    object: ObjectSource = "photos",
    probe: str | NDArray[np.complexfloating[Any, Any]] = "defocused",
    scan: str = "raster",
    patterns: int = 1089,
    size: int = 64,
    step: float | tuple[float, float] | None = None,
    photons: float = 1e6,
    jitter: float | None = None,
    modes: int = 1,
    seed: int = 0,
    noise: bool = True,
) -> Scan:
    """Simulate a ptychographic scan.

    `counts_k ~ Poisson(sum_m |fftshift(FFT2_ortho(P_m(r - d_k) O(r + i_k)))|^2)`, where the position is the sum of the
    nearest integer pixel `i_k` and the remainder `d_k`.

    Args:
        object: a name in `OBJECTS`, a function with the same signature, or an (H, W) array that contains all patches.
        probe: a name in `PROBES`, or an (M, N, N) or (N, N) array of any scale, which then sets `size` and `modes`.
        scan: "raster" (rows of a nearly square grid) or "spiral" (Fermat spiral, of uniform density).
        patterns: n.
        size: N, even, pixels along a pattern and a patch.
        step: pixels between neighbours, or (y, x) of these; None: 0.15 N.
        photons: mean counts of a pattern behind an object of transmission 1.
        jitter: largest random offset of a position in y and in x, pixels; None: 2 for a raster, 0 for a spiral.
        modes: M incoherent probe modes.
        seed: of all random draws; the same arguments give the same scan.
        noise: False returns the expected intensities as float32.

    Returns:
        A scan whose `truth` is the object, with a margin of at least 8 px around all patches, and whose counts have the
        smallest unsigned integer type that holds them.

    Raises:
        InputError: an argument is out of its range, or an object array is too small for the scan.

    Example:
        >>> scan = simulate("dead_leaves", patterns=25, size=32, photons=1e4)
        >>> scan.counts.shape, scan.modes
        ((25, 32, 32), 1)
    """
    if patterns < 1 or not photons > 0:
        raise InputError(f"simulate: patterns must be 1 or more and photons above 0, got {patterns} and {photons}")
    object_rng, position_rng, noise_rng = np.random.default_rng(seed).spawn(3)
    field = _make_probe(probe, size, modes) * np.float32(np.sqrt(photons))
    size = field.shape[-1]
    steps = np.broadcast_to(0.15 * size if step is None else np.asarray(step, np.float64), 2)
    jitter = (2.0 if scan == "raster" else 0.0) if jitter is None else jitter
    positions = scan_positions(scan, patterns, (float(steps[0]), float(steps[1])), jitter, position_rng)
    height, width = (math.ceil(extent) + size + 2 * MARGIN for extent in np.ptp(positions, axis=0))
    truth = _make_object(object, (height, width), object_rng)
    if truth.ndim != 2 or truth.shape[0] < height or truth.shape[1] < width:
        raise InputError(f"simulate: the object must be at least {height} x {width} px, got shape {truth.shape}")
    positions += (np.array(truth.shape) - size) / 2 - (positions.min(axis=0) + positions.max(axis=0)) / 2

    blocks = []
    with progress("simulate", patterns) as advance:
        for part in pattern_blocks((patterns, 4, size, size)):
            intensity = diffract(truth, field, positions[part])
            blocks.append(compact_counts(noise_rng.poisson(intensity)) if noise else intensity.astype(np.float32))
            advance(len(intensity))
    names = {"object": object, "probe": probe, "scan": scan}
    settings = {key: value if isinstance(value, str) else "custom" for key, value in names.items()}
    return Scan(
        counts=np.concatenate(blocks),
        positions=positions,
        probe=field,
        truth=truth,
        name=f"simulated-{settings['object']}",
        metadata={
            "simulation": {
                **settings,
                "step": steps.tolist(),
                "photons": float(photons),
                "jitter": jitter,
                "seed": seed,
                "noise": noise,
            }
        },
    )


def scan_positions(
    scan: str, patterns: int, step: tuple[float, float], jitter: float = 0.0, rng: np.random.Generator | None = None
) -> NDArray[np.float64]:
    """Positions of a raster or a Fermat spiral.

    Args:
        scan: "raster" or "spiral"; a spiral has one position per area `step_y step_x`, like a raster.
        patterns: n; the last row of a raster may be shorter.
        step: (y, x) pixels between neighbours.
        jitter: largest random offset per axis, pixels.
        rng: draws the offsets; None: a generator of seed 0.

    Returns:
        (n, 2) float64, (y, x) in pixels, with an arbitrary origin.

    Raises:
        InputError: the name is unknown, or a value is out of range.

    Example:
        >>> scan_positions("raster", 5, (2, 3)).tolist()
        [[0.0, 0.0], [0.0, 3.0], [0.0, 6.0], [2.0, 0.0], [2.0, 3.0]]
    """
    if scan not in ("raster", "spiral"):
        raise InputError(f"simulate: scan must be raster or spiral, got {scan!r}")
    if not (min(step) > 0 and jitter >= 0):
        raise InputError(f"simulate: step must be above 0 and jitter 0 or more, got {step} and {jitter}")
    index = np.arange(patterns)
    if scan == "raster":
        columns = math.ceil(math.sqrt(patterns))
        unit = np.stack([index // columns, index % columns], axis=1).astype(np.float64)
    else:
        radius, angle = np.sqrt((index + 0.5) / np.pi), index * (np.pi * (3 - math.sqrt(5)))
        unit = np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=1)
    offsets = (rng or np.random.default_rng(0)).uniform(-jitter, jitter, unit.shape)
    return np.asarray(unit * np.array(step) + offsets)


def diffract(
    truth: NDArray[np.complexfloating[Any, Any]],
    probe: NDArray[np.complexfloating[Any, Any]],
    positions: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Expected intensities of patterns, with the zero frequency at pixel (N//2, N//2).

    Args:
        truth: (H, W), the object.
        probe: (M, N, N), in sqrt(counts).
        positions: (n, 2), (y, x) of each patch's first sample on the object, in pixels.

    Returns:
        (n, N, N) float64, in counts.

    Raises:
        InputError: a patch extends beyond the object.
    """
    size = probe.shape[-1]
    nearest = np.floor(positions + 0.5).astype(np.int64)
    if (nearest < 0).any() or (nearest + size > truth.shape).any():
        raise InputError(
            f"diffract: all patches must lie within the object of shape {truth.shape}, some extend beyond it"
        )
    patches = np.lib.stride_tricks.sliding_window_view(truth, (size, size))[nearest[:, 0], nearest[:, 1]]
    remainder = positions - nearest
    k = -2j * np.pi * np.fft.fftfreq(size)
    ramps = np.exp(k * remainder[:, :1])[:, :, np.newaxis] * np.exp(k * remainder[:, 1:])[:, np.newaxis, :]
    intensity = np.zeros(patches.shape)
    for mode in probe.astype(np.complex128):
        shifted = scipy.fft.ifft2(scipy.fft.fft2(mode) * ramps)
        intensity += np.square(np.abs(scipy.fft.fft2(shifted * patches, norm="ortho")))
    return np.fft.fftshift(intensity, axes=(-2, -1))


def predict_counts(scan: Scan, object: NDArray[np.complexfloating[Any, Any]] | None = None) -> NDArray[np.float64]:
    """Predict the counts of a scan for its truth, or for another object in the same coordinates.

    Args:
        scan: its probe and positions are used.
        object: (H, W); None: the scan's truth.

    Returns:
        (n, N, N) float64, expected counts.

    Raises:
        InputError: there is no object, or a patch extends beyond it.
    """
    target = scan.truth if object is None else object
    if target is None:
        raise InputError("predict_counts: object must be an array for a scan without a truth, got None")
    return np.concatenate(
        [diffract(target, scan.probe, scan.positions[part]) for part in pattern_blocks(scan.counts.shape)]
    )


def _make_probe(probe: str | NDArray[np.complexfloating[Any, Any]], size: int, modes: int) -> NDArray[np.complex64]:
    """Probe modes (M, N, N) with sum |P|^2 = 1."""
    if isinstance(probe, str):
        if probe not in PROBES:
            raise InputError(f"simulate: probe must be one of {', '.join(PROBES)} or an array, got {probe!r}")
        return PROBES[probe](size, modes)
    if probe.ndim not in (2, 3) or probe.shape[-1] != probe.shape[-2] or not probe.any():
        raise InputError(f"simulate: a probe array must be (M, N, N) or (N, N) and not all zero, got {probe.shape}")
    field = probe.reshape(-1, *probe.shape[-2:])
    return np.asarray(field / np.linalg.norm(field), np.complex64)


def _make_object(source: ObjectSource, shape: Shape, rng: np.random.Generator) -> NDArray[np.complex64]:
    if isinstance(source, str):
        if source not in OBJECTS:
            raise InputError(
                f"simulate: object must be one of {', '.join(OBJECTS)}, a function or an array, got {source!r}"
            )
        source = OBJECTS[source]
    made = source(shape, rng) if callable(source) else source
    return made.astype(np.complex64)
