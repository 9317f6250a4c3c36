# SPDX-License-Identifier: BSD-3-Clause
"""Predictions of other counts of a scan, as its own image was made: starts of the replicas of a refined image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from ptychopinn.config import Config
from ptychopinn.inference.combine import combine
from ptychopinn.inference.predict import predicted_images, prepare
from ptychopinn.inference.pretrained import network_for
from ptychopinn.models import PtychoModel
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.runtime.process_settings import process_settings
from ptychopinn.scan import Scan


def predictor(
    model: PtychoModel | Sequence[PtychoModel] | None,
    scan: Scan,
    result: Reconstruction,
    config: Config,
    device: torch.device,
) -> Callable[[Scan], Reconstruction]:
    """What makes the image of other counts of a scan, as that of its own was made; they are not checked.

    Args:
        model: of the result; None: the network in the package.
        scan: the scan, which was checked.
        result: that :func:`ptychopinn.inference.predict.reconstruct` made of it.
        config: of that.
        device: of the computation.
    """
    if model is None:
        _, model, config = network_for(scan, config)
    views, known, probe = prepare(model, scan, config, device, "all")

    def predicted(other: Scan) -> Reconstruction:
        with process_settings(config.execution):
            images, *_ = predicted_images(views, replace(known, counts=other.counts), config, device, probe)
            mean, weights, _ = combine(images)
        origin = (float(images[0].geometry.origin[0]), float(images[0].geometry.origin[1]))
        image = replace(
            result, object=mean.cpu().numpy(), weights=weights.cpu().numpy(), origin=origin, uncertainty=None
        )
        return image.cropped() if config.inference.crop else image

    return predicted
