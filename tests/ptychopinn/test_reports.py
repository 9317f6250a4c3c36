# SPDX-License-Identifier: BSD-3-Clause
"""What the command line prints: reports in colours or as JSON, quiet and verbose, help by topic, completion."""

from __future__ import annotations

import io
import json
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ptychopinn.cli import commands as table
from ptychopinn.cli import main
from ptychopinn.cli.help import topics
from ptychopinn.cli.reports import show
from ptychopinn.physics.simulate import simulate


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reports") / "scan.npz"
    simulate(patterns=16, size=32, photons=1e5, seed=2).save(path)
    return path


@pytest.fixture
def log_level() -> Iterator[None]:
    """Logs of the library are again as they were, and set up again by the next command."""
    root, own = logging.getLogger(), logging.getLogger("ptychopinn")
    handlers, levels = root.handlers[:], (root.level, own.level)
    root.handlers.clear()
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    own.setLevel(levels[1])


def test_json_without_a_file_is_all_of_standard_output(scan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(scan), "--no-orientation", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["patterns"]["number"] == 16 and found["findings"] == []


def test_json_with_a_file_leaves_the_text(scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "found.json"
    assert main(["inspect", str(scan), "--no-orientation", "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "no findings" in printed and f"wrote {file}" in printed
    assert json.loads(file.read_text())["patterns"]["number"] == 16
    assert main(["inspect", str(scan), "--no-orientation", "--json", str(file)]) == 2
    assert "expected a new file" in capsys.readouterr().err


def test_doctor_reports_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "ptychopinn.runtime.doctor.diagnose", lambda: ([("torch", "2")], ["too old: pip install torch"])
    )
    assert main(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {
        "facts": {"torch": "2"},
        "problems": ["too old: pip install torch"],
    }


def test_evaluate_reports_json(scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = simulate(patterns=16, size=32, photons=1e5, seed=2)
    assert loaded.truth is not None
    from ptychopinn.reconstruction import Reconstruction

    file = Reconstruction(loaded.truth, abs(loaded.truth) * 0 + 1, origin=(0, 0)).save(tmp_path / "recon.h5")
    assert main(["evaluate", str(file), str(scan), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["frc"]["mean"] > 0.9
    assert (tmp_path / "recon" / "frc.png").exists()


def test_severities_have_colours_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "PROBLEM: dark\nno findings"
    for stream, colour, coloured in (
        (Terminal(), None, True),
        (Terminal(), "1", False),
        (io.StringIO(), None, False),
    ):
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.delenv("NO_COLOR", raising=False)
        if colour is not None:
            monkeypatch.setenv("NO_COLOR", colour)
        monkeypatch.setattr("sys.stdout", stream)
        show(text)
        shown = stream.getvalue()
        assert ("\x1b[" in shown) is coloured
        assert re.sub(r"\x1b\[[\d;]*m", "", shown) == text + "\n"


@pytest.mark.usefixtures("log_level")
def test_quiet_leaves_warnings_and_reports(scan: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ptychopinn.cli", "convert", str(scan)]
    loud = subprocess.run([*command, str(tmp_path / "a.npz")], capture_output=True, text=True, check=True)
    quiet = subprocess.run([*command, str(tmp_path / "b.npz"), "-q"], capture_output=True, text=True, check=True)
    verbose = subprocess.run([*command, str(tmp_path / "c.npz"), "-v"], capture_output=True, text=True, check=True)
    assert loud.stderr == quiet.stderr == "" and "patterns of" in quiet.stdout
    assert "read as amplitude: stated" in verbose.stderr
    assert re.search(r"\d\d:\d\d:\d\d,\d+ ptychopinn\.io\.scans: .*read as npz in \d", verbose.stderr)


@pytest.mark.usefixtures("log_level")
def test_verbose_reports_where_an_error_was_found(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ptychopinn.cli", "inspect", str(tmp_path / "absent.npz")]
    short = subprocess.run(command, capture_output=True, text=True, check=False)
    long = subprocess.run([*command, "-v"], capture_output=True, text=True, check=False)
    assert short.returncode == long.returncode == 2
    assert "Traceback" not in short.stderr and len(short.stderr.splitlines()) == 1
    assert "Traceback" in long.stderr and long.stderr.splitlines()[-1] == short.stderr.strip()


def test_help_lists_topics_and_shows_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help"]) == 0
    listed = capsys.readouterr().out
    assert len(topics()) >= 8 and all(name in listed for name in (*topics(), *table.COMMANDS))
    for name, text in topics().items():
        assert main(["help", name]) == 0
        assert capsys.readouterr().out == text and text.startswith("# ")
    assert main(["help", "train"]) == 0
    assert "ptychopinn train [options]" in capsys.readouterr().out
    assert main(["help", "nothing"]) == 2
    assert "no topic 'nothing': expected one of" in capsys.readouterr().err


def test_help_is_formatted_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    pages: list[str] = []
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setattr("pydoc.pager", pages.append)
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["help", "units"]) == 0
    shown = "".join([*pages, stream.getvalue()])
    assert "Units of patterns" in shown and "# Units" not in shown


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_commands_and_options(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(name in script for name in table.COMMANDS) and "training.epochs" in script


def test_completion_works_in_bash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "completion"
    script.write_text(
        capsys.readouterr().out
        + 'complete_words() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _shtab_ptychopinn; '
        'echo "${COMPREPLY[@]}"; }\n'
        "complete_words ptychopinn rec\ncomplete_words ptychopinn train scan.npz --training.lo\n"
        "complete_words ptychopinn inspect --measurement a\ncomplete_words ptychopinn plot mine\n"
    )
    (tmp_path / "mine.npz").touch()
    done = subprocess.run(["bash", str(script)], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines() == ["reconstruct", "--training.loss", "auto amplitude", "mine.npz"]


def test_example_writes_a_scan_and_prints_commands_that_exist(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["example"]) == 0
    printed = capsys.readouterr().out
    lines = [line.split()[1:] for line in printed.splitlines() if line.startswith("ptychopinn ")]
    assert [line[0] for line in lines] == ["inspect", "reconstruct", "train", "reconstruct", "evaluate"]
    parser = table.full_parser()
    for line in lines:
        parser.parse_args(line)
    assert main(lines[0]) == 0  # the scan is sound, its orientation too
    assert "10 nm" in capsys.readouterr().out
    assert main(["example"]) == 2  # it is there already
