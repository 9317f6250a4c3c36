# SPDX-License-Identifier: BSD-3-Clause
"""Batches of groups: conventions, canvas sizes, integer types, bad pixels, and random draws."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ptycho_ext import extract_patches, extract_patches_adjoint
from ptychopinn.batches.datamodule import ScanDataModule
from ptychopinn.batches.dataset import GroupDataset, JoinedGroups
from ptychopinn.batches.grouping import group_patterns
from ptychopinn.config import Config
from ptychopinn.errors import InputError
from ptychopinn.scan import Scan


def make_scan(n: int = 12, size: int = 16, dtype: Any = np.uint16, **fields: Any) -> Scan:
    """Negative and fractional positions on a skewed grid of 3 columns, 4.5 px by 6 px."""
    rng = np.random.default_rng(0)
    index = np.arange(n)
    fields = {
        "counts": rng.integers(0, 200, (n, size, size)).astype(dtype),
        "positions": np.stack([index // 3 * 4.5 - 7.25, index % 3 * 6.0 - 3 + 0.25 * (index // 3)], 1),
        "probe": (rng.normal(size=(2, size, size)) + 1j).astype(np.complex64),
        **fields,
    }
    return Scan(**fields)


# Batches.


def test_batch_contains_the_patterns_of_its_groups_in_fft_order() -> None:
    scan = make_scan()
    groups = group_patterns(scan.positions, 4)
    batch = GroupDataset(scan, groups).collate([5, 0, 11])
    assert batch.counts.dtype == torch.float32 and batch.counts.is_contiguous()
    assert batch.positions.dtype == torch.float64 and batch.origins.dtype == torch.int64
    assert batch.counts.shape == (3, 4, 16, 16) and batch.positions.shape == (3, 4, 2) and batch.origins.shape == (3, 2)
    for row, group in enumerate(groups[[5, 0, 11]]):
        for member, k in enumerate(group):
            pattern = batch.counts[row, member]
            assert pattern[0, 0] == scan.counts[k, 8, 8] and pattern[1, -2] == scan.counts[k, 9, 6]
            np.testing.assert_array_equal(np.fft.fftshift(pattern.numpy()), scan.counts[k])


@pytest.mark.parametrize("size", [1, 2, 5, 12])
@pytest.mark.parametrize("multiple", [1, 4, 16])
def test_canvas_contains_every_sample_and_has_multiples_as_sides(size: int, multiple: int) -> None:
    scan = make_scan()
    dataset = GroupDataset(scan, group_patterns(scan.positions, size), multiple)
    batch = dataset.collate(range(len(dataset)))
    assert all(side % multiple == 0 for side in batch.canvas_size)
    absolute = batch.positions + batch.origins[:, None]
    np.testing.assert_array_equal(absolute.numpy(), scan.positions[dataset.groups])
    first = batch.positions.amin(1)
    assert (first >= 0).all() and (first < 1).all()  # no larger than necessary
    # No sample is outside the canvas: the adjoint preserves the sum, and a constant is constant in every patch.
    ones = torch.ones(*batch.counts.shape, dtype=torch.float64)
    sums = extract_patches_adjoint(ones, batch.positions, batch.canvas_size).sum((-2, -1))
    torch.testing.assert_close(sums, torch.full_like(sums, size * 16.0 * 16.0))
    canvas = torch.ones(len(dataset), *batch.canvas_size, dtype=torch.float64)
    assert (extract_patches(canvas, batch.positions, 16) - 1).abs().max() < 1e-14
    smallest = (batch.positions.amax((0, 1)).ceil().long() + 16).tolist()
    assert all(0 <= side - least < multiple for side, least in zip(batch.canvas_size, smallest, strict=True))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64, np.float32])
def test_largest_counts_of_a_type_do_not_overflow(dtype: Any) -> None:
    largest = 1e9 if dtype == np.float32 else min(np.iinfo(dtype).max, 2**40)
    scan = make_scan(dtype=dtype)
    scan.counts[:] = dtype(largest)
    batch = GroupDataset(scan, group_patterns(scan.positions, 2)).collate([0])
    assert scan.counts.dtype == dtype
    torch.testing.assert_close(batch.counts, torch.full_like(batch.counts, float(largest)))
    assert (batch.counts.square() > 0).all() and batch.counts.sqrt()[0, 0, 0, 0].item() == pytest.approx(
        float(largest) ** 0.5
    )


def test_items_are_group_indices() -> None:
    scan = make_scan()
    dataset = GroupDataset(scan, group_patterns(scan.positions, 2))
    assert len(dataset) == 12 and list(dataset) == list(range(12))
    for index in (-1, 12):
        with pytest.raises(IndexError):
            dataset[index]


def test_collate_does_not_change_the_scan() -> None:
    bad = np.zeros((16, 16), bool)
    bad[8, 8] = True
    scan = make_scan(dtype=np.float32, bad_pixels=bad)
    before = scan.counts.copy(), scan.positions.copy()
    batch = GroupDataset(scan, group_patterns(scan.positions, 1)).collate([0, 1])
    batch.counts.zero_()
    batch.positions.zero_()
    batch.origins.zero_()
    assert np.array_equal(scan.counts, before[0]) and np.array_equal(scan.positions, before[1])


def test_bad_pixels_are_filled_with_the_pattern_of_the_probe() -> None:
    """A hot pixel (often the largest value of the type) must not be an input of a generator, which has no mask."""
    probe = (300 * np.exp(-np.add.outer(*2 * [(np.arange(16) - 8.0) ** 2]) / 9)).astype(np.complex64)[None]
    expected = np.fft.fftshift(np.abs(np.fft.fft2(probe[0], norm="ortho")) ** 2)
    counts = np.stack([np.rint(expected * transmission) for transmission in (1.0, 0.5, 0.25)]).astype(np.uint32)
    bad = np.zeros((16, 16), bool)
    bad[7:9, 6:9] = bad[2, 3] = True
    counts[:, bad] = np.iinfo(np.uint32).max
    scan = make_scan(3, counts=counts, probe=probe, bad_pixels=bad)
    batch = GroupDataset(scan, group_patterns(scan.positions, 1)).collate([0, 1, 2])
    restored = np.fft.fftshift(batch.counts[:, 0].numpy(), axes=(-2, -1))
    for pattern, raw, transmission in zip(restored, counts, (1.0, 0.5, 0.25), strict=True):
        np.testing.assert_allclose(pattern[bad], transmission * expected[bad], rtol=1e-3, atol=1e-3)
        np.testing.assert_array_equal(pattern[~bad], raw[~bad])


# Random draws.


def module(scan: Scan, epoch: int = 0, **sections: dict[str, Any]) -> ScanDataModule:
    data = ScanDataModule([scan], Config.from_dict(sections), canvas_multiple=4)
    data.trainer = SimpleNamespace(current_epoch=epoch)  # type: ignore[assignment]
    return data


def groups_of(loader: Any) -> np.ndarray:
    (part,), order = loader.dataset.parts, loader.dataset.order
    return np.asarray(part.groups)[order]


@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.5, 0.99])
@pytest.mark.parametrize("size", [1, 4])
def test_every_pattern_leads_in_training_or_in_validation(fraction: float, size: int) -> None:
    scan = make_scan(30)
    data = module(scan, data={"group_size": size, "validation_fraction": fraction})
    leaders = np.concatenate([data.training_leaders, data.validation_leaders])
    assert np.array_equal(np.sort(leaders), np.arange(30)) and len(data.training_leaders) >= 1
    assert len(data.validation_leaders) == min(np.ceil(fraction * 30 / (size * data.merged_in(True))), 29)
    for epoch in range(4):
        data.trainer.current_epoch = epoch
        trained = groups_of(data.train_dataloader())
        assert len(trained) == data.groups_per_epoch == data.steps_per_epoch * data.batch_size
        assert len(np.unique(trained[:, 0])) == min(len(trained), len(data.training_leaders))
        assert set(trained[:, 0]) <= set(data.training_leaders)
    if fraction:
        held_out = groups_of(data.val_dataloader())[:, 0]
        assert np.array_equal(held_out, np.resize(data.validation_leaders, len(held_out)))
    else:
        assert data.val_dataloader() == []


def test_validation_region_has_no_pattern_in_common_with_training() -> None:
    scan = make_scan(60)
    data = module(scan, data={"group_size": 4, "validation": "region", "validation_fraction": 0.2, "pool": 5})
    held = set(groups_of(data.val_dataloader()).ravel())
    assert held == set(data.validation_leaders) and len(held) == 12
    for epoch in range(3):
        data.trainer.current_epoch = epoch
        assert held.isdisjoint(groups_of(data.train_dataloader()).ravel())
    with pytest.raises(InputError, match=r"data.validation 'region' holds out 57 of 60 patterns, which leaves fewer"):
        module(scan, data={"group_size": 4, "validation": "region", "validation_fraction": 0.94})


def test_patterns_outside_the_bounds_lead_no_group_but_are_members() -> None:
    scan = make_scan(60)
    data = module(scan, data={"group_size": 4, "y_bounds": (0.3, 1.0), "validation_fraction": 0.1})
    y = scan.positions[:, 0]
    inside = set(np.flatnonzero(y >= y.min() + 0.3 * np.ptp(y)))
    groups = groups_of(data.train_dataloader())
    assert 0 < len(inside) < 60 and set(data.training_leaders) | set(data.validation_leaders) == inside
    assert set(groups[:, 0]) <= inside and not set(groups.ravel()) <= inside


def test_oversampling_draws_more_groups_without_repetition() -> None:
    scan = make_scan(60)
    options = {"group_size": 4, "pool": 6, "validation_fraction": 0.0}
    once, thrice = (module(scan, data={**options, "oversampling": k}, training={"batch_size": 2}) for k in (1, 3))
    assert thrice.groups_per_epoch == 46 >= min(180, 3 * 60 // 4) and once.groups_per_epoch == 16
    groups = groups_of(thrice.train_dataloader())
    assert len({(row[0], *sorted(row[1:])) for row in groups}) == len(groups) == thrice.groups_per_epoch


def test_group_larger_than_the_largest_canvas_is_an_error() -> None:
    scan = make_scan(30)
    far = dataclasses.replace(scan, positions=scan.positions + np.where(np.arange(30) < 3, 900.0, 0.0)[:, None])
    with pytest.raises(InputError, match=r"3 groups do not fit a canvas of 128 px; that of pattern \d needs \d+ px"):
        module(far, data={"group_size": 4, "validation_fraction": 0}).train_dataloader()
    for data in ({"group_size": 4, "largest_canvas": 2000}, {"group_size": 3}):
        assert len(module(far, data=data).train_dataloader()) > 0


def test_scan_of_one_pattern_has_a_training_batch() -> None:
    data = module(make_scan(1), data={"group_size": 1})
    (batch,) = data.train_dataloader()
    assert batch.shape == (1, 1, 1) and data.val_dataloader() == []
    assert batch.patterns.members.unique().tolist() == [0]  # a neighbourhood of it alone


def test_draws_depend_only_on_seed_and_epoch() -> None:
    scan = make_scan(90)
    sections = {"data": {"group_size": 4, "pool": 8}, "training": {"batch_size": 2}}

    def drawn(seed: int, epoch: int) -> np.ndarray:
        np.random.seed(seed + 7 * epoch)  # noqa: NPY002 -- the global generator must not matter
        return groups_of(
            module(scan, epoch, **{**sections, "training": {"batch_size": 2, "seed": seed}}).train_dataloader()
        )

    assert np.array_equal(drawn(0, 3), drawn(0, 3))
    assert not np.array_equal(drawn(0, 3), drawn(0, 4)) and not np.array_equal(drawn(0, 3), drawn(1, 3))
    splits = [module(scan, training={"seed": seed}).validation_leaders for seed in (0, 0, 1)]
    assert np.array_equal(splits[0], splits[1]) and not np.array_equal(splits[0], splits[2])


@pytest.mark.parametrize(("pool", "differ"), [(None, False), (3, False), (8, True)])
def test_members_are_drawn_again_only_from_a_larger_pool(pool: int | None, differ: bool) -> None:
    data = module(make_scan(40), data={"group_size": 4, "pool": pool}, training={"batch_size": 4})
    members = []
    for epoch in range(2):
        data.trainer.current_epoch = epoch
        groups = groups_of(data.train_dataloader())
        members.append({int(group[0]): sorted(group[1:].tolist()) for group in groups})
    common = set(members[0]) & set(members[1])
    assert len(common) > 10
    assert any(members[0][k] != members[1][k] for k in common) is differ
    validation = [groups_of(data.val_dataloader()) for _ in range(2)]
    assert np.array_equal(*validation)


def test_epoch_contains_every_pattern_about_once_in_rectangular_batches() -> None:
    data = module(make_scan(300), data={"group_size": 4, "validation_fraction": 0.0}, training={"batch_size": 5})
    batches = list(data.train_dataloader())
    assert [batch.shape for batch in batches] == [(1, 1, 5)] * 15
    assert {batch.patterns.counts.shape for batch in batches} == {(5, 4, 16, 16)}
    assert len({batch.patterns.canvas_size for batch in batches}) == 1


def test_group_larger_than_the_scan_is_an_error() -> None:
    with pytest.raises(InputError, match=r"needs a scan of at least 16 patterns, got 4; lower data\.group_size"):
        module(make_scan(4)).train_dataloader()


def test_joined_groups_are_those_of_their_parts_in_the_requested_order() -> None:
    scans = [make_scan(9), make_scan(12)]
    parts = [
        GroupDataset(s, group_patterns(s.positions, 3), 4, first=first) for s, first in zip(scans, (0, 9), strict=True)
    ]
    alone = [part.collate(range(len(part))) for part in parts]
    order = np.random.default_rng(0).permutation(21)
    joined = JoinedGroups(parts, order)
    assert len(joined) == 21 and list(joined) == list(range(21))
    batch = joined.collate(range(21))
    assert sorted(batch.members[:, 0].tolist()) == list(range(21))
    for row, members in enumerate(batch.members):
        which = int(members[0] >= 9)
        index = int(members[0]) - 9 * which
        assert torch.equal(batch.counts[row], alone[which].counts[index])
        assert torch.equal(batch.positions[row], alone[which].positions[index])
        assert torch.equal(batch.origins[row], alone[which].origins[index])
    assert joined.collate([0]).members[0, 0] == order[0]
    with pytest.raises(IndexError):
        joined[21]
