# SPDX-License-Identifier: BSD-3-Clause
"""Simulated scans of the quality benchmark, with known objects.

`default_scan` is the scan on which iterative codes were measured (see docs/quality.md); its simulator shares no
interpolation with the library. `lines_scan` is the "synthetic lines" of the PtychoPINN papers, `scan_128` the scans of
their comparison of networks for patterns of 128 px.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage import data, transform

from ptychopinn.physics.objects import OBJECTS
from ptychopinn.physics.probes import PROBES, defocused
from ptychopinn.physics.simulate import MARGIN, simulate
from ptychopinn.scan import Scan
from ptychopinn.storage.arrays import compact_counts

Complex = NDArray[np.complexfloating[Any, Any]]

#: Amplitude and phase of the default scan's object, one pair per seed.
PICTURES = (("coins", "camera"), ("moon", "rocket"), ("cell", "astronaut"))
#: The same of other samples, which are not used in training.
OTHER_PICTURES = (("page", "coffee"), ("brick", "chelsea"), ("gravel", "retina"))
_SIZE = 64


def default_scan(
    pictures: tuple[str, str] = PICTURES[0],
    photons: float = 1e6,
    step: float = 9.6,
    side: int = 33,
    seed: int = 20260101,
    position_error: float = 0.0,
    true_probe: bool = False,
) -> Scan:
    """Simulate a jittered raster of side^2 patterns of 64 px on 400 px (or more), with a defocused annular pupil.

    Args:
        pictures: of the amplitude (0.7 to 1) and of the phase (-0.8 to 0.8 rad), from skimage.data.
        photons: counts of a pattern behind an empty sample.
        step: pixels between neighbours, before a jitter of 2.
        side: patterns along one side.
        seed: of positions and noise.
        position_error: pixels, standard deviation of the reported positions.
        true_probe: True: the probe of the scan is the true one. False: it has another defocus and aperture.
    """
    rng = np.random.default_rng(seed)
    extent = max(400, int(np.ceil(step * (side - 1))) + 92)
    amplitude, phase = (_picture(name, extent) for name in pictures)
    truth = ((0.70 + 0.30 * amplitude) * np.exp(1j * (1.6 * phase - 0.8))).astype(np.complex64)
    probe = _annular_probe(0.049, 16.0)
    probe = (probe * np.sqrt(photons / _SIZE**2 / (abs(probe) ** 2).sum())).astype(np.complex64)
    guess = _annular_probe(0.040, 14.5)
    guess = (guess * np.sqrt((abs(probe) ** 2).sum() / (abs(guess) ** 2).sum())).astype(np.complex64)
    grid = np.meshgrid(np.arange(side) * step, np.arange(side) * step, indexing="ij")
    first = extent / 2 - step * (side - 1) / 2
    centres = [np.clip((first + axis + rng.uniform(-2, 2, axis.shape)).ravel(), 33, extent - 33) for axis in grid]
    k = np.fft.fftfreq(_SIZE)
    spectrum = np.fft.fft2(probe.astype(complex))
    counts = np.empty((side * side, _SIZE, _SIZE), np.int64)
    for index, (y, x) in enumerate(zip(*centres, strict=True)):
        row, column = round(y), round(x)
        moved = np.fft.ifft2(spectrum * np.exp(-2j * np.pi * (k[:, None] * (y - row) + k[None] * (x - column))))
        patch = truth[row - 32 : row + 32, column - 32 : column + 32]
        counts[index] = rng.poisson(abs(np.fft.fftshift(np.fft.fft2(moved * patch))) ** 2)
    # The errors of x are drawn before those of y.
    errors = [position_error * rng.normal(size=axis.shape) for axis in (centres[1], centres[0])]
    positions = np.stack([centres[0] + errors[1], centres[1] + errors[0]], axis=1) - _SIZE / 2
    return Scan(
        counts=compact_counts(counts),
        positions=positions,
        probe=(_SIZE * (probe if true_probe else guess))[None].astype(np.complex64),
        truth=truth,
        name=f"default-{pictures[0]}-{pictures[1]}",
    )


def lines_scan(
    probe: str, seed: int, patterns: int = 1024, photons: float = 1e9, sample: str = "lines_amplitude"
) -> Scan:
    """Simulate a raster of 4 px on the centre of a sample of 392 x 392 px, by default synthetic lines without phase.

    Args:
        probe: "disk" (flat) or "defocused" (curved).
        seed: of the object and the noise.
        patterns: of 64 px; 6,889 fill the object.
        photons: counts of a pattern behind an empty sample.
        sample: name in OBJECTS.
    """
    made = OBJECTS[sample]((392, 392), np.random.default_rng(seed))
    scan = simulate(made, probe=probe, patterns=patterns, step=4, jitter=0, photons=photons, seed=seed)
    name = "lines" if sample == "lines_amplitude" else sample.replace("_", "-")
    return dataclasses.replace(scan, name=f"{name}-{probe}-{seed}")


def scan_128(
    sample: str, seed: int, step: int = 8, patterns: int | None = None, probe: str = "padded", photons: float = 1e9
) -> Scan:
    """Simulate a raster of patterns of 128 px on a sample of 392 x 392 px, as in PtychoPINN's comparison of networks.

    Args:
        sample: name in OBJECTS.
        seed: of the object and the noise.
        step: pixels; the comparison trains at 8 and tests at 20.
        patterns: None: as many as fit, 1,024 at a step of 8 and 169 at 20.
        probe: "padded", the curved one of 64 px in a margin of zeros, or a name in PROBES.
        photons: counts of a pattern behind an empty sample.
    """
    made = OBJECTS[sample]((392, 392), np.random.default_rng(seed))
    side = (392 - 128 - 2 * MARGIN) // step + 1
    field = np.pad(defocused(64), ((0, 0), (32, 32), (32, 32))) if probe == "padded" else PROBES[probe](128, 1)
    scan = simulate(made, field, patterns=patterns or side**2, step=step, jitter=0, photons=photons, seed=seed)
    return dataclasses.replace(scan, name=f"{sample.replace('_', '-')}-128-{probe}-{seed}")


def split_left_right(scan: Scan) -> tuple[Scan, Scan]:
    """Split a scan at the median x of its positions, into (left, right)."""
    left = scan.positions[:, 1] < np.median(scan.positions[:, 1])
    return (
        dataclasses.replace(scan.subset(left), name=f"{scan.name}-left"),
        dataclasses.replace(scan.subset(~left), name=f"{scan.name}-right"),
    )


def _picture(name: str, extent: int) -> NDArray[np.float64]:
    image = np.asarray(getattr(data, name)(), np.float64)
    image = image[..., :3].mean(-1) if image.ndim == 3 else image
    crop = 300 if name == "coins" else min(image.shape)
    resized = transform.resize(image[:crop, :crop], (extent, extent), anti_aliasing=True)
    blurred = ndimage.gaussian_filter(resized, 0.6)
    normalised: NDArray[np.float64] = (blurred - blurred.min()) / (blurred.max() - blurred.min())
    return normalised


def _annular_probe(defocus: float, radius: float) -> NDArray[np.complex128]:
    k = np.fft.fftfreq(_SIZE) * _SIZE
    ky, kx = np.meshgrid(k, k, indexing="ij")
    rho = np.hypot(ky, kx)
    aperture = 1 / (1 + np.exp((rho - radius) / 0.7)) * (1 - 0.9 / (1 + np.exp((rho - 3) / 0.5)))
    trefoil = np.exp(0.15j * np.sin(3 * np.arctan2(ky, kx)) * (rho / radius) ** 3)
    return np.fft.fftshift(np.fft.ifft2(aperture * np.exp(1j * defocus * rho**2) * trefoil))
