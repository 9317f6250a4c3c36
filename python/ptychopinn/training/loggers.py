# SPDX-License-Identifier: BSD-3-Clause
"""Where the losses and rates of a training go: metrics.csv in the run's folder, and TensorBoard or MLflow beside it."""

from __future__ import annotations

import os
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger

from ptychopinn.config import Config
from ptychopinn.errors import InputError


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
    loggers: list[Logger] = [CSVLogger(folder, name="", version="")]
    try:
        if kind == "tensorboard":
            loggers.append(TensorBoardLogger(folder, name="", version="tensorboard"))
        elif kind == "mlflow":
            uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.resolve() / 'mlflow.db'}"
            loggers.append(MLFlowLogger("ptychopinn", folder.resolve().name, tracking_uri=uri))
    except ImportError as error:
        raise InputError(
            f"execution.logger: {kind!r} needs its package: pip install 'ptychopinn[loggers]' ({error})"
        ) from None
    return loggers
