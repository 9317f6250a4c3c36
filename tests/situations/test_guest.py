# SPDX-License-Identifier: BSD-3-Clause
"""A guest in the user's terminal and program: plain output, names of files, notebooks."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import random
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import guest_calls
import matplotlib
import numpy as np
import plain_terminal
import pytest
from lightning import Callback

import ptychopinn
from ptychopinn.cli.plain import plain_output
from ptychopinn.runtime.progress import is_terminal

#: Terminals: of a batch system, and today's.
TERMINALS = {
    "ASCII": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii:strict"},
    "UTF-8": {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "utf-8:strict"},
}


@pytest.mark.parametrize("terminal", TERMINALS)
def test_every_command_prints_on_any_terminal(terminal: str, tmp_path: Path) -> None:
    """Row 22. Names of files hold accents, a space, and a byte that is no text."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "PYTHONIO"))}
    environment |= {"OMP_NUM_THREADS": "1", **TERMINALS[terminal]}
    command = [sys.executable, plain_terminal.__file__, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, env=environment)
    encoding = TERMINALS[terminal]["PYTHONIOENCODING"].split(":")[0]
    printed, complaints = done.stdout.decode(encoding), done.stderr.decode(encoding)
    assert done.returncode == 0, complaints
    assert "Traceback" not in complaints
    assert printed.splitlines()[-1].split() == [*["0"] * 13, *["2"] * 4], complaints
    micrometre = "µm" if encoding != "ascii" else "um"
    assert f" {micrometre}\n" in printed
    assert "s\\xff c" in printed and "s\\xff c" in complaints
    names = {os.path.basename(path) for path in os.listdir(os.fsencode(tmp_path / os.fsdecode(plain_terminal.FOLDER)))}
    assert {plain_terminal.STEM + suffix for suffix in (b".png", b" metrics.json", b" f.h5", b".cxi")} <= names


SIGNS = "2 \N{MICRO SIGN}m \N{MULTIPLICATION SIGN} 3 \N{GREEK SMALL LETTER MU}m caf\xe9 \u65e5"


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("ascii", r"2 um x 3 um caf\xe9 \u65e5 \xff"),
        ("latin-1", SIGNS.replace("\N{GREEK SMALL LETTER MU}", "u").replace("\u65e5", r"\u65e5") + r" \xff"),
        ("utf-8", SIGNS + r" \xff"),
    ],
)
def test_signs_that_an_encoding_lacks_are_written_in_ascii(
    encoding: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding=encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", stream)
    with plain_output():
        print(f"{SIGNS} \udcff", end="")
    stream.flush()
    assert written.getvalue().decode(encoding) == expected and stream.errors == "strict"


def test_streams_of_the_caller_are_as_before() -> None:
    code = (
        "import sys; from ptychopinn.cli import main\n"
        "before = [(s, s.errors, s.encoding) for s in (sys.stdout, sys.stderr)]\n"
        "assert main(['inspect', 'absent']) == 2\n"
        "assert [(s, s.errors, s.encoding) for s in (sys.stdout, sys.stderr)] == before\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


#: Defaults of torch that another part of the user's program may have set: type and device.
DEFAULTS = {"plain": ("float32", "cpu"), "meta": ("float64", "meta"), "cuda": ("bfloat16", "cuda")}


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, dict[str, np.ndarray]]]:
    """What all public calls changed and returned, with each of the defaults in a fresh process."""
    folder, found = tmp_path_factory.mktemp("calls"), {}
    environment = {key: value for key, value in os.environ.items() if key not in ("OMP_NUM_THREADS", "PL_GLOBAL_SEED")}
    for name, defaults in DEFAULTS.items():
        command = [sys.executable, guest_calls.__file__, str(folder / f"{name}.npz"), *defaults]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        with np.load(folder / f"{name}.npz") as archive:
            found[name] = (done.stdout, dict(archive))
    return found


@pytest.mark.parametrize("name", [call.__name__ for call in guest_calls.CALLS])
@pytest.mark.parametrize("defaults", DEFAULTS)
def test_public_calls_change_nothing_of_the_callers(
    calls: dict[str, tuple[str, Any]], defaults: str, name: str
) -> None:
    """Rows 13 and 14: seeds, filters, loggers, signals, threads, ... and the model that is passed in."""
    changed = [line for line in calls[defaults][0].splitlines() if line.startswith(f"{name}: ")]
    assert not changed, "\n".join(changed)


@pytest.mark.parametrize("name", [call.__name__ for call in guest_calls.CALLS])
@pytest.mark.parametrize("defaults", ["meta", "cuda"])
def test_results_are_bit_for_bit_those_of_torchs_own_defaults(
    calls: dict[str, tuple[str, dict[str, np.ndarray]]], defaults: str, name: str
) -> None:
    """Row 9."""
    plain, other = calls["plain"][1], calls[defaults][1]
    keys = [key for key in plain if key.startswith(f"{name} ")]
    assert keys and plain.keys() == other.keys()
    for key in keys:
        assert plain[key].dtype == other[key].dtype, key
        np.testing.assert_array_equal(plain[key], other[key], err_msg=key)


def test_changes_are_found() -> None:
    """The comparison itself: one change of each kind."""
    before = guest_calls.process_state()
    assert not list(guest_calls.changes(before, guest_calls.process_state()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "1")
        patch.setattr(logging.root, "handlers", [*logging.root.handlers, logging.NullHandler()])
        patch.setitem(matplotlib.rcParams, "figure.dpi", 17)
        patch.setattr(warnings, "filters", [*warnings.filters, ("ignore", None, Warning, None, 0)])
        random.seed(random.random())
        names = {line.split(":")[0] for line in guest_calls.changes(before, guest_calls.process_state())}
    assert names == {"environment", "loggers", "matplotlib", "warnings", "random seed"}


class CellOutput:
    """Standard output of a notebook's cell: it takes text, and is no file and no terminal."""

    def __init__(self) -> None:
        self.text: list[str] = []

    def write(self, text: str) -> int:
        self.text.append(text)
        return len(text)

    def flush(self) -> None:
        pass


class Interrupt(Callback):
    """The notebook's stop button, at the second step."""

    def on_train_batch_end(self, trainer: Any, *_: object) -> None:
        if trainer.global_step == 2:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("interrupted", [False, True])
def test_training_in_a_notebook(interrupted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 15: a running event loop, streams that are no terminals, and an interrupt that ends the training only."""
    scan = ptychopinn.simulate("dead_leaves", patterns=36, size=32, photons=1e5, seed=3)
    options = {"model": {"options": {"steps": 2, "width": 8, "state": 2}}, "execution": {"accelerator": "cpu"}}
    config = ptychopinn.Config.from_dict(
        {"data": {"group_size": 4}, "training": {"epochs": 2, "batch_size": 4}, **options}
    )
    monkeypatch.setattr(sys, "stdout", CellOutput())
    monkeypatch.setattr(sys, "stderr", CellOutput())

    async def cell() -> Any:
        handler = signal.getsignal(signal.SIGINT)
        callbacks = [Interrupt()] if interrupted else []
        trained = ptychopinn.train(scan, tmp_path / "run", config, callbacks=callbacks)
        result = ptychopinn.reconstruct(trained.model, scan, config)
        assert signal.getsignal(signal.SIGINT) is handler
        await asyncio.sleep(0)
        return trained, result

    trained, result = asyncio.run(cell())
    assert trained.interrupted == interrupted and np.isfinite(result.object).all()
    assert not any("\r" in text for text in sys.stdout.text + sys.stderr.text)  # type: ignore[attr-defined]


def test_streams_that_know_little_are_no_terminals() -> None:
    closed = io.StringIO()
    closed.close()
    assert not any(is_terminal(stream) for stream in (None, CellOutput(), closed, io.StringIO()))
