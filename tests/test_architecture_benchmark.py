# SPDX-License-Identifier: BSD-3-Clause
"""The estimate of benchmarks/estimate.py counts kernels, bytes and operations correctly, and orders what is known."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def estimate() -> Iterator[ModuleType]:
    """benchmarks/estimate.py, with the import path of a script."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        import estimate

        yield estimate


def test_kernels_of_known_operators(estimate: ModuleType) -> None:
    image = torch.empty(2, 8, 16, 16, device="meta", requires_grad=True).to(memory_format=torch.channels_last)
    weight = torch.empty(4, 8, 3, 3, device="meta", requires_grad=True)
    left, right = torch.empty(5, 6, device="meta"), torch.empty(6, 7, device="meta")
    waves = torch.empty(3, 16, 16, device="meta", dtype=torch.complex64)

    def work() -> None:
        F.conv2d(image, weight, padding=1).sum().backward()
        left @ right
        torch.fft.fft2(waves)
        torch.add(left.expand(9, 5, 6), 1)

    found = estimate.recorded(work)
    by_kind: dict[str, list[object]] = {}
    for kernel in found:
        by_kind.setdefault(kernel.kind, []).append(kernel)
    forward, backward = by_kind["convolution"]
    operations = 2.0 * 2 * 16 * 16 * 9 * 8 * 4
    assert forward.operations == backward.operations == by_kind["weights"][0].operations == operations
    assert forward.nbytes == 4 * (2 * 8 * 256 + 4 * 8 * 9 + 2 * 4 * 256)
    (product,) = by_kind["product"]
    assert (product.operations, product.nbytes) == (2.0 * 5 * 6 * 7, 4 * (30 + 42 + 35))
    assert [kernel.nbytes for kernel in by_kind["fft"]] == [2 * 8 * 3 * 256] * 2
    added = found[-1]
    assert (added.operator, added.nbytes) == ("add", 4 * 30 + 4 * 9 * 30)  # repetitions are read once


def test_time_of_a_kernel_is_bounded_by_its_bytes_and_its_operations(estimate: ModuleType) -> None:
    small, moved, computed = (
        estimate.Kernel("a", "convolution", nbytes, 0.0, tiled)
        for nbytes, tiled in ((0.0, 0.0), (3.9e9, 0.0), (0.0, 36e9))
    )
    times = [estimate.duration(kernel, "tf32") for kernel in (small, moved, computed)]
    assert times[1] - times[0] == pytest.approx(1000) and times[2] - times[0] == pytest.approx(1000)
    assert estimate.duration(computed, "32") > times[2]


def test_estimates_are_ordered_as_the_work(estimate: ModuleType) -> None:
    def of(members: int, options: dict[str, int], training: bool = True) -> dict[str, float]:
        row: dict[str, float] = estimate.estimate(
            "unrolled", {"steps": 2, **options}, estimate.Shape(64, members, 64 // members), training=training
        )
        return row

    group, single = of(16, {}), of(1, {})
    assert group["kernels"] == single["kernels"] and group["ms_tf32"] < single["ms_tf32"]
    assert of(16, {"steps": 4})["ms_tf32"] > group["ms_tf32"] > of(16, {}, training=False)["ms_tf32"]
    assert of(1, {"width": 32})["ms_32"] > single["ms_32"] > single["ms_tf32"]


def test_shapes_are_those_of_the_library(estimate: ModuleType) -> None:
    from ptychopinn.batches.neighbourhoods import merged_groups
    from ptychopinn.batches.sizes import batch_groups
    from ptychopinn.config import Config

    for size, members in ((64, 1), (64, 16), (128, 1), (256, 4)):
        config = Config.from_dict({"data": {"group_size": members}})
        shape = estimate.training_shape(size, members)
        merged = merged_groups(config)
        assert shape.groups - merged < batch_groups(config, size, torch.device("cuda")) * merged <= shape.groups
        assert shape.canvas[0] % 4 == 0 and size <= shape.canvas[0] < 2 * size
    assert estimate.Shape(64, 1, 1).canvas == (64, 64)


def test_rows_of_both_tables(estimate: ModuleType) -> None:
    common = {"generator": "unrolled", "options": {"steps": 1, "width": 4}, "size": [32], "members": [1, 2]}
    estimated = list(estimate.rows_of(argparse.Namespace(**common, patterns=4, measure=None)))
    assert [(row["what"], row["C"], row["B"]) for row in estimated] == [
        ("training", 1, 4),
        ("inference", 1, 4),
        ("training", 2, 2),
        ("inference", 2, 2),
    ]
    row = estimate.measure("unrolled", {"steps": 1, "width": 4}, estimate.Shape(32, 2, 1), 0.0)
    assert all(math.isfinite(row[key]) and row[key] > 0 for key in ("step_s", "inference_s_per_pattern"))
