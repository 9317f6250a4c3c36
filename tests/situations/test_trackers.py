# SPDX-License-Identifier: BSD-3-Clause
"""Situations of public trackers of this field and its tools; docs/tested-situations.md has their sources.

Most are faults of files and command lines, which end before anything is trained.
"""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from situation import Situation, edit_counts, edit_npz

READ = "inspect scan.npz --no-orientation"
CONFIGURED = "train scan.npz --out run --config c.yaml"


def counts(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    """Replace the patterns by counts, a function of the present counts as float64."""
    return edit_npz(diff3d=lambda stored: change(np.rint(np.square(stored, dtype=np.float64))), measurement="counts")


def config(content: str | bytes) -> Callable[[Path], None]:
    """Write ``c.yaml``."""

    def edit(folder: Path) -> None:
        (folder / "c.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())

    return edit


def renamed(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "scan.npz").rename(folder / name)  # type: ignore[return-value]


def folder_as_config(folder: Path) -> None:
    (folder / "old").mkdir()
    (folder / "old" / "config.yaml").write_text("training: {epochs: 1}\n")


def swapped(folder: Path) -> None:
    with np.load(folder / "scan.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["xcoords"], arrays["ycoords"] = arrays["ycoords"], arrays["xcoords"]
    np.savez(folder / "scan.npz", **arrays)


def packed(folder: Path) -> None:
    (folder / "scan.npz.gz").write_bytes(gzip.compress((folder / "scan.npz").read_bytes()))


def plain_arrays(header: str, newline: str = "\n", last: int | None = None) -> Callable[[Path], None]:
    """Patterns as ``patterns.npy``, with a table of positions in metres for pixels of 20 nm."""

    def edit(folder: Path) -> None:
        with np.load(folder / "scan.npz") as archive:
            np.save(folder / "patterns.npy", np.rint(archive["diff3d"].astype(np.float64) ** 2).astype(np.uint16))
            np.save(folder / "probe.npy", archive["probeGuess"])
            columns = {name: archive[f"{name}coords"] * 2e-8 for name in "yx"}
        rows = zip(*(columns[name] for name in header.replace(" ", "").split(",")), strict=True)
        lines = [header, *(f"{a:.9e},{b:.9e}" for a, b in rows)][: None if last is None else last + 1]
        (folder / "positions.csv").write_bytes(newline.join([*lines, ""]).encode())

    return edit


def zingers(values: np.ndarray) -> np.ndarray:
    """One pixel of every third pattern far too bright, each time another."""
    rng = np.random.default_rng(0)
    for pattern in values[::3]:
        pattern[tuple(rng.integers(32, size=2))] = 6e4
    return values


def dosed(values: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.poisson(values * rng.permutation(np.logspace(-2, 0, len(values)))[:, None, None]).astype(np.uint16)


def positions(change: Callable[[np.ndarray], Any]) -> Callable[[Path], None]:
    return edit_npz(xcoords=change, ycoords=change)


Y, X = np.mgrid[-16:16, -16:16]
PLAIN = "inspect patterns.npy --pixel-size 2e-8"

TABLE = [
    # Types and layouts of arrays
    Situation("big-endian", READ, 0, ("no findings",), edit_counts(lambda c: c.astype(">u2"))),
    Situation("Fortran order", READ, 0, ("no findings",), edit_counts(np.asfortranarray)),
    Situation("64-bit signed", READ, 0, ("no findings",), edit_counts(lambda c: c.astype(np.int64))),
    Situation("half precision", READ, 0, ("no findings",), edit_npz(diff3d=lambda a: a.astype(np.float16))),
    Situation(
        "half precision that overflowed",
        READ,
        2,
        ("'diff3d': expected finite values, found 1 NaN or infinite values, the first inf at",),
        counts(lambda c: np.where(np.arange(c.size).reshape(c.shape) == 99, np.inf, c).astype(np.float16)),
    ),
    Situation(
        "complex far fields",
        READ,
        2,
        ("expected real numbers, found complex64",),
        edit_npz(diff3d=lambda a: a.astype(np.complex64)),
    ),
    Situation(
        "pickled objects",
        READ,
        2,
        ("found Python objects \\(pickle\\), which are never loaded",),
        edit_npz(diff3d=lambda a: np.array([{"a": 1}], object)),
    ),
    Situation("pickled objects under another key", READ, 0, ("no findings",), edit_npz(notes=np.array({}, object))),
    Situation(
        "mask of floats",
        READ,
        2,
        ("'bad_pixels': expected whole numbers or booleans, found float64",),
        edit_npz(bad_pixels=np.zeros((32, 32))),
    ),
    Situation("mask of another shape", READ, 2, ("expected shape \\(32, 32\\)",), edit_npz(bad_pixels=np.eye(30) > 0)),
    # Positions
    Situation("axes swapped", "train scan.npz --out run", 2, ("--orientation swap,",), swapped),
    Situation("axes negated", "train scan.npz --out run", 2, ("--orientation rotate_180",), positions(np.negative)),
    Situation(
        "camera flipped",
        "train scan.npz --out run",
        2,
        ("--orientation flip_y",),
        edit_counts(lambda c: np.roll(c[:, ::-1], 1, 1)),
    ),
    Situation(
        "camera transposed",
        "train scan.npz --out run",
        2,
        ("--orientation swap",),
        edit_counts(lambda c: c.swapaxes(1, 2)),
    ),
    Situation(
        "wrong sign of the defocus",
        "train scan.npz --out run",
        2,
        ("wrong sign of its phase \\(defocus\\)",),
        edit_npz(probeGuess=np.conj),
    ),
    Situation(
        "a motor's readback failed",
        READ,
        2,
        ("'xcoords': expected finite values, found 1 NaN",),
        edit_npz(xcoords=lambda a: np.where(np.arange(64) == 5, np.nan, a)),
    ),
    Situation(
        "one pattern more than positions",
        READ,
        2,
        ("expected 63 patterns, one for each position",),
        positions(lambda a: a[:-1]),
    ),
    Situation("origin of a stage far away", READ, 0, ("no findings",), positions(lambda a: a + 1e9)),
    Situation(
        "origin beyond the resolution of numbers",
        READ,
        2,
        ("positions must be within 1e\\+12 px",),
        positions(lambda a: a + 1e15),
    ),
    Situation("positions that overflow", READ, 2, ("check their unit and origin",), positions(lambda a: a * 1e300)),
    Situation(
        "positions in another unit, accepted",
        "train scan.npz --out run --accept all",
        2,
        ("needs? a canvas of .* more than fits into memory",),
        positions(lambda a: a * 1e5),
    ),
    Situation(
        "the same, refined",
        "refine --from-scratch scan.npz --out r.h5 --accept all --orientation given",
        2,
        ("expected a canvas that fits into .* of memory, found one of",),
        positions(lambda a: a * 1e5),
    ),
    Situation(
        "backlash of a snake scan", READ, 0, ("no findings",), edit_npz(xcoords=lambda a: a + np.arange(64) // 8 % 2)
    ),
    Situation("table with Windows line ends", PLAIN, 0, ("no findings",), plain_arrays("y,x", "\r\n")),
    Situation("table of x, y", PLAIN, 0, ("no findings",), plain_arrays("x, y")),
    Situation("table with a row too few", PLAIN, 2, ("expected 64 positions",), plain_arrays("y,x", last=63)),
    # Detectors
    Situation(
        "8 bit", READ, 1, ("saturated at 255 counts",), edit_counts(lambda c: np.minimum(c, 255).astype(np.uint8))
    ),
    Situation(
        "saturation at 65535 in a file of floats",
        READ,
        1,
        ("saturated at 65535 counts",),
        counts(lambda c: np.where(c > 600, 65535, c).astype(np.float32)),
        row="31",
    ),
    Situation(
        "pixels hit by cosmic rays", READ, 0, ("far above the neighbours in some patterns",), counts(zingers), row="31"
    ),
    Situation(
        "beamstop with its arm",
        "train scan.npz --out run",
        2,
        ("the shadow of a beamstop: --mask-faulty",),
        edit_counts(lambda c: np.where((np.hypot(Y, X) < 4) | ((abs(X) < 2) & (Y > 0)), 0, c).astype(np.uint16)),
        row="31",
    ),
    Situation(
        "dose that varies 100-fold",
        "train scan.npz --out run",
        2,
        ("the exposure varies",),
        edit_counts(dosed),
        row="31",
    ),
    Situation(
        "a dead module",
        "train scan.npz --out run",
        2,
        ("without counts in all patterns.*--mask-faulty",),
        edit_counts(lambda c: np.where(Y > 3, 0, c).astype(np.uint16)),
    ),
    Situation(
        "lines of a fly scan that end empty",
        READ,
        1,
        ("8 patterns without counts: 7, 15",),
        edit_counts(lambda c: c * (np.arange(64) % 8 < 7).astype(np.uint16)[:, None, None]),
    ),
    Situation(
        "frames while the shutter was closed",
        READ,
        0,
        ("less than 1% of the median counts: 0 to 3",),
        edit_counts(lambda c: np.where((np.arange(64) < 4)[:, None, None], (X == 0) & (Y == 0), c).astype(np.uint16)),
    ),
    # Probes
    Situation(
        "probe of the size of the raw frames",
        READ,
        2,
        ("expected a probe of the size of the patterns, 32 px, found 64",),
        edit_npz(probeGuess=lambda a: np.pad(a, 16)),
    ),
    Situation(
        "probe in the corners",
        READ,
        0,
        ("the probe is .* from the centre of its patch.*fftshift",),
        edit_npz(probeGuess=lambda a: np.fft.fftshift(a)),
    ),
    Situation(
        "probe of another power", READ, 0, ("times the power of the probe",), edit_npz(probeGuess=lambda a: a * 1000)
    ),
    Situation(
        "probe with infinite values",
        READ,
        2,
        ("'probeGuess': expected finite values",),
        edit_npz(probeGuess=lambda a: np.where(X == 3, np.inf, a).astype(np.complex64)),
    ),
    # Files of options
    Situation(
        "tabs",
        CONFIGURED,
        2,
        ("c.yaml: line 2: expected spaces before an option, found a tab",),
        config("training:\n\tepochs: 1\n"),
    ),
    Situation(
        "misspelt option",
        CONFIGURED,
        2,
        ("'training.epoch': did you mean training.epochs\\?",),
        config("training:\n  epoch: 1\n"),
    ),
    Situation(
        "file of a newer version",
        CONFIGURED,
        2,
        ("newer version of ptychopinn can have options",),
        config("warp:\n  factor: 1\n"),
    ),
    Situation(
        "section twice",
        CONFIGURED,
        2,
        ("line 3: expected each key once, found 'training' again",),
        config("training:\n  epochs: 1\ntraining:\n  seed: 1\n"),
    ),
    Situation(
        "saved as Latin-1", CONFIGURED, 2, ("expected a YAML file of options in UTF-8",), config(b"# gr\xf6\xdfe\n")
    ),
    Situation("empty file", CONFIGURED, 2, ("expected options such as 'training:', found an empty file",), config("")),
    Situation("list of options", CONFIGURED, 2, ("c.yaml: expected options .* found a list",), config("- a\n")),
    Situation(
        "YAML that runs a command",
        CONFIGURED,
        2,
        ("could not determine a constructor",),
        config("training: !!python/object/apply:os.abort []\n"),
    ),
    Situation(
        "decimal comma",
        CONFIGURED,
        2,
        ("training.learning_rate must be a number or none, got '0,001'",),
        config("training:\n  learning_rate: 0,001\n"),
    ),
    Situation(
        "number without a decimal point",
        CONFIGURED + " --print_config",
        0,
        ("learning_rate: 0.001",),
        config("training:\n  learning_rate: 1e-3\n"),
    ),
    Situation(
        "byte order mark", CONFIGURED + " --print_config", 0, ("epochs: 7",), config("\ufefftraining:\n  epochs: 7\n")
    ),
    Situation(
        "folder of a run as the file of options",
        "train scan.npz --out run --config old",
        2,
        ("did you mean old/config.yaml\\?",),
        folder_as_config,
    ),
    # Names of files
    Situation(
        "name with spaces and signs",
        "inspect 'my scan #1 (50%) {a}.npz' --no-orientation",
        0,
        ("no findings",),
        renamed("my scan #1 (50%) {a}.npz"),
    ),
    Situation(
        "name in another script",
        "inspect 走査_µm_Å.npz --no-orientation",
        0,
        ("no findings",),
        renamed("走査_µm_Å.npz"),
    ),
    Situation(
        "name that begins with a dash",
        "inspect -scan.npz",
        2,
        ("write ./-scan.npz for the file of this name",),
        renamed("-scan.npz"),
    ),
    Situation("name that is too long", f"inspect {'s' * 300}.npz", 2, ("File name too long",)),
    Situation(
        "link to nothing",
        "inspect link.npz",
        2,
        ("link.npz: a link to away.npz, which was not found",),
        lambda folder: (folder / "link.npz").symlink_to("away.npz"),
    ),
    Situation("compressed once more", "inspect scan.npz.gz", 2, ("compressed with gzip: unpack it first",), packed),
]


@pytest.mark.parametrize("situation", TABLE, ids=lambda situation: situation.name)
def test_situation_of_a_tracker(
    situation: Situation, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    situation.check(folder, capsys, monkeypatch)


def started(folder: Path, *arguments: str, stdout: int = subprocess.PIPE, **environment: str) -> tuple[int, str]:
    """Run the program in a process of its own; returns its exit code and what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "ptychopinn.cli", *arguments],
        cwd=folder, env=os.environ | environment, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    return done.returncode, f"{done.stdout or ''}{done.stderr}"


def test_backend_of_a_notebook_that_is_not_installed(folder: Path) -> None:
    """A command that draws works where MPLBACKEND names a module of another environment."""
    code, printed = started(
        folder, *READ.split(), "--picture", "p.png", MPLBACKEND="module://no_such_package.backend", PYTHONOPTIMIZE="2"
    )
    assert code == 0 and (folder / "p.png").is_file(), printed


def test_reader_of_the_output_that_ends(folder: Path) -> None:
    """`inspect | head` has no traceback, and the exit code of the shell for it."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        code, printed = started(folder, *READ.split(), stdout=writing)
    finally:
        os.close(writing)
    assert code == 141 and "Traceback" not in printed and "BrokenPipe" not in printed


def test_half_of_the_environment_of_torchrun(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    words = ("start with torchrun, or unset RANK and WORLD_SIZE",)
    Situation("torchrun", "train scan.npz --out run", 2, words).check(folder, capsys, monkeypatch)
