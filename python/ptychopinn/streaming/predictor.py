# SPDX-License-Identifier: BSD-3-Clause
"""Patches of the object from new frames, by a network or by nothing but the probe.

A network takes groups of neighbouring patterns. Of new frames the fewest groups are chosen that have all of them; their
other members are frames that were there before, nearest first. A frame whose neighbours have not come, or are far, is a
group by itself, if the network takes groups of any size; else it waits.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from ptychopinn.batches.dataset import GroupDataset
from ptychopinn.config import Config
from ptychopinn.inference.batches import group_weight, on_device, predict_batches
from ptychopinn.inference.predict import choose_probe
from ptychopinn.io.formats.live import same_exposure
from ptychopinn.io.probe import guess_probe, scaled_probe
from ptychopinn.models import PtychoModel
from ptychopinn.persistence.pretrained import load_pretrained
from ptychopinn.physics.plain_inputs import centred
from ptychopinn.scan import Scan
from ptychopinn.storage.arrays import total_counts
from ptychopinn.storage.stored import StoredPatterns
from ptychopinn.streaming.setup import Setup

_log = logging.getLogger(__name__)

#: Canvases (g, H, W), origins int64 (g, 2) in scan coordinates, weights (g, H, W), on the CPU.
Patches = tuple[Tensor, Tensor, Tensor]

#: Distance of a member from the first one of its group, relative to N, beyond which the group is not made.
_NEAR = 0.5


class Predictor:
    """Patches from a network.

    Args:
        model: a trained model; None: the pretrained network of the package, with the scan's probe.
        config: of the model; sections ``data``, ``inference`` and ``execution`` are used. None: the defaults.
        scan: frames of the scan, for its probe.
        device: of the computation.

    Attributes:
        largest_group: frames of a group.
        any_size: whether groups may be smaller.
    """

    def __init__(self, model: PtychoModel | None, config: Config | None, scan: Scan, device: torch.device) -> None:
        if model is None:
            pretrained = load_pretrained()
            config = config or Config()
            model, config = pretrained.for_scan(scan), replace(config, model=pretrained.config.model)
        self.config, self.device = config or Config(), device
        self.model = on_device(model, device)
        with torch.no_grad():
            self.probe = choose_probe(model, scan, self.config.inference.probe).cpu()
        self.any_size = model.generator.group_size is None
        self.largest_group = model.generator.group_size or self.config.inference.group_size or (
            self.config.data.group_size
        )  # fmt: skip

    def groups(self, new: int, positions: NDArray[np.float64], size: int) -> list[NDArray[np.int64]]:
        """Groups of the first frames of a list, with others of it; arrays (G, C), each of one C.

        Args:
            new: number of the frames to predict, the first ones.
            positions: (n, 2) of all frames.
            size: N.
        """
        count = min(self.largest_group, len(positions))
        alone = np.arange(new)[:, None]
        if count == 1 or (count < self.largest_group and not self.any_size):
            return [alone] if self.largest_group == 1 or self.any_size else []
        distances, members = cKDTree(positions).query(positions[:new], k=count)
        near = distances[:, -1] <= _NEAR * size
        members = _led(members.reshape(new, count))
        covered, chosen = np.zeros(len(positions), np.bool_), []
        for leader in np.flatnonzero(near).tolist():
            if not covered[leader]:
                chosen.append(members[leader])
                covered[members[leader]] = True
        found = [np.stack(chosen)] if chosen else []
        rest = alone[~covered[:new]]
        return [*found, rest] if self.any_size and len(rest) else found

    def patches(self, scan: Scan, groups: NDArray[np.int64]) -> Iterator[Patches]:
        """Patches of groups (G, C) of a scan, batch by batch."""
        dataset = GroupDataset(centred(scan), groups, self.model.generator.canvas_multiple)
        done = 0
        for canvases, weights in predict_batches(self.model, dataset, self.config, self.device, 0, self.probe):
            origins = torch.from_numpy(dataset.origins[done : done + len(canvases)])
            done += len(canvases)
            yield canvases.cpu().clone(), origins, weights.cpu().clone()


class EvenPatches:
    """Patches without a network: an object of transmission 1, which a refinement then changes.

    Args:
        scan: frames of the scan, for its probe.
    """

    def __init__(self, scan: Scan) -> None:
        self.weight = group_weight(torch.from_numpy(scan.probe), "probe")

    def groups(self, new: int, positions: NDArray[np.float64], size: int) -> list[NDArray[np.int64]]:
        """See :class:`Predictor`."""
        return [np.arange(new)[:, None]]

    def patches(self, scan: Scan, groups: NDArray[np.int64]) -> Iterator[Patches]:
        """See :class:`Predictor`."""
        weights = self.weight.expand(len(groups), -1, -1).contiguous()
        origins = np.rint(scan.positions[groups[:, 0]]).astype(np.int64)
        yield torch.ones_like(weights, dtype=torch.complex64), torch.from_numpy(origins), weights


def first_probe(setup: Setup, patterns: StoredPatterns) -> NDArray[np.complex64]:
    """The probe (M, N, N) to begin with: that of the setup, in the scale of the first patterns, or an estimate."""
    if setup.probe is None:
        _log.warning("the probe is estimated from the first %d patterns; state --like or --probe", len(patterns))
        return guess_probe(patterns, setup.bad_pixels)
    mean = total_counts(patterns) / len(patterns)
    if setup.mean_counts is not None and same_exposure(mean, setup.mean_counts):
        return setup.probe
    probe, scale = scaled_probe(setup.probe, patterns, setup.bad_pixels)
    _log.info("the probe is scaled by %.4g to the counts of the first %d patterns", scale.factor, len(patterns))
    return probe


def _led(members: NDArray[np.int64]) -> NDArray[np.int64]:
    """Groups whose row k begins with frame k, also where others have the same position."""
    leaders = np.arange(len(members))
    own = members == leaders[:, None]
    own[~own.any(1), -1] = True
    rest = members[~own].reshape(len(members), -1)
    return np.column_stack([leaders, rest]).astype(np.int64)
