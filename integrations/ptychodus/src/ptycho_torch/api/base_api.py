# SPDX-License-Identifier: BSD-3-Clause
"""The calls that ptychodus 1.7.0 makes in the process that it starts for a training or a reconstruction.

Its names and arguments; one call of ptychopinn behind each. Scans come in as the training files that ptychodus exports,
or as arrays: positions of the probe's centre in pixels of the object array, whose middle pixel is the object's centre.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptycho_torch.config_params import DataConfig, DatagenConfig, InferenceConfig, ModelConfig, TrainingConfig
from ptycho_torch.mapping import tell_what_has_no_effect, to_config
from ptycho_torch.model import PtychoPINN_Lightning
from ptychopinn.config import Config
from ptychopinn.errors import InputError
from ptychopinn.inference.predict import reconstruct
from ptychopinn.io.in_memory import on_canvas, scan_from_arrays
from ptychopinn.persistence.checkpoint import copy_chosen, load_checkpoint
from ptychopinn.runtime.devices import device_of
from ptychopinn.runtime.parent import serve_parent
from ptychopinn.scan import Scan
from ptychopinn.training.workflow import train

_log = logging.getLogger("ptycho_torch")

#: Under this key a checkpoint keeps the settings that ptychodus sent.
_KEY = "ptychodus"


class DataloaderFormats(Enum):
    """The one way of reading data that ptychodus asks for."""

    LIGHTNING = "lightning_only_module"


class ConfigManager:
    """The settings of one training or reconstruction."""

    def __init__(
        self,
        data_config: DataConfig | None = None,
        model_config: ModelConfig | None = None,
        training_config: TrainingConfig | None = None,
        inference_config: InferenceConfig | None = None,
        datagen_config: DatagenConfig | None = None,
    ) -> None:
        serve_parent()  # the first call of a training
        self.data_config = data_config or DataConfig()
        self.model_config = model_config or ModelConfig()
        self.training_config = training_config or TrainingConfig()
        self.inference_config = inference_config or InferenceConfig()
        self.datagen_config = datagen_config or DatagenConfig()

    @classmethod
    def from_loaded_model(cls, model: PtychoModel) -> ConfigManager:
        """The settings that a loaded model was trained with."""
        return cls(model.data_config, model.model_config, model.training_config, model.inference_config)

    def validate_arch_compatibility(self, model: PtychoModel) -> None:
        """Nothing to check: a model is built from what is in its own checkpoint."""

    def settings(self) -> dict[str, dict[str, Any]]:
        """All that can differ between runs, as plain types."""
        return {
            "data": dataclasses.asdict(self.data_config),
            "model": dataclasses.asdict(self.model_config),
            "training": dataclasses.asdict(self.training_config),
            "inference": dataclasses.asdict(self.inference_config),
        }


class PtychoDataLoader:
    """The scans of a folder to train on, or one scan in memory.

    Args:
        data_dir: folder with the training files, NPZ, that ptychodus exports.
        config_manager: the settings.
        data_format: as ptychodus states it.
        output_dir: where to write; every training has a folder of its own in it, ``output_dir``.
    """

    def __init__(
        self,
        data_dir: str | Path,
        config_manager: ConfigManager,
        data_format: DataloaderFormats = DataloaderFormats.LIGHTNING,
        output_dir: str | Path = ".",
    ) -> None:
        files = sorted(Path(data_dir).glob("*.npz"))
        if not files:
            raise InputError(f"{data_dir}: expected a folder with training data of ptychodus (*.npz), found none")
        self.scans = [Scan.load(file) for file in files]
        wanted = config_manager.data_config.N
        for file, scan in zip(files, self.scans, strict=True):
            if scan.patch_size != wanted:
                raise InputError(
                    f"{file}: expected patterns of {wanted} px, the model size in the settings, found "
                    f"{scan.patch_size} px"
                )
        self.output_dir = Path(output_dir) / time.strftime("run_%Y%m%d-%H%M%S")
        self.frame: tuple[int, int] | None = None

    @classmethod
    def from_np(
        cls, *, diff_patterns: ArrayLike, probe: ArrayLike, positions: ArrayLike, config_manager: ConfigManager
    ) -> PtychoDataLoader:
        """One scan in memory.

        Args:
            diff_patterns: (n, N, N) counts, zero frequency in the middle.
            probe: (modes, N, N) or (N, N) complex.
            positions: (n, 2), (y, x) of the probe's centre in pixels of the object array.
            config_manager: the settings.

        Raises:
            InputError: the arrays do not fit each other, or are no patterns.
        """
        loader = cls.__new__(cls)
        loader.scans = [scan_from_arrays(diff_patterns, positions, probe, name="ptychodus")]
        loader.output_dir = Path(".")
        loader.frame = object_shape(np.asarray(positions, np.float64), loader.scans[0].patch_size)
        return loader


def object_shape(positions: NDArray[np.float64], size: int) -> tuple[int, int]:
    """The shape (H, W) of the object array in whose pixels the positions are given.

    It is not among the arguments of :meth:`PtychoDataLoader.from_np`. ptychodus lays an object out with the middle of
    the scanned area in its middle, pixel (side - 1) / 2: then the extremes of the positions add up to side - 1. Where
    the object's centre is elsewhere, it is the smallest array that holds all patches.

    Example:
        >>> object_shape(np.array([[20.0, 15.5], [39.0, 60.5]]), 16)
        (60, 77)
    """
    low, high = positions.min(0), positions.max(0)
    sides = np.rint(low + high).astype(int) + 1
    needed = np.ceil(high + size / 2).astype(int)
    height, width = np.maximum(sides, needed)
    return int(height), int(width)


class PtychoModel:
    """A network to be trained, or a trained one, with its settings."""

    def __init__(
        self,
        model_config: ModelConfig | None = None,
        data_config: DataConfig | None = None,
        training_config: TrainingConfig | None = None,
        inference_config: InferenceConfig | None = None,
    ) -> None:
        self.model_config, self.data_config = model_config, data_config
        self.training_config, self.inference_config = training_config, inference_config
        self.model: PtychoPINN_Lightning | None = None

    @classmethod
    def _new_model(cls, model: type[PtychoPINN_Lightning], config_manager: ConfigManager) -> PtychoModel:
        made = cls(
            config_manager.model_config,
            config_manager.data_config,
            config_manager.training_config,
            config_manager.inference_config,
        )
        made.model = model()
        return made

    @staticmethod
    def _extract_configs_from_checkpoint(
        path: str,
    ) -> tuple[DataConfig, ModelConfig, TrainingConfig, InferenceConfig]:
        """The settings in a checkpoint; of one that ptychodus had no part in, those that its configuration implies."""
        serve_parent()
        network, config, checkpoint = load_checkpoint(path)
        stored = checkpoint.get(_KEY)
        if stored is None:
            size = config.data.group_size
            return (
                DataConfig(N=network.patch_size, C=size),
                ModelConfig(mode="Supervised" if config.training.supervised else "Unsupervised"),
                TrainingConfig(epochs=config.training.epochs),
                InferenceConfig(),
            )
        kinds = {"data": DataConfig, "model": ModelConfig, "training": TrainingConfig, "inference": InferenceConfig}
        data, model, training, inference = (kind(**stored[name]) for name, kind in kinds.items())
        return data, model, training, inference


class _KeepSettings(L.Callback):
    """Puts the settings of ptychodus into every checkpoint, as plain types."""

    def __init__(self, settings: dict[str, dict[str, Any]]) -> None:
        self.settings = settings

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[_KEY] = self.settings


class Trainer:
    """A training that has not begun; ptychodus adds a callback to ``_trainer.callbacks`` first."""

    def __init__(self, model: PtychoModel, dataloader: PtychoDataLoader, config_manager: ConfigManager) -> None:
        self.model, self.dataloader, self.config_manager = model, dataloader, config_manager
        self._trainer = SimpleNamespace(callbacks=list[L.Callback]([_KeepSettings(config_manager.settings())]))

    @classmethod
    def _from_lightning(
        cls, model: PtychoModel, dataloader: PtychoDataLoader, orchestration: str, config_manager: ConfigManager
    ) -> Trainer:
        return cls(model, dataloader, config_manager)

    def train(self, orchestration: str = "lightning", experiment_name: str = "") -> None:
        """Train; the folder of the run gets ``model.ckpt`` beside what every run of ptychopinn holds.

        Raises:
            InputError: the settings do not fit the scan, or the loss diverged.
        """
        settings = self.config_manager
        parts = (settings.data_config, settings.model_config, settings.training_config, settings.inference_config)
        tell_what_has_no_effect(*parts)
        scans, folder = self.dataloader.scans, self.dataloader.output_dir
        config = to_config(*parts, patterns=min(scan.n for scan in scans))
        run = train(scans, folder, config, callbacks=self._trainer.callbacks)
        assert run.checkpoint is not None
        copy_chosen(run.checkpoint, folder)
        assert self.model.model is not None
        self.model.model.network, self.model.model.config = run.model, run.config


class InferenceEngine:
    """Reconstructs with a loaded model."""

    def __init__(self, config_manager: ConfigManager, ptycho_model: PtychoModel) -> None:
        self.config_manager, self.ptycho_model = config_manager, ptycho_model

    def predict_and_stitch(self, loader: PtychoDataLoader) -> NDArray[np.complex64]:
        """The object (H, W) in the pixels that the positions are given in; zero outside the illuminated area.

        Raises:
            InputError: the patterns do not fit the model.
        """
        trained = self.ptycho_model.model
        if trained is None or trained.network is None:
            raise InputError("expected a trained model, found none: load a checkpoint first")
        config = trained.config or Config()
        (scan,) = loader.scans
        result = reconstruct(trained.network, scan, config, device_of(config.execution))
        if loader.frame is None:
            return result.object
        _log.info(
            "the object is taken to be %d x %d px, with the middle of the scan in its middle: ptychodus does not tell; "
            "the image of a part of a scan is displaced, but by ptychopinn_network and ptychopinn_refinement",
            *loader.frame,
        )
        return on_canvas(result, loader.frame)
