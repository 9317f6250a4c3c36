# SPDX-License-Identifier: BSD-3-Clause
"""Errors of the user, for each command: one line with the fault and its location, exit code 2, and no file written.

Each row is a mistake, the command lines it is made with, and what the line must say. The commands run in this process,
where the log goes to pytest, so that standard error has the error message only.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptychopinn.cli import commands as table
from ptychopinn.cli import main
from ptychopinn.config import Config
from ptychopinn.persistence.bundle import build_model, save_bundle
from ptychopinn.physics.simulate import simulate
from ptychopinn.reconstruction import Reconstruction

TINY = ("--model.options", '{"steps": 2, "width": 8, "state": 2}', "--execution.progress", "false")
CPU = ("--execution.accelerator", "cpu", "--data.group_size", "4")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with scans, a run's bundle and a reconstruction."""
    folder = tmp_path_factory.mktemp("good")
    scan = simulate("dead_leaves", patterns=16, size=32, photons=1e4)
    scan.save(folder / "scan.npz")
    np.save(folder / "patterns.npy", scan.counts)
    with tempfile.TemporaryDirectory() as pair:
        dataclasses.replace(scan, pixel_size=1e-8, energy=8e3).save(pair, format="ptychodus")
        shutil.copy(Path(pair) / "diffraction.h5", folder)  # without its partner
    config = Config.from_dict({"model": {"options": {"steps": 2, "width": 8, "state": 2}}, "data": {"group_size": 4}})
    save_bundle(build_model(config, 32, 1), config, folder / "run" / "wts.h5.zip")
    Reconstruction(np.ones((60, 60), np.complex64), np.ones((60, 60), np.float32), (0.0, 0.0)).save(folder / "recon.h5")
    return folder


@pytest.fixture
def work(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder beside links to the good files."""
    for path in good.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arrays(good: Path) -> dict[str, Any]:
    with np.load(good / "scan.npz") as file:
        return dict(file)


def with_nan(good: Path, path: Path) -> None:
    values = arrays(good)
    values["diff3d"][3, 4, 5] = np.nan
    np.savez(path, **values)


def with_fewer_positions(good: Path, path: Path) -> None:
    values = arrays(good)
    values |= {name: values[name][:-1] for name in ("xcoords", "ycoords")}
    np.savez(path, **values)


def with_unlike_positions(good: Path, path: Path) -> None:
    values = arrays(good)
    np.savez(path, **(values | {"ycoords": values["ycoords"][:-2]}))


def with_small_probe(good: Path, path: Path) -> None:
    np.savez(path, **(arrays(good) | {"probeGuess": np.ones((16, 16), np.complex64)}))


def without(key: str) -> Callable[[Path, Path], None]:
    def write(good: Path, path: Path) -> None:
        np.savez(path, **{name: value for name, value in arrays(good).items() if name != key})

    return write


def empty(good: Path, path: Path) -> None:
    path.touch()


def truncated(good: Path, path: Path) -> None:
    path.write_bytes((good / "scan.npz").read_bytes()[:20_000])


def text(good: Path, path: Path) -> None:
    path.write_text("x y counts\n")


def folder(good: Path, path: Path) -> None:
    path.mkdir()


SCANS: dict[str, tuple[Callable[[Path, Path], None], tuple[str, ...]]] = {
    "NaN": (with_nan, ("'diff3d'", "finite values", "1 NaN or infinite values", "(3, 4, 5)")),
    "fewer positions": (with_fewer_positions, ("'diff3d'", "15 patterns", "16 in shape")),
    "unlike positions": (with_unlike_positions, ("'ycoords'", "16 values, as many as in xcoords", "found 14")),
    "small probe": (with_small_probe, ("'probeGuess'", "size of the patterns, 32 px", "found 16 px")),
    "no probe": (without("probeGuess"), ("'probeGuess'", "expected the key to be there")),
    "no patterns": (without("diff3d"), ("'diff3d'", "expected the key to be there")),
    "no positions": (without("xcoords"), ("'xcoords'", "expected the key to be there")),
    "empty": (empty, ("expected an NPZ file", "an empty file (0 bytes)")),
    "truncated": (truncated, ("expected an NPZ file", "truncated")),
    "text": (text, ("expected an NPZ file", "no zip archive")),
    "folder": (folder, ("expected an NPZ file", "a folder")),
}
WITH_SCAN = {
    "train": ("train", "bad.npz", "--out", "out", *TINY, *CPU),
    "reconstruct": ("reconstruct", "run", "bad.npz", "--out", "out.h5"),
    "evaluate": ("evaluate", "recon.h5", "bad.npz", "--out", "out.json"),
    "plot": ("plot", "bad.npz", "--out", "out"),
}


def refused(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line of error of a command; fail if it succeeds, prints more or writes a file."""
    before = sorted(Path.cwd().rglob("*"))
    try:
        code = main(arguments)
    except SystemExit as end:  # a wrong option ends in the parser
        code = int(end.code or 0)
    printed = capsys.readouterr()
    assert code == 2, printed
    assert printed.err.startswith((f"ptychopinn {arguments[0]}: ", "ptychopinn: "))
    assert printed.err.count("\n") == 1 and printed.err.endswith("\n") and printed.out == ""
    assert sorted(Path.cwd().rglob("*")) == before
    return printed.err


@pytest.mark.parametrize("command", WITH_SCAN)
@pytest.mark.parametrize("mistake", SCANS)
def test_bad_scan_file_is_refused(
    work: Path, good: Path, capsys: pytest.CaptureFixture[str], mistake: str, command: str
) -> None:
    write, phrases = SCANS[mistake]
    write(good, work / "bad.npz")
    line = refused(WITH_SCAN[command], capsys)
    assert "bad.npz: " in line
    for phrase in phrases:
        assert phrase in line


@pytest.mark.parametrize("command", WITH_SCAN)
def test_unknown_suffix_is_refused(work: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    (work / "bad.gif").write_bytes(b"GIF89a")
    arguments = tuple(argument.replace("bad.npz", "bad.gif") for argument in WITH_SCAN[command])
    assert "bad.gif: expected a scan in one of the formats npz, ptychodus" in refused(arguments, capsys)


RECONSTRUCTIONS = {
    "empty": (empty, "bad.h5: not a readable HDF5 reconstruction"),
    "truncated": (truncated, "bad.h5: not a readable HDF5 reconstruction"),
    "folder": (folder, "bad.h5: expected a file of a reconstruction, found a folder"),
}


@pytest.mark.parametrize("arguments", [("evaluate", "bad.h5", "scan.npz"), ("plot", "bad.h5")], ids=lambda row: row[0])
@pytest.mark.parametrize("mistake", RECONSTRUCTIONS)
def test_bad_reconstruction_file_is_refused(
    work: Path, good: Path, capsys: pytest.CaptureFixture[str], mistake: str, arguments: tuple[str, ...]
) -> None:
    write, phrase = RECONSTRUCTIONS[mistake]
    write(good, work / "bad.h5")
    assert phrase in refused(arguments, capsys)


def test_scan_in_place_of_a_reconstruction_is_refused(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(("evaluate", "scan.npz", "scan.npz"), capsys)
    assert "scan.npz: key 'schema_version' is missing" in line


def test_missing_truth_is_reported(work: Path, good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    without("objectGuess")(good, work / "bad.npz")
    assert "truth" in refused(("evaluate", "recon.h5", "bad.npz", "--out", "out.json"), capsys)


TRAIN = ("train", "scan.npz", "--out", "out", *TINY, *CPU)
OPTIONS = [
    ((*TRAIN, "--training.epochs", "0"), "training.epochs must be at least 1, got 0"),
    ((*TRAIN, "--epochs", "0"), "training.epochs must be at least 1, got 0"),
    ((*TRAIN, "--minutes", "-1"), "training.minutes must be positive, got -1"),
    ((*TRAIN, "--training.epochs", "many"), "training.epochs must be a whole number, got 'many'"),
    ((*TRAIN, "--training.loss", "l1"), "training.loss must be poisson or amplitude, got 'l1'"),
    ((*TRAIN, "--training.epoch", "3"), "unrecognized arguments: --training.epoch 3"),
    (
        (*TRAIN, "--model.generator", "gan"),
        "model.generator: must be one of cnn, ffno, sru_net, unet, unrolled, got 'gan'",
    ),
    ((*TRAIN, "--model.options", '{"depth": 2}'), "model.options: 'unrolled' takes steps, every, width"),
    ((*TRAIN, "--model.options", '{"steps": 0}'), "got 0"),
    ((*TRAIN, "--data.group_size", "17"), "a group of 17 needs a scan of at least 17 patterns, got 16"),
    ((*TRAIN, "--execution.accelerator", "abacus"), "execution.accelerator must be auto, cpu or gpu, got 'abacus'"),
    ((*TRAIN, "--measurement", "guess"), "invalid choice: 'guess'"),
    ((*TRAIN, "--epochs", "many"), "--epochs must be a whole number or none, got 'many'"),
    ((*TRAIN, "--config", "recon.h5"), "expected a YAML file of options"),
    (("train", "scan.npz"), "expected --out RUN; see ptychopinn train --help"),
    (("completion",), "expected bash|zsh|tcsh; see ptychopinn completion --help"),
    ((*TRAIN, "--epoks", "3", "--mintes", "4"), "did you mean --epochs and --minutes?"),
    (("convert", "recon.h5", "out.npz"), "recon.h5: expected a scan, found a reconstruction, which has no patterns"),
    (("recontruct", "run"), "did you mean reconstruct?"),
    (("help", "result"), "did you mean results?"),
    (("train", "scan.npz", "--out", "scan.npz/out", *TINY, *CPU), "scan.npz/out: expected a folder that can be made"),
    (("simulate", "out.npz", "--object", "nothing"), "argument --object: invalid choice: 'nothing' (choose from"),
    (("simulate", "out.npz", "--photons", "-3"), "photons above 0, got 1089 and -3.0"),
    (("simulate", "out.npz", "--patterns", "0"), "patterns must be 1 or more"),
    (("simulate", "out.h5", "--patterns", "4", "--size", "32"), "out.h5: expected a scan file ending in .npz"),
    (
        ("simulate", "scan.npz/out.npz", "--patterns", "4", "--size", "32"),
        "scan.npz/out.npz: its folder cannot be created",
    ),
    (("reconstruct", "run", "scan.npz", "--out", "out.tif"), "out.tif: a reconstruction file must end in .h5"),
    (
        ("reconstruct", "run", "scan.npz", "--out", "out.h5", "--device", "abacus"),
        "device: expected one that torch can use",
    ),
    (
        ("reconstruct", "run", "scan.npz", "--out", "out.h5", "--inference.batch_size", "0"),
        "inference.batch_size must be",
    ),
    (("reconstruct", ".", "scan.npz", "--out", "out.h5"), "wts.h5.zip: not found; expected a trained model"),
    (
        ("reconstruct", "run", "scan.npz", "--out", "out.h5", "--execution.accelerator", "abacus"),
        "execution.accelerator must be auto, cpu or gpu, got 'abacus'",
    ),
    (("reconstruct", "scan.npz", "scan.npz", "--out", "out.h5"), "scan.npz: manifest.json: expected a bundle"),
    (
        ("reconstruct", "recon.h5", "scan.npz", "--out", "out.h5"),
        "recon.h5: expected a ptychopinn bundle (a zip archive)",
    ),
    (("evaluate", "recon.h5", "scan.npz", "--out", "scan.npz/out.json"), "scan.npz/out.json: its folder cannot be"),
]


@pytest.mark.parametrize(
    ("arguments", "phrase"), OPTIONS, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_wrong_option_is_refused(
    work: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], phrase: str
) -> None:
    assert phrase in refused(arguments, capsys)


#: Command lines whose files exist, and the indices of the arguments that are files to read.
PATHS: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
    "inspect": (("inspect", "scan.npz", "--no-orientation"), (1,)),
    "convert": (("convert", "scan.npz", "out.cxi"), (1,)),
    "mend": (("mend", "scan.npz", "out.npz", "--centre"), (1,)),
    "subset": (("subset", "scan.npz", "out.npz", "--n", "8"), (1,)),
    "train": (("train", "scan.npz", "scan.npz", "--out", "out", "--from", "run", *CPU), (1, 2, 6)),
    "reconstruct": (("reconstruct", "run", "scan.npz", "--out", "out.h5", "--ensemble", "run"), (1, 2, 6)),
    "live": (("live", ".", "--out", "out.h5", "--no-page"), ()),
    "replay": (("replay", "scan.npz", "--to", "sent.h5", "--rate", "1e6"), (1,)),
    "refine": (("refine", "run", "scan.npz", "--out", "out.h5"), (1, 2)),
    "evaluate": (("evaluate", "recon.h5", "scan.npz"), (1, 2)),
    "diagnose": (("diagnose", "run", "scan.npz"), (1, 2)),
    "plot": (("plot", "scan.npz"), (1,)),
    "unpack": (("unpack", "wts.zip", "--out", "out", "--trust"), (1,)),
    "simulate": (("simulate", "out.npz"), ()),
    "doctor": (("doctor",), ()),
    "example": (("example", "out"), ()),
    "completion": (("completion", "bash"), ()),
    "help": (("help",), ()),
}
#: Placeholders of options that name a file to read.
READ = ("FILE.yaml", "FILE.npy", "FILE.csv", "FILE.h5")
#: Options that apply to files of one format.
OF_A_FORMAT = {"--positions": "patterns.npy", "--partner": "diffraction.h5"}


def with_absent_file() -> list[tuple[str, ...]]:
    """Return every command line of PATHS with one missing file, and with each option that reads a missing file."""
    parser, commands = table.parser_of(table.COMMANDS)
    assert set(PATHS) == set(commands)
    found = []
    for name, (arguments, indices) in PATHS.items():
        found += [(*arguments[:k], f"absent{Path(arguments[k]).suffix}", *arguments[k + 1 :]) for k in indices]
        for action in parser._subcommands_action._name_parser_map[name]._actions:
            option = action.option_strings[-1] if action.option_strings else ""
            if action.metavar in READ and (name, option) != ("inspect", "--mask"):
                scan = OF_A_FORMAT.get(option, "scan.npz")
                line = tuple(scan if argument == "scan.npz" else argument for argument in arguments)
                found.append((*line, option, f"absent{Path(action.metavar).suffix}"))
    return found


@pytest.mark.parametrize("arguments", with_absent_file(), ids=" ".join)
def test_missing_file_is_reported(work: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    (name,) = (argument for argument in arguments if argument.startswith("absent"))
    line = refused(arguments, capsys)
    assert line.startswith(f"ptychopinn {arguments[0]}: {name}: not found"), line


def test_similar_name_is_suggested(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "scam.npz: not found; did you mean scan.npz?" in refused(("plot", "scam.npz"), capsys)
    Path("recon").mkdir(exist_ok=True)  # pictures, which no command reads
    assert "recon.h6: not found; did you mean recon.h5?" in refused(("plot", "recon.h6"), capsys)
    assert "data/scan.npz: not found, nor is its folder data" in refused(("plot", "data/scan.npz"), capsys)


@pytest.mark.parametrize(
    ("arguments", "earlier"),
    [
        (("simulate", "out.npz", "--patterns", "4", "--size", "32"), "out.npz"),
        (("train", "scan.npz", "--out", "out", *TINY, *CPU), "out/wts.h5.zip"),
        (("reconstruct", "run", "scan.npz", "--out", "out.h5"), "out.h5"),
        (("evaluate", "recon.h5", "scan.npz", "--out", "out.json"), "out.json"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_earlier_result_is_kept(
    work: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], earlier: str
) -> None:
    path = work / earlier
    path.parent.mkdir(exist_ok=True)
    path.write_text("earlier")
    line = refused(arguments, capsys)
    assert f"{earlier}: expected a new file, found an earlier one; name another, or --overwrite" in line
    assert path.read_text() == "earlier"


def test_damaged_bundle_is_refused(work: Path, good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with zipfile.ZipFile(work / "bad.zip", "w") as archive:
        archive.writestr("manifest.json", "{}")
    line = refused(("reconstruct", "bad.zip", "scan.npz", "--out", "out.h5"), capsys)
    assert "bad.zip: config.json: expected a bundle with this member, found only manifest.json" in line


def test_patterns_of_another_size_are_refused(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simulate("dead_leaves", patterns=9, size=48, photons=1e4).save("other.npz")
    line = refused(("reconstruct", "run", "other.npz", "--out", "out.h5"), capsys)
    assert "patterns must be 32 x 32 pixels as in the model's training, got 48 x 48" in line
