# SPDX-License-Identifier: BSD-3-Clause
"""Lightning data module: training and validation batches of the groups of one or several scans.

Every pattern leads one or several groups. A part of the leaders, scattered or in one region of the sample, is held out
for validation. From the others each epoch draws as many groups as contain every pattern about once; where the pool is
larger than the group, the members are drawn again in every epoch. All random draws depend only on the seed and the
epoch. With several processes each loads its shard of every batch.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from functools import cached_property, partial

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from ptychopinn.batches.dataset import GroupDataset, JoinedGroups, good_pixels, largest_extent, round_up
from ptychopinn.batches.grouping import compact_region, group_patterns, pools, within_bounds
from ptychopinn.batches.neighbourhoods import Neighbourhoods, merged_groups, neighbourhood_size, reach_of
from ptychopinn.batches.resident import ResidentCounts, fits_on
from ptychopinn.batches.sizes import batch_groups
from ptychopinn.batches.steps import Steps, StepSampler, StepShape, checked
from ptychopinn.config import Config
from ptychopinn.errors import InputError
from ptychopinn.runtime.processes import rank_and_size
from ptychopinn.runtime.workers import check_workers
from ptychopinn.scan import Scan

#: Smallest number of batches in an epoch, if the scan has as many groups.
_FEWEST_BATCHES = 8
#: Groups of a held-out neighbourhood, where those of training are not merged.
_MERGED_HELD_OUT = 4
#: Steps that CUDA does between two looks of the host, about 0.1 s.
_STEPS_ON_CUDA = 32
#: Largest difference between equal probes, up to their scale, relative to the probe.
_SAME_PROBE = 1e-3


class ScanDataModule(L.LightningDataModule):
    """Batches of the groups of one or several scans.

    Args:
        scans: scans that :func:`check_alike` accepts.
        config: sections ``data``, ``model``, ``training`` and ``execution`` are used.
        canvas_multiple: canvas sides are rounded up to a multiple of this.
        margin: pixels around the patches on a group's canvas, for learned positions.

    Raises:
        InputError: no pattern is left for training, or a validation region leaves too few patterns.
    """

    def __init__(self, scans: Sequence[Scan], config: Config, canvas_multiple: int = 1, margin: int = 0) -> None:
        super().__init__()
        self.scans = scans
        self.config = config
        self.canvas_multiple = canvas_multiple
        self.margin = margin
        self.first = np.cumsum([0, *(scan.n for scan in scans)])
        #: Groups of a neighbourhood, whose predictions are averaged in training.
        self.merged = merged_groups(config)
        self._held_out_merged = self.merged
        if self.merged == 1 and not config.training.supervised:
            self._held_out_merged = max(
                1, min(_MERGED_HELD_OUT, min(scan.n for scan in scans) // config.data.group_size)
            )
        self._neighbourhood_size = neighbourhood_size(config)
        self.held_out = self._held_out()
        inside = np.concatenate(
            [within_bounds(scan.positions, config.data.y_bounds, config.data.x_bounds) for scan in scans]
        )
        self.validation_leaders = np.flatnonzero(self.held_out & inside)
        self.training_leaders = np.flatnonzero(~self.held_out & inside)
        if not len(self.training_leaders):
            raise InputError("data.y_bounds, data.x_bounds: no pattern is left to train on; widen them")
        # Index of a group: leader * oversampling + 0, 1, ..., oversampling - 1.
        each = config.data.oversampling
        self.training_groups = (self.training_leaders[:, np.newaxis] * each + np.arange(each)).ravel()
        self.resident: ResidentCounts | None = None
        self._canvases: dict[bool, tuple[int, int]] = {}
        self._nearest: dict[tuple[int, int, bool], NDArray[np.int64]] = {}
        self._found: dict[tuple[int, bool], Neighbourhoods] = {}
        self._pending: deque[torch.cuda.Event] = deque()
        self.place(torch.device("cpu"))

    def _held_out(self) -> NDArray[np.bool_]:
        """Mask (n,) of the patterns of all scans that lead the validation groups."""
        data, seed = self.config.data, self.config.training.seed
        patterns = int(self.first[-1])
        held = np.zeros(patterns, np.bool_)
        if data.validation == "scattered":
            size = data.group_size * self._held_out_merged
            count = min(math.ceil(data.validation_fraction * patterns / size), patterns - 1)
            held[np.random.default_rng(seed).permutation(patterns)[:count]] = True
        elif data.validation_fraction:
            for index, (scan, first) in enumerate(zip(self.scans, self.first[:-1], strict=True)):
                fewest = max(data.group_size, (data.pool or 0) + 1)  # needed for groups in either part
                count = max(math.ceil(data.validation_fraction * scan.n), fewest)
                if scan.n - count < fewest:
                    raise InputError(
                        f"{scan.name}: data.validation 'region' holds out {count} of {scan.n} patterns, which leaves "
                        f"fewer than the {fewest} that a group and its pool need; lower data.validation_fraction, "
                        "data.group_size or data.pool"
                    )
                held[first + compact_region(scan.positions, count, (seed, index))] = True
        return held

    def merged_in(self, validation: bool) -> int:
        """Groups of a neighbourhood, in training or of held-out ones: these are averaged in any case."""
        return self._held_out_merged if validation else self.merged

    def _groups(self, index: int, each: int, draw: int, validation: bool) -> NDArray[np.int64]:
        """Groups (each n, C) that each pattern of a scan leads in training or validation; -1 for other leaders."""
        data = self.config.data
        among = self._members(index, validation)
        if self._drawn:
            return self._led(index, among, each, draw)
        key = (index, each, validation and data.validation == "region")
        if key not in self._nearest:
            self._nearest[key] = self._led(index, among, each, draw)
        return self._nearest[key]

    @property
    def _drawn(self) -> bool:
        """Whether the members of groups are drawn again in every epoch."""
        data = self.config.data
        return data.pool is not None and data.pool >= data.group_size

    def _led(self, index: int, among: NDArray[np.intp], each: int, draw: int) -> NDArray[np.int64]:
        data = self.config.data
        found = group_patterns(
            self.scans[index].positions[among],
            data.group_size,
            data.pool,
            each,
            seed=(self.config.training.seed, draw),
            rule=data.neighbours,
            min_distance=data.min_distance,
            max_distance=data.max_distance,
        )
        groups = np.full((self.scans[index].n * each, data.group_size), -1, np.int64)
        groups[(among[:, np.newaxis] * each + np.arange(each)).ravel()] = among[found]
        return groups

    def _neighbourhoods(
        self, index: int, groups: NDArray[np.int64], chosen: NDArray[np.intp], each: int, draw: int, validation: bool
    ) -> NDArray[np.int64]:
        """The patterns (g, J C) of the neighbourhoods that groups `chosen` (g,) lead, among groups (each n, C)."""
        near = self._neighbours(index, validation)
        rng = np.random.default_rng((self.config.training.seed, draw, index, validation))
        leaders = near.draw(chosen // each, self.merged_in(validation), rng)
        members: NDArray[np.int64] = groups[leaders * each + chosen[:, np.newaxis] % each]
        return members.reshape(len(chosen), -1)

    def _neighbours(self, index: int, validation: bool) -> Neighbourhoods:
        """The neighbours that training or validation draws: patterns held out are not among those of training."""
        if (index, validation) not in self._found:
            among = self._members(index, validation)
            if not validation:
                among = among[~self.held_out[self.first[index] + among]]
            leaders = self._leaders(index, validation)
            scan, pool = self.scans[index], self.config.training.merge_pool
            found = Neighbourhoods(scan.positions, among, leaders, pool, reach_of(scan))
            self._found[index, validation] = found
        return self._found[index, validation]

    def _fixed_canvas(self, validation: bool) -> tuple[int, int]:
        """A canvas that every group, or neighbourhood, fits which may be drawn in any epoch."""
        sizes = []
        for index, scan in enumerate(self.scans):
            leaders = self._leaders(index, validation)
            if not len(leaders):
                continue
            possible = self._possible(index, validation)
            if self.merged_in(validation) > 1:
                around = self._neighbours(index, validation).around(leaders)
                sizes.append(largest_extent(scan, possible, self.margin, around))
            else:
                sizes.append(largest_extent(scan, possible[leaders], self.margin))
        height, width = np.max(sizes, axis=0).tolist()
        return round_up((height, width), self.canvas_multiple)

    def _possible(self, index: int, validation: bool) -> NDArray[np.int64]:
        """All members (n, K) that groups of every pattern of a scan may have; -1 where it leads none."""
        data, scan = self.config.data, self.scans[index]
        if not self._drawn:
            return self._groups(index, 1, 0, validation)
        # Members are drawn from a pool around the leader: all of it together covers the most.
        among, pool = self._members(index, validation), data.pool or 0
        possible = np.full((scan.n, pool + 1), -1, np.int64)
        possible[among] = among[pools(scan.positions[among], pool, data.min_distance, data.max_distance)]
        return possible

    @cached_property
    def group_canvas(self) -> tuple[int, int]:
        """A canvas that every group of a neighbourhood fits."""
        sizes = [
            largest_extent(scan, self._possible(index, validation)[self._members(index, validation)], self.margin)
            for index, scan in enumerate(self.scans)
            for validation in ((False, True) if self.config.data.validation == "region" else (False,))
        ]
        height, width = np.max(sizes, axis=0).tolist()
        return round_up((height, width), self.canvas_multiple)

    def _members(self, index: int, validation: bool) -> NDArray[np.intp]:
        """Patterns of a scan that may be members of training or of validation groups."""
        scan, first = self.scans[index], int(self.first[index])
        among = np.arange(scan.n)
        if self.config.data.validation == "region":
            among = among[self.held_out[first : first + scan.n] == validation]
        return among

    def _leaders(self, index: int, validation: bool) -> NDArray[np.intp]:
        """Patterns of a scan that lead training or validation groups."""
        leaders = self.validation_leaders if validation else self.training_leaders
        first, last = self.first[index : index + 2]
        own: NDArray[np.intp] = leaders[(leaders >= first) & (leaders < last)] - first
        return own

    def _dataset(self, chosen: NDArray[np.intp], each: int, draw: int, validation: bool) -> JoinedGroups:
        """The groups `chosen`, indices over all scans, with `each` groups per leader, in this order."""
        parts, positions = [], []
        for index, scan in enumerate(self.scans):
            first = int(self.first[index])
            position = np.flatnonzero((chosen // each >= first) & (chosen // each < first + scan.n))
            if not len(position):
                continue
            groups = self._groups(index, each, draw, validation)
            own = chosen[position] - first * each
            led = groups[own]
            if self.merged_in(validation) > 1:
                led = self._neighbourhoods(index, groups, own, each, draw, validation)
            # The model has one probe, that of the first scan; the truths are scaled to it.
            scale = float(np.linalg.norm(scan.probe) / np.linalg.norm(self.scans[0].probe))
            parts.append(
                GroupDataset(
                    scan,
                    led,
                    self.canvas_multiple,
                    margin=self.margin,
                    truth_scale=scale if self.config.training.supervised else None,
                    first=first,
                    largest=self.config.data.largest_canvas,
                )
            )
            positions.append(position)
        dataset = JoinedGroups(parts, np.argsort(np.concatenate(positions)))
        if self.fixed_shapes:
            if validation not in self._canvases:
                self._canvases[validation] = self._fixed_canvas(validation)
            dataset.enlarge(self._canvases[validation])
        if self.merged_in(validation) > 1:
            dataset.enlarge(self.group_canvas)  # which may be that of another scan
        return dataset

    def _loader(self, dataset: JoinedGroups, shape: StepShape) -> DataLoader[int]:
        check_workers(self.config.execution.workers)
        sampler = StepSampler(len(dataset), shape, rank_and_size())
        return DataLoader(
            dataset,
            batch_sampler=sampler,
            collate_fn=partial(sampler.collate, dataset, self.resident is None),
            num_workers=self.config.execution.workers,
            pin_memory=self.device.type == "cuda",
        )

    def place(self, device: torch.device) -> None:
        """Choose the device of the training: batches are sized for it, and its memory takes the counts if they fit.

        On CUDA all steps have one shape, so that they can be captured.
        """
        self.device, self.fixed_shapes = device, device.type == "cuda"
        data, training = self.config.data, self.config.training
        available = len(self.training_groups)
        _, processes = rank_and_size()
        chosen = batch_groups(self.config, self.scans[0].patch_size, device, processes)
        self.batch_size = min(chosen, available)
        # Without a minimum small scans would have epochs of one or two steps.
        wanted = math.ceil(data.oversampling * int(self.first[-1]) / self._neighbourhood_size)
        wanted = min(max(wanted, _FEWEST_BATCHES * self.batch_size), available)
        per_step = self.batch_size * training.accumulate
        self.steps_per_epoch = math.ceil(wanted / per_step)
        #: Those of complete steps: all steps have one shape, and the last one is filled up with further groups.
        self.groups_per_epoch = self.steps_per_epoch * per_step
        if device.type == "cuda":
            self._copies = torch.cuda.Stream(device)
            if fits_on(device, self.scans):
                self.resident = ResidentCounts(self.scans, device)
        at_once = self.config.execution.steps_at_once or (_STEPS_ON_CUDA if device.type == "cuda" else 1)
        self.shape = StepShape(min(at_once, self.steps_per_epoch), training.accumulate, self.batch_size)

    def transfer_batch_to_device(
        self, batch: Steps | InputError, device: torch.device, dataloader_idx: int
    ) -> Steps | InputError:
        """Copy on a stream of its own, while the device works on earlier steps; at most two batches ahead of it."""
        moved: Steps | InputError
        if device.type != "cuda" or isinstance(batch, InputError):
            moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
            return moved
        if len(self._pending) == 2:
            self._pending.popleft().synchronize()
        current = torch.cuda.current_stream(device)
        with torch.cuda.stream(self._copies):
            moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
        current.wait_stream(self._copies)
        for tensor in checked(moved).patterns:
            if isinstance(tensor, Tensor):
                tensor.record_stream(current)
        self._pending.append(current.record_event())
        return moved

    def train_dataloader(self) -> DataLoader[int]:
        epoch = self.trainer.current_epoch if self.trainer is not None else 0
        rng = np.random.default_rng((self.config.training.seed, epoch))
        count = min(self.groups_per_epoch, len(self.training_groups))
        chosen = np.resize(rng.choice(self.training_groups, count, replace=False), self.groups_per_epoch)
        dataset = self._dataset(chosen, self.config.data.oversampling, epoch, validation=False)
        return self._loader(dataset, self.shape)

    def val_dataloader(self) -> DataLoader[int] | list[DataLoader[int]]:
        leaders = self.validation_leaders
        if not len(leaders):
            return []
        groups = min(self.batch_size, len(leaders))
        batches = math.ceil(len(leaders) / groups)
        dataset = self._dataset(np.resize(leaders, batches * groups), 1, 0, validation=True)
        return self._loader(dataset, StepShape(min(self.shape.steps, batches), 1, groups))


def check_alike(scans: Sequence[Scan]) -> None:
    """Check that one model can be trained on all scans.

    Raises:
        InputError: there is no scan, or the scans differ in their probe (up to its scale) or in their bad pixels.
    """
    if not scans:
        raise InputError("training needs at least one scan, got none")
    first = scans[0]
    good = good_pixels(first)
    for scan in scans[1:]:
        if scan.probe.shape != first.probe.shape:
            raise InputError(
                f"{scan.name}: scans trained on together must have probes of one shape, "
                f"got {scan.probe.shape} and, in {first.name}, {first.probe.shape}"
            )
        scale = np.vdot(first.probe, scan.probe) / np.vdot(first.probe, first.probe)
        difference = np.linalg.norm(scan.probe - scale * first.probe) / np.linalg.norm(scan.probe)
        if difference > _SAME_PROBE:
            raise InputError(
                f"{scan.name}: scans trained on together must have one probe (up to its scale), "
                f"this one's differs by {difference:.2g} from that of {first.name}"
            )
        other = good_pixels(scan)
        same = good is other is None or (good is not None and other is not None and torch.equal(good, other))
        if not same:
            raise InputError(f"{scan.name}: scans trained on together must have one mask of bad pixels")
