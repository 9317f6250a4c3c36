# SPDX-License-Identifier: BSD-3-Clause
"""Blocks that are read on a thread: order, bounded memory, errors where the block is due, an end in any case."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from ptychopinn.errors import InputError
from ptychopinn.storage import arrays
from ptychopinn.storage.ahead import read_ahead
from ptychopinn.storage.arrays import blocks_of, total_counts
from ptychopinn.storage.stored import StoredPatterns


def readers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


def test_blocks_come_in_order_from_another_thread() -> None:
    names: set[str] = set()

    def read(k: int) -> int:
        names.add(threading.current_thread().name)
        return k * k

    assert list(read_ahead(read, range(20))) == [k * k for k in range(20)]
    assert len(names) == 1 and threading.current_thread().name not in names and readers() == []


@pytest.mark.parametrize("ahead", [1, 3])
def test_at_most_so_many_blocks_are_read_ahead(ahead: int) -> None:
    read: list[int] = []
    for used in read_ahead(lambda k: read.append(k) or k, range(12), ahead):
        time.sleep(0.01)
        assert len(read) - (used + 1) <= ahead
    assert read == list(range(12))


def test_reading_goes_on_while_a_block_is_used() -> None:
    second = threading.Event()
    blocks = read_ahead(lambda k: second.set() if k == 1 else None, range(3))
    next(blocks)
    assert second.wait(5)
    blocks.close()


def test_an_error_is_raised_where_its_block_is_due() -> None:
    def read(k: int) -> int:
        if k == 2:
            raise InputError("block 2 is damaged")
        return k

    seen = []
    with pytest.raises(InputError, match="block 2 is damaged"):
        for block in read_ahead(read, range(5)):
            seen.append(block)
    assert seen == [0, 1] and readers() == []


def test_the_thread_ends_where_the_iteration_is_left() -> None:
    blocks = read_ahead(lambda k: k, range(100))
    next(blocks)
    blocks.close()
    assert readers() == []


def test_an_error_of_the_items_is_raised() -> None:
    def items() -> object:
        yield 1
        raise KeyError("items")

    with pytest.raises(KeyError):
        list(read_ahead(lambda k: k, items()))
    assert readers() == []


def test_blocks_of_stored_and_loaded_patterns_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = np.random.default_rng(0).poisson(3, (50, 16, 16)).astype(np.uint16)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=counts, chunks=(3, 8, 16), compression="gzip")
    stored = StoredPatterns.hdf5(tmp_path / "a.h5", "x")
    blocks = list(arrays.pattern_blocks(counts.shape, 7 * 256))
    monkeypatch.setattr(arrays, "pattern_blocks", lambda shape: iter(blocks))
    for (part, loaded), (same, read) in zip(blocks_of(counts), blocks_of(stored), strict=True):
        assert part == same and np.array_equal(loaded, read)
    assert total_counts(stored) == total_counts(counts) == counts.sum()
