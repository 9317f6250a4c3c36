# SPDX-License-Identifier: BSD-3-Clause
"""The library `PtychoPINN` in ptychodus: `ptychopinn_network` is trained and applied, `ptychopinn_refinement` is not.

Both run in processes of their own, which ptychodus ends to stop them. What they log appears in its window, and what a
user can mend as one sentence.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ptychodus.api.product import LossValue
from ptychodus.api.reconstruct import (
    ReconstructInput,
    Reconstructor,
    ReconstructorLibrary,
    ReconstructOutput,
    TrainOutput,
)
from ptychodus.api.settings import SettingsRegistry
from ptychodus.model.processing._subprocess_protocol import ChildError
from ptychodus.model.processing.subprocess_reconstructor import SubprocessReconstructor

from ptychopinn.config import Config, ExecutionConfig, RefineConfig
from ptychopinn.errors import InputError
from ptychopinn_ptychodus.payloads import Inference, Refinement, Training
from ptychopinn_ptychodus.scans import scan_of
from ptychopinn_ptychodus.settings import NetworkSettings, RefinementSettings

NAME = "PtychoPINN"
_JOBS = "ptychopinn_ptychodus.children"
_log = logging.getLogger("ptychopinn")


class PtychoPINNLibrary(ReconstructorLibrary):
    """What ptychodus lists.

    Args:
        registry: of its settings.

    Attributes:
        settings: reconstructor -> its settings.
    """

    def __init__(self, registry: SettingsRegistry) -> None:
        super().__init__(_log.name)
        network, refinement = NetworkSettings(registry), RefinementSettings(registry)
        self._reconstructors = [NetworkReconstructor(network), RefinementReconstructor(refinement)]
        self.settings: dict[str, NetworkSettings | RefinementSettings] = {"Network": network, "Refinement": refinement}

    @property
    def name(self) -> str:
        return NAME

    def __iter__(self) -> Iterator[Reconstructor]:
        return iter(self._reconstructors)


class NetworkReconstructor(SubprocessReconstructor):
    """Trains a network on scans, and reconstructs with it."""

    def __init__(self, settings: NetworkSettings) -> None:
        self._goal = 1
        super().__init__(
            name="Network",
            reconstruct_entry_point=f"{_JOBS}:run_inference",
            train_entry_point=f"{_JOBS}:run_training",
            progress_goal_fn=lambda: self._goal,
            build_reconstruct_payload=self._inference,
            build_train_payload=self._training,
            is_trainable=True,
            model_file_filter="Models of ptychopinn (*.ckpt *.zip)",
            model_file_extension=".ckpt",
            training_data_file_filter="Scans of ptychopinn (*.npz)",
            export_training_data=_export,
        )
        self._settings = settings
        self._losses: Sequence[LossValue] = []

    def reconstruct(self, parameters: ReconstructInput) -> Iterator[ReconstructOutput]:
        self._goal = 1
        with _one_sentence():
            yield from super().reconstruct(parameters)

    def train(self, input_path: Path, output_path: Path) -> Iterator[TrainOutput]:
        losses: Sequence[LossValue] = []
        with _one_sentence():
            for output in super().train(input_path, output_path):
                losses = output.training_loss
                yield output
        self._losses = losses  # with the model; one that was stopped leaves the earlier of both

    def load_model_from_file(self, file_path: Path) -> None:
        self._losses = []  # those of another model
        super().load_model_from_file(file_path)

    def _inference(self, parameters: ReconstructInput, model: Path | None) -> Inference:
        if model is None:
            raise InputError("expected a trained model (model.ckpt in batch mode), found none: train or load one first")
        return Inference(self._checked(), model, parameters, self._losses)

    def _training(self, source: Path, target: Path) -> Training:
        settings = self._checked()
        self._goal = int(settings["training"]["epochs"])
        return Training(settings, source, target)

    def _checked(self) -> dict[str, dict[str, Any]]:
        """The settings, refused before a process is started if the configuration refuses them."""
        return Config.from_dict(self._settings.values()).to_dict()


class RefinementReconstructor(SubprocessReconstructor):
    """Reconstructs without a network, from the object and the probe that ptychodus has."""

    def __init__(self, settings: RefinementSettings) -> None:
        parameters = settings.sections["refine"]
        super().__init__(
            name="Refinement",
            reconstruct_entry_point=f"{_JOBS}:run_refinement",
            progress_goal_fn=lambda: int(parameters.parameters["iterations"].get_value()),
            build_reconstruct_payload=self._refinement,
        )
        self._settings = settings

    def reconstruct(self, parameters: ReconstructInput) -> Iterator[ReconstructOutput]:
        with _one_sentence():
            yield from super().reconstruct(parameters)

    def _refinement(self, parameters: ReconstructInput, _: Path | None) -> Refinement:
        refine, execution = (self._settings.sections[name].values() for name in ("refine", "execution"))
        RefineConfig(**refine), ExecutionConfig(**execution)
        return Refinement(refine, execution, parameters)


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Report what a user can mend as one sentence, in ptychodus' window too; other failures keep their traceback."""
    try:
        yield
    except ChildError as error:
        if not isinstance(error.child_exception, InputError):
            _log.error("%s", error)
            raise
        _log.error("%s", error.child_exception)
        raise InputError(str(error.child_exception)) from None
    except InputError as error:
        _log.error("%s", error)
        raise


def _export(path: Path, parameters: ReconstructInput) -> None:
    named = path if path.suffix.lower() == ".npz" else path.with_name(f"{path.name}.npz")
    scan_of(parameters).save(named, "npz")
