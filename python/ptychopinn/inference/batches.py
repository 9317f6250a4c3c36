# SPDX-License-Identifier: BSD-3-Clause
"""The groups of a scan, predicted batch by batch on a device.

On a GPU all batches have one shape (the last is filled up by repeating groups), so that the work of a batch is captured
once and replayed. The counts of the scan are on the GPU in the file's integer type where they fit half of its free
memory, and a batch is then gathered there; of larger scans the next batch is copied while one is computed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ptychopinn.batches.dataset import Gathered, GroupDataset, finished, gathering
from ptychopinn.batches.resident import ResidentCounts, fits_on
from ptychopinn.batches.streaming import StreamedBatches
from ptychopinn.config import Config
from ptychopinn.inference.orientations import turn_back, turn_group
from ptychopinn.models import PtychoModel
from ptychopinn.physics.overlap import canvas_illumination, illumination_weight
from ptychopinn.physics.plain_inputs import PlainInputs
from ptychopinn.runtime.batching import BatchSize, fitting_batch
from ptychopinn.runtime.graphs import Captured
from ptychopinn.runtime.progress import progress
from ptychopinn.runtime.workers import check_workers
from ptychopinn.scan import Scan

#: Groups in a batch on a CPU, and patterns in one on a GPU beyond which it is no faster.
_ON_CPU, _PATTERNS = 16, 4096
#: Batches from which on capturing the work is quicker than launching it each time.
_CAPTURED = 8

#: Canvases and weights, (g, H, W), on a device.
Batch = tuple[Tensor, Tensor]


def on_device(model: PtychoModel, device: torch.device) -> PtychoModel:
    """A copy of a model for inference on a device; the model itself is left as it is.

    The weights of convolutions have their channels last, which is faster on the CPU and on GPUs.
    """
    made = copy.deepcopy(model).eval().requires_grad_(False)
    made.generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return made.to(device)


@torch.inference_mode()
def predict_batches(
    model: PtychoModel,
    dataset: GroupDataset,
    config: Config,
    device: torch.device,
    orientation: int,
    probe: Tensor,
    order: Sequence[int] | None = None,
    counts: ResidentCounts | None = None,
) -> Iterator[Batch]:
    """Canvases and weights of the groups, batch by batch in this order; use or copy them before the next.

    A batch that the memory of the device does not hold is halved, and so are all that follow.

    Args:
        model: on the device, in evaluation mode.
        dataset: the groups.
        config: sections ``inference`` and ``execution`` are used.
        device: of the computation and of the results.
        orientation: of the network's input, 0 to 7; the canvases are returned in that of the scan.
        probe: complex, (M, N, N).
        order: the groups to predict; None: all.
        counts: of the scan on the device, see :func:`counts_on`; None: they are read batch by batch.

    Raises:
        InputError: patterns could not be read.
        torch.OutOfMemoryError: not even a single group fits.
    """
    chosen = np.arange(len(dataset)) if order is None else np.asarray(order, np.int64)
    probe = probe.to(device)
    weight = group_weight(probe, config.inference.weighting)
    inputs = PlainInputs.of(dataset.scan.experiment, dataset.scan.probe, device, model.exposure_modes)
    if inputs is not None:
        probe = inputs.probe(probe)
    work = _Work(model, weight, probe, dataset.canvas_size, orientation, inputs)
    size = BatchSize(batch_groups(config, dataset, len(chosen), device, probe.shape[0]), "inference.batch_size")
    resident = None if counts is None else Resident(counts, dataset)
    done = 0
    with progress("reconstruct", len(chosen), "groups") as advance:
        while done < len(chosen):
            failure = None
            try:
                for batch in _batches(work, dataset, resident, chosen[done:], size.value, config, device):
                    yield batch
                    done += len(batch[0])
                    advance(len(batch[0]))
            except torch.OutOfMemoryError as error:
                failure = error.with_traceback(None)  # which would keep the tensors of the batch
            if failure is not None:
                size.halve(failure)


def batch_groups(config: Config, dataset: GroupDataset, count: int, device: torch.device, modes: int) -> int:
    """Groups in a batch: ``inference.batch_size``, or what suits the device, divided evenly over `count` groups."""
    if config.inference.batch_size is not None:
        return min(config.inference.batch_size, max(count, 1))
    if device.type != "cuda":
        return _ON_CPU
    members = dataset.groups.shape[1]
    pixels = members * dataset.scan.patch_size**2
    # Waves and fields of every mode, a few real images of every pattern, and some twenty channels on the canvas. Of
    # networks on patches, which need more, OutOfMemoryError tells.
    nbytes = pixels * (48 * modes + 32) + 256 * math.prod(dataset.canvas_size)
    largest = fitting_batch(device, nbytes, max(1, _PATTERNS // members))
    return math.ceil(count / math.ceil(count / largest)) if count else largest


def group_weight(probe: Tensor, rule: str) -> Tensor:
    """Contribution of a pattern to the weight of its group, real (N, N), by ``inference.weighting``."""
    weight = illumination_weight(probe)
    if rule == "probe":
        return weight
    size = probe.shape[-1]
    first, last = (size // 4, size // 4 + size // 2) if rule == "centre" else (0, size)
    weight = torch.zeros_like(weight)
    weight[..., first:last, first:last] = 1.0
    return weight


@dataclass(frozen=True)
class _Work:
    """What is computed of a batch: no value is read back, and shapes follow from those of the arguments."""

    model: PtychoModel
    weight: Tensor
    probe: Tensor
    canvas_size: tuple[int, int]
    orientation: int
    inputs: PlainInputs | None = None

    def __call__(self, counts: Tensor, positions: Tensor, members: Tensor) -> Batch:
        """Canvases and weights of counts, float32 (B, C, N, N) in FFT order, at positions (B, C, 2).

        ``members`` (B, C) are the indices of the patterns in the scan.
        """
        if self.inputs is not None:
            counts = self.inputs.counts(counts, members)
        turned = turn_group(counts, positions, self.canvas_size, self.probe, self.orientation)
        canvases = turn_back(self.model(*turned), self.orientation)
        return canvases, canvas_illumination(self.weight, positions, self.canvas_size)

    def gathered(self, parts: Sequence[Tensor], bad: Tensor | None) -> Batch:
        """The same of counts as they are in the file, positions, members, and values of bad pixels if there are any."""
        counts, positions, members, *fill = parts
        made = Gathered(counts, positions, members, self.canvas_size, members, fill=fill[0] if fill else None, bad=bad)
        return self(made.finish().counts, positions, members)


def counts_on(device: torch.device, scan: Scan) -> ResidentCounts | None:
    """The counts of a scan on a GPU; None: on the CPU, or where they take too much memory."""
    if device.type != "cuda" or not fits_on(device, [scan]):
        return None
    return ResidentCounts([scan], device)


class Resident:
    """The counts of a scan, and the positions of its groups, in the memory of a device.

    Args:
        counts: of the scan.
        dataset: the groups.
    """

    def __init__(self, counts: ResidentCounts, dataset: GroupDataset) -> None:
        device = counts.counts.device
        self.counts = counts
        self.members = torch.from_numpy(dataset.groups).to(device)
        positions = dataset.scan.positions[dataset.groups] - dataset.origins[:, None]
        self.positions = torch.from_numpy(positions).to(device)

    def gather(self, groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Counts, float32 (B, C, N, N) in FFT order, positions (B, C, 2) and members of groups, int64 (B,)."""
        members = self.members[groups]
        return self.counts(members), self.positions[groups], members


def _batches(
    work: _Work,
    dataset: GroupDataset,
    resident: Resident | None,
    order: np.ndarray,
    size: int,
    config: Config,
    device: torch.device,
) -> Iterator[Batch]:
    """Batches of `size` groups of this order."""
    if device.type != "cuda":
        for gathered in _read(dataset, order, size, config):
            batch = finished(gathered, device)
            yield work(batch.counts, batch.positions, batch.members)
        return
    size = min(size, len(order))
    captured: Captured[Batch]
    enabled = len(order) > _CAPTURED * size
    if resident is not None:
        groups = torch.from_numpy(np.resize(order, math.ceil(len(order) / size) * size)).to(device)
        static = groups[:size].clone()
        captured = Captured(lambda: work(*resident.gather(static)), device, "the prediction", enabled=enabled)
        for start in range(0, len(order), size):
            static.copy_(groups[start : start + size])
            yield _first(captured(), len(order) - start)
        return
    for make, rows in _streamed(work, dataset, order, size, config, device, enabled):
        yield _first(make(), rows)


def _streamed(
    work: _Work,
    dataset: GroupDataset,
    order: np.ndarray,
    size: int,
    config: Config,
    device: torch.device,
    enabled: bool,
) -> Iterator[tuple[Callable[[], Batch], int]]:
    """What computes a batch in static tensors, and the number of its groups, while the next one is read."""
    bad: Tensor | None = None

    def parts() -> Iterator[list[Tensor]]:
        nonlocal bad
        for gathered in _read(dataset, order, size, config):
            if isinstance(gathered, Exception):
                raise gathered
            if bad is None and gathered.bad is not None:
                bad = gathered.bad.to(device)
            parts = (gathered.counts, gathered.positions, gathered.members, gathered.fill)
            yield [part for part in parts if part is not None]

    captured: Captured[Batch] | None = None
    for static, rows in StreamedBatches(parts(), device):
        if captured is None:
            captured = Captured(partial(work.gathered, static, bad), device, "the prediction", enabled=enabled)
        yield captured, rows


def _first(batch: Batch, count: int) -> Batch:
    """Without the groups that fill up the last batch."""
    return batch[0][:count], batch[1][:count]


def _read(dataset: GroupDataset, order: np.ndarray, size: int, config: Config) -> Iterator[Gathered]:
    """Batches on the host; those of other processes (``execution.workers``) may be errors, see `gathering`."""
    if config.execution.workers == 0:
        return (dataset.gather(order[start : start + size].tolist()) for start in range(0, len(order), size))
    check_workers(config.execution.workers)
    with torch.device("cpu"):  # a loader makes tensors of its own
        return iter(
            DataLoader(
                dataset,
                batch_size=size,
                sampler=order.tolist(),
                collate_fn=gathering(dataset),
                num_workers=config.execution.workers,
            )
        )
