# SPDX-License-Identifier: BSD-3-Clause
"""Subsets of scans: they cover the area for any scan path, and have a record of their source."""

from __future__ import annotations

import hashlib
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ptychopinn.cli import main
from ptychopinn.errors import InputError
from ptychopinn.io.subset import clustered, coverage, stratified, write_subset
from ptychopinn.physics.simulate import simulate
from ptychopinn.scan import Scan


@st.composite
def paths(draw: st.DrawFn) -> NDArray[np.float64]:
    """Draw positions of scans: rasters, lines at any angle, spirals, random, clustered, repeated; any scale."""
    count = draw(st.integers(4, 200))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    along = np.linspace(0, 1, count)
    kind = draw(st.sampled_from(("raster", "line", "spiral", "scattered", "clumps", "one place")))
    if kind == "raster":
        columns = draw(st.integers(1, count))
        points = np.stack(np.divmod(np.arange(count), columns), 1).astype(np.float64)
    elif kind == "line":
        angle = draw(st.floats(0, np.pi)) if draw(st.booleans()) else draw(st.sampled_from((0, np.pi / 2)))
        points = along[:, None] * np.array([np.sin(angle), np.cos(angle)])
    elif kind == "spiral":
        turn = 25 * np.sqrt(along)
        points = np.sqrt(along)[:, None] * np.stack([np.sin(turn), np.cos(turn)], 1)
    elif kind == "scattered":
        points = rng.random((count, 2))
    elif kind == "clumps":
        points = rng.normal(size=(3, 2))[rng.integers(0, 3, count)] + 1e-3 * rng.normal(size=(count, 2))
    else:
        points = np.zeros((count, 2))
    repeats = draw(st.integers(1, 3))
    scale = draw(st.sampled_from((1.0, 1e-9, 1e6)))
    return np.repeat(scale * (points + draw(st.floats(-10, 10))), repeats, axis=0)


@given(paths(), st.data())
def test_at_least_nine_tenths_of_both_axes_are_covered(points: NDArray[np.float64], data: st.DataObject) -> None:
    n = data.draw(st.integers(4, len(points)))
    seed = data.draw(st.integers(0, 5))
    clusters = data.draw(st.integers(4, n))
    for chosen in (stratified(points, n, seed), clustered(points, n, clusters, seed)):
        assert chosen.dtype == np.int64 and len(chosen) == n
        assert (np.diff(chosen) > 0).all() and chosen[0] >= 0 and chosen[-1] < len(points)
        assert min(coverage(points, chosen)) >= 0.9
    np.testing.assert_array_equal(stratified(points, n, seed), stratified(points, n, seed))


@pytest.mark.parametrize(
    ("points", "n"),
    [
        (np.stack(np.mgrid[:30, :30], -1).reshape(-1, 2), 36),
        (np.stack(np.mgrid[:10, :90], -1).reshape(-1, 2), 36),
        (np.arange(900.0)[:, None] * [1.0, 0.7], 36),
        (np.arange(900.0)[:, None] * [1.0, 1e-7], 36),
    ],
    ids=["square", "wide", "diagonal", "all but a line"],
)
def test_subset_has_no_large_gaps(points: NDArray[np.float64], n: int) -> None:
    """The largest distance of a pattern from the subset is smaller than for random subsets."""
    reach = cKDTree(points[stratified(points, n)]).query(points)[0].max()
    by_chance = [
        cKDTree(points[np.random.default_rng(k).choice(len(points), n, replace=False)]).query(points)[0].max()
        for k in range(10)
    ]
    assert reach < 0.85 * np.mean(by_chance)


def test_another_seed_gives_another_subset() -> None:
    points = np.stack(np.mgrid[:30, :30], -1).reshape(-1, 2)
    assert (stratified(points, 36, seed=0) != stratified(points, 36, seed=1)).any()


def test_coverage_of_part_of_a_line() -> None:
    points = np.array([[0.0, 0.0], [0.0, 5.0], [0.0, 10.0]])
    assert coverage(points, [0, 1]) == (1.0, 0.5)


def test_clusters_overlap_like_the_scan() -> None:
    points = np.stack(np.mgrid[:30, :30], -1).reshape(-1, 2).astype(np.float64)
    clusters, singles = points[clustered(points, 64, 4)], points[stratified(points, 64)]
    nearest = [cKDTree(chosen).query(chosen, k=2)[0][:, 1] for chosen in (clusters, singles)]
    assert np.median(nearest[0]) == 1.0 and np.median(nearest[1]) > 1.5
    # Every pattern has a neighbour at the distance of one step.
    labels = cKDTree(clusters).query_pairs(1.5, output_type="ndarray")
    assert len(np.unique(labels)) == 64


@pytest.mark.parametrize("n", [3, 17])
def test_too_few_or_too_many_patterns_are_refused(n: int) -> None:
    with pytest.raises(InputError, match=f"n must be from 4 to the 16 patterns of the scan, got {n}"):
        stratified(np.zeros((16, 2)), n)


def test_invalid_positions_and_clusters_are_refused() -> None:
    with pytest.raises(InputError, match=r"positions must be finite and of shape \(p, 2\), got shape \(5,\)"):
        stratified(np.zeros(5), 4)
    with pytest.raises(InputError, match="clusters must be from 4 to the 8 patterns of the subset, got 9"):
        clustered(np.zeros((16, 2)), 8, 9)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scan") / "scan.npz"
    simulate("dead_leaves", patterns=49, size=32, photons=1e5, seed=2).save(path)
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_record_names_the_source_of_the_subset(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["subset", str(source), "small.npz", "--n", "9", "--seed", "3", "--clusters", "4"]) == 0
    assert capsys.readouterr().out == "wrote small.npz\nwrote small.json\n"
    record = json.loads(Path("small.json").read_text())
    scan, small = Scan.load(source), Scan.load("small.npz")
    assert record["source"] == {"file": "scan.npz", "sha256": sha256(source), "patterns": 49}
    assert record["subset"] == {"file": "small.npz", "sha256": sha256(Path("small.npz"))}
    assert record["indices"] == clustered(scan.positions, 9, 4, seed=3).tolist()
    assert record["coverage"] == {"y": 1.0, "x": 1.0} and record["seed"] == 3
    assert record["arguments"]["clusters"] == 4 and record["arguments"]["scan_file"] == str(source)
    assert set(record["versions"]) == {"ptychopinn", "numpy", "torch"}
    np.testing.assert_array_equal(small.counts, scan.counts[record["indices"]])
    np.testing.assert_array_equal(small.positions, scan.positions[record["indices"]])
    np.testing.assert_allclose(small.probe, scan.probe)
    # The recorded command line writes a bytewise equal file.
    before = sha256(Path("small.npz"))
    for name in ("small.npz", "small.json"):
        Path(name).unlink()
    program, *arguments = shlex.split(record["command"])
    assert program == "ptychopinn" and main(arguments) == 0
    assert sha256(Path("small.npz")) == before and json.loads(Path("small.json").read_text()) == record


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("scan.npz", "small.npz", "--n", "50"), "scan.npz: expected at least the 50 patterns of the subset, found 49"),
        (("scan.npz", "small.npz", "--n", "3"), "n must be from 4 to the 49 patterns of the scan, got 3"),
        (("scan.npz", "small.npz", "--clusters", "2", "--n", "8"), "clusters must be from 4 to the 8 patterns"),
        (("scan.npz", "new/small.tif"), "new/small.tif: expected a scan file ending in .npz or"),
        (("scan.npz", "scan.npz", "--overwrite"), "scan.npz: expected another name than the scan's own"),
        (("absent.npz", "small.npz"), "absent.npz: not found"),
        (("scan.npz", "first.npz"), "first.npz: expected a new file, found an earlier one; name another, or"),
        (("scan.npz", "second.npz"), "second.json: expected a new file, found an earlier one; name another, or"),
    ],
)
def test_invalid_request_is_reported_and_nothing_written(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("scan.npz").symlink_to(source)
    for name in ("first.npz", "second.json"):
        Path(name).write_text("earlier")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*")}
    assert main(["subset", *arguments]) == 2
    printed = capsys.readouterr()
    assert sentence in printed.err and printed.err.count("\n") == 1 and printed.out == ""
    assert {path: path.read_bytes() for path in tmp_path.rglob("*")} == before


def test_earlier_files_are_replaced_only_on_request(source: Path, tmp_path: Path) -> None:
    write_subset(source, tmp_path / "small.npz", 9)
    with pytest.raises(InputError, match="found an earlier one"):
        write_subset(source, tmp_path / "small.npz", 16)
    write_subset(source, tmp_path / "small.npz", 16, overwrite=True)
    assert Scan.load(tmp_path / "small.npz").n == 16


def test_failure_leaves_no_file(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise OSError("disk full")

    monkeypatch.setattr("ptychopinn.io.subset.json.dumps", fail)
    with pytest.raises(OSError, match="disk full"):
        write_subset(source, tmp_path / "small.npz", 9)
    assert list(tmp_path.iterdir()) == []
