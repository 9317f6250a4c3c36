# SPDX-License-Identifier: BSD-3-Clause
"""The average of several images of one scan, by other models or in other orientations, and its uncertainty."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ptychopinn.physics.propagation import squared_modulus
from ptychopinn.stitching.accumulator import Stitched


def combine(images: Sequence[Stitched], uncertainty: str = "none") -> tuple[Tensor, Tensor, Tensor | None]:
    """Average images of one scan, each of which has a free phase; see ``inference.uncertainty``.

    Their canvases begin at the same place; where some are larger (for generators that want multiples), the common part
    is kept, in which all patches lie.

    Returns:
        image (H, W) complex, weights (H, W), and standard deviation (H, W) or None. The variance is that of the complex
        value: the sum of those of its real and imaginary part.
    """
    height, width = (min(image.image.shape[axis] for image in images) for axis in (0, 1))
    assert len({tuple(image.geometry.origin) for image in images}) == 1
    images = [image.part((slice(0, height), slice(0, width))) for image in images]
    return average(images, unit_phases([phase_product(image, images[0]) for image in images]), uncertainty)


def phase_product(image: Stitched, first: Stitched) -> Tensor:
    """``sum w conj(o) o_1`` over an image or a part of it, complex (): its phase takes the image to the first one."""
    return (image.weights * image.image.conj() * first.image).sum()


def unit_phases(products: Sequence[Tensor]) -> list[Tensor | float]:
    """Phase factors of images from their products with the first image; 1 for a single image."""
    return [p / p.abs() if len(products) > 1 and p.abs() > 0 else 1.0 for p in products]


def average(
    images: Sequence[Stitched], phases: Sequence[Tensor | float], uncertainty: str
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Average images, or parts of them, with known phases; returns as :func:`combine`."""
    first, count = images[0], len(images)
    total = torch.stack([image.weights for image in images]).sum(0)
    scale = total.clamp_min(torch.finfo(total.dtype).tiny)
    mean, square, between = torch.zeros_like(first.image), torch.zeros_like(total), torch.zeros_like(total)
    for image, phase in zip(images, phases, strict=True):
        mean += image.weights / scale * phase * image.image
        square += image.weights / scale * image.square
        between += image.weights / scale * squared_modulus(image.image)
    if uncertainty == "none":
        return mean, total / count, None
    variance = square if uncertainty == "overlaps" else between
    variance = (variance - squared_modulus(mean)).clamp_min(0)
    if uncertainty == "ensemble":
        variance = variance * (count / (count - 1))
    return mean, total / count, torch.sqrt(variance)
