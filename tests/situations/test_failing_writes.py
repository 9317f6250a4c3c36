# SPDX-License-Identifier: BSD-3-Clause
"""Row 10 of the table of reports: every write of every command fails, once or from then on.

The calls that write (write, fsync, close, rename, open, mkdir, ...) are counted in one run of a command. In further
runs the k-th fails: once with EIO, as from a faulty disk, or it and all later ones with ENOSPC, as on a full disk. Each
must end with one sentence, and leave whole files only. `make faults` takes every k; here a few are spread over each
command.
"""

from __future__ import annotations

import errno
import io
import os
import pickle
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from files import broken_files
from fork_server import ForkServer, Run, compiler, fork_server, prepare

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C compiler for the library of failing writes")

#: Every write, instead of a few of each command.
EVERY = bool(os.environ.get("PTYCHOPINN_EVERY_WRITE"))
#: Writes of a command that fail here.
FEW = 3

TRAIN = (
    "train small.npz --out run --epochs 1 --data.group_size 4 --training.batch_size 4 --execution.accelerator cpu "
    "--orientation given --execution.picture_every 1 --model.options.width 8 --model.options.steps 2"
)
REFINE = "refine r.h5 small.npz --out f.h5 --iterations 3 --refine.split_half false --device cpu"
#: Files that the commands below read.
PREPARE = (
    "simulate small.npz --object lines --patterns 16 --size 32 --photons 1e5 --seed 1",
    "simulate large.npz --object lines --patterns 169 --size 32 --photons 1e5 --seed 1",
    TRAIN,
    "reconstruct run small.npz --out r.h5 --device cpu",
    "refine large.npz --from-scratch --out l.h5 --iterations 2 --refine.split_half false --device cpu",
)
#: Name -> command, which replaces files where they are there.
COMMANDS = {
    "simulate": "simulate new.npz --patterns 16 --size 32 --photons 1e5 --seed 1",
    "inspect": "inspect small.npz --json i.json --mask i.npy --picture i.png --no-orientation",
    "convert to npz": "convert small.npz c.npz",
    "convert to cxi": "convert small.npz c.cxi --pixel-size 1e-8",
    "convert to nexus": "convert small.npz c.nxs --pixel-size 1e-8",
    "convert to ptyd": "convert small.npz c.ptyd --pixel-size 1e-8 --energy 8000 --distance 1",
    "convert to ptychodus": "convert small.npz pair --to ptychodus --pixel-size 1e-8",
    "subset": "subset small.npz s.npz --n 16",
    "train": f"{TRAIN} --overwrite",
    "reconstruct": "reconstruct run small.npz --out r.h5 --device cpu --overwrite",
    "reconstruct to npz": "reconstruct run small.npz --out r2.npz --device cpu",
    "refine": f"{REFINE} --overwrite",
    "refine to a product": f"{REFINE.replace('f.h5', 'product.h5')} --out-format ptychodus --pixel-size 1e-8",
    "evaluate": "evaluate l.h5 large.npz --out m.json",
    "unpack": "unpack theirs.zip --out plain --trust",
    "plot a scan": "plot small.npz --out p.png",
    "plot a result": "plot r.h5 --out plots",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with fork_server(tmp_path_factory.mktemp("faults"), faults=True) as running:
        yield running


@pytest.fixture(scope="module")
def prepared(server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    prepare(server, PREPARE, folder)
    _write_predecessor(folder / "theirs.zip")
    return folder


def _write_predecessor(path: Path) -> None:
    """An archive of PtychoPINN's PyTorch backend."""
    weights = io.BytesIO()
    torch.save({"scale": torch.ones(2)}, weights)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("manifest.dill", pickle.dumps({"models": ["diffraction_to_obj"]}))
        archive.writestr("diffraction_to_obj/model.pth", weights.getvalue())
        archive.writestr("diffraction_to_obj/params.dill", pickle.dumps({"N": 64}))


@pytest.mark.parametrize("name", COMMANDS)
def test_each_write_that_fails_is_one_sentence(
    name: str, server: ForkServer, prepared: Path, tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    command = COMMANDS[name].split()

    def run(fail: int, error: int = 0, for_ever: bool = False) -> tuple[Run, Path]:
        folder = tmp_path / "work"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(prepared, folder)
        return server.run(command, folder, fail=fail, error=error, for_ever=for_ever), folder

    sound, folder = run(0)
    assert sound.code in (0, 1) and sound.calls, sound.output
    assert broken_files(folder) == []
    cases = [
        (k, error, error == errno.ENOSPC) for k in range(1, sound.calls + 1) for error in (errno.EIO, errno.ENOSPC)
    ]
    if not EVERY:
        cases = cases[:: max(1, len(cases) // FEW) | 1]  # an odd step: both errors in turn
    record_property("failing writes", len(cases))
    wrong = [
        f"write {k}, {errno.errorcode[error]} in {done.failed}: {fault}\n{done.output}"
        for k, error, for_ever in cases
        for done, left in [run(k, error, for_ever)]
        if (fault := _fault(done, left, sound, prepared, command[0])) is not None
    ]
    print(f"{name}: {len(cases)} failing writes")
    assert not wrong, f"{len(wrong)} of {len(cases)}:\n" + "\n".join(wrong[:5])


def _fault(done: Run, folder: Path, sound: Run, prepared: Path, command: str) -> str | None:
    """What is wrong with a run in which a write has failed."""
    if done.code not in (sound.code, 1, 2):
        return f"exit code {done.code}"
    if "Traceback" in done.output:
        return "a traceback"
    lines = [line for line in done.output.splitlines() if line.startswith(f"ptychopinn {command}: ")]
    if done.code == 2 and len(lines) != 1:
        return f"{len(lines)} sentences"
    warned = any(words in done.output for words in ("not drawn", "the training continues", "the refinement continues"))
    # The result is in place when its folder is flushed; and a folder that is there need not be made.
    if done.code == sound.code and not warned and done.failed not in ("fsync", "mkdir", ""):
        return "no word of it"
    broken = broken_files(folder)
    if broken:
        return f"{broken}"
    kept = [path for path in prepared.rglob("*") if path.is_file() and "run" not in path.relative_to(prepared).parts]
    kept += [prepared / "run" / "config.yaml"]
    missing = [str(path.relative_to(prepared)) for path in kept if not (folder / path.relative_to(prepared)).exists()]
    return f"without {missing}" if missing and command != "train" else None
