# SPDX-License-Identifier: BSD-3-Clause
"""Formats on the command line: conversion of scans, options for missing fields, products."""

from __future__ import annotations

import json
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
from scan_files import CORNERS, COUNTS, ENERGY, FILES, PIXEL, WORLD, arrays, nexus, pair, training

from ptychopinn.cli import main
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.scan import Scan
from ptychopinn.world import world_positions

GEOMETRY = ["--energy", str(ENERGY), "--distance", "1.9", "--detector-pixel-size", "55e-6"]


@pytest.mark.parametrize(
    ("name", "to", "files"),
    [
        ("a.npz", "auto", ["a.npz"]),
        ("a.cxi", "auto", ["a.cxi"]),
        ("a.ptyd", "auto", ["a.ptyd"]),
        ("a.nxs", "auto", ["a.nxs"]),
        ("a.h5", "nexus", ["a.h5"]),
        ("folder", "ptychodus", ["folder/diffraction.h5", "folder/product.h5"]),
        ("s7_diffraction.h5", "ptychodus", ["s7_diffraction.h5", "s7_product.h5"]),
    ],
)
def test_convert_writes_every_format(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, to: str, files: list[str]
) -> None:
    source = nexus(tmp_path)
    out = tmp_path / "out"
    assert main(["convert", str(source), str(out / name), "--to", to]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"13 patterns of 16 px, 1 probe modes, object pixels {PIXEL * 1e9:.4g} nm"
    assert printed[1:] == [f"wrote {out / file}" for file in files]
    scan = Scan.load(out / name)
    np.testing.assert_array_equal(scan.counts, COUNTS)
    np.testing.assert_allclose(world_positions(scan), WORLD, rtol=0, atol=1e-12)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert main(["convert", str(source), str(out / name), "--to", to]) == 2
    assert "expected a new file, found an earlier one; name another, or --overwrite" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert main(["convert", str(source), str(out / name), "--to", to, "--overwrite"]) == 0


def test_options_complete_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = arrays(tmp_path), tmp_path / "a.npz"
    assert main(["convert", str(source), str(out)]) == 2
    assert "no energy, distance, detector_pixel_size to compute it from" in capsys.readouterr().err
    np.save(tmp_path / "p.npy", np.eye(16))
    positions = (tmp_path / "raw_positions.csv").rename(tmp_path / "places.csv")
    stated = [*GEOMETRY, "--probe", str(tmp_path / "p.npy"), "--positions", str(positions)]
    assert main(["convert", str(source), str(out), *stated]) == 0
    scan = Scan.load(out)
    assert scan.energy == ENERGY and scan.pixel_size == pytest.approx(PIXEL)
    np.testing.assert_array_equal(scan.probe != 0, np.eye(16)[np.newaxis] != 0)
    np.testing.assert_allclose(scan.positions, CORNERS - CORNERS.min(axis=0), rtol=0, atol=1e-9)


def test_stated_format_and_partner_are_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = pair(tmp_path)
    partner = (tmp_path / "product.h5").rename(tmp_path / "other.h5")
    command = ["convert", str(first), str(tmp_path / "a.npz"), "--format", "ptychodus"]
    assert main(command) == 2
    assert "state partner= (--partner)" in capsys.readouterr().err
    assert main([*command, "--partner", str(partner)]) == 0
    assert main(["convert", str(training(tmp_path)), str(tmp_path / "b.npz"), "--format", "cxi"]) == 2
    assert "key 'entry_1/instrument_1/detector_1/data': expected the key to be there" in capsys.readouterr().err


def test_plot_distinguishes_scans_and_reconstructions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan = pair(tmp_path)
    assert main(["plot", str(scan), "--out", str(tmp_path / "a")]) == 0
    image = np.ones((20, 20), np.complex64)
    result = Reconstruction(image, np.ones((20, 20), np.float32), (0.0, 0.0)).save(tmp_path / "r.h5")
    assert main(["plot", str(result), "--out", str(tmp_path / "b")]) == 0
    assert (tmp_path / "a/scan.png").exists() and (tmp_path / "b/phase.png").exists()


def test_refine_from_scratch_writes_a_product(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "refined.h5"
    command = [
        "refine",
        "--from-scratch",
        "--accept",
        "all",
        "--iterations",
        "1",
        "--device",
        "cpu",
        "--refine.split_half",
        "false",
    ]
    command += ["--out", str(out), "--out-format", "ptychodus"]
    npz = FILES["contract_npz"][0](tmp_path)
    assert main([*command, str(npz)]) == 2
    assert "is in metres, and the scan has no pixel size; load it with pixel_size=" in capsys.readouterr().err
    assert not out.exists()
    assert main([*command, str(pair(tmp_path))]) == 0
    with h5py.File(out) as file:
        np.testing.assert_allclose(file["probe_position_x_m"], WORLD[:, 1], rtol=0, atol=1e-12)
        assert file["object"].attrs["pixel_width_m"] == pytest.approx(PIXEL)
    with pytest.raises(SystemExit):
        main([*command, "--out-format", "tiff", str(npz)])


@pytest.mark.parametrize("command", ["train", "reconstruct", "refine", "evaluate", "plot", "convert"])
def test_commands_that_read_a_scan_accept_its_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help-all"])
    text = capsys.readouterr().out
    assert all(f"--{name} " in text for name in ("format", "measurement", "probe", "pixel-size", "energy", "partner"))


def test_option_of_another_format_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = training(tmp_path)
    for option, owner in (("positions", "npz or .*arrays"), ("partner", "ptychodus")):
        assert main(["convert", str(source), str(tmp_path / "a.npz"), f"--{option}", "nowhere"]) == 2
        assert re.search(f"{option} can be stated for scans of the format {owner} only", capsys.readouterr().err)
    assert not (tmp_path / "a.npz").exists()


def test_record_of_a_subset_of_a_pair_names_both_files(tmp_path: Path) -> None:
    (tmp_path / "pair").mkdir()
    pair(tmp_path / "pair")
    for source in ("pair", "pair/diffraction.h5"):
        out = tmp_path / "small.npz"
        assert main(["subset", str(tmp_path / source), str(out), "--n", "6", "--overwrite"]) == 0
        origin = json.loads(out.with_suffix(".json").read_text())["source"]
        assert set(origin["files"]) == {"diffraction.h5", "product.h5"} and len(set(origin["files"].values())) == 2


def test_figures_of_a_folder_are_written_beside_it(tmp_path: Path) -> None:
    (tmp_path / "pair").mkdir()
    pair(tmp_path / "pair")
    before = sorted((tmp_path / "pair").iterdir())
    assert main(["plot", str(tmp_path / "pair")]) == 0
    assert (tmp_path / "pair-pictures" / "scan.png").exists() and sorted((tmp_path / "pair").iterdir()) == before
