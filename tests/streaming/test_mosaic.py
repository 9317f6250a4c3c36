# SPDX-License-Identifier: BSD-3-Clause
"""The growing image: any order of patches with free phases gives the object, and parts that meet are joined."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ptycho_ext import CanvasGeometry
from ptychopinn.streaming.mosaic import LARGEST_CANVAS, GrowingMosaic

N = 24
RNG = np.random.default_rng(0)


def sample(shape: tuple[int, int] = (90, 70)) -> Tensor:
    y, x = np.indices(shape)
    phase = np.sin(y / 7.0) + 0.5 * np.cos(x / 5.0 + y / 11.0)
    return torch.from_numpy((0.6 + 0.3 * np.cos(x / 4.0)) * np.exp(1j * phase)).to(torch.complex64)


def weight() -> Tensor:
    r = np.hypot(*(np.indices((N, N)) - (N - 1) / 2))
    return torch.from_numpy(np.exp(-((r / 7.0) ** 2))).float()


def raster(step: int = 8) -> np.ndarray:
    ys, xs = np.arange(0, 90 - N + 1, step), np.arange(0, 70 - N + 1, step)
    return np.stack(np.meshgrid(ys, xs, indexing="ij"), -1).reshape(-1, 2)


def patches(image: Tensor, corners: np.ndarray, shift: tuple[int, int] = (0, 0)) -> tuple[Tensor, Tensor, Tensor]:
    """Patches with random phases, at origins that are shifted."""
    phases = np.exp(2j * np.pi * RNG.random(len(corners)))
    cut = torch.stack([image[y : y + N, x : x + N] * complex(p) for (y, x), p in zip(corners, phases, strict=True)])
    return cut, torch.from_numpy(corners + np.array(shift)), weight().expand(len(corners), -1, -1).contiguous()


def difference(mosaic: GrowingMosaic, image: Tensor, shift: tuple[int, int] = (0, 0)) -> float:
    """Largest difference of the image from the object where it is covered, after a global phase."""
    result = mosaic.mean()
    (top, left), (height, width) = result.geometry.origin, result.geometry.shape
    want = torch.zeros(height, width, dtype=torch.complex64)
    for row in range(height):
        y = row + top - shift[0]
        if 0 <= y < image.shape[0]:
            first = max(0, left - shift[1])
            last = min(image.shape[1], left - shift[1] + width)
            want[row, first - left + shift[1] : last - left + shift[1]] = image[y, first:last]
    covered = mosaic.covered()
    got, want = result.image[covered], want[covered]
    phase = (got.conj() * want).sum()
    return float((got * phase / phase.abs() - want).abs().max())


@pytest.mark.parametrize("order", ["raster", "backwards", "random"])
@pytest.mark.parametrize("at_once", [1, 5, 100])
def test_any_order_gives_the_object(order: str, at_once: int) -> None:
    image, corners = sample(), raster()
    corners = {"raster": corners, "backwards": corners[::-1], "random": RNG.permutation(corners)}[order]
    mosaic, shift = GrowingMosaic(), (-13, 1000)
    for start in range(0, len(corners), at_once):
        mosaic.add(*patches(image, corners[start : start + at_once], shift))
    assert mosaic.parts == 1 and difference(mosaic, image, shift) < 2e-5


def test_parts_that_do_not_overlap_are_joined_when_they_meet() -> None:
    """Every other row of the scan first: three parts, with phases of their own."""
    image, corners = sample(), raster(11)
    rows = corners[:, 0]
    mosaic = GrowingMosaic()
    for top in np.unique(rows)[::3]:
        mosaic.add(*patches(image, corners[rows == top]))
    assert mosaic.parts == len(np.unique(rows)[::3]) > 1
    assert difference(mosaic, image) > 0.1
    for top in np.setdiff1d(np.unique(rows), np.unique(rows)[::3]):
        mosaic.add(*patches(image, corners[rows == top]))
    assert mosaic.parts == 1 and difference(mosaic, image) < 2e-5


def test_only_the_box_of_the_patches_is_touched() -> None:
    image, corners = sample(), raster()
    mosaic = GrowingMosaic()
    mosaic.add(*patches(image, corners))
    before = mosaic.mean().weights.clone()
    rows, columns = mosaic.add(*patches(image, corners[:1]))
    assert (rows, columns) == (slice(0, N), slice(0, N))
    changed = (mosaic.mean().weights != before).nonzero()
    assert len(changed) and int(changed.max()) < N


def test_a_refined_image_takes_the_place_of_the_average() -> None:
    image, corners = sample(), raster()
    mosaic = GrowingMosaic()
    mosaic.add(*patches(image, corners))
    new = torch.full((200, 30), 2j, dtype=torch.complex64)
    mosaic.replace(new, CanvasGeometry((-50, 10), (200, 30)))
    got, covered = mosaic.mean().image, mosaic.covered()
    np.testing.assert_allclose(got[:, 10:40][covered[:, 10:40]].numpy(), 2j, rtol=1e-6)
    assert not torch.isclose(got[:, :10][covered[:, :10]], torch.tensor(2j, dtype=torch.complex64)).any()
    mosaic.add(*patches(torch.full_like(image, 2j), corners[:3]))  # later patches are averaged with it
    assert difference(mosaic, mosaic.mean().image) < 1e-6


def test_patches_that_are_too_far_away_are_known() -> None:
    mosaic = GrowingMosaic()
    far = 4 * int(LARGEST_CANVAS**0.5)
    origins = np.array([[0, 0], [5, 5], [far, far], [8, 0]])
    assert mosaic.fits(origins, (N, N)).tolist() == [True, True, False, True]
    mosaic.add(*patches(sample(), np.array([[0, 0]])))
    assert mosaic.fits(origins, (N, N)).tolist() == [True, True, False, True]


def test_dark_patches_are_no_reason_to_fail() -> None:
    mosaic = GrowingMosaic()
    cut, origins, weights = patches(sample(), raster()[:2])
    mosaic.add(torch.zeros_like(cut), origins, weights)
    mosaic.add(cut, origins, weights)
    assert torch.isfinite(mosaic.mean().image.abs()).all()
