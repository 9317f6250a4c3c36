# SPDX-License-Identifier: BSD-3-Clause
"""Test objects for simulated scans: complex transmission functions of any shape.

Each is a function `f(shape, rng) -> (H, W) complex64` in OBJECTS; most take further keywords. Amplitude and phase come
from different images, which reveals crosstalk between them, and no object is symmetric, which reveals flips and
transpositions. Edges are softened to about one pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage import data, draw, transform

from ptychopinn.errors import InputError

Shape = tuple[int, int]
Range = tuple[float, float]

# Photographs inside the scikit-image wheel; its other images are downloaded on use.
PHOTOGRAPHS = (
    "astronaut",
    "brick",
    "camera",
    "cell",
    "chelsea",
    "coffee",
    "coins",
    "grass",
    "gravel",
    "hubble_deep_field",
    "microaneurysms",
    "moon",
    "page",
    "retina",
    "rocket",
    "text",
)


def photos(
    shape: Shape,
    rng: np.random.Generator,
    amplitude_photo: str = "coins",
    phase_photo: str = "camera",
    amplitude: Range = (0.7, 1.0),
    phase: Range = (-0.8, 0.8),
    blur: float = 0.6,
) -> NDArray[np.complex64]:
    """Two photographs, one as the amplitude and one as the phase; independent of `rng`.

    Args:
        shape: (H, W) pixels; the photographs are cropped to this aspect ratio about their centres, then resampled.
        rng: not used.
        amplitude_photo: name from `PHOTOGRAPHS`.
        phase_photo: name from `PHOTOGRAPHS`.
        amplitude: values of the darkest and the brightest pixel.
        phase: values of the darkest and the brightest pixel, radians.
        blur: Gaussian sigma in pixels, applied after resampling.

    Raises:
        InputError: a photograph is not one of `PHOTOGRAPHS`.

    Example:
        >>> photos((60, 80), np.random.default_rng(0)).shape
        (60, 80)
    """
    return _complex(
        _spread(_photograph(amplitude_photo, shape, blur), amplitude),
        _spread(_photograph(phase_photo, shape, blur), phase),
    )


def lines(
    shape: Shape, rng: np.random.Generator, amplitude: Range = (0.5, 1.0), phase: Range = (-0.6, 0.6)
) -> NDArray[np.complex64]:
    """Random straight lines on three length scales, independent for amplitude and phase.

    An image is `G_1 + 2 G_5 + 5 G_10` (Gaussian blurs by that many pixels) of one-pixel lines between uniformly random
    points of twice the field, cropped to its centre: 400 lines for 392 x 392 pixels, as in the "synthetic lines" of the
    PtychoPINN papers. For other shapes the line length per area is the same. The papers' own object has zero phase; it
    is `lines_amplitude` in OBJECTS. That of their later studies is :func:`lines_phase`.

    Args:
        shape: (H, W) pixels.
        rng: draws the lines.
        amplitude: values of the darkest and the brightest pixel.
        phase: values of the darkest and the brightest pixel, radians.

    Source:
        Hoidn et al., Sci. Rep. 13, 22789 (2023).
    """
    return _complex(_spread(_line_drawing(shape, rng), amplitude), _spread(_line_drawing(shape, rng), phase))


def lines_phase(shape: Shape, rng: np.random.Generator) -> NDArray[np.complex64]:
    """Random lines of amplitude 0 to 1, whose phase `pi tanh((Y - max(Y) / 2) / (3 mean(Y)))` follows the amplitude Y.

    The amplitude is that of `lines_amplitude` in OBJECTS with the same generator.

    Args:
        shape: (H, W) pixels.
        rng: draws the lines.

    Source:
        The objects "lines" with phase of PtychoPINN's published comparisons of networks (N = 64 and 128).

    Example:
        >>> made = lines_phase((60, 80), np.random.default_rng(0))
        >>> made.shape, float(np.ptp(np.angle(made))) > 1
        ((60, 80), True)
    """
    image = _spread(_line_drawing(shape, rng), (0.0, 1.0))
    return _complex(image, np.pi * np.tanh((image - image.max() / 2) / (3 * image.mean())))


def siemens(
    shape: Shape,
    rng: np.random.Generator,
    spokes: int = 18,
    amplitude: Range = (0.75, 1.0),
    phase: Range = (-0.8, 0.0),
) -> NDArray[np.complex64]:
    """A Siemens star with two ring gaps and one wider spoke, rotated by a random angle; spokes absorb and retard.

    Args:
        shape: (H, W) pixels; the star fills the shorter side.
        rng: draws the angle.
        spokes: number of spokes; their width falls to one pixel at `spokes / pi` pixels from the centre.
        amplitude: values of the spokes and of the field between them.
        phase: values of the spokes and of the field between them, radians.
    """
    y, x = (np.arange(length) - (length - 1) / 2 for length in shape)
    radius = np.hypot(y[:, np.newaxis], x)
    angle = np.arctan2(y[:, np.newaxis], x) + rng.uniform(0, 2 * np.pi)
    outer = 0.47 * min(shape)
    # Signed distances in pixels from the edges, positive inside; clipped at +-1/2 px they give anti-aliased coverage.
    spoke = radius * np.arcsin(np.sin(spokes * angle)) / spokes
    wide = radius * (np.pi / spokes - np.abs(np.angle(np.exp(1j * (angle + np.pi / (2 * spokes))))))
    rings = np.minimum.reduce([np.abs(radius - f * outer) - 0.02 * outer for f in (0.35, 0.68)])
    inside = np.minimum.reduce([np.maximum(spoke, wide), rings, outer - radius])
    cover = np.clip(inside + 0.5, 0, 1)
    return _complex(_spread(1 - cover, amplitude), _spread(1 - cover, phase))


def dead_leaves(
    shape: Shape,
    rng: np.random.Generator,
    amplitude: Range = (0.6, 1.1),
    phase: Range = (-np.pi / 2, np.pi / 2),
    radius: Range = (3.0, 40.0),
    blur: float = 0.7,
) -> NDArray[np.complex64]:
    """Dead leaves: occluding disks, with the power spectrum and the edges of natural images.

    Args:
        shape: (H, W) pixels.
        rng: draws the disks; amplitude and phase of a disk are uniform in their ranges and independent.
        amplitude: smallest and largest value.
        phase: smallest and largest value, radians.
        radius: smallest and largest radius, pixels; the density of radii falls with their third power, so that every
            scale covers the same area.
        blur: Gaussian sigma in pixels, applied to amplitude and phase.

    Source:
        Lee, Mumford and Huang, Int. J. Computer Vision 41, 35 (2001).
    """
    low, high = radius[0], max(radius[0], min(radius[1], min(shape) / 4))
    mean_area = 2 * np.pi * low**2 * np.log(high / low) / (1 - (low / high) ** 2) if high > low else np.pi * low**2
    count = int(np.ceil(6 * (shape[0] + 2 * high) * (shape[1] + 2 * high) / mean_area))  # leaves e^-6 of the field bare
    radii = (low**-2 - rng.random(count) * (low**-2 - high**-2)) ** -0.5
    centres = rng.uniform(-high, np.array(shape) + high, (count, 2))
    values = rng.uniform((amplitude[0], phase[0]), (amplitude[1], phase[1]), (count, 2))
    image = np.empty((2, *shape))
    image[:] = np.mean([amplitude, phase], axis=1)[:, np.newaxis, np.newaxis]
    for centre, r, value in zip(centres, radii, values, strict=True):
        rows, columns = draw.disk(centre, r, shape=shape)
        image[:, rows, columns] = value[:, np.newaxis]
    return _complex(gaussian_filter(image[0], blur), gaussian_filter(image[1], blur))


OBJECTS: dict[str, Callable[[Shape, np.random.Generator], NDArray[np.complex64]]] = {
    "photos": photos,
    "lines": lines,
    "lines_amplitude": partial(lines, amplitude=(0.0, 1.0), phase=(0.0, 0.0)),
    "lines_phase": lines_phase,
    "siemens": siemens,
    "dead_leaves": dead_leaves,
}


def _photograph(name: str, shape: Shape, blur: float) -> NDArray[np.float64]:
    if name not in PHOTOGRAPHS:
        raise InputError(f"photos: a photograph must be one of {', '.join(PHOTOGRAPHS)}, got {name!r}")
    image = np.asarray(getattr(data, name)(), np.float64)
    image = image[..., :3].mean(axis=-1) if image.ndim == 3 else image
    scale = min(image.shape[0] / shape[0], image.shape[1] / shape[1])
    height, width = (max(1, round(scale * length)) for length in shape)
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    cropped = image[top : top + height, left : left + width]
    resized: NDArray[np.float64] = gaussian_filter(transform.resize(cropped, shape, anti_aliasing=True), blur)
    return resized


def _line_drawing(shape: Shape, rng: np.random.Generator) -> NDArray[np.float64]:
    field = 2 * np.array(shape)
    image = np.zeros(field)
    for _ in range(max(2, round(400 * float(np.sqrt(np.prod(shape))) / 392))):
        image[draw.line(*rng.integers(0, field), *rng.integers(0, field))] = 1
    image = gaussian_filter(image, 1) + 2 * gaussian_filter(image, 5) + 5 * gaussian_filter(image, 10)
    top, left = shape[0] // 2, shape[1] // 2
    return np.asarray(image[top : top + shape[0], left : left + shape[1]])


def _spread(image: NDArray[np.float64], values: Range) -> NDArray[np.float64]:
    """Map `image` linearly so that its smallest and largest pixels take the two values."""
    low, high = float(image.min()), float(image.max())
    return np.asarray(values[0] + (values[1] - values[0]) * (image - low) / max(high - low, np.finfo(np.float64).tiny))


def _complex(amplitude: NDArray[np.float64], phase: NDArray[np.float64]) -> NDArray[np.complex64]:
    return np.asarray(amplitude * np.exp(1j * phase), np.complex64)
