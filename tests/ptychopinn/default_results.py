# SPDX-License-Identifier: BSD-3-Clause
"""Results of all that computes outside of the workflows, for test_default_device.py: run with "plain" or "meta".

With "meta", the default device has no data and the default type is float64, so that a tensor that is left to the
defaults is an error or has another type.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import ptycho_ext as px
from ptychopinn.batches.dataset import GroupDataset, finished
from ptychopinn.batches.grouping import group_patterns
from ptychopinn.compat import diffsim, tf_helper, torch_helper
from ptychopinn.inspection import inspect_scan
from ptychopinn.metrics.evaluate import evaluate
from ptychopinn.models import PtychoModel
from ptychopinn.persistence.bundle import load_bundle, save_bundle
from ptychopinn.physics.initial_estimate import initial_patches
from ptychopinn.physics.likelihood import LOSSES
from ptychopinn.physics.overlap import canvas_illumination, illumination_weight
from ptychopinn.physics.priors import total_variation
from ptychopinn.physics.simulate import simulate
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.scan import Scan


def tensor(*shape: int, seed: int = 0, complex: bool = False) -> Tensor:
    rng = np.random.default_rng(seed)
    values = rng.uniform(0.5, 1.5, shape) + (1j * rng.uniform(-1, 1, shape) if complex else 0)
    return torch.from_numpy(values.astype(np.complex64 if complex else np.float32))


def files_and_inspection() -> Iterator[Any]:
    scan = simulate("dead_leaves", patterns=36, size=32, photons=1e5, seed=3)
    scan = replace(scan, pixel_size=1e-8, energy=8000.0)
    yield from (scan.counts, scan.truth)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("scan.npz", "scan.cxi"):
            scan.save(Path(folder) / name)
            yield Scan.load(Path(folder) / name).counts
    found = inspect_scan(scan)
    assert found.orientation is not None
    yield from (found.geometry.illuminated, found.patterns.offset, list(found.orientation.scores.values()))
    assert scan.truth is not None
    image = Reconstruction(scan.truth * np.exp(0.3j), np.ones(scan.truth.shape, np.float32), (0.0, 0.0))
    yield evaluate(image, scan, border=4)["frc"]["mean"]


def models() -> Iterator[Any]:
    scan = simulate("dead_leaves", patterns=16, size=32, photons=1e5, seed=3)
    groups = group_patterns(scan.positions, 4)
    small: dict[str, dict[str, Any]] = {
        "unrolled": {"steps": 2, "width": 8},
        "unet": {"width": 8},
        "cnn": {"width": 1},
        "ffno": {"width": 8, "layers": 2},
        "sru_net": {"width": 4, "units": 2},
    }
    for generator, options in small.items():
        torch.manual_seed(0)
        model = PtychoModel(generator, options, 32, learn_probe=True, learn_scale=True, group_size=4, patterns=scan.n)
        model.illumination.set_probe(torch.from_numpy(scan.probe))
        assert model.positions is not None
        model.positions.set_scans([scan])
        dataset = GroupDataset(scan, groups, model.generator.canvas_multiple)
        batch = finished(dataset.gather([0, 1]), "cpu")
        canvases = model(batch.counts, model.refine(batch.positions, batch.members), batch.canvas_size)
        predicted = model.predict_counts(canvases, batch.positions)
        losses = [loss(predicted, batch.counts, model.good) for loss in LOSSES.values()]
        weight = illumination_weight(model.illumination.probe)
        losses.append(total_variation(canvases, canvas_illumination(weight, batch.positions, batch.canvas_size)))
        torch.stack(losses).sum().backward()
        yield from (canvases, *losses, *(p.grad for p in model.parameters()), *model.state_dict().values())
        yield initial_patches(batch.counts, model.illumination.probe)


def bundles() -> Iterator[Any]:
    from ptychopinn.config import Config

    config = Config.from_dict({"data": {"group_size": 4}, "model": {"options": {"steps": 2, "width": 8}}})
    torch.manual_seed(0)
    model = PtychoModel("unrolled", {"steps": 2, "width": 8}, 32, learn_probe=True)
    with tempfile.TemporaryDirectory() as folder:
        save_bundle(model, config, Path(folder) / "model.zip", {})
        yield from load_bundle(Path(folder) / "model.zip")[0].state_dict().values()


def operators() -> Iterator[Any]:
    positions = np.random.default_rng(1).uniform(0, 12, (6, 2))
    plan, geometry = px.ScanPlan.from_scan_positions(positions, 8, margin=1)
    yield from (plan.positions, plan.order, plan.tile_start, plan.tile_patches)
    yield from (geometry.to_canvas(torch.from_numpy(positions)), geometry.to_scan(positions.tolist()))
    points = plan.positions.clone().requires_grad_()
    for complex in (False, True):
        canvas, patches = tensor(*geometry.shape, complex=complex), tensor(6, 8, 8, complex=complex)
        probe, weight = tensor(2, 8, 8, seed=2, complex=True), tensor(8, 8, seed=3)
        inputs = [value.requires_grad_() for value in (canvas, patches, probe, weight)]
        results = [
            px.extract_patches(canvas, points, 8, plan=plan),
            px.extract_patches_adjoint(patches, points, geometry.shape),
            *px.reassemble_patches(patches, points, geometry.shape),
            *px.reassemble_patches(patches, points, geometry.shape, weight),
            px.translate_images(patches, points),
            px.translate_images(patches.detach(), points.detach(), "fourier"),
            px.overlap_project(patches[None], points[None], geometry.shape, weight),
        ]
        if complex:
            waves = px.exit_waves(canvas, points, probe)
            results += [waves, px.exit_waves_adjoint(waves, points, probe, geometry.shape)]
            results += [px.exit_waves_adjoint_probe(waves, canvas, points)]
            fields = torch.fft.fft2(waves[None], norm="ortho")
            results += list(px.correct_fields(fields, tensor(1, 6, 8, 8, seed=4), loss="poisson"))
        yield from results
        total = torch.stack([value.abs().double().sum() for value in results if value.requires_grad]).sum()
        yield from torch.autograd.grad(total, [points, *inputs], allow_unused=True)


def helpers() -> Iterator[Any]:
    offsets = tensor(2, 1, 2, 4, seed=5) * 3
    images, channels = tensor(2, 16, 16, 1, complex=True), tensor(2, 16, 16, 4)
    for xla in (True, False):
        yield tf_helper.translate(images, offsets[:, 0, :, 0], use_xla_translate=xla)
    yield tf_helper.extract_patches_position(images, offsets, N=8)
    yield tf_helper.center_channels(channels, offsets)
    yield tf_helper.extract_patches(images, 8, 4)
    for kind in ("center", "ones"):
        try:
            yield tf_helper.mk_centermask(channels, 16, 4, kind)
        except ValueError:
            assert kind != "center"
    yield tf_helper.reassemble_patches_real(channels, gridsize=2, offset=4)
    reassemble = tf_helper.mk_reassemble_position_real(offsets, padded_size=24)
    yield tf_helper.reassemble_patches(channels, reassemble)
    yield from tf_helper.pad_and_diffract(images, 16, 16)
    yield diffsim.diffract_obj(images)

    patches, moves = tensor(2, 4, 16, 16, complex=True), tensor(2, 4, 1, 2, seed=6)
    yield torch_helper.Translation(patches[0], moves[0])
    yield torch_helper.mk_centermask(patches)
    yield from torch_helper.reassemble_patches_position_real(patches, moves, padded_size=24)[:2]
    yield torch_helper.extract_channels_from_region(tensor(2, 1, 24, 24), moves, N=16)
    for kind in (torch_helper.VectorizedBarycentricAccumulator, torch_helper.VectorizedWeightedAccumulator):
        sums = kind((40, 40))
        weights = () if kind is torch_helper.VectorizedBarycentricAccumulator else (tensor(16, 16),)
        sums.accumulate_batch(patches[0], 15 + moves[0, :, 0], *weights)
        yield from (sums.canvas, sums.weights)
    yield from torch_helper.pad_and_diffract(patches[None])
    yield from torch_helper.illuminate_and_diffract(patches[0], tensor(2, 16, 16, complex=True), nphotons=1e4)


PARTS: dict[str, Callable[[], Iterator[Any]]] = {
    "files_and_inspection": files_and_inspection,
    "models": models,
    "bundles": bundles,
    "operators": operators,
    "helpers": helpers,
}


def main() -> None:
    out, defaults = sys.argv[1:]
    if defaults == "meta":
        torch.set_default_device("meta")
        torch.set_default_dtype(torch.float64)
    arrays = {}
    for name, part in PARTS.items():
        for k, value in enumerate(part()):
            if value is not None:
                arrays[f"{name} {k}"] = value.detach().numpy() if isinstance(value, Tensor) else np.asarray(value)
    np.savez(out, **arrays)


if __name__ == "__main__":
    main()
