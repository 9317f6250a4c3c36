# SPDX-License-Identifier: BSD-3-Clause
"""From a trained model and a scan to a reconstruction: grouping, prediction in batches, stitching.

Each group is predicted on a canvas of its own that lies on the scan's integer grid, so that stitching moves no sample
and loses no resolution. The weight of a canvas pixel is the probe intensity that fell on it from the group.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ptycho_ext import extract_patches_adjoint
from ptychopinn.config import Config
from ptychopinn.data.dataset import GroupDataset
from ptychopinn.data.grouping import covering_groups, group_nearest
from ptychopinn.data.reconstruction import Reconstruction
from ptychopinn.data.scan import Scan
from ptychopinn.errors import InputError
from ptychopinn.inference.stitch import stitch
from ptychopinn.models import PtychoModel
from ptychopinn.physics.overlap import illumination_weight
from ptychopinn.physics.propagation import squared_modulus

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """What the network says, before stitching.

    Args:
        canvases: complex64, (G, H, W), one object canvas per group.
        weights: float32, (G, H, W), probe intensity on each canvas pixel, in counts.
        origins: int64, (G, 2), scan coordinate of each canvas's [0, 0].
    """

    canvases: Tensor
    weights: Tensor
    origins: Tensor


def predict(
    model: PtychoModel, scan: Scan, config: Config | None = None, device: str | torch.device = "cpu"
) -> Prediction:
    """Predict group canvases that together show every pattern of a scan.

    Args:
        model: a trained model.
        scan: the scan; its patterns must have the model's size.
        config: sections ``data`` and ``inference`` are used.
        device: where to compute; results come back to the CPU.

    Raises:
        InputError: the scan's patterns have another size than the model's.
    """
    config = config or Config()
    if scan.patch_size != model.patch_size:
        raise InputError(
            f"{scan.name}: patterns must be {model.patch_size} x {model.patch_size} pixels as in the model's training, "
            f"got {scan.patch_size} x {scan.patch_size}"
        )
    groups = group_nearest(scan.positions, config.inference.group_size or config.data.group_size)
    if config.inference.coverage is not None:
        groups = groups[covering_groups(groups, config.inference.coverage)]
    dataset = GroupDataset(scan, groups, model.generator.canvas_multiple)
    loader = DataLoader(dataset, batch_size=config.inference.batch_size, collate_fn=dataset.collate)
    model = model.to(device).eval()
    canvases, weights, origins = [], [], []
    with torch.inference_mode():
        probe = choose_probe(model, scan, config.inference.probe)
        weight = illumination_weight(probe)
        for batch in loader:
            positions = batch.positions.to(device)
            canvases.append(model(batch.counts.to(device), positions, batch.canvas_size, probe).cpu())
            fallen = weight.expand(batch.counts.shape).contiguous()
            weights.append(extract_patches_adjoint(fallen, positions, batch.canvas_size).cpu())
            origins.append(batch.origins)
    return Prediction(torch.cat(canvases), torch.cat(weights), torch.cat(origins))


def reconstruct(
    model: PtychoModel, scan: Scan, config: Config | None = None, device: str | torch.device = "cpu"
) -> Reconstruction:
    """Reconstruct the object of a scan with a trained model.

    Arguments and errors as for :func:`predict`.

    Returns:
        The stitched object with its weights, its place in the scan's coordinates and the probe that was used.
    """
    config = config or Config()
    start = time.perf_counter()
    prediction = predict(model, scan, config, device)
    predicted = time.perf_counter()
    image, weights, geometry = stitch(
        prediction.canvases,
        prediction.origins,
        prediction.weights,
        synchronise=config.inference.synchronise,
    )
    stitched = time.perf_counter()
    seconds = {"predict": predicted - start, "stitch": stitched - predicted}
    _log.info(
        "%d patterns: predicted in %.1f s, stitched in %.1f s (%.0f patterns/s)",
        scan.n, *seconds.values(), scan.n / (stitched - start),
    )  # fmt: skip
    with torch.no_grad():
        probe = choose_probe(model, scan, config.inference.probe).cpu().numpy()
    return Reconstruction(
        object=image.numpy(),
        weights=weights.numpy(),
        origin=(float(geometry.origin[0]), float(geometry.origin[1])),
        probe=probe,
        pixel_size=scan.pixel_size,
        metadata={"scan": scan.name, "patterns": scan.n, "seconds": seconds, "config": config.to_dict()},
    )


def choose_probe(model: PtychoModel, scan: Scan, rule: str) -> Tensor:
    """The probe to reconstruct with, complex (M, N, N) in the scan's sqrt(counts), by ``inference.probe``."""
    own = model.illumination.probe
    given = torch.from_numpy(scan.probe).to(own)
    learned = model.illumination.lanes.requires_grad
    if rule == "scan" or (rule == "auto" and not learned):
        return given
    return own * torch.sqrt(squared_modulus(given).sum() / squared_modulus(own).sum())
