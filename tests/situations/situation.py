# SPDX-License-Identifier: BSD-3-Clause
"""A situation of a user: a corrupted scan or folder, the command, the expected exit code and words.

docs/tested-situations.md lists where they come from. The base is a sound scan, simulated once: 64 patterns of 32 px. A
situation changes its file, runs one command in this process, and names what must be printed.
"""

from __future__ import annotations

import io
import logging
import os
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptychopinn.cli import main

#: Options of a training that takes a second.
QUICK = "--epochs 1 --data.group_size 4 --execution.accelerator cpu"


def nothing(folder: Path) -> None:
    """Leave the scan as it is."""


@dataclass(frozen=True)
class Situation:
    """A row of a table of situations.

    Args:
        name: what happened to the user, a few words; the id of the test.
        command: of ``ptychopinn``; its folder holds ``scan.npz``. "QUICK" represents options of a short training.
        code: expected exit code.
        words: regular expressions, each to be found in what is printed.
        corrupt: changes the folder before the command.
        unwanted: regular expression that must not be printed.
        row: of the table of reports (docs/tested-situations.md), for failures.
    """

    name: str
    command: str
    code: int
    words: tuple[str, ...]
    corrupt: Callable[[Path], object] = nothing
    unwanted: str | None = None
    row: str = ""

    def check(self, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
        """Run the command in a folder and check exit code and words; returns what was printed."""
        self.corrupt(folder)
        monkeypatch.chdir(folder)
        capsys.readouterr()
        logged = io.StringIO()
        handler = logging.StreamHandler(logged)  # pytest has handlers of its own, so that the command adds none
        logging.getLogger().addHandler(handler)
        try:
            code = run(self.command)
        finally:
            logging.getLogger().removeHandler(handler)
        printed = "\n".join([*capsys.readouterr(), logged.getvalue()])
        assert code == self.code, f"exit code {code}, expected {self.code}:\n{printed}"
        flat = " ".join(printed.split())
        for words in self.words:
            assert re.search(words, flat), f"expected {words!r} in\n{printed}"
        assert "Traceback" not in printed
        assert self.unwanted is None or not re.search(self.unwanted, flat), printed
        return printed


def run(command: str) -> int:
    """Run one command of ``ptychopinn`` in this process; returns its exit code."""
    try:
        return main(shlex.split(command.replace("QUICK", QUICK)))
    except SystemExit as ended:
        return int(ended.code or 0)


def edit_npz(**changes: Any) -> Callable[[Path], None]:
    """Replace arrays of ``scan.npz``: key -> value, or a function of the present value; None removes the key."""

    def corrupt(folder: Path) -> None:
        path = folder / "scan.npz"
        with np.load(path) as archive:
            arrays = {name: archive[name] for name in archive.files}
        for key, change in changes.items():
            value = change(arrays.get(key)) if callable(change) else change
            arrays.pop(key, None)
            if value is not None:
                arrays[key] = value
        temporary = path.with_suffix(".new.npz")
        np.savez(temporary, **arrays)
        os.replace(temporary, path)

    return corrupt


def edit_counts(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    """Replace the patterns of ``scan.npz`` by counts, a function of the present counts (n, N, N), uint16."""

    def counts(amplitudes: np.ndarray) -> np.ndarray:
        return change(np.rint(np.square(amplitudes, dtype=np.float64)).astype(np.uint16))

    return edit_npz(diff3d=counts, measurement="counts")
