# SPDX-License-Identifier: BSD-3-Clause
"""Lightning checkpoints of a training run, read without Lightning and without executing code in them."""

from __future__ import annotations

import shutil
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from ptychopinn.config import Config
from ptychopinn.errors import InputError, not_found
from ptychopinn.models import PtychoModel
from ptychopinn.persistence.bundle import build_model
from ptychopinn.storage.atomic import atomic_file, atomic_path
from ptychopinn.storage.checksums import check_zip

_PREFIX = "model."

#: Name of the chosen checkpoint in the folder of a run, for programs that expect one file.
MODEL_NAME = "model.ckpt"


def load_checkpoint(path: str | Path) -> tuple[PtychoModel, Config, dict[str, Any]]:
    """Read the model of a checkpoint.

    Args:
        path: the file, such as ``run/checkpoints/best.ckpt``.

    Returns:
        The model, on the CPU and in evaluation mode; its configuration; and the contents of the checkpoint.

    Raises:
        InputError: the file is not found, damaged, or not a checkpoint of ptychopinn.
    """
    path = Path(path)
    if not path.exists():
        raise not_found(path)
    check_zip(path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        facts, weights = checkpoint["hyper_parameters"], checkpoint["state_dict"]
        config = Config.from_dict(facts["config"])
        with torch.random.fork_rng([]):  # weights are drawn before those of the file replace them
            model = build_model(config, facts["patch_size"], facts["modes"], facts["patterns"])
        model.load_state_dict(
            {name.removeprefix(_PREFIX): value for name, value in weights.items() if name.startswith(_PREFIX)}
        )
    except (RuntimeError, KeyError, TypeError, AttributeError, EOFError, OSError, ValueError, UnpicklingError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path}: expected a checkpoint of ptychopinn, found another or damaged file: {reason}; "
            "name another checkpoint, or the folder of a run"
        ) from None
    return model.eval(), config, checkpoint


def save_tensors(path: Path, values: dict[str, Any]) -> None:
    """Write tensors and plain values by name, as torch.save does, atomically.

    Raises:
        InputError: see :func:`~ptychopinn.storage.atomic.atomic_path`.
    """
    with atomic_file(path) as file:
        torch.save(values, file)


def best_checkpoint(folder: str | Path) -> Path | None:
    """Find a checkpoint in the folder of a run: ``model.ckpt``, else of the best epoch, else of the last; or None."""
    names = (MODEL_NAME, "checkpoints/best.ckpt", "checkpoints/last.ckpt")
    return next((path for name in names if (path := Path(folder) / name).exists()), None)


def copy_chosen(checkpoint: str | Path, folder: str | Path) -> Path:
    """Copy the checkpoint that a training run chose to ``model.ckpt`` in a folder; returns the path."""
    target = Path(folder) / MODEL_NAME
    with atomic_path(target) as temporary:
        shutil.copyfile(checkpoint, temporary)
    return target
