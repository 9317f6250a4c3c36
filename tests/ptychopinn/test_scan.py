# SPDX-License-Identifier: BSD-3-Clause
"""The Scan type: invalid fields are refused, valid ones are kept, and files are written atomically."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptychopinn.errors import InputError
from ptychopinn.scan import Scan
from ptychopinn.storage.arrays import compact_counts, pattern_blocks
from ptychopinn.storage.atomic import atomic_path


def fields(**changes: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    probe = rng.normal(size=(2, 8, 8)) + 1j * rng.normal(size=(2, 8, 8))
    return {
        "counts": rng.poisson(20, (5, 8, 8)).astype(np.uint16),
        "positions": rng.uniform(0, 9, (5, 2)),
        "probe": probe.astype(np.complex64),
        **changes,
    }


def with_value(array: np.ndarray, value: float) -> np.ndarray:
    changed = array.copy()
    changed.flat[3] = value
    return changed


def test_properties_and_defaults() -> None:
    scan = Scan(**fields())
    assert (scan.n, scan.patch_size, scan.modes) == (5, 8, 2)
    assert scan.truth is None and scan.bad_pixels is None and scan.metadata == {}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64, np.float32])
def test_types_of_counts_are_kept(dtype: type) -> None:
    assert Scan(**fields(counts=np.ones((5, 8, 8), dtype))).counts.dtype == dtype


BASE = fields()
FLOATS = BASE["counts"].astype(np.float32)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"counts": BASE["counts"].astype(np.int32)},
            "counts must be an array of an unsigned integer type .* got int32",
        ),
        ({"counts": [[1]]}, "counts must be an array .* got list"),
        ({"counts": np.ones((5, 8, 10), np.uint8)}, r"counts must have shape \(n, N, N\), got \(5, 8, 10\)"),
        ({"counts": np.ones((0, 8, 8), np.uint8)}, "counts must hold at least one pattern"),
        ({"counts": np.ones((5, 9, 9), np.uint8)}, "even size of 8 or more pixels, got 9"),
        ({"counts": np.ones((5, 6, 6), np.uint8)}, "even size of 8 or more pixels, got 6"),
        ({"counts": with_value(FLOATS, -1)}, "counts must be finite and not negative, got values from -1.0"),
        ({"counts": with_value(FLOATS, np.nan)}, "counts must be finite and not negative, got values from nan"),
        ({"counts": with_value(FLOATS, np.inf)}, "counts must be finite and not negative, .* to inf"),
        ({"counts": np.zeros((5, 8, 8), np.uint8)}, "counts must have at least one count"),
        (
            {"positions": np.zeros((4, 2))},
            r"positions must be float64 of shape \(5, 2\), .* got float64 of shape \(4, 2\)",
        ),
        ({"positions": np.zeros((5, 2), np.float32)}, "positions must be float64 .* got float32"),
        ({"positions": with_value(BASE["positions"], np.nan)}, "positions must be finite, got 1 values"),
        (
            {"probe": BASE["probe"][0]},
            r"probe must be complex64 of shape \(M, 8, 8\), .* got complex64 of shape \(8, 8\)",
        ),
        ({"probe": BASE["probe"][:, :6, :6]}, r"probe must be .* \(2, 8, 8\), .* got complex64 of shape \(2, 6, 6\)"),
        ({"probe": BASE["probe"].astype(np.complex128)}, "probe must be complex64 .* got complex128"),
        ({"probe": np.zeros((1, 8, 8), np.complex64)}, "probe must have at least one mode and not be all zero"),
        ({"probe": np.zeros((0, 8, 8), np.complex64)}, "probe must have at least one mode"),
        ({"truth": np.zeros((9, 9))}, "truth must be complex64 .* got float64"),
        ({"truth": np.zeros(9, np.complex64)}, r"truth must be complex64 of shape \(H, W\)"),
        ({"bad_pixels": np.zeros((7, 8), np.bool_)}, r"bad_pixels must be bool of shape \(8, 8\)"),
        ({"pixel_size": 0.0}, "pixel_size must be a positive finite number or None, got 0.0"),
        ({"energy": float("inf")}, "energy must be a positive finite number or None, got inf"),
        ({"metadata": {"a": np.zeros(2)}}, "metadata must hold JSON types only"),
    ],
)
def test_invalid_fields_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=rf"Scan\.{sentence}" if not sentence.startswith("even") else sentence):
        Scan(**fields(**changes))


def test_subset_selects_patterns_and_positions_in_order() -> None:
    scan = Scan(**fields(name="a", metadata={"k": 1}))
    part = scan.subset([4, 0])
    np.testing.assert_array_equal(part.counts, scan.counts[[4, 0]])
    np.testing.assert_array_equal(part.positions, scan.positions[[4, 0]])
    assert part.probe is scan.probe and part.name == "a" and part.metadata == {"k": 1}
    assert scan.subset(np.array([True, False, False, True, False])).n == 2


@pytest.mark.parametrize("indices", [[5], [], [0.5], [[0]], [True, False]])
def test_invalid_subset_is_refused(indices: list[Any]) -> None:
    with pytest.raises(InputError, match=r"Scan\.subset: indices must"):
        Scan(**fields()).subset(indices)


@pytest.mark.parametrize(
    ("largest", "dtype"), [(255, "uint8"), (256, "uint16"), (65536, "uint32"), (2**32, "uint64"), (0, "uint8")]
)
def test_compact_counts_takes_the_smallest_type(largest: int, dtype: str) -> None:
    counts = np.array([0, largest], np.int64)
    assert compact_counts(counts).dtype == dtype
    np.testing.assert_array_equal(compact_counts(counts), counts)


def test_pattern_blocks_cover_every_pattern_once() -> None:
    blocks = list(pattern_blocks((1000, 128, 128)))
    assert len(blocks) > 1
    assert np.concatenate([np.arange(1000)[part] for part in blocks]).tolist() == list(range(1000))
    assert list(pattern_blocks((2, 10000, 10000))) == [slice(0, 1), slice(1, 2)]


def test_unknown_suffix_and_existing_file(tmp_path: Path) -> None:
    scan = Scan(**fields())
    with pytest.raises(InputError, match=r"a\.jpg: not found"):
        Scan.load(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff")
    for action in (lambda: scan.save(tmp_path / "a.jpg"), lambda: Scan.load(tmp_path / "a.jpg")):
        with pytest.raises(InputError, match=r"a\.jpg: expected a scan (file|in one)"):
            action()
    scan.save(tmp_path / "a.npz")
    before = (tmp_path / "a.npz").read_bytes()
    with pytest.raises(InputError, match="the file exists and overwrite is False"):
        scan.save(tmp_path / "a.npz", overwrite=False)
    assert (tmp_path / "a.npz").read_bytes() == before
    scan.subset([0]).save(tmp_path / "a.npz")
    assert Scan.load(tmp_path / "a.npz").n == 1


def test_failed_write_keeps_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out.txt"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent and temporary.suffix == ".txt"
        temporary.write_text("old")
    with pytest.raises(RuntimeError, match="stop"), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError("stop")
    assert target.read_text() == "old"
    assert [path.name for path in target.parent.iterdir()] == ["out.txt"]


def test_atomic_path_refuses_a_folder_and_a_file_as_parent(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="found a folder"), atomic_path(tmp_path):
        pass
    with pytest.raises(InputError, match="its folder cannot be created"), atomic_path(tmp_path / "file" / "a.npz"):
        pass
