# SPDX-License-Identifier: BSD-3-Clause
"""What the settings of ptychodus do here, in one place; those without effect are named once in the log."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

from ptycho_torch.config_params import DataConfig, InferenceConfig, ModelConfig, TrainingConfig
from ptychopinn.config import Config

_log = logging.getLogger("ptycho_torch")

_RULES = {"Nearest": "nearest", "Min_dist": "nearest", "4_quadrant": "quadrants"}
_SCHEDULES = {"Default": "cosine", "Cosine": "cosine", "Exponential": "exponential"}
_LOSSES = {"Poisson": "poisson", "MAE": "amplitude"}

#: Fields that are read below, or that repeat others. All others have no effect: the network is another one, and
#: scale factors have one owner here, the counts.
_USED = {
    "N", "C", "C_model", "C_forward", "decoder_last_amp_channels", "grid_size",
    "K", "K_quadrant", "n_subsample", "neighbor_function", "min_neighbor_distance", "max_neighbor_distance",
    "x_bounds", "y_bounds",
    "mode", "loss_function", "intensity_scale_trainable",
    "epochs", "batch_size", "learning_rate", "n_devices", "num_workers", "accum_steps", "gradient_clip_val", "nll",
    "device", "strategy", "framework", "orchestrator", "scheduler", "warmup_epochs", "notes", "model_name",
    "patch_weighting",
}  # fmt: skip


def to_config(
    data: DataConfig, model: ModelConfig, training: TrainingConfig, inference: InferenceConfig, patterns: int
) -> Config:
    """Our configuration for a scan of so many patterns.

    Raises:
        InputError: a value that ours cannot take; it names our field.
    """
    quadrants = data.neighbor_function == "4_quadrant"
    others = data.C - 1
    pool = min(data.K_quadrant if quadrants else data.K, patterns - 1) if others else 0
    distances = {}
    if data.neighbor_function != "Nearest":
        distances = {"min_distance": data.min_neighbor_distance, "max_distance": data.max_neighbor_distance}
    values: dict[str, dict[str, Any]] = {
        "data": {
            "group_size": data.C,
            "neighbours": _RULES.get(data.neighbor_function, data.neighbor_function),
            "pool": None if pool <= others else pool,
            "oversampling": data.n_subsample if pool > others else 1,
            "x_bounds": tuple(data.x_bounds),
            "y_bounds": tuple(data.y_bounds),
            **distances,
        },
        "model": {"learn_scale": model.intensity_scale_trainable},
        "training": {
            "epochs": training.epochs,
            "batch_size": training.batch_size,
            "learning_rate": training.learning_rate,
            "accumulate": training.accum_steps,
            "schedule": _SCHEDULES.get(training.scheduler, training.scheduler),
            "warmup": min(training.warmup_epochs / training.epochs, 0.99) or 0.02,
            "loss": _LOSSES.get(model.loss_function, model.loss_function) if training.nll else "amplitude",
            "supervised": model.mode == "Supervised",
        },
        "inference": {"weighting": inference.patch_weighting},
        "execution": {
            # The default of ptychodus is cuda, also where there is none: then it runs on the CPU.
            "accelerator": "cpu" if training.device == "cpu" else "auto",
            "devices": training.n_devices,
            "workers": 0,
            "picture_every": None,
        },
    }
    if training.gradient_clip_val is not None:
        values["training"]["gradient_clip"] = training.gradient_clip_val
    return Config.from_dict(values)


def tell_what_has_no_effect(*settings: Any) -> None:
    """Name all settings that differ from their defaults and have no effect here, in one line of the log."""
    changed = [
        f"{entry.name} = {getattr(part, entry.name)!r}"
        for part in settings
        for entry in dataclasses.fields(part)
        if entry.name not in _USED and getattr(part, entry.name) != entry.default
    ]
    if changed:
        _log.warning("without effect in ptychopinn: %s", ", ".join(changed))
