# SPDX-License-Identifier: BSD-3-Clause
"""The configuration: typed sections, validated where they are made; the same names in Python, YAML and on the shell.

Each section says what its fields mean and refuses what cannot work, naming the field as ``section.field``. The resolved
configuration is written beside every run and into every bundle; nothing reads a setting from anywhere else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from ptychopinn.errors import InputError

SCHEDULES = ("cosine", "exponential", "plateau", "constant")


@dataclass(frozen=True)
class DataConfig:
    """How a scan is read and grouped.

    Args:
        group_size: patterns C that are reconstructed together on one canvas.
        pool: nearest neighbours from which a group's other members are drawn anew in every epoch; none: the nearest.
        validation_fraction: share of the scan whose groups are kept out of training to measure the loss on.
    """

    group_size: int = 16
    pool: int | None = None
    validation_fraction: float = 0.05

    def __post_init__(self) -> None:
        _require(self.group_size >= 1, "data.group_size", "be at least 1", self.group_size)
        smallest = self.group_size - 1
        _require(self.pool is None or self.pool >= smallest, "data.pool", f"be at least {smallest}", self.pool)
        _require(
            0 <= self.validation_fraction < 1, "data.validation_fraction", "be in [0, 1)", self.validation_fraction
        )


@dataclass(frozen=True)
class ModelConfig:
    """The network and what of the physics is learned with it.

    Args:
        generator: name in the registry: "unrolled", "unet" or "cnn" (the predecessor's).
        options: the generator's own arguments, for example ``{"steps": 6}``.
        learn_probe: refine the probe, all its modes, during training.
        learn_scale: refine the global intensity scale during training.
        learn_positions: refine the scan positions during training.
    """

    generator: str = "unrolled"
    options: dict[str, Any] = field(default_factory=dict)
    learn_probe: bool = True
    learn_scale: bool = False
    learn_positions: bool = False


@dataclass(frozen=True)
class TrainingConfig:
    """How the network is trained.

    Args:
        epochs: passes that show every pattern about once (at least 8 batches each).
        minutes: stop after so many minutes at the latest, a falling schedule at its end by then; none: no limit.
        batch_size: groups in a batch; none: as many as show 16 patterns.
        accumulate: batches whose gradients make one step.
        learning_rate: peak learning rate of the network.
        probe_step: step of the probe and the intensity scale where they are learned, 1 being a full Newton-like step.
        position_step: learning rate of the positions where they are learned, pixels.
        schedule: of all rates after the warm-up: "cosine" (to zero), "exponential" (to 1 %), "plateau" (halved when the
            loss does not fall) or "constant".
        patience: epochs without a lower loss that are waited through before a plateau is one.
        warmup: fraction of the training in which the rates rise.
        loss: "poisson" (likelihood) or "amplitude".
        total_variation: weight of the object's total variation, in nats per detector pixel.
        supervised: train on the scan's truth instead of its patterns; the network alone, not the physics.
        gradient_clip: largest gradient norm of the network.
        average: decay of an exponential moving average of the weights that is saved in their place; none: no average.
        seed: of initialisation, grouping and shuffling.
    """

    epochs: int = 40
    minutes: float | None = None
    batch_size: int | None = None
    accumulate: int = 1
    learning_rate: float = 2e-3
    probe_step: float = 0.1
    position_step: float = 0.02
    schedule: str = "cosine"
    patience: int = 5
    warmup: float = 0.02
    loss: str = "poisson"
    total_variation: float = 0.0
    supervised: bool = False
    gradient_clip: float = 0.1
    average: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _require(self.epochs >= 1, "training.epochs", "be at least 1", self.epochs)
        _require(self.minutes is None or self.minutes > 0, "training.minutes", "be positive", self.minutes)
        size = self.batch_size
        _require(size is None or size >= 1, "training.batch_size", "be at least 1", size)
        for name in ("learning_rate", "probe_step", "position_step"):
            rate = getattr(self, name)
            _require(0 < rate < math.inf, f"training.{name}", "be positive", rate)
        for name in ("accumulate", "patience"):
            number = getattr(self, name)
            _require(number >= 1, f"training.{name}", "be at least 1", number)
        _require(self.schedule in SCHEDULES, "training.schedule", f"be one of {', '.join(SCHEDULES)}", self.schedule)
        _require(0 <= self.warmup < 1, "training.warmup", "be in [0, 1)", self.warmup)
        _require(self.loss in ("poisson", "amplitude"), "training.loss", "be poisson or amplitude", self.loss)
        variation = self.total_variation
        _require(0 <= variation < math.inf, "training.total_variation", "be at least 0", variation)
        decay = self.average
        _require(decay is None or 0 < decay < 1, "training.average", "be between 0 and 1", decay)
        _require(self.gradient_clip > 0, "training.gradient_clip", "be positive", self.gradient_clip)
        _require(0 <= self.seed < 2**32, "training.seed", "be in [0, 2^32)", self.seed)


@dataclass(frozen=True)
class InferenceConfig:
    """How a trained model is applied to a scan.

    Args:
        batch_size: groups in a batch.
        group_size: patterns of a group; none: as in training.
        coverage: take so few groups that every pattern leads one or appears this often; none: every pattern leads one.
        synchronise: remove the free phase of every group before averaging (see docs/maths.md).
        probe: "scan" uses the scan's probe, "model" the model's (in the scan's power), "auto" the model's if learned.
        positions: "auto" uses the refined positions of the scan that they were learned on, "scan" never.
        augment: predict in so many of the 8 orientations of the scan (1, 2, 4 or 8) and average.
        uncertainty: add a map of the standard deviation: over "overlaps" (all predictions of a pixel), over the
            "ensemble" (models and orientations), or "none".
    """

    batch_size: int = 16
    group_size: int | None = None
    coverage: int | None = 2
    synchronise: bool = True
    probe: str = "auto"
    positions: str = "auto"
    augment: int = 1
    uncertainty: str = "none"

    def __post_init__(self) -> None:
        _require(self.batch_size >= 1, "inference.batch_size", "be at least 1", self.batch_size)
        size = self.group_size
        _require(size is None or size >= 1, "inference.group_size", "be at least 1", size)
        _require(self.coverage is None or self.coverage >= 1, "inference.coverage", "be at least 1", self.coverage)
        _require(self.probe in ("auto", "scan", "model"), "inference.probe", "be auto, scan or model", self.probe)
        _require(self.positions in ("auto", "scan"), "inference.positions", "be auto or scan", self.positions)
        _require(self.augment in (1, 2, 4, 8), "inference.augment", "be 1, 2, 4 or 8", self.augment)
        known = ("none", "overlaps", "ensemble")
        _require(self.uncertainty in known, "inference.uncertainty", f"be {', '.join(known)}", self.uncertainty)


@dataclass(frozen=True)
class RefineConfig:
    """How a reconstruction is refined against the counts; see docs/refinement.md.

    Args:
        engine: "lbfgs" (quasi-Newton on all patterns) or "pie" (a step after every batch).
        iterations: passes over the scan at most; it ends by itself when the likelihood does not improve any more.
        minutes: stop after so many minutes at the latest; none: no limit.
        tolerance: relative improvement over ten passes (over thirty where positions are refined) below which it ends.
        warmup: passes of "pie" before "lbfgs" when it starts from scratch.
        loss: "poisson" (likelihood) or "amplitude".
        interpolation: between pixels: "fourier" (shifts the probe, exact) or "bilinear" (of the object, faster).
        modes: incoherent probe modes; none: as many as the start has.
        learn_probe: refine the probe.
        learn_positions: refine the scan positions.
        learn_intensities: refine the intensity of every pattern.
        find_defocus: seek the probe's defocus, with the aperture of the mean pattern, before anything else; "auto": if
            positions are refined and the probe is the scan's.
        affine: what becomes of a common shift, scale, rotation and shear of the positions: "remove" or "keep".
        search: pixels about their reported positions in which badly fitting patterns are sought, where positions are
            refined; 0: not at all.
        centre_probe: keep the probe's centre of mass where the start had it.
        keep_power: keep the probe's power as the start had it; what is missing goes to the object.
        total_variation: weight of the object's total variation, in nats per detector pixel.
        smoothness: weight of the object's mean square gradient, in nats per detector pixel.
        batch_size: patterns of a batch.
        history: steps that "lbfgs" remembers.
        object_step: step of the object in "pie", 1 being a full one.
        probe_step: step of the probe in "pie".
        momentum: of the object in "pie".
        split_half: estimate the resolution from two independent halves of the scan; takes as long again.
        seed: of the batches and the halves.
    """

    engine: str = "lbfgs"
    iterations: int = 200
    minutes: float | None = None
    tolerance: float = 2e-3
    warmup: int = 5
    loss: str = "poisson"
    interpolation: str = "fourier"
    modes: int | None = None
    learn_probe: bool = True
    learn_positions: bool = False
    learn_intensities: bool = False
    find_defocus: bool | Literal["auto"] = "auto"
    affine: str = "remove"
    search: int = 10
    centre_probe: bool = True
    keep_power: bool = True
    total_variation: float = 0.3
    smoothness: float = 0.0
    batch_size: int = 48
    history: int = 20
    object_step: float = 1.0
    probe_step: float = 0.3
    momentum: float = 0.5
    split_half: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (
            ("engine", ("lbfgs", "pie")),
            ("loss", ("poisson", "amplitude")),
            ("interpolation", ("fourier", "bilinear")),
            ("affine", ("remove", "keep")),
        ):
            value = getattr(self, name)
            _require(value in known, f"refine.{name}", f"be {' or '.join(known)}", value)
        for name in ("iterations", "batch_size", "history"):
            _require(getattr(self, name) >= 1, f"refine.{name}", "be at least 1", getattr(self, name))
        _require(self.minutes is None or self.minutes > 0, "refine.minutes", "be positive", self.minutes)
        _require(
            self.find_defocus in (True, False, "auto"),
            "refine.find_defocus",
            "be true, false or auto",
            self.find_defocus,
        )
        _require(self.modes is None or self.modes >= 1, "refine.modes", "be at least 1", self.modes)
        for name in ("tolerance", "warmup", "search", "total_variation", "smoothness"):
            value = getattr(self, name)
            _require(0 <= value < math.inf, f"refine.{name}", "be at least 0", value)
        for name in ("object_step", "probe_step"):
            value = getattr(self, name)
            _require(0 < value <= 2, f"refine.{name}", "be above 0 and at most 2", value)
        _require(0 <= self.momentum < 1, "refine.momentum", "be in [0, 1)", self.momentum)
        _require(0 <= self.seed < 2**32, "refine.seed", "be in [0, 2^32)", self.seed)


@dataclass(frozen=True)
class ExecutionConfig:
    """Where and how it runs; changes speed, and results by rounding only.

    Args:
        accelerator: "cpu", "gpu", or "auto": a GPU if torch and the operators can use one.
        devices: "auto", which is one, or as many as torchrun has started processes on this node; or "1," for GPU 1.
        deterministic: use deterministic algorithms only; the same seed then gives the same result, bit for bit.
        precision: of the network: "32", or "bf16" or "16" where the device is faster in it; the physics stays at 32.
        threads: CPU threads; none: torch's default.
        workers: processes that prepare batches; 0: in the main process.
        progress: show a progress bar on a terminal, a line per epoch elsewhere.
    """

    accelerator: str = "auto"
    devices: int | str = "auto"
    deterministic: bool = False
    precision: str = "32"
    threads: int | None = None
    workers: int = 0
    progress: bool = True

    def __post_init__(self) -> None:
        _require(self.threads is None or self.threads >= 1, "execution.threads", "be at least 1", self.threads)
        _require(self.precision in ("32", "bf16", "16"), "execution.precision", "be 32, bf16 or 16", self.precision)
        _require(self.workers >= 0, "execution.workers", "be at least 0", self.workers)


@dataclass(frozen=True)
class Config:
    """All sections. ``Config()`` is the default configuration.

    Example:
        >>> config = Config.from_dict({"training": {"epochs": 10}})
        >>> config.training.epochs, config.data.group_size
        (10, 16)
        >>> Config.from_dict(config.to_dict()) == config
        True
    """

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)

    def to_dict(self) -> dict[str, Any]:
        """Nested plain types, as written to YAML and JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Config:
        """The inverse of :meth:`to_dict`; sections and fields may be missing.

        Raises:
            InputError: an unknown section or field, or a value that a section refuses.
        """
        sections = {entry.name: entry.default_factory for entry in fields(cls)}
        _known("configuration", values, sections)
        made = {}
        for name, section in sections.items():
            given = values.get(name, {})
            _known(name, given, {entry.name for entry in fields(section)})  # type: ignore[arg-type]
            try:
                made[name] = section(**given)  # type: ignore[misc, operator]
            except TypeError as error:  # a value that cannot be compared, such as text for a number
                raise InputError(f"{name}: a value has the wrong type: {error}") from None
        return cls(**made)


def _known(where: str, values: Any, names: Any) -> None:
    if not isinstance(values, Mapping):
        raise InputError(f"{where} must be a mapping of names to values, got {values!r}")
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise InputError(f"{where} has no {', '.join(map(repr, unknown))}; known are {', '.join(sorted(names))}")


def _require(ok: bool, name: str, rule: str, value: object) -> None:
    if not ok:
        raise InputError(f"{name} must {rule}, got {value!r}")
