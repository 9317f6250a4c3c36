# SPDX-License-Identifier: BSD-3-Clause
"""Random images of many kinds, from which the amplitude and the phase of random objects are made.

Each is a function `f(side, rng) -> (side, side) float32` in IMAGES with values from 0 to 1. Making one takes up to a
twentieth of a second, and a batch of a training less: an :class:`ImagePool` keeps some images, of which every batch
cuts pieces in random orientations, and replaces one of them after a number of batches.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform, gaussian_filter
from skimage import data, draw

Image = NDArray[np.float32]

#: Photographs that are trained on. Those of `simulate` and of the default scans of the benchmarks (coins, camera, moon,
#: rocket, cell, astronaut) are kept out, for results on them to be of samples that the network has not seen.
PHOTOGRAPHS = (
    "brick", "chelsea", "coffee", "grass", "gravel", "hubble_deep_field", "microaneurysms", "page", "retina", "text",
)  # fmt: skip
#: Kinds of images -> relative frequency.
FREQUENCIES = {
    "leaves": 0.25, "lines": 0.15, "photograph": 0.15, "field": 0.15, "star": 0.1, "cells": 0.1, "grating": 0.1,
}  # fmt: skip


def leaves(side: int, rng: np.random.Generator) -> Image:
    """Occluding disks of many radii, with soft or sharp edges."""
    low, high = rng.uniform(3, 8), side / 5
    mean_area = 2 * np.pi * low**2 * np.log(high / low)
    count = min(3000, int(2.5 * side**2 / mean_area))
    radii = (low**-2 - rng.random(count) * (low**-2 - high**-2)) ** -0.5
    centres, values = rng.uniform(0, side, (count, 2)), rng.random(count)
    image = np.full((side, side), rng.random(), np.float32)
    axis = np.arange(side)
    for (y, x), radius, value in zip(centres, radii, values, strict=True):
        rows = slice(max(0, int(y - radius)), int(y + radius) + 2)
        columns = slice(max(0, int(x - radius)), int(x + radius) + 2)
        inside = np.square(axis[rows] - y)[:, None] + np.square(axis[columns] - x)
        image[rows, columns][inside < radius**2] = value
    return _normalised(gaussian_filter(image, rng.uniform(0.4, 1.2)))


def lines(side: int, rng: np.random.Generator) -> Image:
    """Straight lines on three length scales, as the synthetic lines of the PtychoPINN papers."""
    image = np.zeros((side, side), np.float32)
    for _ in range(rng.integers(30, 300)):
        ends = rng.integers(-side // 2, side + side // 2, 4)
        rows, columns = draw.line(*ends)
        inside = (rows >= 0) & (rows < side) & (columns >= 0) & (columns < side)
        image[rows[inside], columns[inside]] = 1
    weights = rng.uniform(0, (1, 3, 6))
    blurred = sum(w * gaussian_filter(image, sigma) for w, sigma in zip(weights, (0.8, 3, 8), strict=True))
    return _normalised(np.asarray(blurred))


def photograph(side: int, rng: np.random.Generator) -> Image:
    """A part of a photograph, rotated and scaled."""
    image = _photograph(PHOTOGRAPHS[rng.integers(len(PHOTOGRAPHS))])
    scale = rng.uniform(0.5, 1.0) * min(1.0, min(image.shape) / side)
    angle = rng.uniform(0, 2 * np.pi)
    matrix = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.array([rng.uniform(0.35, 0.65) * length for length in image.shape])
    offset = centre - matrix @ np.array([side / 2, side / 2])
    part = affine_transform(image, matrix, offset, (side, side), order=1, mode="mirror")
    return _normalised(gaussian_filter(part, rng.uniform(0.3, 0.8)))


def field(side: int, rng: np.random.Generator) -> Image:
    """A smooth random field whose power falls with a power of the spatial frequency."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    frequency[0, 0] = np.inf
    spectrum = rng.normal(size=(2, *frequency.shape)).astype(np.float32)
    amplitude = np.maximum(frequency, 1 / rng.uniform(20, side)) ** (-rng.uniform(1.0, 2.5))
    return _normalised(np.fft.irfft2((spectrum[0] + 1j * spectrum[1]) * amplitude, (side, side)))


def star(side: int, rng: np.random.Generator) -> Image:
    """A Siemens star about a random point, with rings."""
    y, x = (np.arange(side) - rng.uniform(0.2, 0.8) * side for _ in range(2))
    radius = np.hypot(y[:, None], x)
    angle = np.arctan2(y[:, None], x) + rng.uniform(0, 2 * np.pi)
    spokes = rng.integers(6, 40)
    edge = radius * np.arcsin(np.sin(spokes * angle)) / spokes
    pitch = rng.uniform(0.1, 0.4) * side
    ring = np.abs((radius % pitch) - pitch / 2) - rng.uniform(0.02, 0.1) * pitch
    return np.asarray(np.clip(np.minimum(edge, ring) / rng.uniform(0.8, 2) + 0.5, 0, 1), np.float32)


def cells(side: int, rng: np.random.Generator) -> Image:
    """Soft ellipses with a nucleus on a smooth background."""
    image = rng.uniform(0, 0.5) * field(side, rng)
    axis = np.arange(side)
    for _ in range(rng.integers(10, 60)):
        (y, x), size, angle = rng.uniform(0, side, 2), rng.uniform(0.02, 0.12) * side, rng.uniform(0, np.pi)
        rows = slice(max(0, int(y - 2 * size)), int(y + 2 * size) + 1)
        columns = slice(max(0, int(x - 2 * size)), int(x + 2 * size) + 1)
        down, across = (axis[rows] - y)[:, None], axis[columns] - x
        first, second = down * np.cos(angle) + across * np.sin(angle), across * np.cos(angle) - down * np.sin(angle)
        distance = np.hypot(first / size, second / (size * rng.uniform(0.5, 1)))
        edge = rng.uniform(0.05, 0.2)
        body = rng.uniform(0.2, 0.8) / (1 + np.exp(np.clip((distance - 1) / edge, -30, 30)))
        nucleus = rng.uniform(0, 0.6) / (1 + np.exp(np.clip((distance - rng.uniform(0.2, 0.5)) / edge, -30, 30)))
        image[rows, columns] += (body + nucleus).astype(np.float32)
    return _normalised(image)


def grating(side: int, rng: np.random.Generator) -> Image:
    """Patches of gratings of different pitch, direction and duty."""
    y, x = np.arange(side)[:, None], np.arange(side)
    made = []
    for _ in range(rng.integers(1, 5)):
        angle, pitch = rng.uniform(0, np.pi), np.exp(rng.uniform(np.log(4), np.log(40)))
        wave = np.sin(2 * np.pi * (y * np.cos(angle) + x * np.sin(angle)) / pitch + rng.uniform(0, 6))
        sharpness = np.exp(rng.uniform(np.log(0.5), np.log(pitch / 3)))
        made.append(0.5 + 0.5 * np.tanh(sharpness * (wave - rng.uniform(-0.5, 0.5))))
    which = np.minimum((field(side, rng) * len(made)).astype(int), len(made) - 1)
    return _normalised(gaussian_filter(np.choose(which, made), 0.6))


IMAGES: dict[str, Callable[[int, np.random.Generator], Image]] = {
    "leaves": leaves,
    "lines": lines,
    "photograph": photograph,
    "field": field,
    "star": star,
    "cells": cells,
    "grating": grating,
}


def random_image(side: int, rng: np.random.Generator) -> Image:
    """An image of a random kind; a fifth of them are the mean or the product of two.

    Args:
        side: pixels.
        rng: draws everything.

    Returns:
        (side, side), from 0 to 1.
    """
    names = list(FREQUENCIES)
    chosen = rng.choice(names, 1 + (rng.random() < 0.2), p=list(FREQUENCIES.values()))
    made = [IMAGES[name](side, rng) for name in chosen]
    if len(made) == 1:
        return made[0]
    return _normalised(made[0] * made[1] if rng.random() < 0.5 else made[0] + made[1])


class ImagePool:
    """A number of random images, of which one is replaced after every so many batches.

    Which images there are depends on the seed and the number of the batch alone, so a training that is resumed
    continues with the same ones.

    Args:
        seed: of the images.
        side: of an image, pixels.
        size: images that are kept.
        every: batches after which the oldest image is replaced.
    """

    def __init__(self, seed: int, side: int, size: int = 24, every: int = 16) -> None:
        self.seed, self.side, self.size, self.every = seed, side, size, every
        self._kept: dict[int, Image] = {}

    def at(self, batch: int) -> list[Image]:
        """The images of this batch."""
        first = batch // self.every
        wanted = range(first, first + self.size)
        self._kept = {number: self._kept[number] if number in self._kept else self._make(number) for number in wanted}
        return list(self._kept.values())

    def _make(self, number: int) -> Image:
        return random_image(self.side, np.random.default_rng([self.seed, 1, number]))


def cut(image: Image, shape: tuple[int, int], rng: np.random.Generator) -> Image:
    """A random piece (H, W) of an image, in one of the eight orientations, inverted in half of the cases."""
    height, width = shape
    turned = image.T if rng.random() < 0.5 else image
    turned = turned[:: rng.choice((-1, 1)), :: rng.choice((-1, 1))]
    top, left = rng.integers(0, turned.shape[0] - height + 1), rng.integers(0, turned.shape[1] - width + 1)
    piece = turned[top : top + height, left : left + width]
    return 1 - piece if rng.random() < 0.5 else piece


@lru_cache(len(PHOTOGRAPHS))
def _photograph(name: str) -> Image:
    image = np.asarray(getattr(data, name)(), np.float32)
    return image[..., :3].mean(-1) if image.ndim == 3 else image


def _normalised(image: NDArray[np.floating]) -> Image:
    """The image with its 1st and 99th percentile at 0 and 1, and clipped there."""
    low, high = np.percentile(image[::4, ::4], (1, 99))
    return np.asarray(np.clip((image - low) / max(high - low, 1e-6), 0, 1), np.float32)
