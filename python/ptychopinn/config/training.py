# SPDX-License-Identifier: BSD-3-Clause
"""Sections ``data``, ``model`` and ``training`` of the configuration."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from ptychopinn._one_line import one_line
from ptychopinn.config.checks import check_fields, require


@dataclass(frozen=True)
class DataConfig:
    """Grouping of a scan, and the patterns held out for validation.

    Args:
        group_size: patterns C that are reconstructed together on one canvas.
        neighbours: rule for a group's other members: "nearest", or "quadrants" (from each of the four around the first
            in turn).
        pool: nearest neighbours K from which they are drawn again in every epoch; none: the nearest ones, always.
        min_distance: smallest distance of neighbours, pixels.
        max_distance: largest distance of neighbours, pixels; none: no limit.
        oversampling: groups that every pattern may lead in an epoch, all different (at most K choose C - 1).
        largest_canvas: largest side of a group's canvas, pixels; a larger group is an error; none: 8 times that of a
            pattern.
        y_bounds: fractions of the scanned extent along y within which patterns lead groups in training.
        x_bounds: the same along x.
        validation_fraction: fraction of the patterns whose groups are kept out of training to measure the loss on.
        validation: which those are: "scattered" over the scan (their groups share patterns with training), or a
            "region" of their own, of which training sees nothing.
    """

    group_size: int = 16
    neighbours: Literal["nearest", "quadrants"] = "nearest"
    pool: int | None = None
    min_distance: float = 0.0
    max_distance: float | None = None
    oversampling: int = 1
    largest_canvas: int | None = None
    y_bounds: tuple[float, float] = (0.0, 1.0)
    x_bounds: tuple[float, float] = (0.0, 1.0)
    validation_fraction: float = 0.05
    validation: Literal["scattered", "region"] = "scattered"

    __repr__ = one_line

    def __post_init__(self) -> None:
        check_fields(self, "data")
        require(self.group_size >= 1, "data.group_size", "be at least 1", self.group_size)
        smallest = self.group_size - 1
        require(self.pool is None or self.pool >= smallest, "data.pool", f"be at least {smallest}", self.pool)
        low, high = self.min_distance, self.max_distance
        require(0 <= low < math.inf, "data.min_distance", "be at least 0", low)
        require(high is None or high > low, "data.max_distance", f"be above data.min_distance ({low})", high)
        require(self.oversampling >= 1, "data.oversampling", "be at least 1", self.oversampling)
        side = self.largest_canvas
        require(side is None or side >= 1, "data.largest_canvas", "be at least 1", side)
        for name in ("y_bounds", "x_bounds"):
            bounds = tuple(getattr(self, name))  # a list, where it comes from a file
            object.__setattr__(self, name, bounds)
            real = all(isinstance(bound, (int, float)) for bound in bounds)
            fits = real and len(bounds) == 2 and 0 <= bounds[0] < bounds[1] <= 1
            require(fits, f"data.{name}", "be two fractions, 0 <= low < high <= 1", bounds)
        require(0 <= self.validation_fraction < 1, "data.validation_fraction", "be in [0, 1)", self.validation_fraction)


@dataclass(frozen=True)
class ModelConfig:
    """The network, and the physical parameters that are learned with it.

    Args:
        generator: name in the registry: "unrolled", "ffno", "sru_net", "unet" or "cnn" (the predecessor's).
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

    __repr__ = one_line

    def __post_init__(self) -> None:
        check_fields(self, "model")


@dataclass(frozen=True)
class TrainingConfig:
    """Training of the network.

    Args:
        epochs: passes that show every pattern about once (at least 8 batches each).
        minutes: time limit in minutes, which a falling schedule takes into account; none: no limit.
        stop: end before that by "quality", where the held-out loss is near the noise floor or, without a time limit,
            has ceased to fall; or "never".
        stop_ratio: held-out loss over the noise floor of the photon statistics that is near enough.
        batch_size: groups in a batch, of all processes together; none: as many as show 16 patterns, on a GPU 64 (of
            64 px; fewer of larger ones), for each process, with the learning rate times the root of what that is more.
        accumulate: number of batches whose gradients are summed for one step.
        learning_rate: peak learning rate of the network; none: 0.002, from the pretrained network 0.008.
        probe_step: step of the probe and the intensity scale where they are learned, 1 being a full Newton-like step.
        position_step: learning rate of the positions where they are learned, pixels.
        schedule: of all rates after the warm-up: "cosine" (to zero), "exponential" (to 1 %), "plateau" (halved when the
            loss does not fall) or "constant".
        patience: number of epochs without a lower loss before "plateau" reduces the rates.
        warmup: fraction of the training in which the rates rise.
        loss: "poisson" (likelihood) or "amplitude".
        merge: neighbouring groups of a batch whose predictions are averaged to one image, which must explain all their
            patterns (docs/maths.md); 1: every group by itself; none: 12 for groups of one pattern, else 1.
        merge_pool: nearest patterns from which the leaders of those groups are drawn, of those within 0.7 diameters of
            the probe.
        merge_own: weight of every group's own loss, relative to that of the average.
        merge_synchronise: remove the free phase of every group before averaging.
        total_variation: weight of the object's total variation, in nats per detector pixel, or per count where there is
            less than one count in a pixel on average; 0: none.
        supervised: train on the scan's truth instead of its patterns; the network alone, not the physics.
        gradient_clip: largest gradient norm of the network.
        average: decay of an exponential moving average of the weights that is saved in their place; none: no average.
        seed: of initialisation, grouping and shuffling.
        start: what to begin with if no other run is stated: the network in the package ("pretrained", for the default
            network only), an untrained one ("nothing"), or "auto", whichever gave the better image in measurements.
    """

    epochs: int = 40
    minutes: float | None = None
    stop: Literal["quality", "never"] = "quality"
    stop_ratio: float = 1.05
    batch_size: int | None = None
    accumulate: int = 1
    learning_rate: float | None = None
    probe_step: float = 0.1
    position_step: float = 0.1
    schedule: Literal["cosine", "exponential", "plateau", "constant"] = "cosine"
    patience: int = 5
    warmup: float = 0.02
    loss: Literal["poisson", "amplitude"] = "poisson"
    merge: int | None = None
    merge_pool: int = 100
    merge_own: float = 0.0
    merge_synchronise: bool = True
    total_variation: float = 0.1
    supervised: bool = False
    gradient_clip: float = 0.1
    average: float | None = None
    seed: int = 0
    start: Literal["auto", "pretrained", "nothing"] = "auto"

    __repr__ = one_line

    def __post_init__(self) -> None:
        check_fields(self, "training")
        require(self.epochs >= 1, "training.epochs", "be at least 1", self.epochs)
        require(self.minutes is None or self.minutes > 0, "training.minutes", "be positive", self.minutes)
        require(0 < self.stop_ratio < math.inf, "training.stop_ratio", "be positive", self.stop_ratio)
        size = self.batch_size
        require(size is None or size >= 1, "training.batch_size", "be at least 1", size)
        for name in ("learning_rate", "probe_step", "position_step"):
            rate = getattr(self, name)
            require(rate is None or 0 < rate < math.inf, f"training.{name}", "be positive", rate)
        for name in ("accumulate", "patience"):
            number = getattr(self, name)
            require(number >= 1, f"training.{name}", "be at least 1", number)
        require(0 <= self.warmup < 1, "training.warmup", "be in [0, 1)", self.warmup)
        require(self.merge is None or self.merge >= 1, "training.merge", "be at least 1", self.merge)
        require(self.merge_pool >= 1, "training.merge_pool", "be at least 1", self.merge_pool)
        require(0 <= self.merge_own < math.inf, "training.merge_own", "be at least 0", self.merge_own)
        variation = self.total_variation
        require(0 <= variation < math.inf, "training.total_variation", "be at least 0", variation)
        decay = self.average
        require(decay is None or 0 < decay < 1, "training.average", "be between 0 and 1", decay)
        require(self.gradient_clip > 0, "training.gradient_clip", "be positive", self.gradient_clip)
        require(0 <= self.seed < 2**32, "training.seed", "be in [0, 2^32)", self.seed)
