# SPDX-License-Identifier: BSD-3-Clause
"""Training, reconstruction and refinement by two processes, each with its own GPU, compared with those of one process.

    python benchmarks/two_devices.py --out results                 # two GPUs; starts torchrun itself
    python benchmarks/two_devices.py --device cpu --quick           # two processes on the CPU

The same script runs in one process and under torchrun. Rates of the training are low, so that the rounding of sums in
another order is not amplified (docs/distributed.md). Seconds are of a second call, after what is loaded at the first.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rows import Row, Rows, machine
from watches import now

import ptychopinn as pp
from ptychopinn.runtime.processes import processes, rank_and_size

COLUMNS = {
    "what": "", "one_seconds": ".2f", "two_seconds": ".2f", "times_faster": ".2f", "difference": ".1e", "limit": ".0e",
    "note": "",
}  # fmt: skip
#: Largest relative differences: of losses, and of the norm of objects.
LIMITS = {"train": 1e-3, "reconstruct": 1e-5, "refine": 1e-3}
TORCHRUN = (
    *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
    *("--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"),
)


def config(device: str, quick: bool) -> pp.Config:
    options: dict[str, Any] = {"steps": 2, "width": 8, "state": 2} if quick else {}
    return pp.Config.from_dict(
        {
            "data": {"group_size": 4 if quick else 16},
            "model": {"options": options},
            "training": {"epochs": 2, "batch_size": 16, "learning_rate": 2e-4},
            "execution": {"accelerator": {"cuda": "gpu"}.get(device, device), "progress": False, "threads": 1},
        }
    )


def run(folder: Path, device: str, quick: bool) -> None:
    """Do all three, in this process or together with those of torchrun; the first process writes to the folder."""
    scan = pp.simulate("photos", patterns=64 if quick else 4096, size=32 if quick else 64, seed=1)
    chosen, refining = config(device, quick), pp.RefineConfig(iterations=10, tolerance=0.0, split_half=False)
    with processes(torch.device(device)) as here:
        seconds = dict.fromkeys(LIMITS, 0.0)
        for _ in range(2):
            began = now(here)
            trained = pp.train(scan, folder / "run", chosen, overwrite=True)
            seconds["train"] = now(here) - began
            began = now(here)
            image = pp.reconstruct(trained.model, scan, chosen, here)
            seconds["reconstruct"] = now(here) - began
            began = now(here)
            refined = pp.refine(scan, None, refining, here)
            seconds["refine"] = now(here) - began
        if rank_and_size()[0] == 0:
            np.savez(folder / "objects.npz", reconstruct=image.object, refine=refined.object)
            (folder / "figures.json").write_text(json.dumps({"seconds": seconds, "losses": trained.losses}))


def difference(what: str, one: Path, two: Path) -> float:
    """The relative difference of a result of one process and of two."""
    if what == "train":
        losses = [json.loads((folder / "figures.json").read_text())["losses"] for folder in (one, two)]
        return max(abs(losses[1][name] - value) / abs(value) for name, value in losses[0].items())
    with np.load(one / "objects.npz") as first, np.load(two / "objects.npz") as second:
        return float(np.linalg.norm(second[what] - first[what]) / np.linalg.norm(first[what]))


def compare(one: Path, two: Path) -> list[Row]:
    """A row for each of the three."""
    seconds = [json.loads((folder / "figures.json").read_text())["seconds"] for folder in (one, two)]
    rows = []
    for what, limit in LIMITS.items():
        found = difference(what, one, two)
        times = [took[what] for took in seconds]
        rows.append(
            {
                "what": what, "one_seconds": times[0], "two_seconds": times[1], "times_faster": times[0] / times[1],
                "difference": found, "limit": limit, "note": "" if found <= limit else "DIFFERS",
            }
        )  # fmt: skip
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="a tiny scan and network")
    parser.add_argument("--out", type=Path, help="folder for two_devices.csv and .md; default: none are written")
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning.fabric", "ptychopinn"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if options.into is not None:
        run(options.into, options.device, options.quick)
        return 0
    if options.device == "cuda" and torch.cuda.device_count() < 2:
        print("There are no two CUDA devices here.")
        return 2
    table = Rows(options.out, "two_devices", COLUMNS, machine(torch.device(options.device)))
    more = ["--device", options.device, *(["--quick"] if options.quick else [])]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(scratch) / name for name in ("one", "two")]
        for folder, command in zip(folders, ([sys.executable], TORCHRUN), strict=True):
            folder.mkdir()
            subprocess.run([*command, __file__, "--into", str(folder), *more], check=True, env=environment)
        for row in compare(*folders):
            table.add(row)
    return 1 if any(row["note"] for row in table.rows) else 0


if __name__ == "__main__":
    sys.exit(main())
