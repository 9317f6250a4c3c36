# SPDX-License-Identifier: BSD-3-Clause
"""Scans with a problem: every command that takes a scan stops within seconds, and names what mends or overrides it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from situation import Situation, edit_counts, edit_npz, nothing, run

import ptychopinn
import ptychopinn.cli
from ptychopinn.errors import InputError
from ptychopinn.findings.gate import KEYS, accepted_keys, check_scan
from ptychopinn.persistence.bundle import bundle_info
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.scan import Scan

TRAIN = "train scan.npz --out run QUICK"


def fill(index: Any, value: int) -> Callable[[Path], None]:
    def change(counts: np.ndarray) -> np.ndarray:
        counts[index] = value
        return counts

    return edit_counts(change)


def first_moved(pixels: float) -> Callable[[Path], None]:
    def moved(coordinates: np.ndarray) -> np.ndarray:
        coordinates = coordinates.copy()
        coordinates[5] += pixels
        return coordinates

    return edit_npz(xcoords=moved, ycoords=moved)


def scaled(factor: float, **others: Any) -> Callable[[Path], None]:
    return edit_npz(xcoords=lambda x: x * factor, ycoords=lambda y: y * factor, **others)


def uneven(counts: np.ndarray) -> np.ndarray:
    exposure = np.random.default_rng(0).uniform(0.2, 1, len(counts))
    return np.random.default_rng(1).binomial(counts, exposure[:, None, None]).astype(np.uint16)


def hundredfold(counts: np.ndarray) -> np.ndarray:
    exposure = 10 ** np.random.default_rng(0).uniform(-2, 0, len(counts))
    return np.random.default_rng(1).binomial(counts, exposure[:, None, None]).astype(np.uint16)


def float_saturation(counts: np.ndarray) -> np.ndarray:
    return np.minimum(counts * 1.37, 250.5)


def flickering(counts: np.ndarray) -> np.ndarray:
    counts[::9, 20, 20] = 30000
    return counts


#: What corrupts the scan, the words of the problem, and the override that it names.
PROBLEMS = {
    "corner": ("1", edit_counts(lambda c: np.fft.fftshift(c, axes=(1, 2))), r"in the corner of the patterns",
               r"mend scan\.npz OUT --centre.*--accept fft_order"),
    "far off centre": ("1", edit_counts(lambda c: np.roll(c, (4, -3), (1, 2))), r"zero frequency is at pixel \(19\.",
                       r"--centre.*--accept centre"),
    "gap of 65535": ("2", fill(np.s_[:, :, 14:16], 65535), "64 pixels are constant in all patterns",
                     r"--mask-faulty.*--write-mask MASK\.npy.*--accept stuck_pixels"),
    "gap of zeros": ("2", fill(np.s_[:, :, 14:16], 0), "pixels are without counts in all patterns",
                     r"--mask-faulty.*--accept dead_pixels"),
    "beamstop": ("31", fill(np.s_[:, 13:19, 13:19], 0), "the shadow of a beamstop", "--mask-faulty"),
    "saturation in an integer file": ("31", edit_counts(lambda c: np.minimum(c, 180)), "saturated at 180 counts",
                                      "--mask-faulty.*--accept saturated"),
    "saturation in a float file": (
        "31", edit_npz(diff3d=lambda a: float_saturation(a.astype(float) ** 2), measurement="counts"),
        r"saturated at 250\.5 counts", "--mask-faulty"),
    "all positions zero": ("3", scaled(0), "all 64 patterns have the same position", "--accept positions"),
    "positions in metres": ("3", scaled(2e-8, pixel_size=2e-8), "all positions are within",
                            r"in metres where pixels are expected.* mend scan\.npz OUT --scale-positions 5e\+07"),
    "positions in metres, pixel size unknown": ("3", scaled(2e-8), "all positions are within", "--pixel-size"),
    "positions in a unit too small": ("3", scaled(1e6), "there is hardly any overlap",
                                      "--scale-positions 1e-06.*--accept overlap"),
    "one position far off": ("4", first_moved(5e4), r"1 pattern 70\d\d\d px from all others: 5:",
                             "--drop-outliers.*--accept outlying_positions"),
    "exposure varies fivefold": ("26", edit_counts(uneven), "the exposure varies",
                                 r"--even-dose.*--refine\.learn_intensities true.*--accept dose_spread"),
    "exposure varies a hundredfold": ("31", edit_counts(hundredfold), "the exposure varies", "--even-dose"),
}  # fmt: skip
TABLE = [
    *(
        Situation(f"{command.split()[0]}: {name}", command, 2, (sentence, way_out), corrupt, row=row)
        for name, (row, corrupt, sentence, way_out) in PROBLEMS.items()
        for command in (TRAIN, "refine --from-scratch scan.npz --out out.h5 --device cpu --iterations 2")
    ),
    Situation(
        "empty last frames are omitted and named", TRAIN, 0,
        ("omitted patterns without counts: 50 to 63", "trained on 50 patterns"), fill(np.s_[50:], 0), row="8",
    ),
    Situation(
        "every sixth frame dead", TRAIN, 0, ("without counts: 0, 6, 12, ", "trained on 53 patterns"),
        fill(np.s_[::6], 0), row="19",
    ),
    Situation(
        "outlier dropped", f"{TRAIN} --drop-outliers", 0,
        ("omitted patterns far from all others: 5", "trained on 63 patterns"), first_moved(5e4), row="4",
    ),
    Situation(
        "gap masked", f"{TRAIN} --mask-faulty", 0, ("ignored 64 faulty pixels", "trained on 64 patterns"),
        fill(np.s_[:, :, 14:16], 65535), row="2",
    ),
    Situation(
        "corner accepted", f"{TRAIN} --accept centre --orientation given", 0,
        ("accepted: the zero frequency is in the corner",),
        edit_counts(lambda c: np.fft.fftshift(c, axes=(1, 2))), row="1",
    ),
    Situation("unknown key", f"{TRAIN} --accept center", 2, (r"accept must be all or keys .*got 'center'",)),
    Situation(
        "real probe", TRAIN, 0, ("a real probe has no phase",), edit_npz(probeGuess=lambda p: np.abs(p)), row="23"
    ),
    Situation(
        "pixels that are hot at times", TRAIN, 0, ("1 pixel is far above the neighbours in some patterns",),
        edit_counts(flickering), row="31",
    ),
    Situation(
        "refinement that fits the exposure",
        "refine --from-scratch scan.npz --out out.h5 --device cpu --iterations 2 --refine.learn_intensities true", 0,
        ("2 passes over 64 patterns", "accepted: the counts of neighbouring patterns"), edit_counts(uneven), row="26",
    ),
    Situation(
        "inspect has no traceback for absurd positions", "inspect scan.npz", 1, ("there is hardly any overlap",),
        scaled(1e6), row="25",
    ),
]  # fmt: skip


@pytest.mark.parametrize("situation", TABLE, ids=lambda situation: situation.name)
def test_scan_with_a_fault(
    situation: Situation, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = time.perf_counter()
    situation.check(folder, capsys, monkeypatch)
    if situation.code == 2:
        assert not (folder / "run").exists() and not (folder / "out.h5").exists()
        assert time.perf_counter() - start < 10


@pytest.mark.parametrize("name", PROBLEMS)
def test_library_refuses_what_the_commands_refuse(name: str, folder: Path) -> None:
    PROBLEMS[name][1](folder)
    scan = Scan.load(folder / "scan.npz")
    for call in (
        lambda: ptychopinn.train(scan, folder / "run"),
        lambda: ptychopinn.refine(scan),
        lambda: ptychopinn.run(scan),
    ):
        with pytest.raises(InputError, match=PROBLEMS[name][2]):
            call()


def test_reconstruct_refuses_and_accepts_what_its_training_accepted(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert run(TRAIN) == 0
    Path("sound.npz").write_bytes(Path("scan.npz").read_bytes())
    fill(np.s_[:, :, 14:16], 65535)(folder)
    assert run("reconstruct run scan.npz --out bad.h5 --device cpu") == 2
    assert "64 pixels are constant" in capsys.readouterr().err and not Path("bad.h5").exists()
    assert run("train scan.npz --out other QUICK --accept stuck_pixels,saturated --orientation given") == 0
    assert run("reconstruct other scan.npz --out good.h5 --device cpu") == 0


def test_findings_are_printed_once_and_kept(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(folder)
    fill(np.s_[50:], 0)(folder)
    assert run(TRAIN) == 0
    words = "omitted patterns without counts: 50 to 63"
    assert sum(words in record.getMessage() for record in caplog.records) == 1
    assert any(words in change for change in bundle_info("run")["check"]["changes"])
    (kept,) = json.loads(Path("run/findings.json").read_text()).values()
    assert kept["changes"] == bundle_info("run")["check"]["changes"]
    for command in ("reconstruct run scan.npz", "refine --from-scratch scan.npz --iterations 2"):
        assert run(f"{command} --out out.h5 --overwrite --device cpu") == 0
        assert any(words in change for change in Reconstruction.load("out.h5").metadata["check"]["changes"])
        assert any(words in k["changes"][0] for k in json.loads(Path("out/findings.json").read_text()).values())


def test_every_command_that_computes_from_a_scan_checks_it() -> None:
    """Commands that report, copy, compare or explain a scan do not refuse a faulty one; every other one has to."""
    permitted = {"inspect", "diagnose", "convert", "mend", "subset", "evaluate", "plot", "options", "replay"}
    commands = {path.stem: path.read_text() for path in Path(ptychopinn.cli.__file__).parent.glob("*.py")}
    reading = {name for name, source in commands.items() if "load_scan(" in source}
    assert {"train", "refine", "reconstruct"} <= reading
    for name in reading - permitted:
        assert "checked(" in commands[name] and "add_check(" in commands[name], name


def test_check_of_a_sound_scan_changes_nothing(folder: Path) -> None:
    scan = Scan.load(folder / "scan.npz")
    assert check_scan(scan, drop_outliers=True, mask_faulty=True) is scan
    assert accepted_keys("all") == set(KEYS) and accepted_keys("centre, overlap") == {"centre", "fft_order", "overlap"}
    nothing(folder)


def test_a_mask_scales_a_probe_that_was_scaled_to_the_counts(folder: Path) -> None:
    corrupt = fill(np.s_[:, :, 14:16], 65535)
    edit_npz(probe_units=None, metadata_json=None)(folder)
    sound = Scan.load(folder / "scan.npz")
    corrupt(folder)
    corrupted = Scan.load(folder / "scan.npz")
    assert np.abs(corrupted.probe).max() > 3 * np.abs(sound.probe).max()
    mended = check_scan(corrupted, mask_faulty=True)
    expected = Scan.load(folder / "scan.npz", bad_pixels=mended.bad_pixels)
    assert np.allclose(mended.probe, expected.probe, rtol=1e-4)
