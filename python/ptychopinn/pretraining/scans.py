# SPDX-License-Identifier: BSD-3-Clause
"""Random small scans with known objects, as batches of groups for a training, or as scans.

A batch has one probe and B groups of C patterns, each of an object of its own. It is simulated as
:func:`ptychopinn.physics.simulate.simulate` does, with the probe moved by fractions of a pixel and the object never
interpolated, in float32. Batch k of a seed is always the same, whatever was drawn before it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptychopinn._one_line import one_line
from ptychopinn.batches.dataset import round_up
from ptychopinn.errors import InputError
from ptychopinn.physics.objects import Shape
from ptychopinn.physics.propagation import far_field, inverse_far_field, mode_intensity
from ptychopinn.physics.simulate import scan_positions, simulate
from ptychopinn.pretraining.images import Image, ImagePool, cut, random_image
from ptychopinn.pretraining.probes import MODES, make_probe, random_probe, slightly_wrong
from ptychopinn.scan import Scan

#: Counts from which photon noise is drawn as normal.
_MANY = 12.0
#: What is seen of a scan around the leader of a group: neighbours on each side beyond those of the group.
_AROUND = 2
#: Side of the images that objects are cut from, in units of the largest N.
_IMAGE_SIDE = 3.25


@dataclass(frozen=True)
class Ranges:
    """What the random scans are drawn from.

    Args:
        photons: counts of a pattern behind an empty sample, smallest and largest; log-uniform.
        diameter: of the probe (90 % of its intensity), as a fraction of N.
        overlap: linear, 1 - step / diameter.
        sizes: N -> fraction of the time that is spent on it.
        groups: C -> probability.
        wrong_probe: fraction of the batches whose probe is slightly wrong.
    """

    photons: tuple[float, float] = (10**3.5, 1e9)
    diameter: tuple[float, float] = (0.2, 0.7)
    overlap: tuple[float, float] = (0.3, 0.85)
    sizes: dict[int, float] = field(default_factory=lambda: {32: 0.1, 48: 0.1, 64: 0.45, 96: 0.15, 128: 0.2})
    groups: dict[int, float] = field(default_factory=lambda: {16: 0.72, 1: 0.07, 4: 0.07, 9: 0.07, 25: 0.07})
    wrong_probe: float = 0.25

    __repr__ = one_line

    def __post_init__(self) -> None:
        for name in ("photons", "diameter", "overlap"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise InputError(f"ranges.{name} must be two positive numbers, smallest first, got {low} and {high}")
        for name in ("sizes", "groups"):
            weights = getattr(self, name)
            if not weights or min(weights.values()) < 0 or sum(weights.values()) <= 0:
                raise InputError(f"ranges.{name} must have positive weights, got {weights}")

    def to_json(self) -> dict[str, Any]:
        """The ranges as JSON types; of sizes and groups the smallest and the largest."""
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        extent = {key: [min(values[key]), max(values[key])] for key in ("sizes", "groups")}
        return values | extent | {"modes": list(MODES)}


class RandomBatch(NamedTuple):
    """B groups of C patterns of known objects.

    Attributes:
        counts: float32, (B, C, N, N), FFT order.
        positions: float64, (B, C, 2), (y, x) on the group's canvas, pixels.
        canvas_size: (H, W).
        probe: complex64, (M, N, N), in sqrt(counts), as it would be stated for the scan.
        true_probe: complex64, (M, N, N), that of the patterns; the same unless it is slightly wrong.
        truth: complex64, (B, H, W).
    """

    counts: Tensor
    positions: Tensor
    canvas_size: tuple[int, int]
    probe: Tensor
    true_probe: Tensor
    truth: Tensor

    def to(self, device: torch.device) -> RandomBatch:
        """The batch on a device."""
        moved: dict[str, Any] = {
            k: v.to(device, non_blocking=True) for k, v in self._asdict().items() if isinstance(v, Tensor)
        }
        return self._replace(**moved)


class RandomBatches:
    """The random batches of a seed, by number.

    Args:
        seed: of everything.
        ranges: what they are drawn from.
        patterns: of a batch, about: groups are added until there are so many.
        canvas_multiple: canvas sides are rounded up to a multiple of this.
    """

    def __init__(
        self, seed: int, ranges: Ranges | None = None, *, patterns: int = 16, canvas_multiple: int = 4
    ) -> None:
        self.seed, self.ranges, self.patterns = seed, ranges or Ranges(), patterns
        self.canvas_multiple = canvas_multiple
        self.pool = ImagePool(seed, round(_IMAGE_SIDE * max(self.ranges.sizes)))
        # Time grows as N^2: what is spent on a size is its probability times that.
        self._sizes = list(self.ranges.sizes)
        chances = np.array([part / size**2 for size, part in self.ranges.sizes.items()])
        self._size_chances = chances / chances.sum()
        self._groups = list(self.ranges.groups)
        chances = np.array(list(self.ranges.groups.values()))
        self._group_chances = chances / chances.sum()

    def batch(self, number: int) -> RandomBatch:
        """Batch ``number``, from 0."""
        rng = np.random.default_rng([self.seed, 0, number])
        size = int(rng.choice(self._sizes, p=self._size_chances))
        members = int(rng.choice(self._groups, p=self._group_chances))
        parameters, probe, diameter = random_probe(size, rng, self.ranges.diameter)
        photons = _log_uniform(rng, self.ranges.photons)
        scale = np.float32(np.sqrt(photons))
        stated = probe
        if rng.random() < self.ranges.wrong_probe:
            stated = make_probe(slightly_wrong(parameters, rng), size)
        overlap = rng.uniform(*self.ranges.overlap)
        positions = _random_groups(
            rng, (1 - overlap) * diameter * size, members, max(1, self.patterns // members), self.pool.side - size - 4
        )
        extent = np.ceil(positions.max((0, 1))).astype(int) + size
        shape = round_up((int(extent[0]), int(extent[1])), self.canvas_multiple)
        images = self.pool.at(number)
        truth = np.stack([_random_object(images, shape, rng) for _ in positions])
        counts = _simulated(truth, probe * scale, positions, int(rng.integers(2**62)))
        return RandomBatch(
            counts,
            torch.from_numpy(positions),
            shape,
            torch.from_numpy(stated * scale),
            torch.from_numpy(probe * scale),
            torch.from_numpy(truth),
        )


def random_scan(
    seed: int, patterns: int = 144, size: int | None = None, ranges: Ranges | None = None, photons: float | None = None
) -> Scan:
    """A random scan with its truth and its true probe, of the same kinds as the batches.

    Args:
        seed: of everything; no batch of the same seed has its images.
        patterns: n.
        size: N; None: random.
        ranges: what it is drawn from.
        photons: of a pattern; None: random.
    """
    ranges = ranges or Ranges()
    rng = np.random.default_rng([seed, 2])
    size = int(rng.choice(list(ranges.sizes))) if size is None else size
    _, probe, diameter = random_probe(size, rng, ranges.diameter)
    step = (1 - rng.uniform(*ranges.overlap)) * diameter * size
    drawn = _log_uniform(rng, ranges.photons)
    kind = "spiral" if rng.random() < 0.4 else "raster"

    def make(shape: Shape, _: np.random.Generator) -> NDArray[np.complex64]:
        return _random_object([random_image(max(shape), rng) for _ in range(2)], shape, rng)

    jitter = min(2.0, 0.2 * step) if kind == "raster" else 0.0
    photons = drawn if photons is None else photons
    return simulate(make, probe, kind, patterns, step=step, photons=photons, jitter=jitter, seed=seed)


def _random_groups(
    rng: np.random.Generator, step: float, members: int, groups: int, largest: float
) -> NDArray[np.float64]:
    """Positions (B, C, 2) of groups in scans of a random kind, each on a canvas of its own.

    A group is a pattern and its nearest neighbours, as in training and inference; some are at the border of the scan.
    Those that extend further than `largest` are drawn nearer to each other.
    """
    side = int(np.ceil(np.sqrt(members))) + 2 * _AROUND
    kind = rng.choice(("raster", "spiral", "random"), p=(0.5, 0.3, 0.2))
    aspect = np.exp(rng.uniform(-0.15, 0.15))
    steps = (step * aspect, step / aspect)
    jitter = rng.uniform(0, 0.25) * step if rng.random() < 0.8 else 0.0
    made = []
    for _ in range(groups):
        if kind == "random":
            points = rng.uniform(0, side, (side**2, 2)) * step
        else:
            points = scan_positions(str(kind), side**2, steps, jitter if kind == "raster" else 0.1 * jitter, rng)
        leader = points[rng.integers(len(points))]
        nearest = np.argsort(np.square(points - leader).sum(1))[:members]
        group = points[nearest] - points[nearest].min(0)
        # A canvas begins at an integer pixel, and most have some pixels to spare.
        group = group * min(1.0, largest / max(1.0, float(group.max()))) + rng.uniform(0, 1, 2)
        made.append(group)
    return np.stack(made)


def _random_object(images: list[Image], shape: Shape, rng: np.random.Generator) -> NDArray[np.complex64]:
    """A complex object (H, W): from two images, or from one; absorbing only, phase only, or both."""
    first, second = (images[number] for number in rng.integers(0, len(images), 2))
    kind = rng.choice(("both", "same", "absorbing", "phase"), p=(0.5, 0.15, 0.12, 0.23))
    amplitude_image = cut(first, shape, rng)
    phase_image = amplitude_image if kind == "same" else cut(second, shape, rng)
    darkest = rng.uniform(0.0, 0.95)
    span = _log_uniform(rng, (0.15, 2 * np.pi))
    scale = rng.uniform(0.6, 1.0)
    if kind == "absorbing":
        return (scale * (darkest + (1 - darkest) * amplitude_image)).astype(np.complex64)
    phase = np.float32(rng.choice((-1, 1)) * span) * (phase_image - np.float32(0.5))
    amplitude = np.float32(scale)
    if kind != "phase":
        amplitude = np.float32(scale) * (np.float32(darkest) + np.float32(1 - darkest) * amplitude_image)
    made = np.empty(shape, np.complex64)
    made.real, made.imag = amplitude * np.cos(phase), amplitude * np.sin(phase)
    return made


def _simulated(
    truth: NDArray[np.complex64], probe: NDArray[np.complex64], positions: NDArray[np.float64], seed: int
) -> Tensor:
    """Noisy counts, float32 (B, C, N, N) in FFT order, of objects (B, H, W) at positions (B, C, 2)."""
    size = probe.shape[-1]
    nearest = np.floor(positions + 0.5).astype(np.int64)
    views = np.lib.stride_tricks.sliding_window_view(truth, (size, size), axis=(1, 2))
    patches = torch.from_numpy(views[np.arange(len(truth))[:, None], nearest[..., 0], nearest[..., 1]])
    remainder = (positions - nearest).astype(np.float32)
    k = np.fft.fftfreq(size).astype(np.float32)
    ramps = np.exp((-2j * np.pi) * remainder[..., None] * k).astype(np.complex64)  # (B, C, 2, N)
    spectra = far_field(torch.from_numpy(probe))
    y, x = torch.from_numpy(ramps).unbind(2)
    moved = inverse_far_field(spectra * (y[..., :, None] * x[..., None, :])[:, :, None])
    intensity = mode_intensity(far_field(moved * patches[:, :, None]))
    generator = torch.Generator(device="cpu").manual_seed(seed)
    # Poisson numbers where there are few counts, and normal ones, which are twenty times faster, where there are many.
    normal = torch.randn(intensity.shape, generator=generator, dtype=torch.float32, device="cpu")
    counts = torch.addcmul(intensity, normal, torch.sqrt(intensity)).round_().clamp_min_(0)
    few = intensity < _MANY
    counts[few] = torch.poisson(intensity[few], generator=generator)
    return counts


def _log_uniform(rng: np.random.Generator, values: tuple[float, float]) -> float:
    return float(np.exp(rng.uniform(*np.log(values))))
