# SPDX-License-Identifier: BSD-3-Clause
"""An unmodified ptychodus 1.7.0 trains and reconstructs with this package, headless, by both routes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytest.importorskip("ptychodus.api", reason="ptychodus is not installed: make ptychodus")
pytest.importorskip("ptychopinn_ptychodus", reason="not installed: pip install --no-deps ./integrations/ptychodus")

import numpy as np
from numpy.typing import NDArray
from ptychodus.api.io import load_product
from staged import CASES, PART, Case, likeness, ptychodus, write

LEAST = 0.75
#: Pixels: half of one would be another convention. A learned probe and the object can shift together by some of it.
FARTHEST = 0.4
ROUTES = ("ptychopinn-torch_unsupervised", "ptychopinn_network")


def outcome(case: Case, folder: Path, algorithm: str, truth: NDArray[np.complex64], log: str) -> None:
    """The last product has the shape, centre and phase of the object that was asked for, at its place."""
    products = sorted((folder / "result").glob("product.*.h5"))
    assert products, log
    found, asked = load_product(products[-1]), load_product(folder / "infer" / "product.h5")
    assert found.metadata.name.endswith(f"_{algorithm}"), found.metadata.name
    image = found.object_.get_array()
    assert image.shape == asked.object_.get_array().shape
    assert found.object_.get_geometry() == asked.object_.get_geometry()
    assert found.probes.get_array().shape == asked.probes.get_array().shape
    # Inside the border of the scan, or of the part that was measured.
    rows = case.first // case.columns * case.size // 8
    inside = np.s_[case.size // 2 + rows : -case.size // 2, case.size // 2 : -case.size // 2]
    score, shift = likeness(image[0][inside], truth[inside])
    print(f"{algorithm}, {case.name}: {image.shape}; phase {score:.3f}, {shift} px away")
    assert score > LEAST and np.abs(shift).max() < FARTHEST
    level = np.median(np.abs(image[0][inside]))
    assert 0.8 < level < 1.2, level  # the truth's is close to 1


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ROUTES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_trains_and_reconstructs(case: Case, algorithm: str, tmp_path: Path) -> None:
    train_and_reconstruct(case, algorithm, tmp_path)


@pytest.mark.slow
def test_a_part_of_a_scan_with_bad_pixels_is_at_its_place(tmp_path: Path) -> None:
    train_and_reconstruct(PART, "ptychopinn_network", tmp_path)


def train_and_reconstruct(case: Case, algorithm: str, tmp_path: Path) -> None:
    truth = write(case, tmp_path, algorithm)
    code, log = ptychodus(tmp_path, "train", "train", "trained")
    assert code == 0, log
    (checkpoint,) = (tmp_path / "trained").rglob("model.ckpt")
    shutil.copy(checkpoint, tmp_path / "infer" / "model.ckpt")
    code, log = ptychodus(tmp_path, "reconstruct", "infer", "result")
    assert code == 0, log
    outcome(case, tmp_path, algorithm, truth, log)


@pytest.mark.slow
def test_refines_without_a_network(tmp_path: Path) -> None:
    case = CASES[1]
    truth = write(case, tmp_path, "ptychopinn_refinement")
    code, log = ptychodus(tmp_path, "reconstruct", "infer", "result")
    assert code == 0, log
    outcome(case, tmp_path, "ptychopinn_refinement", truth, log)
    (product,) = (load_product(path) for path in sorted((tmp_path / "result").glob("product.*.h5"))[-1:])
    losses = [loss.value for loss in product.losses]
    assert losses[-1] < 0.5 * losses[0] and [loss.epoch for loss in product.losses] == list(range(1, len(losses) + 1))
