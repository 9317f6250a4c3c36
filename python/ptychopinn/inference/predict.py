# SPDX-License-Identifier: BSD-3-Clause
"""From a trained model and a scan to a reconstruction: grouping, prediction in batches, stitching.

Each group is predicted on a canvas of its own that lies on the scan's integer grid, so that stitching moves no sample
and loses no resolution. The weight of a canvas pixel is the probe intensity that fell on it from the group.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from ptychopinn.batches.dataset import GroupDataset, finished, gathering
from ptychopinn.batches.grouping import covering_groups, group_patterns
from ptychopinn.config import Config
from ptychopinn.errors import InputError
from ptychopinn.inference.orientations import ORIENTATIONS, turn_back, turn_group
from ptychopinn.models import PtychoModel
from ptychopinn.physics.overlap import canvas_illumination, illumination_weight
from ptychopinn.physics.propagation import squared_modulus
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.runtime.memory import fits_in_memory
from ptychopinn.runtime.processes import distributed, shared_errors
from ptychopinn.scan import Scan
from ptychopinn.stitching.accumulator import Stitched
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


def predict(
    model: PtychoModel,
    scan: Scan,
    config: Config | None = None,
    device: str | torch.device = "cpu",
    orientation: int = 0,
    probe: Tensor | None = None,
    choose: Callable[[NDArray[np.int64]], NDArray[np.int64]] | None = None,
) -> Prediction:
    """Predict group canvases that include every pattern of a scan.

    Args:
        model: a trained model.
        scan: the scan; its patterns must have the model's size.
        config: sections ``data`` and ``inference`` are used.
        device: for the computation; results are on the CPU.
        orientation: of the network's input, 0 to 7; the canvases are returned in that of the scan.
        probe: complex, (M, N, N), replaces the probe of ``inference.probe``.
        choose: which groups to predict, given the origins (G, 2) of all canvases; none: all.

    Raises:
        InputError: the scan's patterns have another size than the model's, or groups another one than it is built for
            or than the scan has patterns.
    """
    config = config or Config()
    scan = choose_positions(model, scan, config.inference.positions)
    with torch.no_grad():
        probe = choose_probe(model, scan, config.inference.probe) if probe is None else probe
    dataset = groups_to_predict(model, scan, config)
    order = None if choose is None else choose(dataset.origins).tolist()
    empty = torch.zeros(0, *dataset.canvas_size, dtype=torch.complex64)
    batches = [(empty, empty.real, torch.zeros(0, 2, dtype=torch.int64))]  # nothing may be chosen
    batches += predict_batches(model, dataset, config, device, orientation, probe, order)
    canvases, weights, origins = zip(*batches, strict=True)
    return Prediction(torch.cat(canvases), torch.cat(weights), torch.cat(origins))


def groups_to_predict(model: PtychoModel, scan: Scan, config: Config) -> GroupDataset:
    """Groups that include every pattern, by the section ``inference``; errors as for :func:`predict`."""
    size = _check_fit(model, scan, config)
    rule = config.data
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


@torch.inference_mode()
def predict_batches(
    model: PtychoModel,
    dataset: GroupDataset,
    config: Config,
    device: str | torch.device,
    orientation: int,
    probe: Tensor,
    order: Sequence[int] | None = None,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Canvases, weights and origins of the groups, on the CPU, batch by batch in this order; see :func:`predict`."""
    loader = DataLoader(
        dataset,
        batch_size=config.inference.batch_size,
        sampler=order,
        collate_fn=gathering(dataset),
        num_workers=config.execution.workers,
    )
    model, probe = model.to(device).eval(), probe.to(device)
    weight = group_weight(probe, config.inference.weighting)
    for gathered in loader:
        batch = finished(gathered, device)
        turned = turn_group(batch.counts, batch.positions, batch.canvas_size, probe, orientation)
        canvases = turn_back(model(*turned), orientation).cpu()
        weights = canvas_illumination(weight, batch.positions, batch.canvas_size).cpu()
        yield canvases, weights, batch.origins.cpu()


def predict_streamed(
    model: PtychoModel,
    dataset: GroupDataset,
    config: Config,
    device: str | torch.device,
    orientation: int,
    probe: Tensor,
    folder: Path,
) -> Streamed:
    """Predict and stitch with scratch files in `folder`; see :func:`~ptychopinn.stitching.on_disk.stitch_streamed`."""
    batches = partial(predict_batches, model, dataset, config, device, orientation, probe)
    weight = group_weight(probe.cpu(), config.inference.weighting)
    return stitch_streamed(dataset, batches, weight, folder, synchronise=config.inference.synchronise)


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


def reconstruct(
    model: PtychoModel | Sequence[PtychoModel],
    scan: Scan,
    config: Config | None = None,
    device: str | torch.device = "cpu",
) -> Reconstruction:
    """Reconstruct the object of a scan with a trained model, or with several, whose results are averaged.

    Where the groups' canvases would take more than a quarter of the available memory they go through scratch files in
    TMPDIR; an image that is itself that large is for :func:`ptychopinn.inference.large.reconstruct_to_file`. Processes
    that have joined (see :mod:`ptychopinn.runtime.processes`) share the groups, and all return the whole.

    Arguments and errors as for :func:`predict`.

    Returns:
        The stitched object with its weights, its place in the scan's coordinates, the probe and the positions that were
        used (of the first model), and the uncertainty if ``inference.uncertainty`` asks for one.
    """
    config = config or Config()
    views, refined, probe = prepare(model, scan, config)
    predicting = stitching = 0.0
    shard = Shard() if distributed() else None
    images = []
    for member, orientation in views:
        start = time.perf_counter()
        dataset = groups_to_predict(member, refined, config)
        if shard is None and not fits_in_memory(bytes_to_stitch(dataset)):
            streamed = predict_streamed(member, dataset, config, device, orientation, probe, Path(gettempdir()))
            images.append(streamed.average.mean())
            predicting, stitching = predicting + streamed.predicting, stitching + streamed.stitching
            continue
        choose = None if shard is None else shard.choose
        prediction = predict(member, refined, config, device, orientation, probe, choose)
        predicted = time.perf_counter()
        synchronise = config.inference.synchronise
        if shard is not None:
            images.append(shard.stitch(prediction.canvases, prediction.weights, synchronise=synchronise))
        else:
            images.append(stitch(prediction.canvases, prediction.origins, prediction.weights, synchronise=synchronise))
        predicting += predicted - start
        stitching += time.perf_counter() - predicted
    image, weights, uncertainty = combine(images, config.inference.uncertainty)
    origin = images[0].geometry.origin
    result = Reconstruction(
        object=image.numpy(),
        weights=weights.numpy(),
        origin=(float(origin[0]), float(origin[1])),
        probe=probe.numpy(),
        uncertainty=None if uncertainty is None else uncertainty.numpy(),
        positions=refined.positions,
        pixel_size=scan.pixel_size,
        metadata=facts(scan, config, predicting, stitching),
        acquisition=scan.acquisition,
        orientation=scan.orientation,
    )
    return result.cropped() if config.inference.crop else result


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
    }


def prepare(
    model: PtychoModel | Sequence[PtychoModel], scan: Scan, config: Config
) -> tuple[list[tuple[PtychoModel, int]], Scan, Tensor]:
    """Pairs of model and orientation to average, the scan with its positions, and the probe."""
    models = [model] if isinstance(model, PtychoModel) else list(model)
    with shared_errors():
        for member in models:
            _check_fit(member, scan, config)
    views = [(member, turn) for member in models for turn in ORIENTATIONS[config.inference.augment]]
    if config.inference.uncertainty == "ensemble" and len(views) < 2:
        raise InputError("inference.uncertainty: an ensemble takes several models, or inference.augment above 1")
    # One probe and one set of positions for all members: each has its own shift and ramp, and so would their objects.
    refined = choose_positions(models[0], scan, config.inference.positions)
    with torch.no_grad():
        probe = choose_probe(models[0], scan, config.inference.probe).cpu()
    return views, refined, probe


def combine(images: Sequence[Stitched], uncertainty: str = "none") -> tuple[Tensor, Tensor, Tensor | None]:
    """Average images of one scan, each of which has a free phase; see ``inference.uncertainty``.

    Their canvases begin at the same place; where some are larger (for generators that want multiples), the common part
    is kept, in which all patches lie.

    Returns:
        image (H, W) complex, weights (H, W), and standard deviation (H, W) or None. The variance is that of the complex
        value: the sum of those of its real and imaginary part.
    """
    height, width = (min(image.image.shape[axis] for image in images) for axis in (0, 1))
    assert len({tuple(image.geometry.origin) for image in images}) == 1
    images = [image.part((slice(0, height), slice(0, width))) for image in images]
    return average(images, unit_phases([phase_product(image, images[0]) for image in images]), uncertainty)


def phase_product(image: Stitched, first: Stitched) -> Tensor:
    """``sum w conj(o) o_1`` over an image or a part of it, complex (): its phase takes the image to the first one."""
    return (image.weights * image.image.conj() * first.image).sum()


def unit_phases(products: Sequence[Tensor]) -> list[Tensor | float]:
    """Phase factors of images from their products with the first image; 1 for a single image."""
    return [p / p.abs() if len(products) > 1 and p.abs() > 0 else 1.0 for p in products]


def average(
    images: Sequence[Stitched], phases: Sequence[Tensor | float], uncertainty: str
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Average images, or parts of them, with known phases; returns as :func:`combine`."""
    first, count = images[0], len(images)
    total = torch.stack([image.weights for image in images]).sum(0)
    scale = total.clamp_min(torch.finfo(total.dtype).tiny)
    mean, square, between = torch.zeros_like(first.image), torch.zeros_like(total), torch.zeros_like(total)
    for image, phase in zip(images, phases, strict=True):
        mean += image.weights / scale * phase * image.image
        square += image.weights / scale * image.square
        between += image.weights / scale * squared_modulus(image.image)
    if uncertainty == "none":
        return mean, total / count, None
    variance = square if uncertainty == "overlaps" else between
    variance = (variance - squared_modulus(mean)).clamp_min(0)
    if uncertainty == "ensemble":
        variance = variance * (count / (count - 1))
    return mean, total / count, torch.sqrt(variance)


def choose_positions(model: PtychoModel, scan: Scan, rule: str) -> Scan:
    """The scan with the positions to reconstruct with, by ``inference.positions``."""
    refined = None if rule == "scan" or model.positions is None else model.positions.applied_to(scan)
    if refined is None:
        return scan
    _log.info("%s: with the positions that were refined in its training", scan.name)
    return refined


def _check_fit(model: PtychoModel, scan: Scan, config: Config) -> int:
    """The size of the groups; InputError if the model cannot take them, or the patterns."""
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
