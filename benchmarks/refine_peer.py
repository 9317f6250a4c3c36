# SPDX-License-Identifier: BSD-3-Clause
"""pty-chi's LSQML on the same scan: optional, for benchmarks/refine.py only.

Install it beside the CPU torch without its dependencies (they would bring another torch)::

    pip install --no-deps ptychi==2.2.0 pandas scikit-learn joblib threadpoolctl narwhals tifffile
    pip install pydantic

It imports torchvision for one blur that none of the cases uses; where there is none, an empty stand-in is imported.
"""

from __future__ import annotations

import logging
import sys
import time
import types
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch

from ptycho_ext import extract_patches_adjoint
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.scan import Scan


@dataclass(frozen=True)
class PeerSetting:
    """What of LSQML's options is not at its default; both settings are what its documentation recommends."""

    name: str
    batching: str
    momentum: float
    batch: int = 100


#: Its defaults (random batches), and compact batches with the momentum that it asks for with them.
SETTINGS = (PeerSetting("lsqml", "random", 0.0), PeerSetting("lsqml compact", "compact", 0.5))


def installed() -> bool:
    """Whether pty-chi can be imported."""
    return find_spec("ptychi") is not None


def lsqml(scan: Scan, setting: PeerSetting, epochs: int) -> Iterator[tuple[int, float, Reconstruction]]:
    """Yield (epochs, CPU-seconds so far, reconstruction) after every epoch; object from 1, probe refined.

    Object and positions in its frame: the scan's middle in the middle of an object 40 px larger than the scan.
    """
    if "torchvision" not in sys.modules and find_spec("torchvision") is None:
        transforms = types.ModuleType("torchvision.transforms")
        transforms.GaussianBlur = None  # type: ignore[attr-defined]
        sys.modules["torchvision"] = types.ModuleType("torchvision")
        sys.modules["torchvision.transforms"] = transforms
    logging.disable(logging.INFO)
    import ptychi.api as api
    from ptychi.api.task import PtychographyTask

    size = scan.patch_size
    extent = np.ptp(scan.positions, axis=0) + size + 40
    shape = [int(np.ceil(side / 2) * 2) for side in extent]
    middle = (scan.positions.max(0) + scan.positions.min(0)) / 2
    options = api.LSQMLOptions()
    options.data_options.data = scan.counts.astype(np.float32)
    options.object_options.initial_guess = np.ones((1, *shape), np.complex64)
    options.probe_options.initial_guess = scan.probe[None]
    options.probe_position_options.position_y_px = (scan.positions - middle)[:, 0]
    options.probe_position_options.position_x_px = (scan.positions - middle)[:, 1]
    reconstructor = options.reconstructor_options
    reconstructor.num_epochs, reconstructor.batch_size = epochs, setting.batch
    reconstructor.batching_mode, reconstructor.momentum_acceleration_gain = setting.batching, setting.momentum
    reconstructor.default_device, reconstructor.random_seed = "cpu", 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        task = PtychographyTask(options)
        seconds = 0.0
        for epoch in range(1, epochs + 1):
            began = time.process_time()
            task.run(1)
            seconds += time.process_time() - began
            yield epoch, seconds, _reconstruction(task, scan, middle)


def _reconstruction(task: object, scan: Scan, middle: np.ndarray) -> Reconstruction:
    image = task.get_data_to_cpu("object", as_numpy=True)[0].astype(np.complex64)  # type: ignore[attr-defined]
    probe = task.get_data_to_cpu("probe", as_numpy=True)[0].astype(np.complex64)  # type: ignore[attr-defined]
    size = scan.patch_size
    origin = middle - (np.array(image.shape) / 2 - size / 2)
    light = torch.from_numpy(np.square(np.abs(probe)).sum(0)).float().expand(scan.n, size, size).contiguous()
    weights = extract_patches_adjoint(light, torch.from_numpy(scan.positions - origin), image.shape)
    return Reconstruction(
        image, weights.numpy(), (float(origin[0]), float(origin[1])), probe, pixel_size=scan.pixel_size
    )
