# SPDX-License-Identifier: BSD-3-Clause
"""A live run from its first frame to its result: exact, in any order, and whole whatever ends it."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memory_source import MemorySource, frames_of

import ptychopinn as pp
from ptychopinn import InputError, Reconstruction, Scan
from ptychopinn.config import Config, DataConfig, ExecutionConfig, LiveConfig, ModelConfig
from ptychopinn.experiment import Experiment
from ptychopinn.inspection.orientation import oriented
from ptychopinn.models import PtychoModel
from ptychopinn.persistence.bundle import build_model
from ptychopinn.physics.simulate_experiments import line_exposure
from ptychopinn.streaming import intake as intake_module
from ptychopinn.streaming.frames import Frame, Series
from ptychopinn.streaming.improvement import Improvement
from ptychopinn.streaming.page.board import Board
from ptychopinn.streaming.predictor import Predictor
from ptychopinn.streaming.replay import Event, Faults, events, replay
from ptychopinn.streaming.setup import Setup
from ptychopinn.streaming.workflow import frames_folder, live

SCAN = pp.simulate("photos", "defocused", patterns=64, size=32, seed=4)
QUICK = LiveConfig(batch_size=16, batch_seconds=0.01, picture_seconds=0.01, improve_seconds=0.01, improve_passes=2)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_RESTART", "_POSITIONS"):
        monkeypatch.setattr(intake_module, name, 0.2)


def tiny_model(group_size: int = 4) -> tuple[PtychoModel, Config]:
    config = Config(
        data=DataConfig(group_size=group_size),
        model=ModelConfig(generator="unrolled", options={"steps": 2, "width": 4}),
    )
    model = build_model(config, SCAN.patch_size, SCAN.modes)
    model.illumination.set_probe(pp_probe())
    return model, config


def pp_probe() -> Any:
    import torch

    return torch.from_numpy(SCAN.probe)


@pytest.mark.parametrize("order", ["raster", "random"])
@pytest.mark.parametrize("group_size", [1, 4])
def test_the_result_is_that_of_the_finished_scan_to_the_bit(tmp_path: Path, order: str, group_size: int) -> None:
    model, config = tiny_model(group_size)
    rows = np.arange(60) if order == "raster" else np.random.default_rng(0).permutation(60)
    sent = [*rows[:40], *rows[20:25], *rows[40:]]
    result = live(
        MemorySource(frames_of(SCAN, sent), 5), model, config, out=tmp_path / "a.h5", like=SCAN, settings=QUICK
    )
    want = pp.reconstruct(model, SCAN.subset(np.arange(60)), config, accept="all")
    for one in (result, Reconstruction.load(tmp_path / "a.h5")):
        np.testing.assert_array_equal(one.object, want.object)
        np.testing.assert_array_equal(one.weights, want.weights)
        assert one.origin == want.origin
    got = Scan.load(frames_folder(tmp_path / "a.h5"))
    np.testing.assert_array_equal(got.counts, SCAN.counts[:60])
    status = result.metadata["live"]
    assert status["received"] == 60 and status["repeated"] == 5 and status["lost"] == [60, 61, 62, 63]


def test_positions_are_turned_as_those_of_the_setup(tmp_path: Path) -> None:
    model, config = tiny_model()
    like = oriented(SCAN, "swap_flip_y")
    live(MemorySource(frames_of(SCAN)), model, config, out=tmp_path / "a.h5", like=like, settings=QUICK)
    want = pp.reconstruct(model, like, config, accept="all")
    np.testing.assert_array_equal(Reconstruction.load(tmp_path / "a.h5").object, want.object)


@pytest.mark.parametrize("network", [True, False])
def test_the_image_grows_and_gets_better(tmp_path: Path, network: bool) -> None:
    """Without a training: the network of the package, or refinement from nothing; scored against the truth."""
    pictures: list[float] = []

    class Watched(Board):
        def set_picture(self, image: Any, covered: Any, origin: Any, pixel_size: Any) -> None:
            pictures.append(agreement(image, covered, origin))
            super().set_picture(image, covered, origin, pixel_size)

    settings = LiveConfig(batch_size=16, batch_seconds=0.01, picture_seconds=0.01, improve_seconds=0.2, final=False)
    source = MemorySource(frames_of(SCAN), 16, ends=False)
    stop, board = threading.Event(), Watched("test")
    timer = threading.Timer(8.0, stop.set)
    timer.start()
    result = live(source, out=tmp_path / "a.h5", like=SCAN, settings=settings, network=network, board=board, stop=stop)
    timer.cancel()
    first, last = pictures[0], pictures[-1]
    assert last > (0.8 if network else 0.6)
    assert last > first if network else np.isnan(first)  # which is even
    assert result.metadata["live"]["passes"] > 10


def agreement(image: Any, covered: Any, origin: tuple[float, float]) -> float:
    """Correlation of the image and the known object, without their means, where it is covered."""
    assert SCAN.truth is not None
    y, x = (int(v) for v in origin)
    rows = np.arange(image.shape[0])[:, None] + y
    columns = np.arange(image.shape[1]) + x
    height, width = SCAN.truth.shape
    inside = covered & (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    want = SCAN.truth[np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)][inside]
    got = image[inside]
    got, want = got - got.mean(), want - want.mean()
    return float(abs(np.vdot(got, want)) / np.linalg.norm(got) / np.linalg.norm(want))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_the_image_so_far_and_it_resumes(tmp_path: Path, number: int) -> None:
    model, config = tiny_model()
    source, out = MemorySource(frames_of(SCAN, range(30)), ends=False), tmp_path / "a.h5"
    timer = threading.Timer(1.5, os.kill, (os.getpid(), number))
    timer.start()
    before = signal.getsignal(number)
    partial = live(source, model, config, out=out, like=SCAN, settings=QUICK)
    assert signal.getsignal(number) is before and source.closed
    assert partial.metadata["live"]["state"] == "interrupted" and partial.metadata["live"]["reconstructed"] == 30
    assert Reconstruction.load(out).plot() and Scan.load(frames_folder(out)).n == 30
    result = live(
        MemorySource(frames_of(SCAN, range(20, 64))), model, config, out=out, like=SCAN, settings=QUICK, resume=True
    )
    np.testing.assert_array_equal(result.object, pp.reconstruct(model, SCAN, config, accept="all").object)


def test_a_source_that_fails_ends_in_its_sentence_with_the_image_so_far(tmp_path: Path) -> None:
    model, config = tiny_model()
    items = [*frames_of(SCAN, range(40)), InputError("test: the cable was pulled")]
    with pytest.raises(InputError, match=r"the cable was pulled; .*a\.h5 has the image so far, --resume continues"):
        live(MemorySource(items, 8), model, config, out=tmp_path / "a.h5", like=SCAN, settings=QUICK)
    assert Reconstruction.load(tmp_path / "a.h5").metadata["live"]["reconstructed"] == 39  # the last read failed
    assert Scan.load(frames_folder(tmp_path / "a.h5")).n == 39


@pytest.mark.parametrize("items", [[], [Series("test", 3)]])
def test_no_frames_is_a_sentence(tmp_path: Path, items: list[Any]) -> None:
    with pytest.raises(
        InputError, match="memory: expected frames with positions, found no frame; is the detector armed"
    ):
        live(MemorySource(items), out=tmp_path / "a.h5", like=SCAN, settings=QUICK)


def test_without_a_probe_one_is_estimated(tmp_path: Path) -> None:
    board = Board("test")
    settings = LiveConfig(batch_size=16, batch_seconds=0.01, improve=False)
    setup = Setup(bad_pixels=SCAN.bad_pixels)
    live(MemorySource(frames_of(SCAN)), out=tmp_path / "a.h5", like=setup, settings=settings, board=board)
    scan = Scan.load(frames_folder(tmp_path / "a.h5"))
    assert scan.decisions.probe is not None and scan.decisions.probe.value == "guessed"
    want = pp.reconstruct(None, scan, accept="all")
    np.testing.assert_array_equal(Reconstruction.load(tmp_path / "a.h5").object, want.object)


def test_a_beam_that_is_off_is_survived(tmp_path: Path) -> None:
    model, config = tiny_model()
    items = frames_of(SCAN)
    dark = [type(item)(item.index, np.zeros_like(item.counts), item.position) for item in items[1:9]]
    result = live(
        MemorySource([items[0], *dark, *items[9:]], 4), model, config, out=tmp_path / "a.h5", like=SCAN, settings=QUICK
    )
    assert np.isfinite(result.object).all() and Scan.load(frames_folder(tmp_path / "a.h5")).n == 64


@pytest.mark.parametrize("group_size", [1, 4])
def test_a_far_position_is_left_out_of_the_image_only(tmp_path: Path, group_size: int) -> None:
    """Predicted, refined and reconstructed once more without it; the frame is stored."""
    model, config = tiny_model(group_size)
    items = frames_of(SCAN)
    items[5] = Frame(4, SCAN.counts[4], (1e7, 1e7))
    result = live(MemorySource(items, 8), model, config, out=tmp_path / "a.h5", like=SCAN, settings=QUICK)
    others = SCAN.subset(np.delete(np.arange(64), 4))
    np.testing.assert_array_equal(result.object, pp.reconstruct(model, others, config, accept="all").object)
    assert Scan.load(frames_folder(tmp_path / "a.h5")).n == 64
    assert "frame 4 is too far away" in result.metadata["live"]["faults"][-1]["sentence"]


def test_a_refinement_that_fails_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any) -> None:
        raise InputError("test: too little memory")

    monkeypatch.setattr(Improvement, "begin", fails)
    model, config = tiny_model()
    source, stop = MemorySource(frames_of(SCAN), 64, ends=False), threading.Event()
    timer = threading.Timer(3.0, stop.set)  # it is idle by then
    timer.start()
    result = live(source, model, config, out=tmp_path / "a.h5", like=SCAN, settings=QUICK, stop=stop)
    faults = [fault for fault in result.metadata["live"]["faults"] if fault["kind"] == "refinement"]
    assert len(faults) == 1 and "the image is not refined further: test: too little memory" in faults[0]["sentence"]


def test_a_repeated_scan_does_not_fill_its_groups_with_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pass takes as few groups as the first."""
    model, config = tiny_model()
    groups: list[int] = []
    patches = Predictor.patches
    monkeypatch.setattr(Predictor, "patches", lambda *a: (groups.append(len(a[2])), patches(*a))[1])
    items = frames_of(SCAN)
    again = [Frame(k, SCAN.counts[k % 64], tuple(SCAN.positions[k % 64])) for k in range(64, 256)]
    settings = LiveConfig(batch_size=64, batch_seconds=5.0, improve=False, final=False)
    live(MemorySource([*items, *again], 64), model, config, out=tmp_path / "a.h5", like=SCAN, settings=settings)
    assert sum(groups) <= 5 * groups[0] and len(groups) >= 4


@pytest.mark.parametrize("wrong", [False, True])
def test_a_wrong_orientation_or_dose_is_a_warning(tmp_path: Path, wrong: bool) -> None:
    """Found while frames come; the run continues."""
    scan = pp.simulate("photos", "defocused", patterns=289, size=32, seed=4)
    sent = oriented(scan, "flip_y") if wrong else scan
    board, settings = Board("test"), LiveConfig(batch_size=64, batch_seconds=0.01, improve=False, final=False)
    live(MemorySource(frames_of(sent), 64), out=tmp_path / "a.h5", like=scan, settings=settings, board=board)
    warnings = dict(board.snapshot().warnings)
    assert ("orientation" in warnings) == wrong, warnings
    assert not wrong or "--orientation flip_y" in warnings["orientation"]


class Recorder:
    """A sender that keeps what it is given."""

    address = "recorder"

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def begin(self, series: Any, shape: Any, dtype: Any) -> None:
        self.calls.append(("begin", series.frames))

    def send(self, index: int, counts: Any, position: Any) -> None:
        self.calls.append(("send", index, int(counts.sum()), position))

    def send_damaged(self, index: int) -> None:
        self.calls.append(("damage", index))

    def end(self) -> None:
        self.calls.append(("end",))

    def close(self) -> None:
        pass


def test_a_replay_without_faults_is_the_scan() -> None:
    sender = Recorder()
    sent = replay(SCAN, sender, 1e5)
    assert sent.sent == 64 and sent.lost == ()
    assert sender.calls[0] == ("begin", 64) and sender.calls[-1] == ("end",)
    want = [("send", k, int(SCAN.counts[k].sum()), tuple(SCAN.positions[k])) for k in range(64)]
    assert sender.calls[1:-1] == want


def test_the_faults_of_a_replay_have_their_strength() -> None:
    steps = events(10_000, Faults.parse("drop,reorder,repeat,damage,stall,restart=2"), seed=1)
    rows = [step.frame for step in steps if step.kind == "send"]
    assert len(set(rows)) == pytest.approx(10_000 * (1 - 0.005 - 0.002), abs=60)
    assert len(rows) - len(set(rows)) == pytest.approx(100, abs=40)
    late = sum(b < a for a, b in itertools.pairwise(rows))
    assert late == pytest.approx(500, abs=150)
    kinds = [step.kind for step in steps]
    assert kinds.count("stall") == 1 and kinds.count("restart") == 2 and 5 < kinds.count("damage") < 50
    assert steps == events(10_000, Faults.parse("drop,reorder,repeat,damage,stall,restart=2"), seed=1)
    assert max(abs(row - place) for place, row in enumerate(rows)) < 200
    assert events(5, Faults()) == [Event("send", k) for k in range(5)]


def test_a_restart_counts_from_zero_again() -> None:
    sender = Recorder()
    replay(SCAN, sender, 1e5, Faults(restart=1))
    begins = [place for place, call in enumerate(sender.calls) if call[0] == "begin"]
    assert [sender.calls[place][1] for place in begins] == [64, 32]
    assert sender.calls[begins[1] + 1][:2] == ("send", 0)


@pytest.mark.parametrize("text", ["rain", "drop=2", "drop=x", "stall=-1"])
def test_faults_that_do_not_exist(text: str) -> None:
    with pytest.raises(InputError, match="--faults: "):
        Faults.parse(text)


def test_threads_are_restored(tmp_path: Path) -> None:
    import torch

    torch.set_num_threads(2)
    model, config = tiny_model()
    live(MemorySource(frames_of(SCAN)), model, config, out=tmp_path / "a.h5", like=SCAN, settings=QUICK)
    assert torch.get_num_threads() == 2
    assert ExecutionConfig().threads is None


def test_a_near_field_is_refined_without_a_network(tmp_path: Path) -> None:
    near = pp.simulate("dead_leaves", patterns=16, size=32, seed=4, experiment=Experiment(fresnel_number=0.01))
    source = MemorySource(frames_of(near, range(16)), 5)
    result = live(source, out=tmp_path / "a.h5", like=near, settings=QUICK)
    assert result.metadata["live"]["model"] == "no network"
    assert Scan.load(frames_folder(tmp_path / "a.h5")).experiment.fresnel_number == 0.01
    with pytest.raises(InputError, match="model: expected none for a thick sample or a detector in the near field"):
        live(MemorySource([]), tiny_model()[0], out=tmp_path / "b.h5", like=near)


@pytest.mark.parametrize("orientation", ["given", "swap_flip_y"])
def test_frames_of_a_fly_scan_are_predicted_and_refined_with_its_path(tmp_path: Path, orientation: str) -> None:
    model, config = tiny_model()
    path = line_exposure((1.0, 4.0), 3, 0.0)
    flown = pp.simulate("dead_leaves", patterns=25, size=32, seed=4, experiment=Experiment(exposure=path))
    like = oriented(flown, orientation)
    source = MemorySource(frames_of(flown, range(25)), 5)
    result = live(source, model, config, out=tmp_path / "a.h5", like=like, settings=QUICK)
    want = pp.reconstruct(model, like, config, accept="all")
    np.testing.assert_array_equal(result.object, want.object)
    np.testing.assert_array_equal(result.experiment.exposure, like.experiment.exposure)
