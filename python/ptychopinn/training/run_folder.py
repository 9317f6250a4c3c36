# SPDX-License-Identifier: BSD-3-Clause
"""The folder of a run: what may begin in it, what an earlier training left, and where a full disk sends the rest.

While a training runs, the folder has the file running.json with its process. A process that was killed leaves it, and
the next training recognises that.
"""

from __future__ import annotations

import csv
import dataclasses
import logging
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import lightning as L
import torch
import yaml
from lightning.fabric.plugins import TorchCheckpointIO

from ptychopinn._one_line import one_line
from ptychopinn.batches.neighbourhoods import merged_groups
from ptychopinn.config import Config
from ptychopinn.errors import InputError, not_found
from ptychopinn.persistence.bundle import BUNDLE_NAME, bundle_info
from ptychopinn.persistence.checkpoint import save_tensors
from ptychopinn.runtime.processes import rank_and_size
from ptychopinn.storage.atomic import make_folder, remove_leftovers, write_text
from ptychopinn.storage.checksums import check_zip
from ptychopinn.storage.claims import Claim, holder_of
from ptychopinn.training.callbacks import LOSSES
from ptychopinn.training.ending import EndByQuality
from ptychopinn.training.module import PtychoModule

#: Name of the file in the folder of a run that is being trained.
RUNNING_NAME = "running.json"

_log = logging.getLogger(__name__)


class LastSaved(NamedTuple):
    """What a checkpoint is of.

    Attributes:
        epoch: the last complete one, from 0.
        step: number of steps.
        losses: of that epoch, by name.
        ended: whether the training ended with it by the quality of the fit.
    """

    epoch: int
    step: int
    losses: dict[str, float]
    ended: bool


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """Paths in the folder of a run.

    Attributes:
        path: the folder.
    """

    path: Path

    __repr__ = one_line

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        """The checkpoint of the last complete epoch."""
        return self.checkpoints / "last.ckpt"

    @property
    def bundle(self) -> Path:
        return self.path / BUNDLE_NAME

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def running(self) -> Path:
        return self.path / RUNNING_NAME

    def check(self, overwrite: bool, resume: bool) -> bool:
        """Check that a training may begin here; returns whether there is an epoch to resume from.

        Args:
            overwrite: begin in any case.
            resume: continue an earlier training, if there is one.

        Raises:
            InputError: another process trains here, or an earlier training would be lost.
        """
        # The first process alone writes the file, perhaps of its previous training while another one begins the next.
        holder = holder_of(self.running) if rank_and_size()[0] == 0 else None
        if holder is not None and holder.runs and not overwrite:
            raise InputError(
                f"{self.path}: is being trained by {holder}: wait for it or name another folder; if it runs no more, "
                f"delete {self.running}, or --overwrite to begin again"
            )
        if resume:
            if self.last.exists():
                return True
            if self.bundle.exists():
                raise not_found(
                    self.last,
                    "a run to resume, whose last.ckpt is written after the first complete epoch, unless "
                    "execution.checkpoints is off; --from starts with a model that was saved",
                )
            _log.warning("%s: no complete epoch to resume from: the training begins at the first one", self.path)
            return False
        if self.bundle.exists() and not overwrite:
            raise InputError(
                f"{self.path}: expected a folder without a trained model, found {BUNDLE_NAME}; name another, "
                "--overwrite or --resume"
            )
        if holder is not None and self.last.exists() and not overwrite:
            raise InputError(
                f"{self.path}: expected a folder without a training, found the epochs of one that was killed "
                f"({holder}): --resume continues it, --overwrite begins again"
            )
        return False

    def begin(self, config: Config, resume: bool, claim: Claim) -> None:
        """Make the folder, remove what is written again, and write the configuration.

        Raises:
            InputError: it cannot be written.
        """
        make_folder(self.path)
        claim.take()
        self.remove_leftovers()
        for name in ("best", "last", "cut") if not resume else ("cut",):
            (self.checkpoints / f"{name}.ckpt").unlink(missing_ok=True)  # of an earlier run, or written again
        for name in ("metrics.csv", "training.png") if not resume else ():
            (self.path / name).unlink(missing_ok=True)
        write_config(config, self.path)

    def remove_leftovers(self) -> None:
        """Remove what a process that was killed has left: temporary files, and the mark that it trains here."""
        for folder in (self.path, self.checkpoints, *self.path.glob("running/epoch-*")):
            remove_leftovers(folder)
        holder = holder_of(self.running)
        if holder is not None and not holder.runs:
            self.running.unlink(missing_ok=True)

    def last_epoch(self, module: PtychoModule) -> LastSaved:
        """What the checkpoint is of. Rates, losses and epochs may change; what is learned may not.

        Raises:
            InputError: it is none, or of another model.
        """
        path = self.last
        check_zip(path)
        try:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
            earlier = checkpoint["hyper_parameters"]
            epoch, step = int(checkpoint["epoch"]), int(checkpoint["global_step"])
            last = checkpoint.get("callbacks", {}).get(EndByQuality.__qualname__, {}).get("last")
            ended = last is not None and epoch + 1 >= last and module.config.training.stop == "quality"
            saved = LastSaved(epoch, step, checkpoint.get(LOSSES, {}), ended)
        except (RuntimeError, KeyError, EOFError, UnpicklingError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{path}: expected a checkpoint of ptychopinn, found another or damaged file: {reason}; "
                "--overwrite begins again"
            ) from None
        before = Config.from_dict(earlier.get("config", {}))
        was, now = dict(earlier), dict(module.hparams)
        was["model"], now["model"] = before.model, module.config.model
        held = ("group_size", "validation", "validation_fraction")  # what is held out must stay so
        for name in held:
            was[f"data.{name}"], now[f"data.{name}"] = getattr(before.data, name), getattr(module.config.data, name)
        was["training.merge"], now["training.merge"] = merged_groups(before), merged_groups(module.config)
        keys = ("model", "patch_size", "modes", "patterns", "training.merge", *(f"data.{name}" for name in held))
        for key in keys:
            if was.get(key) != now.get(key):
                raise InputError(
                    f"{path}: expected a checkpoint with {key} {now.get(key)!r}, found {was.get(key)!r}; "
                    "state that, or begin again with --overwrite"
                )
        return saved

    def is_complete(self, saved: LastSaved, epochs: int) -> bool:
        """Whether a training of so many epochs has nothing left to do, its model included.

        Args:
            saved: the last complete epoch.
            epochs: those wanted.

        Raises:
            InputError: more are done than wanted.
        """
        done = saved.epoch + 1
        if epochs < done:
            raise InputError(
                f"{self.path}: has {done} epochs already, expected more than these to continue, got training.epochs "
                f"{epochs}: --training.epochs {2 * done} would train as many again; for fewer, train in "
                "another folder, or from the beginning with --overwrite"
            )
        return (
            (epochs == done or saved.ended) and self.bundle.exists() and bundle_info(self.bundle).get("epochs") == done
        )

    def logged(self, last: LastSaved) -> list[tuple[int, dict[str, float]]]:
        """Steps and figures of metrics.csv up to an epoch, for the logger begins a new file."""
        rows = self._rows(last.epoch)
        if last.losses and not any(row.get("epoch") == last.epoch and "train_loss" in row for _, row in rows):
            # The process was killed after it saved the epoch, and before it wrote the row.
            rows.append((last.step - 1, {"epoch": last.epoch, **last.losses}))
        return rows

    def _rows(self, last_epoch: int) -> list[tuple[int, dict[str, float]]]:
        if not self.metrics.exists():
            return []
        with self.metrics.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if None not in row.values()]  # a kill can cut the last line
        # Rates have rows without an epoch, before those of its losses.
        kept = [k for k, row in enumerate(rows) if row["epoch"] and int(row["epoch"]) <= last_epoch]
        rows = rows[: kept[-1] + 1] if kept else []
        return [
            (
                int(row["step"]),
                {k: int(v) if k == "epoch" else float(v) for k, v in row.items() if v and k != "step"},
            )
            for row in rows
        ]


def read_config(folder: Path) -> Config:
    """The configuration that a run wrote beside itself.

    Raises:
        InputError: there is none, or it is not one.
    """
    path = folder / "config.yaml"
    if not path.exists():
        raise not_found(path if folder.exists() else folder, "the folder of a run, with its config.yaml")
    return Config.load(path)


def write_config(config: Config, folder: Path) -> None:
    """Write the configuration of a run, see :func:`read_config`."""
    write_text(folder / "config.yaml", yaml.safe_dump(config.to_dict(), sort_keys=False))


class Checkpoints(TorchCheckpointIO):
    """Writes checkpoints atomically, to another folder where the disk of the run is full.

    Args:
        fallback: the other folder, None without one.
    """

    def __init__(self, fallback: Path | None) -> None:
        super().__init__()
        self.fallback = fallback
        self.failure: InputError | None = None
        self._moved: dict[str, Path] = {}

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            InputError: neither folder takes it.
        """
        path = Path(path)
        try:
            save_tensors(path, checkpoint)
            self._moved.pop(path.name, None)
        except InputError as error:
            if self.fallback is None:
                self.failure = error
                raise
            other = self.fallback / "checkpoints" / path.name
            save_tensors(other, checkpoint)
            self._moved[path.name] = other
            if self.failure is None:
                _log.warning("%s; checkpoints are written to %s", error, other.parent)
            self.failure = error

    def located(self, path: Path) -> Path:
        """Where the latest checkpoint of this name is."""
        return self._moved.get(path.name, path)


class HeldFolder(L.Callback):
    """Ends a training whose folder another process has taken over.

    Args:
        claim: of the folder.
    """

    def __init__(self, claim: Claim) -> None:
        self.claim = claim

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            self.claim.check()
