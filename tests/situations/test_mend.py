# SPDX-License-Identifier: BSD-3-Clause
"""Every fault that `ptychopinn mend` repairs: the command with its option, then an inspection without a problem."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from situation import Situation, edit_counts, edit_npz, run

from ptychopinn.scan import Scan

PIXEL = 2e-8


def gap(counts: np.ndarray) -> np.ndarray:
    """A gap of the detector, two columns that read 65535."""
    counts[:, :, 20:22] = 65535
    return counts


def hot(counts: np.ndarray) -> np.ndarray:
    """A single hot pixel."""
    counts[:, 4, 27] += np.random.default_rng(0).poisson(3000, len(counts)).astype(np.uint16)
    return counts


def dead_row(counts: np.ndarray) -> np.ndarray:
    """A gap of the detector that reads 0."""
    counts[:, 17] = 0
    return counts


def unwritten(counts: np.ndarray) -> np.ndarray:
    """The last 11 of 64 patterns were never written."""
    counts[-11:] = 0
    return counts


def cosmic_ray(counts: np.ndarray) -> np.ndarray:
    """Three pixels of one pattern, far above all others."""
    counts[30, 3, 5:8] = 60000
    return counts


def saturated(counts: np.ndarray) -> np.ndarray:
    """A detector that counts up to 400."""
    return np.minimum(counts, 400)


def in_metres(pixels: np.ndarray) -> np.ndarray:
    return pixels * PIXEL


def far_off(pixels: np.ndarray) -> np.ndarray:
    pixels[17] += 1e-3 / PIXEL
    return pixels


def rolled(*shift: int) -> Callable[[Path], None]:
    return edit_counts(lambda counts: np.roll(counts, shift, (1, 2)))


#: (what happened, change of the file, options of `mend`, words of its output, row of the reports)
MENDS = [
    ("FFT order", rolled(16, 16), "--centre", "centre: patterns rolled by .-?16, -?16. px from FFT order", "1"),
    ("gap of 65535", edit_counts(gap), "--mask-faulty", "64 pixels masked .64 stuck", "2"),
    ("gap of 65535 and FFT order", edit_counts(lambda counts: np.fft.fftshift(gap(counts), axes=(1, 2))),
     "--mask-faulty --centre", "64 pixels masked.*from FFT order", "2"),
    ("gap of 0", edit_counts(dead_row), "--mask-faulty", "32 pixels masked .* dead", "2"),
    ("one position 1 mm off", edit_npz(xcoords=far_off), "--drop-outliers",
     "1 pattern omitted: 1 far from all others .17.", "4"),
    ("empty patterns", edit_counts(unwritten), "--drop-outliers", "11 patterns omitted: 11 without counts .53 to 63",
     "8"),
    ("positions in metres", edit_npz(xcoords=in_metres, ycoords=in_metres, pixel_size=PIXEL), "--position-unit m",
     "position-unit: positions in m, read as px: multiplied by 5e.07", "3"),
    ("positions in micrometres, as a factor", edit_npz(xcoords=lambda x: x / 50, ycoords=lambda y: y / 50),
     "--scale-positions 50", "scale-positions: positions multiplied by 50;", "3"),
    ("probe of another power", edit_npz(probeGuess=lambda probe: probe * 1000), "--scale-probe",
     "scale-probe: probe multiplied by 0.00", "23"),
    ("probe in FFT order", edit_npz(probeGuess=lambda probe: np.fft.fftshift(probe, axes=(-2, -1))), "--centre-probe",
     "centre-probe: probe rolled by .-?16, -?16. px from FFT order", "5"),
    ("off centre", rolled(3, -2), "--centre", "rolled by .-3, 2. px; 154 pixels masked that wrapped around", "1"),
    ("off centre, by hand", rolled(3, -2), "--shift=-3,2", "shift: patterns rolled by .-3, 2. px", "1"),
    ("a hot pixel", edit_counts(hot), "--mask-faulty", "1 pixel masked .1 hot.", "31"),
    ("saturation", edit_counts(saturated), "--mask-faulty", "saturated at 400 counts", "31"),
    ("a background", edit_counts(lambda counts: counts + 5), "--subtract 5", "5 counts subtracted", ""),
    ("an inverted mask", edit_npz(bad_pixels=np.hypot(*np.mgrid[-16:16, -16:16]) < 20), "--invert-mask",
     "mask inverted: ", ""),
    ("a cosmic ray", edit_counts(cosmic_ray), "--clip 50000", "3 counts above 50000 in 1 pattern replaced", "31"),
    ("a pixel with too many counts", edit_counts(cosmic_ray), "--mask-above 50000", "3 pixels masked that reach", "31"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "change", "options", "words", "row"), MENDS, ids=[name.replace(" ", "-") for name, *_ in MENDS]
)
def test_mended_scan_has_no_problem(
    name: str,
    change: Callable[[Path], object],
    options: str,
    words: str,
    row: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = f"mend scan.npz out.npz {options}"
    Situation(name, command, 0, (words, "wrote out.npz"), change, row=row).check(folder, capsys, monkeypatch)
    assert run("inspect out.npz --no-orientation") == 0
    printed = capsys.readouterr().out
    assert "PROBLEM" not in printed and "no findings" in printed


ASKED = [
    Situation(
        "nothing stated", "mend scan.npz out.npz --memory stored", 2,
        (r"ptychopinn mend scan.npz out.npz --mask-faulty --centre --memory stored$",),
        edit_counts(lambda counts: np.roll(gap(counts), (16, 16), (1, 2))), unwanted="wrote", row="1, 2",
    ),
    Situation(
        "nothing stated and nothing wrong", "mend scan.npz out.npz --no-orientation", 2,
        ("no finding asks for one", "mend --help"), unwanted="wrote",
    ),
    Situation(
        "everything that findings ask for", "mend scan.npz out.npz --all --no-orientation", 0,
        ("mask-faulty: 64 pixels", "position-unit: positions in um", "drop-outliers: 11 patterns", "centre: patterns",
         "no findings", "wrote out.npz"),
        lambda folder: (
            edit_npz(xcoords=lambda x: x / 50, ycoords=lambda y: y / 50, pixel_size=PIXEL)(folder),
            edit_counts(lambda counts: np.roll(gap(unwritten(counts)), (2, 5), (1, 2)))(folder),
        ), row="1, 2, 3, 8",
    ),
    Situation(
        "OUT is IN", "mend scan.npz ./scan.npz --centre --overwrite", 2, ("scan.npz: expected another name",), row="1"
    ),
    Situation(
        "OUT is there", "mend scan.npz scan2.npz --centre", 2, ("scan2.npz: expected a new file", "--overwrite"),
        lambda folder: (folder / "scan2.npz").write_bytes(b""),
    ),
    Situation("an impossible shift", "mend scan.npz out.npz --shift 3", 2, ("--shift must be two integers Y,X",)),
    Situation("an impossible index", "mend scan.npz out.npz --drop 64", 2, ("indices from 0 to 63",)),
    Situation("words for indices", "mend scan.npz out.npz --drop a", 2, ("--drop must be indices and ranges",)),
    Situation("an impossible bin", "mend scan.npz out.npz --bin 3", 2, ("a multiple of 6 px, for bin=3", "crop 30")),
    Situation("an odd size", "mend scan.npz out.npz --crop 15", 2, ("crop must be an even number of pixels of",)),
    Situation("a unit without a pixel size", "mend scan.npz out.npz --position-unit um", 2, ("--pixel-size",), row="3"),
    Situation("an unknown unit", "mend scan.npz out.npz --position-unit inch", 2, ("one of um, mm, nm, m, px",)),
    Situation("a limit that is none", "mend scan.npz out.npz --clip 0", 2, ("clip must be a positive number",)),
    Situation("all pixels masked", "mend scan.npz out.npz --mask-above 1e-9", 2, ("with counts .* found none",)),
]  # fmt: skip


@pytest.mark.parametrize("situation", ASKED, ids=lambda situation: situation.name.replace(" ", "-"))
def test_what_mend_asks_for(
    situation: Situation, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    situation.check(folder, capsys, monkeypatch)
    if situation.code:
        assert not (folder / "out.npz").exists()


def test_the_input_is_never_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    before = Path("scan.npz").read_bytes()
    Path("link.npz").symlink_to("scan.npz")
    Path("hard.npz").hardlink_to("scan.npz")
    for out in ("scan.npz", "link.npz", "hard.npz"):
        assert run(f"mend scan.npz {out} --drop 3 --overwrite") == 2
    assert run("mend scan.npz out.npz --drop 3") == run("mend scan.npz out.npz --drop 4 --overwrite") == 0
    assert Path("scan.npz").read_bytes() == before
    pixels = "--pixel-size 2e-8 --energy 8800 --distance 2"
    assert run(f"convert scan.npz pair --to ptychodus {pixels}") == 0
    assert run("mend pair pair --to ptychodus --drop 3 --overwrite") == 2
    assert run("mend pair/product.h5 pair --to ptychodus --drop 3 --overwrite") == 2
    assert run("mend pair new --to ptychodus --drop 3") == 0
    assert Scan.load("new").n == 63


@pytest.mark.parametrize("unit", ["um", "mm"])
def test_units_of_a_file_in_metres(unit: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import h5py

    monkeypatch.chdir(folder)
    assert run("convert scan.npz scan.cxi --pixel-size 2e-8 --energy 8800") == 0
    sound = Scan.load("scan.cxi")
    with h5py.File("scan.cxi", "a") as file:
        file["entry_1/sample_1/geometry_1/translation"][...] *= 1e6 if unit == "um" else 1e3
    assert run(f"mend scan.cxi out.cxi --position-unit {unit} --energy 8801") == 0
    mended = Scan.load("out.cxi")
    np.testing.assert_allclose(np.ptp(mended.positions, axis=0), np.ptp(sound.positions, axis=0), atol=1e-6)
    assert mended.energy == pytest.approx(8801) and mended.metadata["mended"][0]["file"] == "scan.cxi"


def test_mended_positions_are_those_of_the_sound_scan(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    sound = Scan.load("scan.npz")
    edit_npz(xcoords=in_metres, ycoords=in_metres, pixel_size=PIXEL)(folder)
    assert run("mend scan.npz out.npz --position-unit m") == 0
    mended = Scan.load("out.npz")
    np.testing.assert_allclose(mended.positions, sound.positions, atol=1e-6)
    np.testing.assert_array_equal(mended.counts, sound.counts)
    assert mended.truth is not None and sound.truth is not None
    np.testing.assert_array_equal(mended.truth, sound.truth)
