# SPDX-License-Identifier: BSD-3-Clause
"""Every example in a docstring of the library runs and prints the documented output."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: A former name, which cannot be imported.
FORMER = "ptychopinn.compat.ptychodus"


def modules() -> list[str]:
    """Return the names of all modules of all packages."""
    names = []
    for base in (ROOT, ROOT / "python", ROOT / "integrations" / "ptychodus" / "src"):
        for package in ("ptycho_ext", "ptychopinn", "ptycho_torch", "ptychopinn_ptychodus"):
            for path in sorted((base / package).rglob("*.py")):
                parts = path.relative_to(base).with_suffix("").parts
                names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return [name for name in names if not name.endswith("__main__") and name != FORMER]


@pytest.mark.parametrize("name", modules())
def test_examples_run(name: str) -> None:
    if name.startswith(("ptycho_torch", "ptychopinn_ptychodus")):
        pytest.importorskip(name.split(".")[0], reason="not installed: pip install --no-deps ./integrations/ptychodus")
    if name.startswith("ptychopinn_ptychodus"):
        pytest.importorskip("PyQt5" if name.endswith("panes") else "ptychodus.api", reason="make ptychodus runs it")
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_modules_and_examples_are_found() -> None:
    assert {"ptycho_ext.ops.extract", "ptychopinn", "ptychopinn.scan", "ptycho_torch.model"} <= set(modules())
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = finder.find(importlib.import_module("ptychopinn.scan"))
    assert sum(len(test.examples) for test in found) >= 3
