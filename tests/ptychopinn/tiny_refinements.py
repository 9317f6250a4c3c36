# SPDX-License-Identifier: BSD-3-Clause
"""A small scan, initial states and a short configuration, for the tests of refinement."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from ptychopinn.config import RefineConfig
from ptychopinn.physics.simulate import simulate
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.refinement.search import defocus_probe
from ptychopinn.scan import Scan

QUICK = RefineConfig(iterations=25, split_half=False, batch_size=16)


def small_scan(**options: object) -> Scan:
    return simulate(**{"object": "photos", "patterns": 196, "size": 32, "photons": 1e6, "seed": 3, **options})  # type: ignore[arg-type]


def with_wrong_probe(scan: Scan, phase: float = -0.5) -> Scan:
    probe = defocus_probe(torch.from_numpy(scan.probe), phase).numpy()
    return dataclasses.replace(scan, probe=probe)


def true_start(scan: Scan) -> Reconstruction:
    assert scan.truth is not None
    return Reconstruction(scan.truth, np.ones(scan.truth.shape, np.float32), (0.0, 0.0), scan.probe)
