# SPDX-License-Identifier: BSD-3-Clause
"""The sound scan itself: every command takes it."""

from __future__ import annotations

from pathlib import Path

import pytest
from situation import Situation

TABLE = [
    Situation("inspect", "inspect scan.npz", 0, ("no findings",)),
    Situation("train", "train scan.npz --out run QUICK", 0, ("run: trained on 64 patterns",)),
]


@pytest.mark.parametrize("situation", TABLE, ids=lambda situation: situation.name)
def test_sound_scan(
    situation: Situation, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    situation.check(folder, capsys, monkeypatch)
