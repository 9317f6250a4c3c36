# SPDX-License-Identifier: BSD-3-Clause
"""A guest in the user's terminal and program: plain output, names of files, notebooks."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import plain_terminal
import pytest

from ptychopinn.cli.plain import plain_output

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
