# SPDX-License-Identifier: BSD-3-Clause
"""Reconstruction with trained networks, or with the pretrained one, whose image is refined for some seconds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import torch

from ptychopinn.config import Config, RefineConfig
from ptychopinn.inference.fit import fit_of_result
from ptychopinn.inference.predict import reconstruct as reconstruct_by_network
from ptychopinn.inference.pretrained import unexplained
from ptychopinn.inference.repeated import predictor
from ptychopinn.models import PtychoModel
from ptychopinn.physics.plain_inputs import is_thin_and_far
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.runtime.devices import resolve_device
from ptychopinn.scan import Scan

_log = logging.getLogger(__name__)

#: Passes over the scan that refine the image of the pretrained network: seconds, for most of the way to the noise
#: (docs/pretrained.md).
FIRST_PASSES = 20


def reconstruct(
    model: PtychoModel | Sequence[PtychoModel] | None,
    scan: Scan,
    config: Config | None = None,
    device: str | torch.device = "auto",
    accept: str | Collection[str] = (),
    refine: int | None = None,
) -> Reconstruction:
    """Reconstruct the object of a scan with trained models, or with the pretrained network of the package.

    Args:
        model: a trained model, or several, whose results are averaged; None: the pretrained network.
        scan: the scan.
        config: sections ``data`` and ``inference`` are used. Of the uncertainties, a refined image can have that by
            "bootstrap", from images that were made of simulated counts in the same way, network and refinement.
        device: for the computation.
        accept: keys of problems of the scan to accept, or "all", see :func:`ptychopinn.check_scan`.
        refine: passes over the scan in which object and probe are then refined against the counts; None: 20 for the
            pretrained network, which has not seen the scan, and 0 for trained models. Where the image of the
            pretrained network does not explain the patterns, as with a wrong probe, they begin with nothing instead.
            Without a trained model, scans of thick samples and of the near field, for which networks are not, are
            refined from nothing, in as many passes as the refinement needs if this is None.

    Returns:
        The object, see :func:`ptychopinn.inference.predict.reconstruct`, with what was used in its metadata.

    Raises:
        InputError: the scan has a problem that is not accepted, its patterns have another size than the model's, or
            groups another one than it is built for or than the scan has patterns; or models for a thick sample or the
            near field.
    """
    config = config or Config()
    if model is None and refine != 0 and not is_thin_and_far(scan.experiment):
        _log.info("%s: reconstructed without a network, which is for thin samples and the far field", scan.name)
        return refined_image(scan, None, refine or RefineConfig().iterations, device, accept, _replicas(scan, config))
    passes = refine if refine is not None else FIRST_PASSES if model is None else 0
    if not passes:
        return reconstruct_by_network(model, scan, config, device, accept)
    replicas = _replicas(scan, config)
    config = replace(config, inference=replace(config.inference, uncertainty="none"))
    result = reconstruct_by_network(model, scan, config, device, accept)
    remake = None
    if replicas:
        remake = predictor(model, scan, result, config, resolve_device(device))
    refined = refined_first_image if model is None else refined_image
    return refined(scan, result, passes, device, accept, replicas, remake)


def _replicas(scan: Scan, config: Config) -> int:
    """Number of replicas for the uncertainty of a refined image, 0 for none."""
    stated = config.inference.uncertainty
    if stated not in ("none", "bootstrap"):
        _log.warning(
            "%s: no map of uncertainty, since that by %s is of the network's image, which is refined; state "
            "inference.uncertainty bootstrap, or no refinement (--refine 0)",
            scan.name, stated,
        )  # fmt: skip
    return config.inference.replicas if stated == "bootstrap" else 0


def refined_first_image(
    scan: Scan,
    image: Reconstruction,
    passes: int,
    device: str | torch.device,
    accept: str | Collection[str],
    replicas: int = 0,
    remake: Callable[[Scan], Reconstruction] | None = None,
) -> Reconstruction:
    """Refine an image of the pretrained network or, where it does not explain the patterns, nothing.

    Arguments as for :func:`refined_image`.
    """
    if unexplained(fit_of_result(image, scan)) is None:
        return refined_image(scan, image, passes, device, accept, replicas, remake)
    _log.info("%s: the refinement begins with nothing, not with an image that does not explain the patterns", scan.name)
    refined = refined_image(scan, None, passes, device, accept, replicas)
    return replace(refined, metadata={**image.metadata, **refined.metadata})


def refined_image(
    scan: Scan,
    image: Reconstruction | None,
    passes: int,
    device: str | torch.device = "auto",
    accept: str | Collection[str] = (),
    replicas: int = 0,
    remake: Callable[[Scan], Reconstruction] | None = None,
) -> Reconstruction:
    """Refine an image, or nothing, against the counts: object and probe, in so many passes over the scan.

    Args:
        scan: the scan.
        image: to begin with.
        passes: over the scan.
        device: where to compute.
        accept: keys of problems of the scan to accept.
        replicas: for the uncertainty by "bootstrap"; 0: none.
        remake: makes an image of other counts, as ``image`` was made.

    Returns:
        The refined image, with the metadata of the given one, such as its network.
    """
    from ptychopinn.refinement.workflow import refine  # only here, for others to begin sooner

    _log.info("%s: the image is refined against the counts in %d passes", scan.name, passes)
    config = RefineConfig(iterations=passes, split_half=False, find_defocus=False)
    if replicas:
        config = replace(config, uncertainty="bootstrap", replicas=replicas)
    result = refine(scan, image, config, device, accept=accept, remake=remake)
    return result if image is None else replace(result, metadata={**image.metadata, **result.metadata})
