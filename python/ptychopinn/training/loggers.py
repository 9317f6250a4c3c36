# SPDX-License-Identifier: BSD-3-Clause
"""Where the losses and rates of a training go: metrics.csv in the run's folder, and TensorBoard or MLflow beside it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from ptychopinn.config import Config
from ptychopinn.errors import InputError
from ptychopinn.storage.atomic import storage_error
from ptychopinn.storage.tables import GrowingTable

_log = logging.getLogger(__name__)


def make_loggers(config: Config, folder: Path) -> list[Logger]:
    """Lightning's loggers for ``execution.logger``; the first writes metrics.csv, none at all for "none".

    TensorBoard's files go to ``folder/tensorboard``. MLflow goes to the environment variable MLFLOW_TRACKING_URI,
    otherwise to ``folder/mlflow.db``, as a run with the folder's name in the experiment "ptychopinn".

    Raises:
        InputError: the package that the logger needs is not installed.
    """
    kind = config.execution.logger
    if kind == "none":
        return []
    loggers: list[Logger] = [MetricsFile(folder)]
    try:
        if kind == "tensorboard":
            loggers.append(_tolerant(TensorBoardLogger(folder, name="", version="tensorboard")))
        elif kind == "mlflow":
            uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.resolve() / 'mlflow.db'}"
            loggers.append(_tolerant(MLFlowLogger("ptychopinn", folder.resolve().name, tracking_uri=uri)))
    except ImportError as error:
        raise InputError(
            f"execution.logger: {kind!r} needs its package: pip install 'ptychopinn[loggers]' ({error})"
        ) from None
    return loggers


class MetricsFile(Logger):
    """Losses and rates as rows of metrics.csv, written once an epoch.

    Rows that a full disk does not take are kept, and written as soon as it does.

    Args:
        folder: of the file.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self._table = GrowingTable(folder / "metrics.csv")
        self._rows: list[dict[str, Any]] = []
        self._warned = False

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.folder)

    @rank_zero_only
    def log_hyperparams(self, *arguments: Any, **options: Any) -> None:
        """Leave them to config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Add a row."""
        values = {name: value.item() if hasattr(value, "item") else value for name, value in metrics.items()}
        self._rows.append({**values, "step": len(self._rows) if step is None else step})
        if any(name.endswith("_loss") for name in values):
            self.save()

    @rank_zero_only
    def save(self) -> None:
        """Write the rows since the last time; a disk that is full is a warning."""
        try:
            self.finish()
        except InputError as error:
            if not self._warned:
                _log.warning("%s; the training continues, and writes it later", error)
            self._warned = True

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is left at the end of a training."""
        self.save()

    @rank_zero_only
    def finish(self) -> None:
        """Write all rows.

        Raises:
            InputError: the disk is full, or fails.
        """
        self._table.append(self._rows)
        self._rows = []


def _tolerant(logger: Logger) -> Logger:
    """The logger, for which a disk that is full, or fails, is a warning."""
    warned = False

    def guarded(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal warned
            try:
                return method(*arguments, **options)
            except Exception as error:
                if storage_error(error) is None:
                    raise
                if not warned:
                    _log.warning("%s: %s; the training continues without", type(logger).__name__, error)
                warned = True

        return call

    for name in ("log_metrics", "log_hyperparams", "save", "finalize"):
        setattr(logger, name, guarded(getattr(logger, name)))
    return logger
