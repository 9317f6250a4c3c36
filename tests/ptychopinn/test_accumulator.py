# SPDX-License-Identifier: BSD-3-Clause
"""The weighted average of patches equals the operator's, in every store and for patches added in any parts.

Patches are not square, positions fractional and partly negative; there is a gap in the scan, and a patch of it whose
weights are below the threshold.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ptycho_ext import CanvasGeometry, extract_patches, extract_patches_adjoint, reassemble_patches
from ptychopinn.batches.dataset import GroupDataset
from ptychopinn.batches.grouping import group_patterns
from ptychopinn.errors import InputError
from ptychopinn.physics.simulate import simulate
from ptychopinn.stitching.accumulator import THRESHOLD, Accumulator, Stitched
from ptychopinn.stitching.canvases import CanvasesInMemory, CanvasesOnDisk
from ptychopinn.stitching.distributed import Shard
from ptychopinn.stitching.on_disk import stitch_streamed
from ptychopinn.stitching.phases import stitch
from ptychopinn.stitching.stores import DiskStore, MemoryStore, SharedStore

SIZE = (11, 14)
BAND = SIZE[0] + 1  # a patch between pixels covers one row more


@pytest.fixture
def patches() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(48, *SIZE, dtype=torch.complex64, generator=generator)


@pytest.fixture
def positions() -> Tensor:
    generator = np.random.default_rng(1)
    y, x = np.meshgrid(np.arange(8) * 5.3 - 20, np.arange(6) * 6.1 + 3, indexing="ij")
    points = np.stack([y, x], -1).reshape(-1, 2) + generator.uniform(-1, 1, (48, 2))
    points[40:, 0] += 17  # a gap before the last positions
    points[47] += 30  # one patch without neighbours
    return torch.from_numpy(points)


@pytest.fixture
def weights() -> Tensor:
    weights = 1e3 * torch.rand(48, *SIZE, generator=torch.Generator().manual_seed(2))
    weights[47] *= 1e-7
    return weights


@pytest.fixture
def canvas(positions: Tensor) -> CanvasGeometry:
    return CanvasGeometry.from_positions(positions, SIZE)


def in_memory(patches: Tensor, canvas: CanvasGeometry, parts: Sequence[Sequence[int]], *rest: Tensor) -> Accumulator:
    average = Accumulator(canvas, MemoryStore(canvas.shape, patches.dtype, patches.device))
    for part in parts:
        average.add(patches[part], *(each[part] for each in rest))
    return average


def at_once(patches: Tensor, positions: Tensor, weights: Tensor, canvas: CanvasGeometry, **_: object) -> Accumulator:
    return in_memory(patches, canvas, [range(len(patches))], positions, weights)


def one_by_one(patches: Tensor, positions: Tensor, weights: Tensor, canvas: CanvasGeometry, **_: object) -> Accumulator:
    return in_memory(patches, canvas, [[k] for k in range(len(patches))], positions, weights)


def backwards(patches: Tensor, positions: Tensor, weights: Tensor, canvas: CanvasGeometry, **_: object) -> Accumulator:
    return in_memory(patches, canvas, [[k] for k in reversed(range(len(patches)))], positions, weights)


def on_disk(
    patches: Tensor, positions: Tensor, weights: Tensor, canvas: CanvasGeometry, folder: Path, **_: object
) -> Accumulator:
    """Add patches in bands, and read the mean after each."""
    average = Accumulator(canvas, DiskStore(folder, canvas.shape, BAND))
    bands = (canvas.to_canvas(positions)[:, 0] // BAND).long()
    for band in bands.unique():
        for part in torch.nonzero(bands == band).flatten().split(3):
            average.add(patches[part], positions[part], weights[part])
        average.mean((slice(0, 1), slice(0, 1)))
    return average


def over_two_processes(
    patches: Tensor,
    positions: Tensor,
    weights: Tensor,
    canvas: CanvasGeometry,
    monkeypatch: pytest.MonkeyPatch,
    **_: object,
) -> Accumulator:
    """Replace the second process with a second store; test_distributed.py runs two processes."""
    averages = []
    for part in (slice(0, None, 2), slice(1, None, 2)):
        averages.append(Accumulator(canvas, SharedStore(canvas.shape, patches.dtype)))
        averages[-1].add(patches[part], positions[part], weights[part])
    here, there = (average.store for average in averages)
    assert isinstance(here, SharedStore) and isinstance(there, SharedStore)

    def reduce_sums(*tensors: Tensor) -> None:
        for tensor, other in zip(tensors, there.sums, strict=True):
            tensor += other

    monkeypatch.setattr("ptychopinn.stitching.stores.reduce_sums", reduce_sums)
    here.reduce()
    return averages[0]


ROUTES: list[Callable[..., Accumulator]] = [at_once, one_by_one, backwards, on_disk, over_two_processes]


@pytest.fixture(params=ROUTES, ids=lambda route: route.__name__.replace("_", " "))
def route(
    request: pytest.FixtureRequest, canvas: CanvasGeometry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Accumulator]:
    def run(patches: Tensor, positions: Tensor, weights: Tensor) -> Accumulator:
        added: Accumulator = request.param(
            patches, positions, weights, canvas=canvas, folder=tmp_path, monkeypatch=monkeypatch
        )
        return added

    return run


def test_every_store_gives_the_mean_of_the_operator(
    route: Callable[..., Accumulator], patches: Tensor, positions: Tensor, weights: Tensor, canvas: CanvasGeometry
) -> None:
    average = route(patches, positions, weights)
    got, corners = average.mean(), canvas.to_canvas(positions)
    image, total = reassemble_patches(patches, corners, canvas.shape, weights)
    square, _ = reassemble_patches(patches.abs() ** 2, corners, canvas.shape, weights)
    assert got.geometry == canvas and got.image.dtype == torch.complex64
    torch.testing.assert_close(got.weights, total, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(got.image, image, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got.square, square, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(average.store.largest_weight, total.max(), rtol=1e-6, atol=0)
    uncovered = total <= THRESHOLD * total.max()
    assert (total[uncovered] > 0).sum() > 50, "the patch with little weight"
    assert not got.image[uncovered].any() and not got.square[uncovered].any() and got.image[~uncovered].all()


def test_sums_in_one_call_equal_the_operator_bitwise(
    patches: Tensor, positions: Tensor, weights: Tensor, canvas: CanvasGeometry
) -> None:
    image, total = reassemble_patches(patches, canvas.to_canvas(positions), canvas.shape, weights)
    got = at_once(patches, positions, weights, canvas).mean()
    assert torch.equal(got.image, image) and torch.equal(got.weights, total)


def test_threshold_is_the_default_of_the_operator() -> None:
    assert inspect.signature(reassemble_patches).parameters["eps"].default == THRESHOLD


def test_mean_of_a_box_is_part_of_the_full_mean(
    route: Callable[..., Accumulator], patches: Tensor, positions: Tensor, weights: Tensor
) -> None:
    average = route(patches, positions, weights)
    full, box = average.mean(), (slice(7, 31), slice(2, 29))
    got, expected = average.mean(box), full.part(box)
    assert torch.equal(expected.image, full.image[7:31, 2:29])
    (top, left) = full.geometry.origin
    assert got.geometry == expected.geometry == CanvasGeometry((top + 7, left + 2), (24, 27))
    for name in ("image", "weights", "square"):
        assert torch.equal(getattr(got, name), getattr(expected, name)), name


def test_nan_weight_affects_only_its_pixels(
    route: Callable[..., Accumulator], patches: Tensor, positions: Tensor, weights: Tensor
) -> None:
    full = route(patches, positions, weights).mean()
    weights[9, 4, 5] = torch.nan
    got = route(patches, positions, weights).mean()
    corrupt = got.image.isnan()
    assert 1 <= corrupt.sum() <= 4 and torch.equal(corrupt, got.weights.isnan())
    torch.testing.assert_close(got.image[~corrupt], full.image[~corrupt], rtol=1e-5, atol=1e-5)


def test_mean_is_current_after_every_addition(patches: Tensor, positions: Tensor, weights: Tensor) -> None:
    geometry = CanvasGeometry.from_positions(positions, SIZE)
    average = Accumulator(geometry, MemoryStore(geometry.shape, torch.complex64))
    assert not average.mean().image.any()
    average.add(patches[:0], positions[:0], weights[:0])
    assert not average.mean().weights.any()
    for count in (1, 20):
        average.add(patches[:count], positions[:count], weights[:count])
    corners = geometry.to_canvas(positions)[[0, *range(20)]]
    image, _ = reassemble_patches(patches[[0, *range(20)]], corners, geometry.shape, weights[[0, *range(20)]])
    torch.testing.assert_close(average.mean().image, image, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shift", [(-0.5, 0), (0, -1), (0.5, 0), (0, 2)])
def test_patches_outside_the_canvas_are_refused(shift: tuple[float, float]) -> None:
    average = Accumulator(CanvasGeometry((5, -7), SIZE), MemoryStore(SIZE, torch.complex64))
    at, patch = torch.tensor([[5.0, -7.0]], dtype=torch.float64), torch.ones(1, *SIZE, dtype=torch.complex64)
    average.add(patch, at, torch.ones(SIZE))
    with pytest.raises(InputError, match=r"accumulator: patches must lie on the canvas of \(11, 14\) pixels, got some"):
        average.add(patch, at + torch.tensor(shift), torch.ones(SIZE))
    assert torch.equal(average.mean().weights, torch.ones(SIZE))


def test_boxes_on_disk_go_from_top_to_bottom(tmp_path: Path, patches: Tensor, positions: Tensor) -> None:
    canvas = CanvasGeometry.from_positions(positions, SIZE)
    average = Accumulator(canvas, DiskStore(tmp_path, canvas.shape, BAND))
    average.add(patches[40:41], positions[40:41], torch.ones(SIZE))
    with pytest.raises(AssertionError, match="after those of the band"):
        average.add(patches[:1], positions[:1], torch.ones(SIZE))


# All ways to stitch the groups of a scan.


def groups_of_a_scan() -> tuple[GroupDataset, Tensor, Tensor, Tensor]:
    """The groups, their canvases with phases at random and a little noise, their weights, and that of one pattern."""
    scan = simulate("dead_leaves", patterns=60, size=24, step=(6, 5), photons=1e5, seed=1)
    dataset = GroupDataset(scan, group_patterns(scan.positions, 2))
    generator = torch.Generator().manual_seed(4)
    assert scan.truth is not None
    origins = torch.from_numpy(dataset.origins - dataset.origins.min(0)).double()
    canvases = extract_patches(torch.from_numpy(scan.truth), origins, dataset.canvas_size)
    canvases = canvases + 0.05 * torch.randn(canvases.shape, dtype=torch.complex64, generator=generator)
    turns = torch.exp(2j * torch.pi * torch.rand(len(dataset), generator=generator))[:, None, None]
    weight = torch.from_numpy(np.abs(scan.probe) ** 2).sum(0)
    on_canvas = torch.from_numpy(scan.positions[dataset.groups] - dataset.origins[:, None])
    stack = weight.expand(*on_canvas.shape[:2], *weight.shape).contiguous()
    return dataset, canvases * turns, extract_patches_adjoint(stack, on_canvas, dataset.canvas_size), weight


def stitched_in_memory(folder: Path, synchronise: bool) -> Stitched:
    dataset, canvases, weights, _ = groups_of_a_scan()
    return stitch(canvases, torch.from_numpy(dataset.origins), weights, synchronise=synchronise)


def stitched_on_disk(folder: Path, synchronise: bool) -> Stitched:
    dataset, canvases, weights, weight = groups_of_a_scan()

    def batches(order: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        for part in torch.tensor(order).split(7):
            yield canvases[part], weights[part]

    return stitch_streamed(dataset, batches, weight, folder, synchronise=synchronise).average.mean()


def stitched_as_a_shard(folder: Path, synchronise: bool) -> Stitched:
    dataset, canvases, weights, _ = groups_of_a_scan()
    shard = Shard(dataset.origins, dataset.canvas_size)
    stored = CanvasesInMemory(len(shard.groups), dataset.canvas_size)
    stored.write(0, canvases[shard.groups], weights[shard.groups])
    return shard.stitch(stored, synchronise=synchronise)


def stitched_as_a_shard_on_disk(folder: Path, synchronise: bool) -> Stitched:
    dataset, canvases, _, weight = groups_of_a_scan()
    shard = Shard(dataset.origins, dataset.canvas_size)
    stored = CanvasesOnDisk(folder, dataset, shard.groups, weight)
    stored.write(0, canvases[shard.groups])
    return shard.stitch(stored, synchronise=synchronise)


WAYS = [stitched_in_memory, stitched_on_disk, stitched_as_a_shard, stitched_as_a_shard_on_disk]


@pytest.mark.parametrize("synchronise", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_all_ways_to_stitch_give_the_same_image(
    tmp_path: Path, way: Callable[[Path, bool], Stitched], synchronise: bool
) -> None:
    got = way(tmp_path, synchronise)
    dataset, canvases, weights, _ = groups_of_a_scan()
    expected = stitch(canvases, torch.from_numpy(dataset.origins), weights, synchronise=synchronise)
    assert got.geometry == expected.geometry
    torch.testing.assert_close(got.image, expected.image, rtol=0, atol=3e-6)
    torch.testing.assert_close(got.square, expected.square, rtol=0, atol=3e-6)
    torch.testing.assert_close(got.weights, expected.weights, rtol=1e-6, atol=0)
    assert list(tmp_path.iterdir()) == []
    spread = (expected.square - expected.image.abs() ** 2)[expected.weights > 0.3 * expected.weights.max()]
    assert (float(spread.mean()) < 0.01) == synchronise, "the canvases agree once their phases are removed"
