# SPDX-License-Identifier: BSD-3-Clause
"""Benchmark of scans larger than memory: resident memory, and speed compared with a scan in memory; see docs/memory.md.

The 20 GB scan is virtual: 576 patterns of a periodic object, repeated over a raster, so that any number of patterns is
consistent and no file is needed. Reading from disk is measured with HDF5 files of a few GB, which are made and deleted
here and dropped from the page cache before each round. All kinds of storage are timed in turn; rates are medians over
the rounds, by wall time and by process time, which other programs disturb less. Each peak of memory is measured in a
new process (VmHWM, and that of its workers).
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptychopinn.batches.datamodule import ScanDataModule
from ptychopinn.config import Config
from ptychopinn.inference.large import reconstruct_to_file
from ptychopinn.inference.predict import reconstruct
from ptychopinn.models import Generator, PtychoModel
from ptychopinn.models.registry import register_generator
from ptychopinn.physics.initial_estimate import transmission_level
from ptychopinn.physics.objects import OBJECTS
from ptychopinn.physics.probes import PROBES
from ptychopinn.physics.simulate import diffract
from ptychopinn.scan import Scan
from ptychopinn.storage.arrays import pattern_blocks
from ptychopinn.storage.stored import StoredPatterns
from ptychopinn.training.module import PtychoModule
from ptychopinn.training.workflow import train

SIZE, STEP, TILE = 128, 19, 24  # pixels of a pattern and between neighbours; patterns along a period
PATTERN_BYTES = 2 * SIZE * SIZE
NETWORKS: dict[str, dict[str, Any]] = {"small": {"steps": 1, "width": 4, "state": 2}, "default": {}}
FIELDS = (
    "what",
    "storage",
    "network",
    "workers",
    "patterns",
    "gb",
    "used",
    "per_s",
    "ratio",
    "cpu_ratio",
    "peak_gb",
    "workers_gb",
)
RESULTS = Path(__file__).parent / "results" / "memory"


@register_generator("level")
class Level(Generator):
    """A constant canvas from the mean of the counts: reads all data, with negligible computation."""

    size_multiple = 1

    def forward(self, counts: Tensor, positions: Tensor, canvas_size: tuple[int, int], probe: Tensor) -> Tensor:
        level = transmission_level(counts, probe.abs().square().sum(0))
        return level.to(torch.complex64).expand(-1, *canvas_size).contiguous()


def virtual_scan(rows: int, columns: int, seed: int = 0) -> Scan:
    """Make a raster scan of a periodic object, whose patterns repeat those of one period."""
    rng = np.random.default_rng(seed)
    period = TILE * STEP
    tile = OBJECTS["dead_leaves"]((period, period), rng)
    probe = (PROBES["defocused"](SIZE, 1) * np.float32(1e3)).astype(np.complex64)
    y, x = np.divmod(np.arange(TILE * TILE), TILE)
    within = np.stack([y, x], 1) * STEP + rng.uniform(0, 2, (TILE * TILE, 2))
    wrapped = np.pad(tile, (0, SIZE + 4), mode="wrap")
    parts = np.array_split(within, TILE)  # in parts, to limit the peak of memory
    shown = np.concatenate([rng.poisson(diffract(wrapped, probe, part)).astype(np.uint32) for part in parts])
    assert shown.max() < 2**16
    row, column = np.divmod(np.arange(rows * columns), columns)
    which = (row % TILE * TILE + column % TILE).astype(np.int32)
    positions = np.stack([row // TILE, column // TILE], 1) * float(period) + within[which]
    return Scan(StoredPatterns.virtual(shown.astype(np.uint16), which), positions, probe, name="virtual")


def scan_of(gigabytes: float) -> Scan:
    """Make a nearly square virtual scan of a size in GB."""
    patterns = max(int(gigabytes * 1e9) // PATTERN_BYTES, TILE)
    rows = int(np.sqrt(patterns))
    return virtual_scan(rows, -(-patterns // rows))


def loaded(scan: Scan) -> Scan:
    """Copy of a scan with its patterns in memory."""
    return dataclasses.replace(scan, counts=scan.counts[:], name="memory")


def written(scan: Scan, path: Path, chunk: int) -> Scan:
    """Copy of a scan with its patterns in an HDF5 file of ``chunk`` patterns per chunk."""
    with h5py.File(path, "w") as file:
        chunks = (chunk, SIZE, SIZE)
        data = file.create_dataset("data", scan.counts.shape, np.uint16, chunks=chunks)
        for part in pattern_blocks(scan.counts.shape):
            data[part] = scan.counts[part]
    return dataclasses.replace(scan, counts=StoredPatterns.hdf5(path, "data"), name=path.stem)


def drop_from_cache(path: Path) -> None:
    """Drop a file from the page cache."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def settings(network: str, workers: int, **inference: Any) -> Config:
    return Config.from_dict(
        {
            "model": {"options": NETWORKS.get(network, {})},
            "data": {"validation_fraction": 3e-4},
            "execution": {"accelerator": "cpu", "threads": 1, "workers": workers, "progress": False},
            "inference": inference,
        }
    )


def model_of(network: str, scan: Scan) -> PtychoModel:
    torch.manual_seed(0)
    name, options = ("level", {}) if network == "level" else ("unrolled", NETWORKS[network])
    model = PtychoModel(name, options, SIZE)
    model.illumination.set_probe(torch.from_numpy(scan.probe))
    return model.eval()


def clocks() -> NDArray[np.float64]:
    """Wall time and process time (without workers), in seconds."""
    return np.array([time.perf_counter(), time.process_time()])


class Clock(L.Callback):
    """Wall time and process time of the steps after the first ``skip``, in seconds."""

    def __init__(self, skip: int) -> None:
        self.skip = skip
        self.seconds = self._began = np.zeros(2)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.skip:
            self._began = clocks()
        self.seconds = clocks() - self._began


def training_rate(scan: Scan, network: str, workers: int, steps: int) -> NDArray[np.float64]:
    """Patterns per second of a training, by wall time and process time."""
    config, skip = settings(network, workers), max(steps // 5, 2)
    L.seed_everything(0, verbose=False)
    module = PtychoModule(config.to_dict(), SIZE)
    module.model.illumination.set_probe(torch.from_numpy(scan.probe))
    clock = Clock(skip)
    trainer = L.Trainer(
        max_steps=steps, limit_val_batches=0, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[clock],
    )  # fmt: skip
    trainer.fit(module, ScanDataModule([scan], config, module.model.generator.canvas_multiple))
    rate: NDArray[np.float64] = config.data.group_size * (steps - skip) / clock.seconds
    return rate


def reconstruction_rate(scan: Scan, network: str, workers: int, to_file: bool, folder: Path) -> NDArray[np.float64]:
    """Patterns per second of a reconstruction, in memory or to a file, by wall time and process time."""
    model, config = model_of(network, scan), settings(network, workers)
    began = clocks()
    if to_file:
        reconstruct_to_file(model, scan, folder / "r.h5", config)
    else:
        reconstruct(model, scan, config)
    rate: NDArray[np.float64] = scan.n / (clocks() - began)
    return rate


def rates(options: argparse.Namespace, folder: Path, report: Callable[..., None]) -> None:
    """Measure all kinds of storage in turn, and their rates relative to memory with the same number of workers."""
    torch.set_num_threads(1)
    large, sample = scan_of(options.gigabytes), scan_of(options.file_gigabytes)
    small = virtual_scan(40, 50)
    paths = {chunk: folder / f"hdf5 chunks of {chunk}.h5" for chunk in (1, 32)}
    files = {path.stem: written(sample, path, chunk) for chunk, path in paths.items()}
    scans = {"memory": loaded(small), "virtual": large, **files}
    block = np.concatenate([np.arange(r * 240, r * 240 + 40) + 40 for r in range(40)])  # 40 x 40 neighbours
    wide = virtual_scan(60, 240)
    parts = {"memory": loaded(wide.subset(block)), "virtual": wide.subset(block)}
    parts |= {
        name: written(wide, folder / f"{name} part.h5", c).subset(block) for c, name in zip(paths, files, strict=True)
    }
    jobs: list[tuple[str, str, int, Callable[[Scan], NDArray[np.float64]], dict[str, Scan], int]] = []
    for network, workers, steps in (
        ("small", 0, options.steps),
        ("small", 1, options.steps),
        ("default", 1, options.steps // 3),
    ):
        rate = partial(training_rate, network=network, workers=workers, steps=steps)
        jobs.append(("train", network, workers, rate, scans, 16 * (steps - max(steps // 5, 2))))
    for what, workers, to_file in (
        ("reconstruct", 0, False),
        ("reconstruct", 1, False),
        ("reconstruct to file", 1, True),
    ):
        rate = partial(reconstruction_rate, network="small", workers=workers, to_file=to_file, folder=folder)
        jobs.append((what, "small", workers, rate, parts, len(block)))
    for what, network, workers, measure, kinds, used in jobs:
        found: dict[str, list[NDArray[np.float64]]] = {name: [] for name in kinds}
        for _ in range(options.rounds):
            for name, scan in kinds.items():
                for path in folder.glob("*.h5"):
                    drop_from_cache(path)
                found[name].append(measure(scan))
        for name, scan in kinds.items():
            ratios = [memory / own for memory, own in zip(found["memory"], found[name], strict=True)]
            wall, own = np.median(ratios, axis=0)
            row = {"what": what, "storage": name, "network": network, "workers": workers, "patterns": scan.n}
            row |= {"gb": round(scan.n * PATTERN_BYTES / 1e9, 3), "used": used, "ratio": round(wall, 3)}
            row |= {"per_s": round(np.median(found[name], axis=0)[0], 1)}
            report(**row, **({} if workers else {"cpu_ratio": round(own, 3)}))


class Peak:
    """Largest resident memory of this process, and the sum over its workers (shared pages are counted in each)."""

    def __init__(self) -> None:
        self.workers = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            children = Path("/proc/self/task").glob("*/children")
            try:
                pids = [pid for text in children for pid in text.read_text().split()]
                self.workers = max(self.workers, sum(_peak_of(pid) for pid in pids))
            except OSError:
                pass  # one has just ended
            time.sleep(0.1)

    def figures(self) -> dict[str, float]:
        return {"peak_gb": round(_peak_of("self") / 1e9, 2), "workers_gb": round(self.workers / 1e9, 2)}


def _peak_of(pid: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return 1024 * int(line.split()[1])
    return 0


def peak(job: str, gigabytes: float, workers: int, folder: Path, minutes: float) -> dict[str, Any]:
    """Run one job in this process, and return its row with the peak of memory."""
    torch.set_num_threads(1)
    watch, scan = Peak(), scan_of(gigabytes)
    began, used = time.perf_counter(), scan.n
    if job == "train":
        config = settings("small", workers)
        config = dataclasses.replace(config, training=dataclasses.replace(config.training, minutes=minutes))
        out = folder / f"run-{gigabytes:g}-{workers}"
        train(scan, out, config)
        last = list(csv.DictReader((out / "metrics.csv").open()))[-1]
        used, network = 16 * (int(last["step"]) + 1), "small"
    else:
        network = "small" if job == "file" else "level"
        config = settings(network, workers, synchronise=job != "pass")
        reconstruct_to_file(model_of(network, scan), scan, folder / "r.h5", config)
    seconds = time.perf_counter() - began
    names = {"train": "train", "file": "reconstruct to file", "pass": "pass", "phases": "pass with phases"}
    return {
        "what": names[job], "storage": "virtual", "network": network, "workers": workers, "patterns": scan.n,
        "gb": round(scan.n * PATTERN_BYTES / 1e9, 2), "used": used, "per_s": round(used / seconds, 1),
        **watch.figures(),
    }  # fmt: skip


def peaks(options: argparse.Namespace, folder: Path, report: Callable[..., None]) -> None:
    """Measure the memory of all jobs at several sizes, each in a new process."""
    size = options.gigabytes
    jobs = [("train", size / 40, 0), ("train", size, 0), ("train", size, 1)]
    jobs += [("file", part, 0) for part in options.sizes]
    jobs += [("phases", size / 40, 0), ("phases", size / 4, 0), ("pass", size / 40, 0), ("pass", size, 0)]
    for job, gigabytes, workers in jobs:
        if options.only and job not in options.only:
            continue
        command = [sys.executable, __file__, "--peak", job, str(gigabytes), str(workers), str(folder)]
        done = subprocess.run(
            [*command, "--minutes", str(options.minutes)], stdout=subprocess.PIPE, text=True, check=True
        )
        report(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=20, help="size of the virtual scan")
    parser.add_argument("--file-gigabytes", type=float, default=2, help="size of each of two HDF5 files")
    parser.add_argument(
        "--sizes", type=float, nargs="*", default=[0.1, 0.4], help="GB of the scans that are reconstructed"
    )
    parser.add_argument("--steps", type=int, default=60, help="of each training that is timed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=0.5, help="of each training whose memory is measured")
    parser.add_argument("--only", nargs="*", default=[], choices=["rates", "train", "file", "phases", "pass"])
    parser.add_argument("--scratch", type=Path, default=None, help="folder for temporary files; several GB")
    parser.add_argument("--out", type=Path, default=RESULTS / "memory.csv")
    parser.add_argument("--peak", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    if options.peak:
        job, gigabytes, workers, folder = options.peak
        print(json.dumps(peak(job, float(gigabytes), int(workers), Path(folder), options.minutes)))
        return
    rows: list[dict[str, Any]] = []

    def report(**row: Any) -> None:
        rows.append(row)
        print(" ".join(f"{name} {value}" for name, value in row.items()), flush=True)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        with options.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            writer.writerows(rows)

    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        if not options.only or "rates" in options.only:
            rates(options, Path(folder), report)
            for path in Path(folder).glob("*.h5"):
                path.unlink()
        if options.only != ["rates"]:
            peaks(options, Path(folder), report)


if __name__ == "__main__":
    main()
