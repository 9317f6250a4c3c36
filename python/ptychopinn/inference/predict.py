# SPDX-License-Identifier: BSD-3-Clause
"""From a trained model and a scan to a reconstruction: grouping, prediction in batches, stitching.

Each group is predicted on a canvas of its own that lies on the scan's integer grid, so that stitching moves no sample
and loses no resolution. The weight of a canvas pixel is the probe intensity that fell on it from the group.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_ext import CanvasGeometry
from ptychopinn._one_line import one_line
from ptychopinn.batches.dataset import GroupDataset
from ptychopinn.batches.grouping import covering_groups, group_patterns
from ptychopinn.batches.resident import ResidentCounts
from ptychopinn.config import Config
from ptychopinn.errors import InputError
from ptychopinn.findings.gate import check_metadata, require_sound
from ptychopinn.inference.batches import counts_on, group_weight, on_device, predict_batches
from ptychopinn.inference.combine import combine
from ptychopinn.inference.orientations import ORIENTATIONS
from ptychopinn.inference.pretrained import first_network
from ptychopinn.models import PtychoModel
from ptychopinn.physics.plain_inputs import centred, require_thin_and_far
from ptychopinn.physics.propagation import squared_modulus
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.runtime.batching import free_memory
from ptychopinn.runtime.devices import resolve_device
from ptychopinn.runtime.memory import fits_in_memory
from ptychopinn.runtime.process_settings import process_settings
from ptychopinn.runtime.processes import distributed, shared_errors
from ptychopinn.scan import Scan
from ptychopinn.stitching.accumulator import Stitched
from ptychopinn.stitching.canvases import Canvases, CanvasesInMemory, CanvasesOnDisk
from ptychopinn.stitching.distributed import Shard
from ptychopinn.stitching.on_disk import Streamed, bytes_to_stitch, stitch_streamed
from ptychopinn.stitching.phases import stitch

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """Output of the network, before stitching.

    Args:
        canvases: complex64, (G, H, W), one object canvas per group.
        weights: float32, (G, H, W), probe intensity on each canvas pixel, in counts.
        origins: int64, (G, 2), scan coordinate of each canvas's [0, 0].
    """

    canvases: Tensor
    weights: Tensor
    origins: Tensor

    __repr__ = one_line


def predict(
    model: PtychoModel,
    scan: Scan,
    config: Config | None = None,
    device: str | torch.device = "auto",
    orientation: int = 0,
    probe: Tensor | None = None,
    choose: Callable[[NDArray[np.int64]], NDArray[np.int64]] | None = None,
) -> Prediction:
    """Predict group canvases that include every pattern of a scan.

    Args:
        model: a trained model, on any device.
        scan: the scan; its patterns must have the model's size.
        config: sections ``data`` and ``inference`` are used.
        device: for the computation, "auto": a GPU if there is one; results are on the CPU. The model is neither moved
            nor changed.
        orientation: of the network's input, 0 to 7; the canvases are returned in that of the scan.
        probe: complex, (M, N, N), replaces the probe of ``inference.probe``.
        choose: which groups to predict, given the origins (G, 2) of all canvases; none: all.

    Raises:
        InputError: the scan's patterns have another size than the model's, or groups another one than it is built for
            or than the scan has patterns.
    """
    config, device = config or Config(), resolve_device(device)
    with process_settings(config.execution):
        return _predict(model, scan, config, device, orientation, probe, choose)


def _predict(
    model: PtychoModel,
    scan: Scan,
    config: Config,
    device: torch.device,
    orientation: int,
    probe: Tensor | None,
    choose: Callable[[NDArray[np.int64]], NDArray[np.int64]] | None,
) -> Prediction:
    scan = choose_positions(model, scan, config.inference.positions)
    with torch.no_grad():
        probe = choose_probe(model, scan, config.inference.probe) if probe is None else probe
    dataset = groups_to_predict(model, scan, config)
    order = np.arange(len(dataset)) if choose is None else choose(dataset.origins)
    _log.debug("%s: %d groups on canvases of %s px, on %s", scan.name, len(order), dataset.canvas_size, device)
    found = CanvasesInMemory(len(order), dataset.canvas_size)
    copied, counts = on_device(model, device), counts_on(device, scan)
    predict_into(found, predict_batches(copied, dataset, config, device, orientation, probe, order.tolist(), counts))
    return Prediction(found.canvases, found.weights, torch.from_numpy(dataset.origins[order]))


def groups_to_predict(model: PtychoModel, scan: Scan, config: Config) -> GroupDataset:
    """Groups that include every pattern, by the section ``inference``; errors as for :func:`predict`."""
    size = _check_fit(model, scan, config)
    scan, rule = centred(scan), config.data
    groups = group_patterns(
        scan.positions,
        size,
        rule=rule.neighbours,
        min_distance=rule.min_distance,
        max_distance=rule.max_distance,
    )
    if config.inference.coverage is not None:
        groups = groups[covering_groups(groups, config.inference.coverage)]
    return GroupDataset(scan, groups, model.generator.canvas_multiple, largest=rule.largest_canvas)


def predict_streamed(
    model: PtychoModel,
    dataset: GroupDataset,
    config: Config,
    device: torch.device,
    orientation: int,
    probe: Tensor,
    folder: Path,
    counts: ResidentCounts | None = None,
) -> Streamed:
    """Predict and stitch with scratch files in `folder`; see :func:`~ptychopinn.stitching.on_disk.stitch_streamed`."""
    batches = partial(predict_batches, model, dataset, config, device, orientation, probe, counts=counts)
    weight = group_weight(probe.cpu(), config.inference.weighting)
    return stitch_streamed(dataset, batches, weight, folder, synchronise=config.inference.synchronise)


def predict_into(canvases: Canvases, batches: Iterator[tuple[Tensor, Tensor]]) -> None:
    """Store the canvases and weights of batches as they come."""
    done = 0
    for some, weights in batches:
        canvases.write(done, some, weights)
        done += len(some)


def reconstruct(
    model: PtychoModel | Sequence[PtychoModel] | None,
    scan: Scan,
    config: Config | None = None,
    device: str | torch.device = "auto",
    accept: str | Collection[str] = (),
) -> Reconstruction:
    """Reconstruct the object of a scan with a trained model, or with several, whose results are averaged.

    The groups' canvases stay on a GPU where they fit half of its free memory. Else they are in memory, and where they
    would take more than a quarter of the available memory in scratch files in TMPDIR; an image that is itself that
    large is for :func:`ptychopinn.inference.large.reconstruct_to_file`. Processes that have joined (see
    :mod:`ptychopinn.runtime.processes`) share the groups, by the same rules, and all return the whole.

    Arguments and errors as for :func:`predict`, and:

    Args:
        model: a trained model, or several; None: the pretrained network of the package (docs/pretrained.md), with the
            scan's probe, and groups of at most as many patterns as the scan has.
        scan: the scan.
        config: sections ``data`` and ``inference`` are used.
        device: for the computation.
        accept: keys of problems of the scan to accept, or "all", see :func:`ptychopinn.check_scan`.

    Returns:
        The stitched object with its weights, its place in the scan's coordinates, the probe and the positions that were
        used (of the first model), and the uncertainty if ``inference.uncertainty`` asks for one.
    """
    config, device = config or Config(), resolve_device(device)
    with process_settings(config.execution):
        return _reconstruct(model, scan, config, device, accept)


def _reconstruct(
    model: PtychoModel | Sequence[PtychoModel] | None,
    scan: Scan,
    config: Config,
    device: torch.device,
    accept: str | Collection[str],
) -> Reconstruction:
    network = None
    if model is None:
        with shared_errors():
            network = first_network(scan, config, accept)
        model, config = network.model, network.config
    views, refined, probe = prepare(model, scan, config, device, accept)
    images, predicting, stitching = predicted_images(views, refined, config, device, probe)
    bootstrap = config.inference.uncertainty == "bootstrap"
    mean, weights, uncertainty = combine(images, "none" if bootstrap else config.inference.uncertainty)
    geometry = images[0].geometry
    metadata = facts(scan, config, predicting, stitching)
    if network is not None:
        metadata |= network.metadata(
            lambda box: mean[box], CanvasGeometry(geometry.origin, (mean.shape[0], mean.shape[1])), scan, probe
        )
    result = Reconstruction(
        object=mean.cpu().numpy(),
        weights=weights.cpu().numpy(),
        origin=(float(geometry.origin[0]), float(geometry.origin[1])),
        probe=probe.numpy(),
        uncertainty=None if uncertainty is None else uncertainty.cpu().numpy(),
        positions=refined.positions,
        pixel_size=scan.pixel_size,
        metadata=metadata,
        acquisition=scan.acquisition,
        orientation=scan.orientation,
        experiment=scan.experiment,
    )
    if bootstrap:
        from ptychopinn.inference.replicas import with_uncertainty  # and with it scikit-image, only where it is needed

        def replica_of(scan: Scan) -> Reconstruction:
            mean, weights, _ = combine(predicted_images(views, scan, config, device, probe)[0])
            return replace(result, object=mean.cpu().numpy(), weights=weights.cpu().numpy())

        result = with_uncertainty(result, refined, config.inference.replicas, replica_of)
    return result.cropped() if config.inference.crop else result


def predicted_images(
    views: Sequence[tuple[PtychoModel, int]], scan: Scan, config: Config, device: torch.device, probe: Tensor
) -> tuple[list[Stitched], float, float]:
    """The images by all models and orientations, of :func:`prepare`, and the seconds of prediction and stitching."""
    predicting = stitching = 0.0
    images, counts = [], counts_on(device, scan)
    for member, orientation in views:
        dataset = groups_to_predict(member, scan, config)
        image, seconds = _image(member, dataset, config, device, orientation, probe, counts)
        images.append(image)
        predicting, stitching = predicting + seconds[0], stitching + seconds[1]
    return images, predicting, stitching


def _image(
    model: PtychoModel,
    dataset: GroupDataset,
    config: Config,
    device: torch.device,
    orientation: int,
    probe: Tensor,
    counts: ResidentCounts | None,
) -> tuple[Stitched, tuple[float, float]]:
    """The image by one model in one orientation, and the seconds of prediction and stitching."""
    folder, synchronise = Path(gettempdir()), config.inference.synchronise
    shard = Shard(dataset.origins, dataset.canvas_size) if distributed() else None
    # Canvases travel between processes by way of the CPU.
    order = np.arange(len(dataset)) if shard is None else shard.groups
    place = _place(dataset, len(order), device if shard is None else torch.device("cpu"))
    if place is None and shard is None:
        streamed = predict_streamed(model, dataset, config, device, orientation, probe, folder, counts)
        return streamed.average.mean(), (streamed.predicting, streamed.stitching)
    start = time.perf_counter()
    batches = predict_batches(model, dataset, config, device, orientation, probe, order.tolist(), counts)
    if shard is None:
        assert place is not None
        here = CanvasesInMemory(len(order), dataset.canvas_size, place)
        predict_into(here, batches)
        _wait(device)
        predicted = time.perf_counter()
        origins = torch.from_numpy(dataset.origins)
        image = stitch(here.canvases, origins, here.weights, synchronise=synchronise)
    else:
        canvases: Canvases
        with shared_errors():  # too little space for one is too little for all
            if place is None:
                weight = group_weight(probe, config.inference.weighting)
                canvases = CanvasesOnDisk(folder, dataset, order, weight)
            else:
                canvases = CanvasesInMemory(len(order), dataset.canvas_size, "cpu")
            predict_into(canvases, batches)
        predicted = time.perf_counter()
        image = shard.stitch(canvases, synchronise=synchronise)
    _wait(device)
    return image, (predicted - start, time.perf_counter() - predicted)


def _wait(device: torch.device) -> None:
    """Wait for the device, for the durations to be right."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _place(dataset: GroupDataset, count: int, device: torch.device) -> torch.device | None:
    """Where the canvases of so many groups fit: the device, else the CPU; None: on the disk only."""
    nbytes = bytes_to_stitch(dataset.canvas_size, count)
    if device.type == "cuda" and nbytes <= free_memory(device) // 2:
        return device
    return torch.device("cpu") if fits_in_memory(nbytes) else None


def facts(scan: Scan, config: Config, predicting: float, stitching: float) -> dict[str, Any]:
    """Log the durations, and return the metadata of a reconstruction."""
    _log.info(
        "%d patterns: predicted in %.1f s, stitched in %.1f s (%.0f patterns/s)",
        scan.n, predicting, stitching, scan.n / (predicting + stitching),
    )  # fmt: skip
    return {
        "scan": scan.name,
        "patterns": scan.n,
        "seconds": {"predict": predicting, "stitch": stitching},
        "config": config.to_dict(),
        **check_metadata([scan]),
    }


def prepare(
    model: PtychoModel | Sequence[PtychoModel],
    scan: Scan,
    config: Config,
    device: torch.device,
    accept: str | Collection[str],
) -> tuple[list[tuple[PtychoModel, int]], Scan, Tensor]:
    """Pairs of model, on the device, and orientation to average, the scan with its positions, and the probe."""
    models = [model] if isinstance(model, PtychoModel) else list(model)
    with shared_errors():
        for member in models:
            _check_fit(member, scan, config)
        require_sound(scan, accept)
    turns = ORIENTATIONS[config.inference.augment]
    if config.inference.uncertainty == "ensemble" and len(models) * len(turns) < 2:
        raise InputError("inference.uncertainty: an ensemble takes several models, or inference.augment above 1")
    # One probe and one set of positions for all members: each has its own shift and ramp, and so would their objects.
    refined = choose_positions(models[0], scan, config.inference.positions)
    with torch.no_grad():
        probe = choose_probe(models[0], scan, config.inference.probe).cpu()
    copies = [on_device(member, device) for member in models]
    return [(member, turn) for member in copies for turn in turns], refined, probe


def choose_positions(model: PtychoModel, scan: Scan, rule: str) -> Scan:
    """The scan with the positions to reconstruct with, by ``inference.positions``."""
    refined = None if rule == "scan" or model.positions is None else model.positions.applied_to(scan)
    if refined is None:
        return scan
    _log.info("%s: with the positions that were refined in its training", scan.name)
    return refined


def _check_fit(model: PtychoModel, scan: Scan, config: Config) -> int:
    """The size of the groups; InputError if the model cannot take them, or the patterns."""
    require_thin_and_far(scan)
    if scan.patch_size != model.patch_size:
        raise InputError(
            f"{scan.name}: patterns must be {model.patch_size} x {model.patch_size} pixels as in the model's training, "
            f"got {scan.patch_size} x {scan.patch_size}"
        )
    size, built_for = config.inference.group_size or config.data.group_size, model.generator.group_size
    if built_for not in (None, size):
        raise InputError(f"inference.group_size: this model is built for groups of {built_for} patterns, got {size}")
    if scan.n < size:
        raise InputError(f"inference.group_size: {scan.name} has {scan.n} patterns, fewer than a group of {size}")
    return size


def choose_probe(model: PtychoModel, scan: Scan, rule: str) -> Tensor:
    """The probe to reconstruct with, complex (M, N, N) in the scan's sqrt(counts), by ``inference.probe``."""
    own = model.illumination.probe
    given = torch.from_numpy(scan.probe).to(own)
    learned = model.illumination.lanes.requires_grad
    if rule == "scan" or (rule == "auto" and not learned):
        return given
    return own * torch.sqrt(squared_modulus(given).sum() / squared_modulus(own).sum())
