# SPDX-License-Identifier: BSD-3-Clause
"""Where the time of training and reconstruction goes: clocks on functions of the library, on epochs, and on a GPU.

A clock waits for the device before it is read, so that work is counted where it was started.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import lightning as L
import torch

#: Parts of a reconstruction, and the functions of the library that do them; none is inside another.
PARTS: dict[str, tuple[str, ...]] = {
    "group": ("ptychopinn.inference.predict.groups_to_predict",),
    "predict": ("ptychopinn.inference.predict.predict_into",),
    "overlap products": (
        "ptychopinn.stitching.phases.overlap_products",
        "ptychopinn.stitching.phases.overlap_products_on_device",
    ),
    "phases": ("ptychopinn.stitching.phases.agreeing_phases",),
    "mosaic": (
        "ptychopinn.stitching.accumulator.Accumulator.add",
        "ptychopinn.stitching.accumulator.Accumulator.mean",
    ),
}


def now(device: torch.device) -> float:
    """Seconds of the wall clock, when the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def owner(path: str) -> tuple[Any, str]:
    """The module or class that a dotted name is an attribute of, and the attribute."""
    words = path.split(".")
    place: Any = None
    for end in range(1, len(words)):
        try:
            place = importlib.import_module(".".join(words[:end]))
        except ModuleNotFoundError:
            place = getattr(place, words[end - 1])
    getattr(place, words[-1])
    return place, words[-1]


@contextmanager
def timed_parts(device: torch.device) -> Iterator[dict[str, float]]:
    """Seconds spent in each of :data:`PARTS`, complete after the block."""
    seconds = dict.fromkeys(PARTS, 0.0)

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            began = now(device)
            try:
                return function(*args, **kwargs)
            finally:
                seconds[name] += now(device) - began

        return call

    with ExitStack() as stack:
        for name, paths in PARTS.items():
            for place, attribute in map(owner, paths):
                stack.enter_context(mock.patch.object(place, attribute, watched(name, getattr(place, attribute))))
        yield seconds


class Epochs(L.Callback):
    """When a training began its first epoch, and ended each."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.began = 0.0
        self.ends: list[float] = []
        self.steps: list[int] = []

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.began = self.began or now(self.device)

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.ends.append(now(self.device))
        self.steps.append(trainer.global_step)

    def durations(self) -> list[float]:
        """Seconds of each epoch, with its validation from the second on."""
        return [end - begin for begin, end in zip([self.began, *self.ends], self.ends, strict=False)]


def union(spans: Sequence[tuple[float, float]]) -> float:
    """Length of the union of intervals (begin, end)."""
    total, last = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, last))
        last = max(last, end)
    return total


def busy_fraction(work: Callable[[], object], device: torch.device) -> float | None:
    """Part of the wall time of some work in which the GPU runs kernels or copies, by torch's profiler; None: no GPU.

    The profiler slows the host, so that the share is rather too low.
    """
    if device.type != "cuda":
        return None
    from torch.autograd import DeviceType

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        began = now(device)
        work()
        wall = now(device) - began
    spans = [(e.time_range.start, e.time_range.end) for e in profile.events() if e.device_type == DeviceType.CUDA]
    return union(spans) * 1e-6 / wall
