# SPDX-License-Identifier: BSD-3-Clause
"""Interrupted and resumed refinements, and checkpoints and initial reconstructions that are refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tiny_refinements import QUICK, small_scan, true_start

from ptychopinn.errors import InputError
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.refinement import workflow
from ptychopinn.refinement.workflow import Progress, refine


def test_interrupt_of_the_split_half_keeps_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    scan = small_scan(patterns=100)
    original = workflow._Refinement.iterate
    calls = []

    def iterate(self: workflow._Refinement) -> None:
        calls.append(self)
        if len(calls) > 1:
            raise KeyboardInterrupt
        original(self)

    monkeypatch.setattr(workflow._Refinement, "iterate", iterate)
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
