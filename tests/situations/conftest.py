# SPDX-License-Identifier: BSD-3-Clause
"""The sound scan that every situation begins with."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ptychopinn.physics.simulate import simulate


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound scan, written once."""
    path = tmp_path_factory.mktemp("sound") / "scan.npz"
    simulate("lines", "defocused", patterns=64, size=32, photons=1e5, seed=3).save(path)
    return path


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    """A folder of its own with the sound scan, ``scan.npz``."""
    shutil.copy(sound, tmp_path / "scan.npz")
    return tmp_path
