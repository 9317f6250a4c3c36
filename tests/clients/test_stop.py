# SPDX-License-Identifier: BSD-3-Clause
"""A training that ptychodus stops, that is stopped from outside, or whose ptychodus dies: it ends, and can be read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("ptychodus.api", reason="ptychodus is not installed: make ptychodus")
pytest.importorskip("ptychopinn_ptychodus", reason="not installed: pip install --no-deps ./integrations/ptychodus")

import psutil
from ptychodus.model import ModelCore
from staged import CASES, write

from ptychopinn.persistence.checkpoint import load_checkpoint

#: Of which the tests see the first few.
LONG = replace(CASES[0], epochs=100_000)
ROUTES = ("ptychopinn-torch_unsupervised", "ptychopinn_network")


def until(condition: Callable[[], object], seconds: float = 90.0) -> float:
    """Seconds until a condition holds."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "it did not happen"
        time.sleep(0.05)
    return time.monotonic() - began


def children(process: int) -> list[psutil.Process]:
    """The processes in which a program works, without those that only keep account for Python."""
    return [
        child
        for child in psutil.Process(process).children(recursive=True)
        if "resource_tracker" not in " ".join(child.cmdline())
    ]


def seconds_to_end(child: psutil.Process) -> float:
    """How long a process takes to end; one that nobody has waited for has ended."""
    seconds = until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 20)
    print(f"ended in {seconds:.1f} s")
    return seconds


def readable(folder: Path) -> bool:
    """Whether the last epoch's checkpoint is there and whole."""
    (last,) = folder.rglob("last.ckpt")
    return load_checkpoint(last)[0].patch_size == LONG.size


@contextmanager
def headless(
    folder: Path, algorithm: str, job: str = "train", sign: str = "last.ckpt"
) -> Iterator[subprocess.Popen[str]]:
    """ptychodus at a job that has left a sign of itself, such as its first epochs."""
    write(LONG, folder, algorithm)
    command = [str(Path(sys.executable).with_name("ptychodus")), "-b", job, "-i", "train", "-o", "trained"]
    environment = os.environ | {"HOME": str(folder), "CUDA_VISIBLE_DEVICES": ""}
    log = (folder / "log").open("w")
    with (
        log,
        subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
            text=True,
            start_new_session=True,
            # Ignored from the start where the tests run in the background.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        ) as running,
    ):
        try:
            until(lambda: list((folder / "trained").rglob(sign)) or sign in (folder / "log").read_text())
            yield running
        finally:
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGKILL)


@pytest.mark.slow
def test_the_stop_of_the_window_ends_a_training(tmp_path: Path) -> None:
    write(LONG, tmp_path, ROUTES[1])
    with ModelCore(tmp_path / "train" / "settings.ini") as model:
        api = model.processing_core.processing_api
        data = model.workflow_api.load_assembled_diffraction_data(tmp_path / "train" / "diffraction.h5")
        product = model.workflow_api.load_product(tmp_path / "train" / "product.h5", diffraction=data)
        product.train_reconstructor_local(tmp_path / "train", tmp_path / "trained")
        monitor = api.task_monitor
        until(lambda: monitor.get_progress() >= 2)
        assert monitor.get_progress_goal() == LONG.epochs and len(children(os.getpid())) == 1
        monitor.stop_processing()
        seconds = until(lambda: not monitor.is_processing, 20)
        print(f"stopped in {seconds:.1f} s after {monitor.get_progress()} epochs")
        assert seconds < 10 and not children(os.getpid())
        assert monitor.get_last_error() is None
        assert readable(tmp_path / "trained")


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ROUTES)
def test_a_training_that_is_terminated_is_an_error_of_ptychodus(algorithm: str, tmp_path: Path) -> None:
    with headless(tmp_path, algorithm) as running:
        (child,) = children(running.pid)
        child.terminate()
        assert seconds_to_end(child) < 10
        assert running.wait(20) == 1
        assert readable(tmp_path / "trained")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "job", "sign"),
    [(ROUTES[1], "train", "working in process"), ("ptychopinn_refinement", "reconstruct", "product.*.h5")],
    ids=["starting", "refinement"],
)
def test_what_is_terminated_elsewhere_is_an_error_too(algorithm: str, job: str, sign: str, tmp_path: Path) -> None:
    with headless(tmp_path, algorithm, job, sign) as running:
        (child,) = children(running.pid)
        child.terminate()
        assert seconds_to_end(child) < 10
        assert running.wait(20) == 1


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ROUTES)
def test_a_training_does_not_outlive_ptychodus(algorithm: str, tmp_path: Path) -> None:
    with headless(tmp_path, algorithm) as running:
        (child,) = children(running.pid)
        running.send_signal(signal.SIGKILL)
        assert seconds_to_end(child) < 10
        assert readable(tmp_path / "trained")


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ROUTES)
def test_ctrl_c_ends_a_training_and_keeps_its_model(algorithm: str, tmp_path: Path) -> None:
    with headless(tmp_path, algorithm) as running:
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does
        assert running.wait(20) != 0
    (model,) = (tmp_path / "trained").rglob("model.ckpt")
    assert load_checkpoint(model)[0].patch_size == LONG.size
