# SPDX-License-Identifier: BSD-3-Clause
"""Where a training left its best checkpoint."""

from __future__ import annotations

from pathlib import Path

MODEL = "model.ckpt"


def find_best_checkpoint(folder: str | Path) -> Path | None:
    """``model.ckpt`` in the folder of a finished run, the best or the last epoch of one that was stopped, or None."""
    names = (MODEL, "checkpoints/best.ckpt", "checkpoints/last.ckpt")
    return next((path for name in names if (path := Path(folder) / name).exists()), None)
