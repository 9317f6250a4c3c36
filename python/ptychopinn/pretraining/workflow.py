# SPDX-License-Identifier: BSD-3-Clause
"""The training of the network in the package: by the clock, on random scans, with a state that can be resumed.

Adam with a linear warm-up and a cosine over the time, and an exponential average of the weights, which is what is
saved. Batches are made by a thread while the last one is trained on. The result is a bundle, and a JSON file of the
facts that the bundle has too: seed, time, loss, ranges of the scans, version and scores.
"""

from __future__ import annotations

import json
import logging
import math
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ptycho_ext import __version__
from ptychopinn._one_line import one_line
from ptychopinn.config import Config
from ptychopinn.errors import InputError, not_found
from ptychopinn.inference.predict import reconstruct
from ptychopinn.metrics.evaluate import evaluate
from ptychopinn.models import PtychoModel
from ptychopinn.persistence.bundle import build_model, save_bundle
from ptychopinn.persistence.checkpoint import save_tensors
from ptychopinn.pretraining.losses import LOSSES
from ptychopinn.pretraining.scans import RandomBatch, RandomBatches, Ranges, random_scan
from ptychopinn.runtime.devices import resolve_device
from ptychopinn.runtime.process_settings import process_settings
from ptychopinn.storage.atomic import write_text

_log = logging.getLogger(__name__)

#: Batches that are made ahead.
_AHEAD = 4
#: Size of the patterns of the bundle's own probe, which is not used: the smallest that generators take.
_SIZE = 32
#: First seed of the scans for the scores, and their number; patterns and size of each.
_SCORED, _SCANS, _PATTERNS, _PATCH = 1_000_000, 8, 225, 64
#: Seconds between two lines of the log.
_LOGGED = 30.0
#: Steps after which the average of the weights has its full memory: until then it is shorter.
_AVERAGE_BEGINS = 10


@dataclass(frozen=True)
class PretrainingOptions:
    """How the network is trained.

    Args:
        minutes: of the training, with those before it was resumed.
        steps: number of steps in place of a time: with as many threads of one machine the weights are then the same.
        seed: of weights and scans.
        loss: a key of :data:`ptychopinn.pretraining.losses.LOSSES`.
        learning_rate: its peak.
        warmup: fraction of the time in which it rises.
        average: decay of the exponential average of the weights.
        gradient_clip: largest norm of the gradient.
        patterns: of a batch, about.
        model: options of the default generator.
        ranges: what the scans are drawn from.
    """

    minutes: float = 60.0
    steps: int | None = None
    seed: int = 0
    loss: str = "floor and supervised"
    learning_rate: float = 2e-3
    warmup: float = 0.02
    average: float = 0.998
    gradient_clip: float = 1.0
    patterns: int = 16
    model: dict[str, Any] = field(default_factory=dict)
    ranges: Ranges = field(default_factory=Ranges)

    __repr__ = one_line

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise InputError(f"loss must be one of {', '.join(LOSSES)}, got {self.loss!r}")
        for name in ("minutes", "learning_rate", "gradient_clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("warmup", "average"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        for name in ("patterns", "steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")

    def to_json(self) -> dict[str, Any]:
        """The options as JSON types."""
        return asdict(self) | {"ranges": self.ranges.to_json()}


def pretrain(
    options: PretrainingOptions,
    out: str | Path,
    *,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    save_minutes: float = 3.0,
    device: str | torch.device = "cpu",
) -> dict[str, Any]:
    """Train the default generator on random scans and write it as a bundle, with its facts beside it as JSON.

    Args:
        options: of the training.
        out: the bundle to write; the JSON file has the same name with the suffix .json.
        checkpoint: file of the state, written every few minutes and at Ctrl-C; None: none is kept.
        resume: continue from `checkpoint`.
        save_minutes: time between two states.
        device: of the training.

    Returns:
        The facts.

    Raises:
        InputError: the state to continue from is not found, or of other options than these; a file cannot be written.
        KeyboardInterrupt: Ctrl-C; the state is saved.
    """
    out = Path(out)
    state = Path(checkpoint) if checkpoint is not None else None
    if resume and state is None:
        raise InputError("resume: name the state to continue from with checkpoint (--checkpoint FILE)")
    config = Config.from_dict({"model": {"options": options.model, "learn_probe": False}})
    with process_settings(config.execution, seed=options.seed):
        training = Training(options, config, resolve_device(device))
        if resume and state is not None:
            training.load(state)
        try:
            training.run(state, 60 * save_minutes)
        except KeyboardInterrupt:
            if state is not None:
                training.save(state)
            raise
        if state is not None:
            training.save(state)
        model = training.averaged()
        facts = training.facts() | {"scores": scores_of(model, config)}
    save_bundle(model, config, out, facts)
    write_text(out.with_suffix(".json"), json.dumps(facts, indent=1) + "\n")
    return facts


class Training:
    """The state of a training on random scans.

    Args:
        options: of the training.
        config: with the generator and its options.
        device: of the training.
    """

    def __init__(self, options: PretrainingOptions, config: Config, device: torch.device) -> None:
        self.options, self.config, self.device = options, config, device
        self.model = build_model(config, _SIZE, 1).to(device)
        generator = self.model.generator
        if generator.group_size is not None:
            raise InputError(
                f"model.generator: expected one for groups of any size, found {config.model.generator!r} for "
                f"{generator.group_size}; choose another"
            )
        self.average = {name: value.clone() for name, value in generator.state_dict().items()}
        self.optimiser = torch.optim.Adam(generator.parameters(), options.learning_rate)
        self.batches = RandomBatches(
            options.seed, options.ranges, patterns=options.patterns, canvas_multiple=generator.canvas_multiple
        )
        self.step, self.seconds, self.seen, self.skipped = 0, 0.0, 0, 0

    def run(self, state: Path | None = None, save_seconds: float = 180.0) -> None:
        """Train until the time is over; the state is saved every so many seconds."""
        began = time.perf_counter() - self.seconds
        saved = logged = self.seconds
        recent: list[Tensor] = []
        with made_ahead(self.batches, self.step) as batches:
            for batch in batches:
                self.seconds = time.perf_counter() - began
                progress = self.progress()
                if progress >= 1:
                    break
                recent.append(self.train(batch.to(self.device), progress))
                if self.seconds - logged > _LOGGED:
                    value = float(torch.stack(recent).mean())
                    _log.info(
                        "%.0f %%, %.1f minutes, step %d, %.0f ms a step, loss %.4f",
                        100 * progress, self.seconds / 60, self.step,
                        1e3 * (self.seconds - logged) / len(recent), value,
                    )  # fmt: skip
                    recent, logged = [], self.seconds
                if state is not None and self.seconds - saved > save_seconds:
                    self.save(state)
                    saved = self.seconds

    def progress(self) -> float:
        """Fraction of the steps, if their number is stated, or of the time that is over."""
        if self.options.steps is not None:
            return self.step / self.options.steps
        return self.seconds / (60 * self.options.minutes)

    def train(self, batch: RandomBatch, progress: float) -> Tensor:
        """One step; returns the loss. A batch whose gradient is not finite is skipped."""
        rise = min(1.0, (progress + 1e-4) / (self.options.warmup + 1e-4))
        rate = self.options.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        canvases = self.model.generator(batch.counts, batch.positions, batch.canvas_size, batch.probe)
        loss = LOSSES[self.options.loss](canvases, batch)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.generator.parameters(), self.options.gradient_clip)
        self.step += 1
        self.seen += batch.counts.shape[0] * batch.counts.shape[1]
        if not bool(torch.isfinite(norm)):
            self.skipped += 1
            return torch.zeros_like(loss.detach())
        self.optimiser.step()
        decay = min(self.options.average, (self.step + 1) / (self.step + _AVERAGE_BEGINS))
        with torch.no_grad():
            for name, value in self.model.generator.state_dict().items():
                self.average[name].lerp_(value, 1 - decay)
        return loss.detach()

    def averaged(self) -> PtychoModel:
        """The model with the average of the weights, on the CPU and in evaluation mode."""
        model = build_model(self.config, _SIZE, 1)
        model.generator.load_state_dict(self.average)
        return model.eval()

    def facts(self) -> dict[str, Any]:
        """How the network was made, as JSON types."""
        return {
            "generator": self.config.model.generator,
            "options": self.config.model.options,
            "seed": self.options.seed,
            "minutes": self.options.minutes,
            "seconds": round(self.seconds, 1),
            "steps": self.step,
            "patterns": self.seen,
            "skipped": self.skipped,
            "loss": self.options.loss,
            "ranges": self.options.ranges.to_json(),
            "training": {
                name: getattr(self.options, name)
                for name in ("learning_rate", "warmup", "average", "gradient_clip", "patterns")
            },
            "version": __version__,
            "torch": str(torch.__version__),
            "device": self.device.type,
        }

    def save(self, path: Path) -> None:
        """Write the state."""
        values = {
            "options": json.dumps(_lasting(self.options)),
            "network": self.model.generator.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "seen": self.seen,
            "skipped": self.skipped,
        }
        save_tensors(path, values)

    def load(self, path: Path) -> None:
        """Continue from a state.

        Raises:
            InputError: it is not found, damaged, or of other options (of which the time or the steps alone may differ).
        """
        if not path.exists():
            raise not_found(path)
        try:
            values = torch.load(path, map_location=self.device, weights_only=True)
            options = json.loads(values["options"])
        except (RuntimeError, KeyError, TypeError, EOFError, OSError, ValueError, UnpicklingError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{path}: expected the state of a training on random scans, found another or damaged file: {reason}; "
                "begin again without --resume"
            ) from None
        expected = json.loads(json.dumps(_lasting(self.options)))
        different = sorted(name for name in expected if options.get(name) != expected[name])
        if different:
            name = different[0]
            raise InputError(
                f"{path}: expected a state with {name} {expected[name]}, found {options.get(name)}; resume with the "
                "options that it was begun with, or begin again without --resume"
            )
        self.model.generator.load_state_dict(values["network"])
        self.average = {name: value.to(self.device) for name, value in values["average"].items()}
        self.optimiser.load_state_dict(values["optimiser"])
        for name in ("step", "seconds", "seen", "skipped"):
            setattr(self, name, values[name])


def scores_of(model: PtychoModel, config: Config) -> dict[str, Any]:
    """Scores of random scans of seeds that are not trained on, at 10^6 photons.

    Mean Fourier ring correlations, and the correlation of the phase, which a constant image has 0 of. The slow phase is
    what an untrained network lacks.
    """
    found, phases = [], []
    for seed in range(_SCORED, _SCORED + _SCANS):
        scan = random_scan(seed, _PATTERNS, _PATCH, photons=1e6)
        applied = build_model(config, scan.patch_size, scan.modes)
        applied.generator.load_state_dict(model.generator.state_dict())
        applied.illumination.set_probe(torch.from_numpy(scan.probe))
        result = reconstruct(applied, scan, config, "cpu", accept="all")
        scores = evaluate(result, scan)
        found.append(scores["frc"]["mean"])
        phases.append(scores["phase"]["pearson"])
    known = [value for value in found if value is not None]
    return {
        "scans": f"random, seeds {_SCORED} to {_SCORED + _SCANS - 1}, {_PATTERNS} patterns of {_PATCH} px",
        "frc": [round(float(value), 4) for value in known],
        "median_frc": round(float(np.median(known)), 4),
        "lowest_frc": round(float(np.min(known)), 4),
        "median_phase_correlation": round(float(np.median([value for value in phases if value is not None])), 4),
    }


@contextmanager
def made_ahead(batches: RandomBatches, first: int) -> Iterator[Iterator[RandomBatch]]:
    """Batches from number `first` on, without end, which a thread makes while the last ones are used."""
    ready: queue.Queue[RandomBatch | BaseException] = queue.Queue(_AHEAD)
    ended = threading.Event()

    def offer(item: RandomBatch | BaseException) -> None:
        while not ended.is_set():
            try:
                return ready.put(item, timeout=0.2)
            except queue.Full:
                continue

    def make() -> None:
        try:
            number = first
            while not ended.is_set():
                offer(batches.batch(number))
                number += 1
        except BaseException as error:
            offer(error)

    def take() -> Iterator[RandomBatch]:
        while True:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item

    thread = threading.Thread(target=make, name="random batches", daemon=True)
    thread.start()
    try:
        yield take()
    finally:
        ended.set()
        thread.join()


def _lasting(options: PretrainingOptions) -> dict[str, Any]:
    """The options that a training keeps when it is resumed."""
    values = asdict(options)
    del values["minutes"], values["steps"]
    return values
