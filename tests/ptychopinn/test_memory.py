# SPDX-License-Identifier: BSD-3-Clause
"""The memory available to this process: that of the machine, and of its control groups."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from ptychopinn.runtime import memory

FREE = 1 << 40


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the control groups of a machine with 1 TiB available; this process is in ``/job/step``."""
    folder = tmp_path / "cgroup"
    (folder / "job" / "step").mkdir(parents=True)
    own = tmp_path / "own"
    own.write_text("1:cpu:/elsewhere\n0::/job/step\n")
    monkeypatch.setattr(memory, "_GROUPS", folder)
    monkeypatch.setattr(memory, "_OWN_GROUP", own)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=FREE, total=2 * FREE))
    return folder


def limit(folder: Path, largest: str, used: str = "1000") -> None:
    (folder / "memory.max").write_text(f"{largest}\n")
    (folder / "memory.current").write_text(f"{used}\n")


def test_without_a_limit_the_memory_of_the_machine_counts(groups: Path) -> None:
    assert memory.available_memory() == FREE and memory.physical_memory() == 2 * FREE
    limit(groups / "job", "max")
    assert memory.available_memory() == FREE


@pytest.mark.parametrize("where", ["", "job", "job/step"])
def test_limit_of_any_enclosing_group_counts(groups: Path, where: str) -> None:
    limit(groups / where, "5000")
    assert memory.available_memory() == 4000
    assert memory.fits_in_memory(1000) and not memory.fits_in_memory(1001)
    limit(groups / where, "500")  # usage exceeds the limit
    assert memory.available_memory() == 0


def test_the_smallest_of_several_limits_counts(groups: Path) -> None:
    for where, largest in (("", "9000"), ("job", "3000"), ("job/step", str(4 * FREE))):
        limit(groups / where, largest)
    assert memory.available_memory() == 2000


def test_unreadable_limit_is_ignored(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit(groups, "many")
    (groups / "job" / "memory.max").write_text("5000")  # without the file of the usage
    assert memory.available_memory() == FREE
    monkeypatch.setattr(memory, "_OWN_GROUP", groups / "absent")
    limit(groups, "5000")
    assert memory.available_memory() == 4000


def test_memory_of_this_machine_is_plausible() -> None:
    assert 0 < memory.available_memory() <= memory.physical_memory()
