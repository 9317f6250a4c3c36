# SPDX-License-Identifier: BSD-3-Clause
"""From a file to an image: where the time goes, on a CPU or a GPU.

    python benchmarks/pipeline.py                          # all parts, on the GPU if there is one
    python benchmarks/pipeline.py path refine --device cpu --out results
    python benchmarks/pipeline.py --quick --json rows.json

Parts: `path` (one scan, from the file to pictures, with a training of a few epochs), `inference` (from a file, with a
trained model), `train` (rates of steps of 1 and 16 groups), `refine` (30 passes), `quality` (from nothing to a mean FRC
of 0.89). Scans are simulated, which is not timed. Every row is written when it is measured.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rows import Row, Rows, machine, unavailable
from watches import Epochs, busy_fraction, now, timed_parts

import ptychopinn as pp

COLUMNS = {
    "part": "", "what": "", "seconds": ".3f", "patterns": ",", "patterns_per_s": ",.0f", "share": ".1%",
    "gpu_busy": ".0%", "frc": ".3f", "note": "",
}  # fmt: skip
#: Mean FRC of `quality`, that of the demo.
LEVEL = 0.89
NAMES = ("Scan", "Config", "train", "load_bundle", "reconstruct", "refine", "plot_reconstruction")
_SMALL = {"steps": 2, "width": 8, "state": 2}


@dataclass(frozen=True)
class Bench:
    """What is measured, and how large it is."""

    device: torch.device
    quick: bool
    folder: Path

    @property
    def path_patterns(self) -> int:
        return 36 if self.quick else 1000

    @property
    def inference_patterns(self) -> tuple[int, ...]:
        return (36,) if self.quick else (1000, 10_000)

    @property
    def minutes(self) -> tuple[float, ...]:
        """Of the trainings of `quality`, each twice as long as the one before."""
        if self.quick:
            return (0.01,)
        first, number = (0.1, 4) if self.device.type == "cuda" else (1.5, 2)
        return tuple(first * 2**k for k in range(number))

    def config(self, epochs: int = 1000, **training: Any) -> pp.Config:
        sections: dict[str, Any] = {
            "training": {"epochs": epochs, **training},
            "execution": {"accelerator": {"cuda": "gpu"}.get(self.device.type, "cpu"), "devices": 1, "progress": False},
        }
        if self.quick:
            sections |= {"model": {"options": _SMALL}, "data": {"group_size": 4}}
        return pp.Config.from_dict(sections)

    def scan(self, patterns: int, seed: int = 1) -> pp.Scan:
        return pp.simulate("photos", patterns=patterns, size=32 if self.quick else 64, seed=seed)

    def file(self, patterns: int) -> Path:
        """A file with a scan, made once."""
        path = self.folder / f"scan-{patterns}.npz"
        if not path.exists():
            self.scan(patterns).save(path)
        return path

    def bundle(self) -> Path:
        """The folder of a trained model, trained once, for one epoch."""
        path = self.folder / "model"
        if not path.exists():
            pp.train(pp.Scan.load(self.file(self.path_patterns)), path, self.config(1))
        return path

    def timed(self, work: Callable[[], Any]) -> tuple[float, Any]:
        began = now(self.device)
        result = work()
        return now(self.device) - began, result


def with_fractions(rows: Iterator[Row], patterns: int) -> Iterator[Row]:
    """Rows of one part as they are measured, then their total; each is given its fraction of it afterwards."""
    seen = list[Row]()
    for row in rows:
        seen.append(row)
        yield row
    total = sum(row["seconds"] for row in seen)
    for row in seen:
        row["share"] = row["seconds"] / total
    yield {"part": seen[0]["part"], "what": "total", "seconds": total, "patterns": patterns} | rate(patterns, total)


def rate(patterns: int, seconds: float) -> Row:
    return {"patterns_per_s": patterns / seconds}


def path(bench: Bench) -> Iterator[Row]:
    """One scan from the file to the pictures; the import in a process of its own."""
    for name in NAMES:  # imports it here too, where it is not timed
        getattr(pp, name)
    yield from with_fractions(path_rows(bench), bench.path_patterns)


def path_rows(bench: Bench) -> Iterator[Row]:
    part, file, patterns = "path", bench.file(bench.path_patterns), bench.path_patterns
    names = ", ".join(f"pp.{name}" for name in NAMES)
    command = [sys.executable, "-c", f"import ptychopinn as pp; {names}"]
    seconds, _ = bench.timed(lambda: subprocess.run(command, check=True))
    yield {"part": part, "what": "start Python and import", "seconds": seconds}
    seconds, scan = bench.timed(lambda: pp.Scan.load(file))
    yield {"part": part, "what": "read file", "seconds": seconds, "patterns": patterns}
    seconds, _ = bench.timed(lambda: torch.from_numpy(scan.counts).to(bench.device))
    yield {"part": part, "what": "upload counts", "seconds": seconds, "patterns": patterns}
    watch, config = Epochs(bench.device), bench.config(2 if bench.quick else 3)
    began = now(bench.device)
    run = pp.train(scan, bench.folder / "path", config, callbacks=[watch])
    ended = now(bench.device)
    yield {"part": part, "what": "train: before the first epoch", "seconds": watch.began - began}
    for number, seconds in enumerate(watch.durations(), 1):
        row = {"part": part, "what": f"train: epoch {number}", "seconds": seconds, "patterns": patterns}
        yield row | rate(patterns, seconds)
    yield {"part": part, "what": "train: save and draw", "seconds": ended - watch.ends[-1]}
    yield from image_rows(bench, part, scan, run.folder, pictures=True)


def image_rows(bench: Bench, part: str, scan: pp.Scan, folder: Path, pictures: bool = False) -> Iterator[Row]:
    """From the folder of a trained model to a saved image."""
    seconds, (model, config) = bench.timed(lambda: pp.load_bundle(folder))
    yield {"part": part, "what": "load model", "seconds": seconds}
    with timed_parts(bench.device) as parts:
        total, image = bench.timed(lambda: pp.reconstruct(model, scan, config, bench.device))
    parts["the rest of reconstruct"] = total - sum(parts.values())
    for number, (name, seconds) in enumerate(parts.items()):
        row = {"part": part, "what": name, "seconds": seconds, "patterns": scan.n}
        yield row if number else row | rate(scan.n, seconds)
    seconds, _ = bench.timed(lambda: image.save(bench.folder / "image.h5"))
    yield {"part": part, "what": "save", "seconds": seconds}
    if pictures:
        seconds, _ = bench.timed(lambda: pp.plot_reconstruction(image, bench.folder / "pictures"))
        yield {"part": part, "what": "pictures", "seconds": seconds}


def inference(bench: Bench) -> Iterator[Row]:
    """From a file to a saved image with a trained model; `again` is a second call of reconstruct."""
    folder = bench.bundle()

    def rows(part: str, patterns: int, scan: pp.Scan, seconds: float) -> Iterator[Row]:
        yield {"part": part, "what": "read file", "seconds": seconds, "patterns": patterns}
        yield from image_rows(bench, part, scan, folder)

    for patterns in bench.inference_patterns:
        part, file = f"inference {patterns:,}", bench.file(patterns)
        seconds, scan = bench.timed(lambda file=file: pp.Scan.load(file))
        yield from with_fractions(rows(part, patterns, scan, seconds), patterns)
        model, config = pp.load_bundle(folder)
        again = partial(pp.reconstruct, model, scan, config, bench.device)
        seconds, _ = bench.timed(again)
        row = {"part": part, "what": "again", "seconds": seconds, "patterns": patterns} | rate(patterns, seconds)
        yield row | {"gpu_busy": busy_fraction(again, bench.device)}


def train(bench: Bench) -> Iterator[Row]:
    """Steps of 1 and 16 groups by pp.train; the rate is that of the epochs after the first."""
    scan = pp.Scan.load(bench.file(bench.path_patterns))
    for groups in (1, 4) if bench.quick else (1, 16):
        part = f"train, {groups} group{'s' if groups > 1 else ''} a step"
        epochs = 2 if bench.quick else 4 if bench.device.type == "cpu" else 12
        config, watch = bench.config(epochs, batch_size=groups), Epochs(bench.device)
        folder = bench.folder / f"train-{groups}"
        began = now(bench.device)
        pp.train(scan, folder, config, callbacks=[watch])
        ended = now(bench.device)
        durations, steps = watch.durations(), watch.steps[1] - watch.steps[0]
        patterns = steps * groups * config.data.group_size
        later = statistics.median(durations[1:])
        yield {"part": part, "what": "before the first epoch", "seconds": watch.began - began}
        yield {"part": part, "what": "first epoch", "seconds": durations[0], "patterns": patterns}
        work = partial(pp.train, scan, folder, bench.config(2, batch_size=groups), overwrite=True)
        yield {
            "part": part, "what": "a later epoch", "seconds": later, "patterns": patterns,
            "gpu_busy": busy_fraction(work, bench.device), "note": f"{1e3 * later / steps:.2f} ms a step",
        } | rate(patterns, later)  # fmt: skip
        yield {"part": part, "what": "save and draw", "seconds": ended - watch.ends[-1]}


def refine(bench: Bench) -> Iterator[Row]:
    """Refinement from a uniform object with default options: 30 passes, without the stopping rule."""
    passes = 3 if bench.quick else 30
    sizes = (196,) if bench.quick else (1089,) if bench.device.type == "cpu" else (1089, 10_000)
    for patterns in sizes:
        part, scan = f"refine {patterns:,}", bench.scan(patterns)
        config = pp.RefineConfig(iterations=passes, tolerance=0.0, split_half=False)
        for what in ("first call",) if bench.device.type == "cpu" else ("first call", "again"):
            seconds, result = bench.timed(partial(pp.refine, scan, None, config, bench.device))
            yield {
                "part": part, "what": f"{passes} passes, {what}", "seconds": seconds, "patterns": patterns,
                "frc": float(pp.evaluate(result, scan)["frc"]["mean"]), "note": "patterns/s counts every pass",
            } | rate(passes * patterns, seconds)  # fmt: skip
        short = pp.RefineConfig(iterations=8, tolerance=0.0, split_half=False)
        busy = busy_fraction(partial(pp.refine, scan, None, short, bench.device), bench.device)
        if busy is not None:
            yield {"part": part, "what": "8 passes, profiled", "patterns": patterns, "gpu_busy": busy}


def quality(bench: Bench) -> Iterator[Row]:
    """The scan of the demo from nothing: trainings of growing length, until the reconstruction has the FRC."""
    scan = bench.scan(196 if bench.quick else 1089)
    file = bench.folder / "demo.npz"
    scan.save(file)
    for minutes in bench.minutes:
        began, folder = now(bench.device), bench.folder / f"quality-{minutes:g}"
        loaded = pp.Scan.load(file)
        run = pp.train(loaded, folder, bench.config(minutes=minutes))
        image = pp.reconstruct(run.model, loaded, run.config, bench.device)
        seconds = now(bench.device) - began
        frc = float(pp.evaluate(image, scan)["frc"]["mean"])
        yield {
            "part": f"quality, mean FRC {LEVEL}", "what": f"train {60 * minutes:g} s, reconstruct", "seconds": seconds,
            "patterns": scan.n, "frc": frc, "note": "reached" if frc >= LEVEL else "",
        }  # fmt: skip
        if frc >= LEVEL:
            return


PARTS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "path": path, "inference": inference, "train": train, "refine": refine, "quality": quality,
}  # fmt: skip


def measure(bench: Bench, parts: Sequence[str], table: Rows, limit: float | None) -> bool:
    """Add the rows of all parts; False if one failed. None is begun after `limit` seconds."""
    began, complete = time.monotonic(), True
    for name in parts:
        if limit is not None and time.monotonic() - began > limit:
            table.add({"part": name, "note": f"n/a: not begun within {limit:g} s"})
            continue
        try:
            for row in PARTS[name](bench):
                table.add(row)
            table.write()
        except Exception as error:  # the other parts are still worth measuring
            logging.getLogger(__name__).exception(name)
            table.add({"part": name, "note": unavailable(error)})
            complete = False
    return complete


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--quick", action="store_true", help="tiny scans and networks: only to see that all parts run")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads")
    parser.add_argument("--limit", type=float, help="seconds after which no other part is begun")
    parser.add_argument("--out", type=Path, help="folder for pipeline.csv and .md; default: none are written")
    parser.add_argument("--json", type=Path, help="also write all rows to this file, to compare two checkouts")
    options = parser.parse_args(arguments)
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}; known are {', '.join(PARTS)}")
    from ptychopinn.runtime.devices import resolve_device

    device = resolve_device(options.device)
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning.fabric", "ptychopinn"):
        logging.getLogger(name).setLevel(logging.WARNING)
    table = Rows(options.out, "pipeline", COLUMNS, machine(device) + (", quick" if options.quick else ""))
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(device, options.quick, Path(folder))
        complete = measure(bench, options.parts or list(PARTS), table, options.limit)
    if options.json is not None:
        table.save_json(options.json)
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
