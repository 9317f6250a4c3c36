# SPDX-License-Identifier: BSD-3-Clause
"""The model as ptychodus names it: made for a training, or read from a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ptychopinn.config import Config
from ptychopinn.models import PtychoModel as Network
from ptychopinn.persistence.checkpoint import load_checkpoint


class PtychoPINN_Lightning:  # the caller's name
    """A trained network with its configuration; before a training, only the names of its losses.

    Attributes:
        loss_name: of the loss that a training reports, under which Lightning's metrics hold it.
        val_loss_name: of the loss of what is held out.
        network: the trained model, or None.
        config: the configuration that it was trained with, or None.
    """

    loss_name = "train_loss"
    val_loss_name = "val_loss"

    def __init__(self, network: Network | None = None, config: Config | None = None) -> None:
        self.network, self.config = network, config

    @classmethod
    def load_from_checkpoint(cls, path: str | Path, **configs: Any) -> PtychoPINN_Lightning:
        """Read a checkpoint; the configurations that ptychodus hands over came out of it and are not needed again.

        Raises:
            InputError: the file is no checkpoint of ptychopinn, or is damaged.
        """
        network, config, _ = load_checkpoint(path)
        return cls(network, config)
