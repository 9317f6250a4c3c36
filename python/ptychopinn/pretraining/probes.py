# SPDX-License-Identifier: BSD-3-Clause
"""Random probes of several families, and probes that are slightly wrong.

A probe is made from a few parameters, so that the same parameters with small changes give what a user might state in
its place. Lengths are fractions of N.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from ptychopinn._one_line import one_line
from ptychopinn.findings.geometry import probe_diameter
from ptychopinn.physics.probes import add_modes

#: Families -> relative frequency: a defocused pupil (with a stop: an annulus), a disk and a Gaussian with a flat or a
#: curved wavefront, and the focus of a pupil (Airy).
FREQUENCIES = {"pupil": 0.5, "disk": 0.2, "gaussian": 0.18, "airy": 0.12}
#: Modes of the probes, smallest and largest number.
MODES = (1, 2)
_TRIES = 20


@dataclass(frozen=True)
class ProbeParameters:
    """What determines a probe up to its scale.

    Args:
        family: a key of `FREQUENCIES`.
        diameter: approximate, of the illuminated spot.
        pupil: radius in the far field, of families with a pupil.
        stop: radius of the central stop, relative to the pupil; 0: none.
        curvature: of the wavefront, -1 to 1; its sign is that of the defocus.
        edge: width of the soft edges, pixels.
        aberrations: radians at the edge of the pupil, of astigmatism (2), coma (2), trefoil (2) and spherical
            aberration.
        modes: M.
        decay: ratio of the powers of successive modes.
    """

    family: str
    diameter: float
    pupil: float
    stop: float
    curvature: float
    edge: float
    aberrations: tuple[float, ...]
    modes: int
    decay: float

    __repr__ = one_line


def random_parameters(family: str, rng: np.random.Generator, diameter: tuple[float, float]) -> ProbeParameters:
    """Parameters of a random probe; one probe in six has two modes.

    Args:
        family: a key of `FREQUENCIES`.
        rng: draws everything else.
        diameter: smallest and largest, as fractions of N.
    """
    sign = rng.choice((-1.0, 1.0))
    flat = family != "pupil" and rng.random() < 0.4
    strong = rng.random() < 0.4
    return ProbeParameters(
        family=family,
        diameter=rng.uniform(*diameter),
        pupil=rng.uniform(0.15, 0.32),
        stop=rng.uniform(0.15, 0.45) if rng.random() < 0.5 else 0.0,
        curvature=0.0 if flat else sign * rng.uniform(0.2, 1.0),
        edge=rng.uniform(0.7, 2.0),
        aberrations=tuple(rng.normal(0, 0.8 if strong else 0.2, 7).tolist()),
        modes=MODES[1] if rng.random() < 1 / 6 else MODES[0],
        decay=rng.uniform(0.05, 0.4),
    )


def slightly_wrong(parameters: ProbeParameters, rng: np.random.Generator) -> ProbeParameters:
    """The parameters with errors of the size that a user's may have: a tenth of defocus and diameter."""
    return replace(
        parameters,
        diameter=parameters.diameter * float(np.exp(rng.normal(0, 0.08))),
        pupil=parameters.pupil * float(np.exp(rng.normal(0, 0.05))),
        curvature=parameters.curvature * float(np.exp(rng.normal(0, 0.1))),
        aberrations=tuple(value + rng.normal(0, 0.1) for value in parameters.aberrations),
    )


def make_probe(parameters: ProbeParameters, size: int) -> NDArray[np.complex64]:
    """The probe of these parameters.

    Args:
        parameters: of the probe.
        size: N, pixels.

    Returns:
        (M, N, N) complex64 with sum |P|^2 = 1, centred at sample N//2.
    """
    field = _of_pupil(parameters, size) if parameters.family in ("pupil", "airy") else _of_spot(parameters, size)
    if parameters.modes == 1:
        return np.asarray(field / np.linalg.norm(field), np.complex64)[None]
    return add_modes(field, parameters.modes, parameters.decay)


def random_probe(
    size: int, rng: np.random.Generator, diameter: tuple[float, float]
) -> tuple[ProbeParameters, NDArray[np.complex64], float]:
    """A random probe whose measured diameter is in a range.

    Args:
        size: N, pixels.
        rng: draws everything.
        diameter: smallest and largest of the circle with 90 % of the intensity, as fractions of N.

    Returns:
        Its parameters, the probe (M, N, N), and its diameter as a fraction of N.
    """
    family = str(rng.choice(list(FREQUENCIES), p=list(FREQUENCIES.values())))
    for _ in range(_TRIES):
        parameters = random_parameters(family, rng, diameter)
        probe = make_probe(parameters, size)
        measured = probe_diameter(probe) / size
        if diameter[0] <= measured <= diameter[1]:
            return parameters, probe, measured
    # A Gaussian has the diameter it is made with.
    parameters = replace(random_parameters("gaussian", rng, diameter), modes=1)
    probe = make_probe(parameters, size)
    return parameters, probe, probe_diameter(probe) / size


def _of_pupil(p: ProbeParameters, size: int) -> NDArray[np.complex64]:
    """A pupil in the far field, out of focus by as much as gives the spot its diameter, or in focus."""
    k = np.fft.fftfreq(size, 1 / size).astype(np.float32)
    radius = np.hypot(k[:, None], k)
    # The circle with 90 % of an Airy pattern is about 2 / radius wide, in units of N.
    pupil = max(2.0, 2 / p.diameter if p.family == "airy" else p.pupil * size)
    rho = radius / pupil
    aperture = expit((pupil - radius) / (0.5 * p.edge))
    if p.stop:
        aperture = aperture * (1 - 0.95 * expit((p.stop * pupil - radius) / (0.5 * p.edge)))
    angle = np.arctan2(k[:, None], k)
    two, one, three = (np.exp(1j * n * angle) for n in (2, 1, 3))
    a = p.aberrations
    inside = np.minimum(rho, 1.5)
    phase = inside**2 * (a[0] * two.real + a[1] * two.imag) + inside**3 * (a[2] * one.real + a[3] * one.imag)
    phase = phase + inside**3 * (a[4] * three.real + a[5] * three.imag) + inside**4 * a[6]
    if p.family == "pupil":
        # A phase c k^2 moves what passes at k by N c k / pi pixels.
        phase = phase + np.sign(p.curvature) * np.pi * p.diameter / (2 * pupil) * radius**2
    return np.asarray(np.fft.fftshift(np.fft.ifft2(aperture * np.exp(1j * phase))), np.complex64)


def _of_spot(p: ProbeParameters, size: int) -> NDArray[np.complex64]:
    """A disk or a Gaussian with a wavefront whose rays reach at most a quarter of the detector."""
    axis = (np.arange(size) - size // 2).astype(np.float32)
    radius = np.hypot(axis[:, None], axis)
    width = p.diameter * size
    if p.family == "disk":
        modulus = expit((width / 1.9 - radius) / (0.5 * p.edge))
    else:
        modulus = np.exp(-np.square(radius / width) * np.log(10.0) * 2)
    return np.asarray(modulus * np.exp(0.5j * np.pi * p.curvature / width * radius**2), np.complex64)
