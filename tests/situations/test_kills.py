# SPDX-License-Identifier: BSD-3-Clause
"""Row 12 of the table of reports: commands that are killed (SIGKILL) at a random moment, and begun again.

After each kill the files are whole. The same command, with --resume where there is one, succeeds, continues after the
last complete epoch, and leaves no temporary file of the dead process. `make kills` does 200 kills; here are 20.
"""

from __future__ import annotations

import csv
import os
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from files import broken_files
from fork_server import ForkServer, fork_server, prepare

KILLS = int(os.environ.get("PTYCHOPINN_KILLS", "20"))

EPOCHS = 4
TRAIN = (
    f"train small.npz --out run --epochs {EPOCHS} --data.group_size 4 --training.batch_size 4 --orientation given "
    "--execution.accelerator cpu --execution.picture_every 3 --model.options.width 8 --model.options.steps 2"
)
PREPARE = (
    "simulate small.npz --object lines --patterns 16 --size 32 --photons 1e5 --seed 1",
    TRAIN.replace("--out run", "--out trained"),
)
#: Name -> command, what is added to begin again, and its fraction of the kills.
COMMANDS = {
    "train": (TRAIN, "--resume", 0.4),
    "reconstruct": ("reconstruct trained small.npz --out r.h5 --device cpu", "--overwrite", 0.2),
    "refine": (
        "refine small.npz --from-scratch --out f.h5 --iterations 12 --refine.split_half false --device cpu",
        "--resume",
        0.2,
    ),
    "convert": ("convert small.npz c.cxi --pixel-size 1e-8", "--overwrite", 0.2),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with fork_server(tmp_path_factory.mktemp("kills")) as running:
        yield running


@pytest.fixture(scope="module")
def prepared(server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    prepare(server, PREPARE, folder)
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_a_killed_command_begins_again(name: str, server: ForkServer, prepared: Path, tmp_path: Path) -> None:
    command, again, fraction = COMMANDS[name]
    draw = random.Random(name)
    folder = tmp_path / "sound"
    shutil.copytree(prepared, folder)
    sound = server.run(command.split(), folder)
    assert sound.code == 0, sound.output
    killed = 0
    for turn in range(round(KILLS * fraction)):
        folder = tmp_path / f"work{turn}"
        shutil.copytree(prepared, folder)
        first = server.run(command.split(), folder, kill_after=draw.uniform(0.0, sound.seconds))
        killed += first.code == -9
        where = f"{name}, turn {turn}"
        assert [fault for fault in broken_files(folder) if "left behind" not in fault] == [], where
        saved = _saved_epochs(folder / "run" / "checkpoints" / "last.ckpt")
        assert saved >= _printed_epochs(first.output) - 1, where
        arguments = command.split() + ([again] if again == "--resume" or first.code == 0 else [])
        second = server.run(arguments, folder)
        if second.code == 2 and "found an earlier one" in second.output:  # killed after its result was in place
            second = server.run([*arguments, "--overwrite"], folder)
        assert second.code == 0, f"{where}:\n{first.output}\nthen:\n{second.output}"
        assert "Traceback" not in second.output
        assert broken_files(folder) == [], where
        assert not (folder / "run" / "running.json").exists()
        if name == "train":
            assert _saved_epochs(folder / "run" / "checkpoints" / "last.ckpt") == EPOCHS
            with (folder / "run" / "metrics.csv").open(newline="") as file:
                epochs = {row["epoch"] for row in csv.DictReader(file) if row["train_loss"]}
            assert epochs == {str(epoch) for epoch in range(EPOCHS)}, f"{where}: epochs {epochs} in metrics.csv"
        shutil.rmtree(folder)
    print(f"{name}: {killed} killed")
    assert killed


def _saved_epochs(checkpoint: Path) -> int:
    return int(torch.load(checkpoint, weights_only=True)["epoch"]) + 1 if checkpoint.exists() else 0


def _printed_epochs(output: str) -> int:
    return max((int(epoch) for epoch in re.findall(r"epoch (\d+)/", output)), default=0)
