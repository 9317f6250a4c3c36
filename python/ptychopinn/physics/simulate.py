# SPDX-License-Identifier: BSD-3-Clause
"""Simulated scans with a known object, in NumPy and float64.

The simulator shares no interpolation with the reconstruction, whose errors would otherwise cancel: it never samples the
object between its pixels. A patch at (y, x) is taken at the nearest integer pixel, and the probe is moved by the
remainder, at most half a pixel, with a Fourier shift. A common shift of probe and object does not change the intensity.
Object, positions and noise draw from separate streams of one seed. :mod:`ptychopinn.physics.simulate_experiments` makes
experiments beyond the plain model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from ptychopinn.errors import InputError
from ptychopinn.experiment import Experiment
from ptychopinn.physics.objects import OBJECTS, Shape
from ptychopinn.physics.probes import PROBES
from ptychopinn.physics.simulate_experiments import make_slices
from ptychopinn.physics.simulate_waves import Optics, expected_counts, source_points
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
    experiment: Experiment | None = None,
    pixel_size: float | None = None,
    energy: float | None = None,
) -> Scan:
    """Simulate a ptychographic scan.

    `counts_k ~ Poisson(sum_m |fftshift(FFT2_ortho(P_m(r - d_k) O(r + i_k)))|^2)`, where the position is the sum of the
    nearest integer pixel `i_k` and the remainder `d_k`. What an experiment adds to this is in docs/maths.md.

    Args:
        object: a name in `OBJECTS`, a function with the same signature, or an (H, W) array that contains all patches;
            of a thick sample an (S, H, W) array or a function that returns one, see :func:`make_slices`.
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
        experiment: what differs from the plain model; its `probe_variations` have the scale of `probe`.
        pixel_size: metres per object pixel; needed for a thick sample.
        energy: of a photon or an electron, eV; needed for a thick sample.

    Returns:
        A scan whose `truth` is the object, or the product of its slices, with a margin of at least 8 px around all
        patches, and whose counts have the smallest unsigned integer type that holds them.

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
    field, unit = _make_probe(probe, size, modes)
    field = field * np.float32(np.sqrt(photons))
    size = field.shape[-1]
    experiment = (experiment or Experiment()).checked("simulate", patterns, size)
    if experiment.probe_variations is not None:
        varied = experiment.probe_variations * np.float32(np.sqrt(photons) / unit)
        experiment = replace(experiment, probe_variations=varied)
    steps = np.broadcast_to(0.15 * size if step is None else np.asarray(step, np.float64), 2)
    jitter = (2.0 if scan == "raster" else 0.0) if jitter is None else jitter
    positions = scan_positions(scan, patterns, (float(steps[0]), float(steps[1])), jitter, position_rng)
    margin = MARGIN + math.ceil(np.abs(source_points(experiment)[0]).max())
    height, width = (math.ceil(extent) + size + 2 * margin for extent in np.ptp(positions, axis=0))
    sample = _make_object(object, (height, width), object_rng, experiment.slices)
    if sample.shape[-2] < height or sample.shape[-1] < width:
        raise InputError(f"simulate: the object must be at least {height} x {width} px, got shape {sample.shape}")
    middle = (positions.min(axis=0) + positions.max(axis=0)) / 2
    positions += (np.array(sample.shape[-2:]) - size) / 2 - middle

    blocks = []
    with progress("simulate", patterns) as advance:
        for part in pattern_blocks((patterns, 4, size, size)):
            own = experiment.subset(np.arange(patterns)[part])
            intensity = diffract(sample, field, positions[part], own, pixel_size, energy)
            counts = compact_counts(noise_rng.poisson(intensity)) if noise else intensity.astype(np.float32)
            blocks.append(_saturated(counts, experiment.saturation))
            advance(len(intensity))
    names = {"object": object, "probe": probe, "scan": scan}
    settings = {key: value if isinstance(value, str) else "custom" for key, value in names.items()}
    return Scan(
        counts=np.concatenate(blocks),
        positions=positions,
        probe=field,
        truth=sample if sample.ndim == 2 else np.prod(sample, axis=0),
        pixel_size=pixel_size,
        energy=energy,
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
        experiment=experiment,
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
    experiment: Experiment | None = None,
    pixel_size: float | None = None,
    energy: float | None = None,
) -> NDArray[np.float64]:
    """Expected intensities of patterns, with the zero frequency at pixel (N//2, N//2).

    Args:
        truth: (H, W), the object, or (S, H, W), the slices of a thick sample.
        probe: (M, N, N), in sqrt(counts).
        positions: (n, 2), (y, x) of each patch's first sample on the object, in pixels.
        experiment: of these patterns; without noise, and before saturation.
        pixel_size: metres per object pixel; needed for a thick sample.
        energy: of a photon or an electron, eV; needed for a thick sample.

    Returns:
        (n, N, N) float64, in counts.

    Raises:
        InputError: a patch extends beyond the object, or slices do not fit the experiment.
    """
    if truth.ndim == 3 or not (experiment is None or experiment.plain):
        slices = truth if truth.ndim == 3 else truth[np.newaxis]
        return expected_counts(slices, probe, positions, experiment or Experiment(), Optics(pixel_size, energy))
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
        scan: its probe, positions and experiment are used.
        object: (H, W), or the slices (S, H, W) of a thick sample; None: the scan's truth.

    Returns:
        (n, N, N) float64, expected counts before saturation.

    Raises:
        InputError: there is no object, the slices of a thick sample are not stated, or a patch extends beyond it.
    """
    target = scan.truth if object is None else object
    if target is None:
        raise InputError("predict_counts: object must be an array for a scan without a truth, got None")
    if object is None and scan.experiment.slices > 1:
        raise InputError(
            f"predict_counts: object must be the {scan.experiment.slices} slices of the thick sample, (S, H, W), got "
            "None, and the truth of the scan is their product"
        )
    predicted = []
    for part in pattern_blocks(scan.counts.shape):
        own = scan.experiment.subset(np.arange(scan.n)[part])
        predicted.append(diffract(target, scan.probe, scan.positions[part], own, scan.pixel_size, scan.energy))
    return np.concatenate(predicted)


def _saturated(counts: NDArray[Any], limit: float | None) -> NDArray[Any]:
    """Counts up to the first value at which a pixel is saturated."""
    if limit is None:
        return counts
    largest = math.ceil(limit) if counts.dtype.kind == "u" else limit
    return counts if counts.max() <= largest else np.minimum(counts, np.asarray(largest, counts.dtype))


def _make_probe(
    probe: str | NDArray[np.complexfloating[Any, Any]], size: int, modes: int
) -> tuple[NDArray[np.complex64], float]:
    """Probe modes (M, N, N) with sum |P|^2 = 1, and their norm before."""
    if isinstance(probe, str):
        if probe not in PROBES:
            raise InputError(f"simulate: probe must be one of {', '.join(PROBES)} or an array, got {probe!r}")
        return PROBES[probe](size, modes), 1.0
    if probe.ndim not in (2, 3) or probe.shape[-1] != probe.shape[-2] or not probe.any():
        raise InputError(f"simulate: a probe array must be (M, N, N) or (N, N) and not all zero, got {probe.shape}")
    field = probe.reshape(-1, *probe.shape[-2:])
    return np.asarray(field / np.linalg.norm(field), np.complex64), float(np.linalg.norm(field))


def _make_object(source: ObjectSource, shape: Shape, rng: np.random.Generator, slices: int) -> NDArray[np.complex64]:
    """The object (H, W), or its slices (S, H, W)."""
    if isinstance(source, str) and source not in OBJECTS:
        raise InputError(
            f"simulate: object must be one of {', '.join(OBJECTS)}, a function or an array, got {source!r}"
        )
    if isinstance(source, str) and slices > 1:
        return make_slices([source] * slices, shape, rng)
    if isinstance(source, str):
        source = OBJECTS[source]
    made = source(shape, rng) if callable(source) else source
    if made.ndim != (2 if slices == 1 else 3) or (slices > 1 and len(made) != slices):
        wanted = "(H, W)" if slices == 1 else f"({slices}, H, W), one for each slice of the experiment"
        raise InputError(f"simulate: the object must have the shape {wanted}, got {made.shape}")
    return made.astype(np.complex64)
