# SPDX-License-Identifier: BSD-3-Clause
"""What a GPU would run of a reconstruction, on any build of torch.

On fake tensors of a device that is not the CPU a value that is read back, a mixture of devices, or a shape that depends
on values is an error: here of "meta" for the stitch, and of "cuda" for a batch in on_fake_cuda/check_inference.py. On
the CPU the operators are counted: each is a launch, or a few, and `_local_scalar_dense` is a value that is read back,
for which the host waits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from ptychopinn.batches.dataset import GroupDataset
from ptychopinn.batches.grouping import group_patterns
from ptychopinn.batches.resident import ResidentCounts
from ptychopinn.config import Config
from ptychopinn.experiment import Experiment
from ptychopinn.inference.batches import Resident, _streamed, _Work, on_device
from ptychopinn.inference.predict import reconstruct
from ptychopinn.models import PtychoModel
from ptychopinn.physics.plain_inputs import PlainInputs
from ptychopinn.physics.simulate import simulate
from ptychopinn.scan import Scan
from ptychopinn.stitching import multigrid
from ptychopinn.stitching.accumulator import Accumulator, sums_of
from ptychopinn.stitching.multigrid import Rows, _agree, _laplacian, _leading, _Multigrid, _start, best_phases, row_sums
from ptychopinn.stitching.overlaps import overlap_products_on_device, overlapping_pairs, scan_order
from ptychopinn.stitching.phases import stitch
from ptychopinn.stitching.stores import MemoryStore

ELSEWHERE = torch.device("meta")
READ = "aten._local_scalar_dense.default"
#: Most operators of a batch, by generator, views included; counted were 432, 173, 158, 405 and 539 without bad pixels.
BATCH = {"unrolled": 480, "unet": 200, "cnn": 180, "ffno": 430, "sru_net": 570}


class Counted(TorchDispatchMode):
    """Counts operators by name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names[str(func)] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def scan() -> Scan:
    scan = simulate("dead_leaves", patterns=30, size=32, step=(6, 5), photons=1e5, seed=1)
    bad = np.zeros((32, 32), np.bool_)
    bad[3, 4:9] = True
    return Scan(**{**vars(scan), "bad_pixels": bad})


def reading(model: PtychoModel) -> PtychoModel:
    """A model whose generator reads a value back, as a careless one would."""
    forward = model.generator.forward

    def careless(counts: Tensor, *rest: Any) -> Tensor:
        scale = counts.amax().item()
        return forward(counts / scale * scale, *rest)

    model.generator.forward = careless  # type: ignore[method-assign]
    return model


def batch_of(
    scan: Scan, generator: str, change: Callable[[PtychoModel], PtychoModel]
) -> Callable[[], tuple[Tensor, Tensor]]:
    """What a GPU runs for a batch: counts in the file's type are gathered, predicted and weighted."""
    options = {"unet": {"width": 4}, "cnn": {"width": 1}}.get(generator, {})
    device = torch.device("cpu")
    model = change(on_device(PtychoModel(generator, options, 32, group_size=4), device))
    dataset = GroupDataset(scan, group_patterns(scan.positions, 4), model.generator.canvas_multiple)
    resident = Resident(ResidentCounts([scan], device), dataset)
    probe = torch.from_numpy(scan.probe).to(device)
    weight = torch.ones(32, 32, device=device)
    work = _Work(model, weight, probe, dataset.canvas_size, 0)
    groups = torch.zeros(5, dtype=torch.int64, device=device)
    return lambda: work(*resident.gather(groups))


@pytest.mark.parametrize("generator", BATCH)
def test_batch_reads_nothing_back(scan: Scan, generator: str) -> None:
    with torch.no_grad():
        for change, reads in ((lambda model: model, 0), (reading, 1)):
            work = batch_of(scan, generator, change)
            with Counted() as counted:
                work()
            assert counted.names[READ] == reads
            assert counted.names.total() <= BATCH[generator], counted.names.total()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.float32])
def test_resident_counts_give_the_batch_of_the_data_set(scan: Scan, dtype: Any) -> None:
    counts = np.minimum(scan.counts, 255).astype(dtype)
    scan = Scan(**{**vars(scan), "counts": counts})
    dataset = GroupDataset(scan, group_patterns(scan.positions, 4))
    expected = dataset.collate([3, 3, 11])
    resident = Resident(ResidentCounts([scan], torch.device("cpu")), dataset)
    got, positions, members = resident.gather(torch.tensor([3, 3, 11]))
    torch.testing.assert_close(got, expected.counts, rtol=1e-5, atol=1e-5)
    assert torch.equal(positions, expected.positions)
    assert torch.equal(members, expected.members)


@pytest.mark.parametrize("size", [4, 7, 50])
@pytest.mark.parametrize("background", [False, True])
def test_streamed_batches_are_those_of_the_data_set(scan: Scan, size: int, background: bool) -> None:
    """With bad pixels, a background of every pattern, and a last batch that is filled up."""
    if background:
        factors = np.linspace(0.0, 2.0, scan.n)
        experiment = Experiment(background=np.ones((32, 32), np.float32), background_factors=factors)
        scan = replace(scan, experiment=experiment)
    dataset = GroupDataset(scan, group_patterns(scan.positions, 4), 4)
    model = on_device(PtychoModel("unrolled", {"steps": 1, "width": 4}, 32), torch.device("cpu"))
    probe = torch.from_numpy(scan.probe)
    inputs = PlainInputs.of(scan.experiment, scan.probe, torch.device("cpu"))
    work = _Work(model, torch.ones(32, 32), probe, dataset.canvas_size, 0, inputs)
    order = np.arange(len(dataset))[::-1].copy()
    with torch.no_grad():
        parts = _streamed(work, dataset, order, size, Config(), torch.device("cpu"), False)
        got = [(make()[0][:rows].clone(), rows) for make, rows in parts]
        batch = dataset.collate(order.tolist())
        expected, _ = work(batch.counts, batch.positions, batch.members)
    assert [rows for _, rows in got] == [min(size, 30 - start) for start in range(0, 30, size)]
    torch.testing.assert_close(torch.cat([part for part, _ in got]), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
def test_resident_streamed_and_host_reconstructions_agree(scan: Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    model = PtychoModel("unrolled", {"steps": 2, "width": 8, "state": 2}, 32)
    model.illumination.set_probe(torch.from_numpy(scan.probe))
    config = Config.from_dict({"data": {"group_size": 4}, "inference": {"batch_size": 2, "coverage": None}})
    expected = reconstruct(model, scan, config, "cpu").object
    resident = [reconstruct(model, scan, config, "cuda").object for _ in range(2)]
    monkeypatch.setattr("ptychopinn.inference.predict.counts_on", lambda *_: None)
    streamed = reconstruct(model, scan, config, "cuda").object
    monkeypatch.setattr("ptychopinn.inference.predict.free_memory", lambda _: 0)
    elsewhere = reconstruct(model, scan, config, "cuda").object  # canvases in the memory of the host
    np.testing.assert_array_equal(*resident)
    for got in (resident[0], streamed, elsewhere):
        assert np.linalg.norm(got - expected) < 1e-3 * np.linalg.norm(expected)


# Stitching.


def canvases_of(count: int, device: torch.device) -> tuple[Tensor, Tensor, np.ndarray]:
    """Canvases, weights and origins on a raster with some disorder."""
    side = int(np.ceil(np.sqrt(count)))
    origins = np.stack(np.divmod(np.arange(count), side), 1) * 7 + np.random.default_rng(0).integers(0, 3, (count, 2))
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(count, 20, 24, dtype=torch.complex64, generator=generator)
    weights = torch.rand(count, 20, 24, generator=generator)
    return values.to(device), weights.to(device), origins


def test_products_and_mosaic_stay_on_the_device() -> None:
    canvases, weights, origins = canvases_of(60, torch.device("cpu"))
    order = scan_order(origins, (20, 24))
    pairs = overlapping_pairs(origins[order], (20, 24))
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        there, weights_there = (torch.empty_like(part, device="meta") for part in (canvases, weights))
        products = overlap_products_on_device(there, weights_there, order, origins[order], pairs)
        assert products.device.type == "meta" and products.shape == (len(pairs),)
        store = MemoryStore((100, 120), torch.complex64, "meta")
        corners = torch.zeros(60, 2, dtype=torch.float64, device="meta")
        store.add((slice(3, 53), slice(0, 60)), sums_of(there, corners, (50, 60), weights_there))
        from ptycho_ext import CanvasGeometry

        assert Accumulator(CanvasGeometry((0, 0), (100, 120)), store).mean().image.device.type == "meta"


class SegmentRows(Rows):
    """Rows that are summed as on a GPU, on any device."""

    def __init__(self, matrix: csr_array, device: torch.device) -> None:
        self.starts = torch.from_numpy(matrix.indptr.astype(np.int64)).to(device)
        self.columns = torch.from_numpy(matrix.indices.astype(np.int64)).to(device)
        self.values = torch.from_numpy(matrix.data).to(device)

    def __call__(self, vector: Tensor) -> Tensor:
        return row_sums(self.values * vector[self.columns], self.starts)


def links_of(count: int) -> csr_array:
    _, _, origins = canvases_of(count, torch.device("cpu"))
    pairs = overlapping_pairs(origins[scan_order(origins, (20, 24))], (20, 24))
    generator = np.random.default_rng(1)
    values = 1 + 0.1 * (generator.standard_normal((len(pairs), 2)) @ [1, 1j])
    upper = csr_array((values, (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return (upper + upper.conj().T).tocsr()


def test_phases_stay_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    links = links_of(300)
    start, joined = _start(links)
    laplacian = _laplacian(links, start)
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        grid = _Multigrid(laplacian, joined, ELSEWHERE)
        matrix, phases = Rows(links, ELSEWHERE), torch.from_numpy(start).to(ELSEWHERE)
        mass = torch.ones(300, dtype=torch.float64, device="meta")
        phases = _agree(matrix, grid, phases)
        assert phases.device.type == "meta"
        with pytest.raises(DataDependentOutputException):  # the accuracy, read every eight steps
            _leading(matrix, mass, grid, phases)
        monkeypatch.setattr(multigrid, "_BETWEEN", 1000)
        assert _leading(matrix, mass, grid, phases)[0].device.type == "meta"


def test_phases_read_the_accuracy_only(monkeypatch: pytest.MonkeyPatch) -> None:
    links = links_of(300)
    expected = best_phases(links)
    monkeypatch.setattr(multigrid, "Rows", SegmentRows)
    with Counted() as counted:
        got = best_phases(links)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-9)
    reads = counted.names[READ]
    assert 1 <= reads <= 6
    assert counted.names.total() <= 1000 + reads * 8 * 120, (counted.names.total(), reads)


def test_stitch_reads_back_a_bounded_number_of_values() -> None:
    """For the box and the canvas, from positions on the host, and the accuracy of the phases."""
    canvases, weights, origins = canvases_of(200, torch.device("cpu"))
    with Counted() as counted:
        stitch(canvases, torch.from_numpy(origins), weights)
    assert counted.names[READ] <= 24, counted.names[READ]
    assert counted.names.total() <= 2500, counted.names.total()


def test_reconstruction_reads_no_more_for_more_batches(scan: Scan) -> None:
    model = PtychoModel("unrolled", {"steps": 2, "width": 8, "state": 2}, 32)
    reads = []
    for size in (30, 2):
        config = Config.from_dict({"data": {"group_size": 4}, "inference": {"batch_size": size, "coverage": None}})
        with Counted() as counted:
            reconstruct(model, scan, config, "cpu")
        reads.append(counted.names[READ])
    assert reads[0] == reads[1]
