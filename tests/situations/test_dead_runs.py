# SPDX-License-Identifier: BSD-3-Clause
"""Rows 10, 11, 12 and 18 of the table of reports: runs that are resumed, dead or stuck, and a disk that is full."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from situation import Situation, run

from ptychopinn.storage.owners import Owner, this_process

TRAIN = "train scan.npz --out run --orientation given QUICK"
REFINE = "refine scan.npz --from-scratch --out f.h5 --refine.split_half false --device cpu"


def commands(*lines: str) -> object:
    """Run commands in the folder first."""

    def prepare(folder: Path) -> None:
        here = Path.cwd()
        os.chdir(folder)
        try:
            assert [run(line) for line in lines] == [0] * len(lines)
        finally:
            os.chdir(here)

    return prepare


def held(owner: Owner, *, age: float = 0.0, epochs: bool = False) -> object:
    """A folder of a run that a process holds, with a checkpoint or without."""

    def prepare(folder: Path) -> None:
        if epochs:
            commands(TRAIN)(folder)  # type: ignore[operator]
            (folder / "run" / "wts.h5.zip").unlink()
        (folder / "run").mkdir(exist_ok=True)
        file = folder / "run" / "running.json"
        file.write_text(json.dumps({"process": str(owner), "host": "node7", "begun": "2026-01-02"}))
        os.utime(file, (time.time() - age,) * 2)

    return prepare


HERE = this_process()
DEAD = Owner(HERE.host, 2**22 + 5, HERE.started)
REUSED = Owner(HERE.host, HERE.pid, HERE.started - 1000)
ELSEWHERE = Owner(HERE.host ^ 1, 17, 0)
AGAIN = ("run: trained on 64 patterns",)

TABLE = [
    Situation(
        "fewer epochs than there are", f"{TRAIN} --resume", 2,
        ("has 2 epochs already, expected more than these to continue, got training.epochs 1: --training.epochs 4",),
        commands(f"{TRAIN} --epochs 2"), row="11",
    ),
    Situation("as many epochs as there are", f"{TRAIN} --resume", 0, AGAIN, commands(TRAIN), row="11"),
    Situation("more epochs", f"{TRAIN} --resume --epochs 2", 0, AGAIN, commands(TRAIN), row="11"),
    Situation(
        "fewer passes than there are", f"{REFINE} --resume --iterations 2", 2,
        ("f.h5: has 3 passes already, expected more than these to continue, got refine.iterations 2",),
        commands(f"{REFINE} --iterations 3"), row="11",
    ),
    Situation(
        "as many passes", f"{REFINE} --resume --iterations 3", 0, (),
        commands(f"{REFINE} --iterations 3"), row="11",
    ),
    Situation(
        "more passes", f"{REFINE} --resume --iterations 4", 0, ("f.h5: 4 passes",),
        commands(f"{REFINE} --iterations 3"), row="11",
    ),
    Situation("nothing to resume", f"{TRAIN} --resume", 0, AGAIN, row="12"),
    Situation("no refinement to resume", f"{REFINE} --resume --iterations 2", 0, ("f.h5: 2 passes",), row="12"),
    Situation("killed before an epoch, resumed", f"{TRAIN} --resume", 0, AGAIN, held(DEAD), row="12"),
    Situation("killed before an epoch, begun again", TRAIN, 0, AGAIN, held(DEAD), row="12"),
    Situation("its number is used again", TRAIN, 0, AGAIN, held(REUSED), row="12"),
    Situation(
        "killed after an epoch, begun again", TRAIN, 2,
        (r"found the epochs of one that was killed \(process 4194309 on node7, begun 2026-01-02\): --resume",),
        held(DEAD, epochs=True), row="12",
    ),
    Situation("killed after an epoch, resumed", f"{TRAIN} --resume", 0, AGAIN, held(DEAD, epochs=True), row="12"),
    Situation("killed after an epoch, replaced", f"{TRAIN} --overwrite", 0, AGAIN, held(DEAD, epochs=True), row="12"),
    Situation("another process trains there", TRAIN, 2, (r"is being trained by process \d+ on",), held(HERE), row="12"),
    Situation(
        "another host trains there", f"{TRAIN} --resume", 2, ("trained by process 17 on node7",),
        held(ELSEWHERE), row="12",
    ),
    Situation("another host is silent", TRAIN, 0, AGAIN, held(ELSEWHERE, age=3600), row="12"),
    Situation("taken over", f"{TRAIN} --overwrite", 0, AGAIN, held(HERE), row="12"),
]  # fmt: skip


@pytest.mark.parametrize("situation", TABLE, ids=lambda situation: situation.name)
def test_run_of_the_past(
    situation: Situation, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    situation.check(folder, capsys, monkeypatch)
    assert not (folder / "run" / "running.json").exists() or situation.code == 2


def test_a_complete_run_is_left_as_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert run(TRAIN) == 0
    before = {path: path.read_bytes() for path in (folder / "run").rglob("*") if path.is_file()}
    assert run(f"{TRAIN} --resume") == 0
    assert {path: path.read_bytes() for path in (folder / "run").rglob("*") if path.is_file()} == before


def test_a_training_ends_where_another_process_takes_its_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ptychopinn.training.callbacks import EpochLog

    def take(*_: object) -> None:
        held(ELSEWHERE)(folder)  # type: ignore[operator]

    monkeypatch.setattr(EpochLog, "on_train_start", take)
    monkeypatch.chdir(folder)
    assert run(TRAIN) == 2
    assert "no longer held by this process (taken over by process 17 on node7" in capsys.readouterr().err
    assert (folder / "run" / "running.json").exists()  # the other's


SPAWNED = """
import multiprocessing
multiprocessing.set_start_method("spawn")
import ptychopinn as pp
from ptychopinn.config import Config
config = Config.from_dict({"data": {"group_size": 4}, "execution": {"workers": 1, "accelerator": "cpu"}})
pp.train(pp.Scan.load("scan.npz"), "run", config)
"""


def test_a_script_that_workers_cannot_import_is_a_sentence(folder: Path) -> None:
    """Row 18: it hung for ever."""
    (folder / "script.py").write_text(SPAWNED)
    done = subprocess.run(
        [sys.executable, "-B", "script.py"], cwd=folder, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 1 and not (folder / "run").exists()
    assert (
        done.stderr.strip()
        .splitlines()[-1]
        .endswith(
            "with the start method 'spawn' a process that prepares batches imports the script, and ends there: put "
            'what the script does under if __name__ == "__main__":, or set execution.workers to 0'
        )
    ), done.stderr


STUCK = """
import signal, sys, time
from ptychopinn.runtime.termination import ended_after_grace
signal.signal(signal.SIGTERM, lambda *_: None)  # a flag that nothing looks at
with ended_after_grace(float(sys.argv[1])):
    print("ready", flush=True)
    for _ in range(600):
        time.sleep(0.1)
"""


@pytest.mark.parametrize(("grace", "signals"), [(0.5, 1), (60, 2)])
def test_sigterm_ends_a_stuck_process(grace: float, signals: int) -> None:
    """Row 18: after the grace time, or at once with a second SIGTERM."""
    process = subprocess.Popen(
        [sys.executable, "-B", "-c", STUCK, str(grace)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for _ in range(signals):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
    _, printed = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM
    reason = "second SIGTERM" if signals == 2 else "it did not end within 0.5 s of SIGTERM"
    assert printed == f"process {process.pid} terminated: {reason}\n"


def test_a_full_disk_sends_the_model_elsewhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Row 10: checkpoints and the model go to the other folder, from which the training can be resumed."""
    import errno

    from ptychopinn.storage import atomic

    write = atomic.RememberingFile.write

    def full(self: atomic.RememberingFile, data: bytes) -> int:
        if f"{folder}/run/" in self.name and ".ckpt" in self.name:
            self.error = OSError(errno.ENOSPC, "full")
        return write(self, data)

    def full_bundle(model: object, config: object, path: Path, info: object = None) -> Path:
        if path.parent.name == "run" and "other" not in path.parts:
            raise atomic.cannot_be_written(path, OSError(errno.ENOSPC, "full"))
        return save(model, config, path, info)  # type: ignore[arg-type]

    from ptychopinn.training import workflow

    save = workflow.save_bundle
    monkeypatch.chdir(folder)
    with monkeypatch.context() as patch:
        patch.setattr(atomic.RememberingFile, "write", full)
        patch.setattr(workflow, "save_bundle", full_bundle)
        assert run(f"{TRAIN.replace('--out run', f'--out {folder}/run')} --execution.fallback_folder other") == 2
    printed = capsys.readouterr().err
    assert "the disk is full" in printed and "the model is in other/run" in printed, printed
    other = folder / "other" / "run"
    assert (other / "wts.h5.zip").exists() and (other / "checkpoints" / "last.ckpt").exists()
    assert run("train scan.npz --out other/run --orientation given --resume --epochs 2") == 0


def test_without_another_folder_the_sentence_names_the_checkpoint(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import errno

    from ptychopinn.storage import atomic
    from ptychopinn.training import workflow

    def full(model: object, config: object, path: Path, info: object = None) -> Path:
        raise atomic.cannot_be_written(path, OSError(errno.ENOSPC, "full"))

    monkeypatch.chdir(folder)
    with monkeypatch.context() as patch:
        patch.setattr(workflow, "save_bundle", full)
        assert run(TRAIN) == 2
    printed = capsys.readouterr().err
    assert "the last complete epoch is in run/checkpoints/last.ckpt, and --resume continues from it" in printed
    assert run(f"{TRAIN} --resume") == 0 and (folder / "run" / "wts.h5.zip").exists()
