# SPDX-License-Identifier: BSD-3-Clause
"""What is imported when: the first useful line must not wait for libraries that nobody asked for."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import ptychopinn
from ptychopinn.physics.simulate import simulate

SLOW = ("torch", "lightning", "matplotlib", "scipy", "skimage", "h5py")


def loaded_by(code: str, *arguments: str) -> set[str]:
    """Which of the slow libraries a fresh process has imported after this code."""
    program = f"{code}\nimport sys; print(*(name for name in {SLOW} if name in sys.modules))"
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("code", "permitted"),
    [
        ("import ptychopinn", set()),
        ("import ptychopinn; dir(ptychopinn); ptychopinn.Scan; ptychopinn.Config", set()),
        ("import ptychopinn.io.scans as s; s.formats()", set()),
        ("from ptychopinn.inspection import oriented", {"scipy", "torch"}),
        ("import ptychopinn; ptychopinn.plot_reconstruction", {"scipy"}),
        ("import ptychopinn; ptychopinn.reconstruct", {"torch", "scipy", "h5py"}),
        ("import ptychopinn; ptychopinn.mend", {"torch", "scipy"}),
        ("import ptychopinn; ptychopinn.refine", {"torch", "scipy", "h5py"}),
        ("import ptychopinn.plotting.refinement, ptychopinn.plotting.scans, ptychopinn.plotting.training", {"scipy"}),
    ],
)
def test_nothing_slow_is_imported_that_is_not_used(code: str, permitted: set[str]) -> None:
    assert loaded_by(code) <= permitted


@pytest.mark.parametrize(("suffix", "permitted"), [(".npz", set()), (".cxi", {"h5py"})])
def test_loading_a_scan_imports_no_more_than_its_file_needs(suffix: str, permitted: set[str], tmp_path: Path) -> None:
    scan = replace(simulate(patterns=9, size=32), pixel_size=1e-8)
    path = tmp_path / f"scan{suffix}"
    scan.save(path)
    assert loaded_by("import sys, ptychopinn; ptychopinn.Scan.load(sys.argv[1])", str(path)) <= permitted


@pytest.mark.parametrize("command", ["", "reconstruct", "refine", "convert", "mend", "plot"])
def test_help_imports_nothing_slow(command: str) -> None:
    code = "import sys, ptychopinn.cli.app as app\ntry: app.run(sys.argv[1:])\nexcept SystemExit: pass"
    assert loaded_by(code, *command.split(), "--help") == set()


def test_names_of_the_package_are_those_of_type_checkers() -> None:
    assert ptychopinn.__all__ == dir(ptychopinn) == sorted(ptychopinn._WHERE)
    for name in ptychopinn.__all__:
        assert getattr(ptychopinn, name) is not None
    for module in (ptychopinn, __import__("ptychopinn.inspection").inspection):
        lines = Path(module.__file__ or "").read_text().splitlines()
        begin = next(k for k, line in enumerate(lines) if line.startswith("if TYPE_CHECKING"))
        block = "\n".join(line for line in lines[begin:] if line.startswith("    from "))
        assert {name for name in module._WHERE if f" {name}" not in block} == set()
        with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
            module.nothing  # noqa: B018
