# SPDX-License-Identifier: BSD-3-Clause
"""PtychoPINN's network: number of parameters, rim and group size. test_models.py tests the contract of generators."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_groups import batch_of, run, scan_of_groups

from ptychopinn.errors import InputError
from ptychopinn.models import build_generator
from ptychopinn.scan import Scan


@pytest.fixture(scope="module")
def scan() -> Scan:
    return scan_of_groups()


@pytest.mark.parametrize(
    ("size", "members", "parameters"), [(64, 1, 2_339_895), (64, 4, 2_351_733)], ids=["C = 1", "C = 4"]
)
def test_cnn_has_as_many_parameters_as_ptychopinn(size: int, members: int, parameters: int) -> None:
    """The original has one more, its intensity scale, which is a parameter of the illumination here."""
    generator = build_generator("cnn", size, {}, members)
    assert sum(p.numel() for p in generator.parameters()) == parameters


def test_cnn_predicts_the_rim_for_large_probes_only() -> None:
    torch.manual_seed(0)
    with_rim, without = (build_generator("cnn", 64, {"width": 1, "probe_big": big}) for big in (True, False))
    features = with_rim.encoder(torch.rand(2, 1, 64, 64))
    centre = np.s_[..., 16:48, 16:48]
    for decoder in (without.amplitude, without.phase):
        image = decoder(features)
        assert image.shape == (2, 1, 64, 64) and (image[centre] != 0).any()
        rim = image.clone()
        rim[centre] = 0
        assert (rim == 0).all()
    for decoder in (with_rim.amplitude, with_rim.phase):
        image = decoder(features)
        assert (image[..., :16, :] != 0).all() and (image[..., 48:, :] != 0).all() and (image[..., :16] != 0).all()


def test_cnn_with_patterns_as_channels_has_a_fixed_group_size(scan: Scan) -> None:
    generator = build_generator("cnn", 32, {"width": 1}, 4)
    assert generator.group_size == 4 and build_generator("cnn", 32, {"object_big": False}).group_size is None
    canvas = run(generator, batch_of(scan, 4), torch.from_numpy(scan.probe))
    assert torch.isfinite(canvas.abs()).all()
    with pytest.raises(InputError, match="width must be above 2 for groups of 64, got 2"):
        build_generator("cnn", 32, {"width": 2}, 64)
