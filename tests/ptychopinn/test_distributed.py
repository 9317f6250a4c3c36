# SPDX-License-Identifier: BSD-3-Clause
"""Two processes on the CPU give the result of one: steps of a training, its files, and the stitched object.

Sums in another order round differently. A training amplifies that without bound (a change of one weight by one bit
does the same), so gradients are compared closely, and loss curves where rates are low.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from distributed_runs import RECONSTRUCTIONS, TRAININGS, run_all
from tiny_runs import tiny

from ptychopinn.batches.steps import StepSampler, StepShape
from ptychopinn.errors import InputError
from ptychopinn.persistence.bundle import load_bundle
from ptychopinn.physics.simulate import simulate
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.stitching.distributed import regions
from ptychopinn.training.trainer import _devices
from ptychopinn.training.workflow import read_config, train

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
TORCHRUN = (
    *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
    *("--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"),
)
TINY = (
    *("--model.options", '{"steps": 2, "width": 8, "state": 2}', "--data.group_size", "4"),
    *("--training.batch_size", "4", "--execution.progress", "false", "--execution.accelerator", "cpu"),
)


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TORCHRUN, *arguments], capture_output=True, text=True, env=ENVIRONMENT, check=False, timeout=300
    )


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    run_all(folder)
    torch.use_deterministic_algorithms(False)
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    done = torchrun(str(Path(__file__).with_name("distributed_runs.py")), str(folder))
    assert done.returncode == 0, done.stderr
    assert "training.batch_size: 2 processes share batches of 1 groups" in done.stderr
    return folder


def curve(run: Path) -> dict[tuple[str, str], float]:
    header, *rows = ((run / "metrics.csv").read_text()).splitlines()
    names = header.split(",")
    table = [dict(zip(names, row.split(","), strict=True)) for row in rows]
    return {(row["epoch"], name): float(row[name]) for row in table for name in ("train_loss", "val_loss") if row[name]}


@pytest.mark.parametrize("name", TRAININGS)
def test_gradients_equal_those_of_the_full_batch(one: Path, two: Path, name: str) -> None:
    full, shared = (torch.load(folder / f"{name}.pt", weights_only=True) for folder in (one, two))
    assert full.keys() <= shared.keys()
    for key, gradient in shared.items():
        if key in full:
            scale = float(torch.linalg.vector_norm(full[key])) or 1.0
            assert float(torch.linalg.vector_norm(gradient - full[key])) <= 2e-5 * scale, key
        else:  # no gradient in one process
            assert not gradient.any(), key
    if name == "everything":
        assert {"model.illumination.lanes", "model.illumination.log_scale"} <= full.keys()


@pytest.mark.parametrize("name", TRAININGS)
def test_loss_curves_and_results_agree(one: Path, two: Path, name: str) -> None:
    first, second = curve(one / name), curve(two / name)
    assert len(first) == 2 * TRAININGS[name]["training"]["epochs"]
    assert second == pytest.approx(first, rel=1e-4)
    (a, config), (b, same) = load_bundle(one / name), load_bundle(two / name)
    assert config == same
    state = b.state_dict()
    for key, value in a.state_dict().items():
        torch.testing.assert_close(state[key], value, rtol=1e-2, atol=2e-4, msg=key)


def test_learned_probe_scale_and_positions_agree(one: Path, two: Path) -> None:
    (a, _), (b, _) = (load_bundle(folder / "everything") for folder in (one, two))
    start = a.illumination.probe.new_tensor(load_bundle(one / "supervised")[0].illumination.probe.detach().numpy())
    for part in (
        lambda model: model.illumination.probe - start,
        lambda model: model.illumination.log_scale,
        lambda model: model.positions.offsets,
    ):
        moved, other = part(a).detach(), part(b).detach()
        assert float(moved.abs().max()) > 0
        assert float((other - moved).abs().max()) < 1e-2 * float(moved.abs().max())


@pytest.mark.parametrize("name", TRAININGS)
def test_files_are_those_of_one_process(one: Path, two: Path, name: str) -> None:
    found = [sorted(str(path.relative_to(folder)) for path in (folder / name).rglob("*")) for folder in (one, two)]
    assert found[0] == found[1]
    assert read_config(one / name) == read_config(two / name)


def test_resumed_run_equals_the_uninterrupted_one_bitwise(two: Path) -> None:
    (a, _), (b, _) = (load_bundle(two / name) for name in ("uninterrupted", "resumed"))
    state = b.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in a.state_dict().items())
    assert curve(two / "resumed") == curve(two / "uninterrupted")


@pytest.mark.parametrize("few", ["", ", few"])
@pytest.mark.parametrize("name", RECONSTRUCTIONS)
def test_reconstructions_are_equal(one: Path, two: Path, name: str, few: str) -> None:
    a, b = (Reconstruction.load(folder / f"{name}{few}.npz") for folder in (one, two))
    assert a.origin == b.origin
    for key, tolerance in (("object", 1e-6), ("weights", 1e-6), ("probe", 0)):
        first, second = getattr(a, key), getattr(b, key)
        assert np.linalg.norm(second - first) <= tolerance * np.linalg.norm(first), key
    assert (a.uncertainty is None) == (b.uncertainty is None) == (name != "everything")
    if a.uncertainty is not None:  # the root of a difference of squares, which loses digits
        assert np.linalg.norm(b.uncertainty - a.uncertainty) <= 1e-5 * np.linalg.norm(a.object)


def test_error_of_one_process_ends_all_and_is_raised_once(two: Path) -> None:
    first, second = (json.loads((two / f"failures {rank}.json").read_text()) for rank in (0, 1))
    sentences = [f"scan.npz: something is wrong (found by process {number} of 2)" for number in (1, 2)]
    assert first == [["InputError", sentence] for sentence in sentences]
    assert second == [["RemoteError", sentence] for sentence in sentences]


def test_error_of_a_command_is_printed_once(tmp_path: Path) -> None:
    done = torchrun("-m", "ptychopinn.cli", "reconstruct", "absent", "scan.npz", "--out", str(tmp_path / "recon.h5"))
    assert done.returncode != 0 and list(tmp_path.iterdir()) == []
    assert done.stderr.count("ptychopinn reconstruct: absent: not found; expected a trained model") == 1


def test_interrupt_ends_all_after_the_same_step_and_saves(tmp_path: Path) -> None:
    simulate("dead_leaves", patterns=16, size=32, photons=1e5, seed=3).save(tmp_path / "scan.npz")
    run = tmp_path / "run"
    command = ("-m", "ptychopinn.cli", "train", str(tmp_path / "scan.npz"), "--out", str(run), "--epochs", "100000")
    started = subprocess.Popen([*TORCHRUN, *command, *TINY], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    try:
        for _ in range(1200):
            if (run / "checkpoints" / "last.ckpt").exists():
                break
            time.sleep(0.1)
        started.send_signal(signal.SIGINT)
        _, errors = started.communicate(timeout=120)
    finally:
        started.kill()
    assert "interrupted; " in errors and "holds what was learned until then" in errors
    assert load_bundle(run)[1].training.epochs == 100000
    assert (run / "training.png").exists()


def test_several_devices_need_several_processes(tmp_path: Path) -> None:
    scan = simulate("dead_leaves", patterns=16, size=32, photons=1e5, seed=3)
    with pytest.raises(InputError, match=r"execution.devices: 2 takes 2 processes, and this is one: start them with"):
        train(scan, tmp_path / "run", tiny(execution={"devices": 2}))
    assert not (tmp_path / "run").exists()


def test_devices_must_match_the_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "4"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="'auto' or the 2 processes that torchrun has started on this node, got 4"):
        _devices(4)
    assert _devices("auto")["devices"] == _devices("auto")["num_nodes"] == 2


@pytest.mark.parametrize("shape", [StepShape(1, 1, 1), StepShape(3, 1, 5), StepShape(2, 3, 4), StepShape(4, 2, 3)])
def test_shards_make_up_the_batches_of_one_process(shape: StepShape) -> None:
    for steps in range(1, 6):
        groups = steps * shape.groups_per_step
        (at_once,) = [chain.from_iterable(StepSampler(groups, shape))]
        assert list(at_once) == list(range(groups))
        for count in range(1, 7):
            parts = [list(StepSampler(groups, shape, (rank, count))) for rank in range(count)]
            assert {len(part) for part in parts} == {-(-steps // shape.steps)}
            counted = [part for rank, part in enumerate(parts) if rank < shape.groups]
            assert sorted(chain(*chain(*counted))) == list(range(groups))
            batches = list(range(0, groups, shape.groups))
            assert all(list(chain(*part)) == batches for part in parts[shape.groups :])


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_regions_are_even_compact_and_complete(count: int) -> None:
    origins = np.stack(np.mgrid[:9, :13], -1).reshape(-1, 2)
    found = regions(origins, count)
    assert sorted(np.concatenate(found).tolist()) == list(range(len(origins)))
    sizes = [len(region) for region in found]
    assert len(found) == count and max(sizes) - min(sizes) <= 1
    for region in found:
        height, width = np.ptp(origins[region], axis=0) + 1
        assert height * width <= 1.5 * len(region) and (np.diff(region) > 0).all()
    assert sum(len(region) for region in regions(origins[:2], count)) == 2
