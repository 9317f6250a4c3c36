# SPDX-License-Identifier: BSD-3-Clause
"""Formats of other distributions, found by their entry points, are read, written and listed like built-in ones."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ptychopinn.cli import main
from ptychopinn.errors import InputError
from ptychopinn.io import registry, scans
from ptychopinn.physics.simulate import simulate
from ptychopinn.scan import Scan

TOY = """
import numpy as np
from ptychopinn.io.in_memory import scan_from_arrays
from ptychopinn.io.registry import Format, register

def read(path, options):
    with path.open("rb") as file:
        counts, positions, probe = (np.load(file) for _ in range(3))
    middle = (counts.shape[-1] - 1) / 2
    return scan_from_arrays(counts, positions + middle, probe, measurement="counts", name=path.stem)

def write(scan, path):
    with path.open("wb") as file:
        for array in (scan.counts, scan.positions, scan.probe):
            np.save(file, array)

def recognise(content):
    return content.path.suffix == ".toy" and content.kind == "npy"

register(Format("toy", "three arrays in a row", (".toy",), recognise, read, write))
"""

Install = Callable[[str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return a function that adds a distribution with a module and entry points, and reloads the formats."""
    scans.formats()
    monkeypatch.setattr(registry, "_table", dict(registry._table))
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)

    def make(source: str, entry_points: str) -> None:
        module = f"toy_{tmp_path.name}"
        (site / f"{module}.py").write_text(source)
        folder = site / "toy_formats-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-formats\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{entry_points.replace('MODULE', module)}\n")
        monkeypatch.setattr(scans, "_loaded", False)

    return make


def test_format_of_another_distribution_is_read_written_and_listed(
    install: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(TOY, "toy = MODULE")
    scan = simulate("lines", patterns=9, size=16, seed=1)
    scan.save(tmp_path / "a.toy")
    again = Scan.load(tmp_path / "a.toy")
    assert np.array_equal(again.counts, scan.counts) and np.allclose(again.positions, scan.positions)
    assert list(scans.formats())[-1] == "toy" and scans.format_to_read(tmp_path / "a.toy").name == "toy"
    with pytest.raises(InputError, match="positions can be stated for scans of the format npz or "):
        Scan.load(tmp_path / "a.toy", positions="p.csv")
    assert main(["convert", str(tmp_path / "a.toy"), str(tmp_path / "a.npz")]) == 0
    with pytest.raises(SystemExit):
        main(["convert", "--help"])
    assert "nexus,toy" in capsys.readouterr().out.replace(" ", "").replace("\n", "")


def test_entry_point_can_name_a_format_object(install: Install) -> None:
    install(TOY.replace("register(Format(", "mine = (Format("), "toy = MODULE:mine")
    assert scans.formats()["toy"].suffixes == (".toy",)


@pytest.mark.parametrize(
    ("source", "entries", "reason"),
    [
        ("1 / 0", "broken = MODULE", "ZeroDivisionError: division by zero"),
        (TOY, "broken = no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        (
            TOY.replace('Format("toy"', 'Format("npz"'),
            "broken = MODULE",
            "ValueError: the name of the format 'npz'",
        ),
    ],
)
def test_broken_entry_point_is_reported_in_one_warning(
    install: Install, tmp_path: Path, caplog: pytest.LogCaptureFixture, source: str, entries: str, reason: str
) -> None:
    before = scans.formats()
    install(source, entries)
    with caplog.at_level(logging.WARNING):
        assert scans.formats() == before
        scans.formats()
    (record,) = caplog.records
    assert record.getMessage().startswith("the format 'broken' of ") and reason in record.getMessage()
    scan = simulate("lines", patterns=9, size=16, seed=1)
    scan.save(tmp_path / "a.npz")
    assert Scan.load(tmp_path / "a.npz").n == scan.n


def test_entry_points_after_a_broken_one_are_loaded(install: Install) -> None:
    install(TOY, "a_broken = no_such_module\ntoy = MODULE")
    assert "toy" in scans.formats()
