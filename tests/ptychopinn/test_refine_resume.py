# SPDX-License-Identifier: BSD-3-Clause
"""Interrupted and resumed refinements, and checkpoints and initial reconstructions that are refused."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_refinements import QUICK, small_scan, true_start

from ptychopinn.errors import InputError
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.refinement import checkpoint, run
from ptychopinn.refinement.files import CHECKPOINT, refine_to_files
from ptychopinn.refinement.workflow import Progress, refine


def test_interrupt_of_the_split_half_keeps_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    scan = small_scan(patterns=100)
    original = run.Refinement.iterate
    calls = []

    def iterate(self: run.Refinement) -> None:
        calls.append(self)
        if len(calls) > 1:
            raise KeyboardInterrupt
        original(self)

    monkeypatch.setattr(run.Refinement, "iterate", iterate)
    found = refine(scan, None, dataclasses.replace(QUICK, split_half=True))
    assert found.refinement.passes == 25
    assert found.refinement.split_half is None


def test_an_interrupted_refinement_returns_its_state_and_can_be_resumed(tmp_path: Path) -> None:
    scan = small_scan(patterns=49)
    passes: list[int] = []

    def stop(progress: Progress) -> None:
        passes.append(progress.passes)
        progress.save(tmp_path / "cut.ckpt")
        if progress.passes == 6 and len(passes) == 3:
            raise KeyboardInterrupt

    found = refine(scan, None, QUICK, progress=stop, every=2)
    assert found.refinement.interrupted and found.refinement.passes == 6
    rest = refine(scan, None, QUICK, resume=tmp_path / "cut.ckpt")
    assert np.array_equal(rest.object, refine(scan, None, QUICK).object)


@pytest.mark.parametrize(
    "options",
    [{}, {"engine": "pie"}, {"learn_positions": True, "find_defocus": False, "learn_intensities": True, "modes": 2}],
    ids=["lbfgs", "pie", "everything"],
)
def test_a_resumed_refinement_equals_an_uninterrupted_one(options: dict[str, object], tmp_path: Path) -> None:
    scan = small_scan(patterns=49)
    config = dataclasses.replace(QUICK, iterations=38, **options)  # type: ignore[arg-type]

    def save_at(passes: int):  # type: ignore[no-untyped-def]
        def note(progress: Progress) -> None:
            if progress.passes == passes:
                progress.save(tmp_path / f"{passes}.ckpt")

        return note

    for passes in (3, 30, 33):
        uninterrupted = refine(scan, None, config, progress=save_at(passes), every=1)
        resumed = refine(scan, None, config, resume=tmp_path / f"{passes}.ckpt")
        assert np.array_equal(uninterrupted.object, resumed.object)
        assert uninterrupted.probe is not None
        assert np.array_equal(uninterrupted.probe, resumed.probe)
        assert np.array_equal(uninterrupted.positions, resumed.positions)
        assert uninterrupted.refinement.deviance == resumed.refinement.deviance


def test_wrong_checkpoints_and_initial_reconstructions_are_refused(tmp_path: Path) -> None:
    scan = small_scan(patterns=49)
    path = tmp_path / "some.ckpt"
    refine(scan, None, dataclasses.replace(QUICK, iterations=10), progress=lambda p: p.save(path))
    with pytest.raises(InputError, match=r"refine\.loss 'amplitude', found 'poisson'"):
        refine(scan, None, dataclasses.replace(QUICK, loss="amplitude"), resume=path)
    with pytest.raises(InputError, match="another scan or start"):
        refine(small_scan(patterns=36), None, QUICK, resume=path)
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="expected a refinement to resume"):
        refine(scan, None, QUICK, resume=path)
    far = Reconstruction(np.ones((8, 8), np.complex64), np.ones((8, 8), np.float32), (1000.0, 0.0))
    with pytest.raises(InputError, match="expected a start whose object overlaps the scan"):
        refine(scan, far, QUICK)
    other = dataclasses.replace(true_start(scan), probe=np.ones((1, 64, 64), np.complex64))
    with pytest.raises(InputError, match="32 pixels wide like the patterns, found 64"):
        refine(scan, other, QUICK)


def test_checkpoints_of_another_version_are_refused(tmp_path: Path) -> None:
    scan = small_scan(patterns=49)
    path = tmp_path / "some.ckpt"
    refine(scan, None, dataclasses.replace(QUICK, iterations=10), progress=lambda p: p.save(path))
    values = torch.load(path, weights_only=True)
    for version in (1, 3):
        torch.save({**values, "version": version}, path)
        with pytest.raises(
            InputError, match=f"checkpoint of version 2, found version {version}; begin again without --resume"
        ):
            refine(scan, None, QUICK, resume=path)
    del values["version"]  # files of 0.1 have none
    torch.save(values, path)
    with pytest.raises(InputError, match="found version 1"):
        refine(scan, None, QUICK, resume=path)


class Clock:
    """Seconds that pass only when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_checkpoints_take_a_twentieth_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, written = Clock(), list[int]()

    def write(path: Path, values: dict[str, int]) -> None:
        written.append(values["pass"])
        clock.now += 2

    monkeypatch.setattr(checkpoint, "write_checkpoint", write)
    writer = checkpoint.CheckpointWriter(tmp_path / "some.ckpt", background=False, clock=clock)
    for number in range(1, 101):
        clock.now += 1
        writer.save(lambda take, number=number: take({"pass": number}), last=number == 100)
    assert written == [1, 41, 81, 100]


def test_a_checkpoint_on_a_thread_is_of_the_state_when_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, ready = threading.Event(), threading.Event()
    exact = checkpoint.write_checkpoint

    def write(path: Path, values: dict[str, Any]) -> None:
        started.set()
        ready.wait(60)
        exact(path, values)

    monkeypatch.setattr(checkpoint, "write_checkpoint", write)
    path, clock, state = tmp_path / "some.ckpt", Clock(), torch.zeros(3)
    writer = checkpoint.CheckpointWriter(path, background=True, clock=clock)
    writer.save(lambda take: take({"state": {"object": state}, "pairs": [state]}))
    started.wait(60)
    state += 1
    writer.save(lambda take: pytest.fail("another one is being written"))
    ready.set()
    writer.wait()
    saved = torch.load(path, weights_only=True)
    assert saved["state"]["object"].tolist() == saved["pairs"][0].tolist() == [0, 0, 0]

    def full(path: Path, values: dict[str, Any]) -> None:
        raise OSError("no space left on the device")

    monkeypatch.setattr(checkpoint, "write_checkpoint", full)
    with pytest.raises(OSError, match="no space"):
        writer.save(lambda take: take({}), last=True)


def test_a_checkpoint_has_the_pairs_that_there_are(tmp_path: Path) -> None:
    sizes = []
    for passes in (7, 17):
        path = tmp_path / f"{passes}.ckpt"
        config = dataclasses.replace(QUICK, iterations=passes)
        refine(small_scan(patterns=49), None, config, progress=lambda p, path=path: p.save(path))
        sizes.append(path.stat().st_size)
    assert sizes[0] < 0.55 * sizes[1]  # 2 and 12 pairs


def test_the_last_state_is_saved_and_announced(tmp_path: Path) -> None:
    scan = small_scan(patterns=49)
    seen: list[tuple[int, bool]] = []
    config = dataclasses.replace(QUICK, iterations=20)
    refine(scan, None, config, progress=lambda p: seen.append((p.passes, p.last)))
    assert seen == [(10, False), (20, True)]
    out = tmp_path / "out.h5"
    refine_to_files(scan, None, out, config, torch.device("cpu"))
    saved = torch.load(tmp_path / "out" / CHECKPOINT, weights_only=True)
    assert saved["passes"] == 20


def test_figure_that_fails_does_not_end_the_refinement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ArithmeticError("no convergence")

    monkeypatch.setattr("ptychopinn.refinement.files._FIGURE_SECONDS", 0)
    monkeypatch.setattr("ptychopinn.refinement.files.plot_reconstruction", fail)
    out, config = tmp_path / "result.h5", dataclasses.replace(QUICK, iterations=20)
    result, written = refine_to_files(small_scan(patterns=36), None, out, config, torch.device("cpu"))
    assert out in written and result.refinement is not None and result.refinement.passes == 20
    assert sum("not drawn: no convergence" in record.getMessage() for record in caplog.records) > 1
