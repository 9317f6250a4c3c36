# SPDX-License-Identifier: BSD-3-Clause
"""Simulated scans for benchmarks/physics.py, each with one departure from the plain forward model.

Object, probe and wrong initial probe are those of `scans.default_scan`: 625 patterns of 64 px in steps of 9.6 px, 1e6
photons each. Counts are those of the simulator, with finer exposures than the reconstruction has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scans import OTHER_PICTURES, PICTURES, default_scan

from ptychopinn._one_line import one_line
from ptychopinn.acquisition import wavelength_of
from ptychopinn.experiment import Experiment
from ptychopinn.physics.simulate import diffract, scan_positions
from ptychopinn.physics.simulate_experiments import line_exposure, smooth_background
from ptychopinn.scan import Scan
from ptychopinn.storage.arrays import compact_counts

Complex = NDArray[np.complexfloating[Any, Any]]

STEP = 9.6
#: Metres per object pixel, and eV: the depth of field of the probe is 16 pixel^2 / wavelength, 10 um.
PIXEL, ENERGY = 1e-8, 8000.0
#: Detector pixels.
SPREAD = 0.8
#: Object pixels, (y, x).
SOURCE = (0.0, 1.3)
#: Part of the patterns' pixels that would have more counts than the detector can count.
SATURATED = 0.02
#: Mean counts of the background in a pixel; the patterns have 180 of the sample.
BACKGROUND = 5.0
FRESNEL = 0.03
#: Pixel^2 / wavelength between the slices, three depths of field.
DISTANCE = 48.0
#: Root mean squares of what varies from pattern to pattern: radians of defocus, of each astigmatism and of each coma at
#: the rms radius of the spectrum, pixels of position along y and x, and the relative intensity.
VARIATION = {"defocus": 0.25, "astigmatism": 0.2, "coma": 0.15, "position": 0.25, "intensity": 0.05}


@dataclass(frozen=True, eq=False)
class Problem:
    """A scan with a wrong initial probe, whose experiment is the right one.

    Args:
        scan: to reconstruct.
        slices: (S, H, W), of a thick sample.
        probes: (n, N, N), the true probe of every pattern.
    """

    scan: Scan
    slices: Complex | None = None
    probes: Complex | None = None

    __repr__ = one_line

    @property
    def distance(self) -> float:
        """Metres between the slices, or to the detector in the near field."""
        return distance(DISTANCE if self.slices is not None else 1 / FRESNEL)


def distance(units: float) -> float:
    """Metres of a distance in pixel^2 / wavelength."""
    return units * PIXEL**2 / wavelength_of(ENERGY, "photon")


def picture(seed: int, pictures: tuple[tuple[str, str], ...] = PICTURES) -> tuple[Complex, Complex, Complex]:
    """Object, true probe and wrong initial probe."""
    pair = pictures[seed % len(pictures)]
    true, guess = (default_scan(pair, side=2, true_probe=known) for known in (True, False))
    assert true.truth is not None
    return true.truth, true.probe, guess.probe


def positions_of(side: int, seed: int, integers: bool = False) -> NDArray[np.float64]:
    """Jittered raster of side^2 positions in the middle of a picture of 400 px; ``integers``: at pixels."""
    found = scan_positions("raster", side * side, (STEP, STEP), 2.0, np.random.default_rng([seed, 1]))
    found += (400 - 64) / 2 - (found.min(0) + found.max(0)) / 2
    return np.asarray(np.round(found) if integers else found)


def measured(
    sample: Complex,
    probe: Complex,
    guess: Complex,
    positions: NDArray[np.float64],
    seed: int,
    truth: Experiment,
    model: Experiment | None = None,
    probes: Complex | None = None,
) -> Scan:
    """Simulate patterns.

    Args:
        sample: (H, W) or slices (S, H, W).
        probe: true, (1, N, N).
        guess: initial probe of the scan.
        positions: (n, 2).
        seed: of the noise.
        truth: experiment of the simulation.
        model: that of the scan; None: the same.
        probes: (n, N, N), instead of ``probe``.
    """
    if probes is None:
        expected = diffract(sample, probe, positions, truth, PIXEL, ENERGY)
    else:
        pairs = zip(probes, positions, strict=True)
        expected = np.concatenate(
            [diffract(sample, own[None], place[None], truth, PIXEL, ENERGY) for own, place in pairs]
        )
    counts = np.random.default_rng([seed, 2]).poisson(expected)
    if truth.saturation is not None:
        counts = np.minimum(counts, int(truth.saturation))
    return Scan(
        counts=compact_counts(counts),
        positions=positions,
        probe=guess,
        truth=sample if sample.ndim == 2 else np.prod(sample, axis=0),
        pixel_size=PIXEL,
        energy=ENERGY,
        name="physics",
        experiment=truth if model is None else model,
    )


def fly(length: float) -> Callable[[int, int], Problem]:
    """The probe moves by so many steps during every exposure; 21 points in the simulation, 7 in the model."""

    def make(seed: int, side: int) -> Problem:
        finer, coarse = (Experiment(exposure=line_exposure(length * STEP, points)) for points in (21, 7))
        scan = measured(*picture(seed), positions_of(side, seed), seed, finer, coarse)
        return Problem(scan)

    return make


def of(experiment: Callable[[int, Complex, Complex, NDArray[np.float64]], Experiment]) -> Callable[[int, int], Problem]:
    """Scans of an experiment that depends on seed, object, probe and positions."""

    def make(seed: int, side: int) -> Problem:
        sample, probe, guess = picture(seed)
        positions = positions_of(side, seed)
        truth = experiment(seed, sample, probe, positions)
        return Problem(measured(sample, probe, guess, positions, seed, truth))

    return make


def saturated(seed: int, sample: Complex, probe: Complex, positions: NDArray[np.float64]) -> Experiment:
    """A detector that cannot count the brightest pixels."""
    limit = float(np.quantile(diffract(sample, probe, positions[::5]), 1 - SATURATED))
    return Experiment(saturation=round(limit))


def near(seed: int, side: int) -> Problem:
    """A diverging beam and a detector in the near field; positions are whole pixels, as pty-chi moves no patterns."""
    sample, probe, guess = picture(seed)
    positions = positions_of(side, seed, integers=True)
    experiment = Experiment(fresnel_number=FRESNEL)
    return Problem(measured(sample, np.conj(probe), np.conj(guess), positions, seed, experiment))


def thick(seed: int, side: int) -> Problem:
    """Two pictures several depths of field apart, each of half the contrast, in a diverging beam, which covers both."""
    (first, probe, guess), (second, *_) = picture(seed), picture(seed, OTHER_PICTURES)
    slices = np.stack([np.sqrt(np.abs(image)) * np.exp(0.5j * np.angle(image)) for image in (first, second)])
    slices = slices.astype(np.complex64)
    experiment = Experiment(slice_distances=(distance(DISTANCE),))
    positions = positions_of(side, seed)
    return Problem(measured(slices, np.conj(probe), np.conj(guess), positions, seed, experiment), slices=slices)


def varying(seed: int, side: int) -> Problem:
    """Defocus, astigmatism, coma, position and intensity of the probe vary independently from pattern to pattern."""
    sample, probe, guess = picture(seed)
    positions = positions_of(side, seed)
    probes = varied(probe[0], len(positions), seed)
    scan = measured(sample, probe, guess, positions, seed, Experiment(), probes=probes)
    return Problem(scan, probes=probes)


def varied(probe: Complex, patterns: int, seed: int) -> Complex:
    """Probes (n, N, N) of all patterns, white noise in every parameter."""
    rng = np.random.default_rng([seed, 3])
    spectrum = np.fft.fft2(probe.astype(np.complex128))
    f = np.fft.fftfreq(probe.shape[-1])
    power = np.abs(spectrum) ** 2
    radius = np.sqrt(np.sum(power * (f[:, None] ** 2 + f**2)) / np.sum(power))
    y, x = np.broadcast_to(f[:, None], power.shape), np.broadcast_to(f, power.shape)
    v, u = y / radius, x / radius
    square = u * u + v * v
    shapes = {
        "defocus": [square], "astigmatism": [v * v - u * u, 2 * u * v], "coma": [v * square, u * square],
        "position": [-2 * np.pi * y, -2 * np.pi * x],
    }  # fmt: skip
    phase = np.zeros((patterns, *power.shape))
    for name, terms in shapes.items():
        for term in terms:
            phase += VARIATION[name] * rng.normal(size=(patterns, 1, 1)) * term
    level = np.sqrt(np.maximum(1 + VARIATION["intensity"] * rng.normal(size=(patterns, 1, 1)), 0.0))
    return np.asarray(level * np.fft.ifft2(spectrum * np.exp(1j * phase)))


#: The problem of a seed, with side^2 patterns.
PROBLEMS: dict[str, Callable[[int, int], Problem]] = {
    "fly-1": fly(1.0),
    "fly-2": fly(2.0),
    "background": of(lambda seed, *_: Experiment(background=smooth_background(64, BACKGROUND, seed))),
    "saturation": of(saturated),
    "spread": of(lambda *_: Experiment(point_spread=SPREAD)),
    "source": of(lambda *_: Experiment(source_size=SOURCE)),
    "near": near,
    "thick": thick,
    "varying": varying,
}


def plain(scan: Scan) -> Scan:
    """The same scan without its experiment."""
    return replace(scan, experiment=Experiment())


def masked(scan: Scan) -> Scan:
    """The plain scan, whose bad pixels are those that are saturated in a pattern."""
    limit = scan.experiment.saturation
    assert limit is not None
    return replace(plain(scan), bad_pixels=(scan.counts >= limit).any(0))


def subtracted(scan: Scan) -> Scan:
    """The plain scan, less its background."""
    background = scan.experiment.background
    assert background is not None
    counts = np.maximum(scan.counts - background, 0).astype(np.float32)
    return replace(plain(scan), counts=counts)
