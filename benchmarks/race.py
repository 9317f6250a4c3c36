# SPDX-License-Identifier: BSD-3-Clause
"""Our refinement and LSQML of pty-chi 2.2 on the same scans, one after the other on one device.

    python benchmarks/race.py --out results              # on the GPU if there is one; about four minutes there
    python benchmarks/race.py --case "1,089 of 64 px" --passes 30 --device cpu
    python benchmarks/race.py --quick --device cpu

Both begin with a uniform object and the scan's probe, refine both, and make the same number of passes. Seconds are of
the wall clock, without the making of scans and options, and without the scores; each method has made passes over a
small scan before. Rates of ours are of one call without callbacks; those of LSQML are of its epochs, run one by one.
The time to a mean FRC of 0.9 is that of the first pass that reaches it, found by bisection. How to install pty-chi is
in refine_peer.py; without it its rows say so.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import refine_peer
import torch
from rows import Row, Rows, machine, unavailable
from watches import now

import ptychopinn as pp
from ptychopinn.refinement.workflow import Progress
from ptychopinn.runtime.devices import resolve_device

COLUMNS = {
    "scan": "", "engine": "", "batch": ",", "passes": "", "seconds": ".2f", "patterns_per_s": ",.0f", "frc": ".3f",
    "seconds_to_0.9": ".2f", "passes_to_0.9": "", "note": "",
}  # fmt: skip
LEVEL = 0.9
#: (passes, seconds, state)
State = tuple[int, float, pp.Reconstruction]


@dataclass(frozen=True)
class Case:
    """A simulated scan, and the batch of LSQML for it."""

    name: str
    patterns: int
    size: int
    batch: int

    def scan(self) -> pp.Scan:
        return pp.simulate("photos", patterns=self.patterns, size=self.size, seed=1)


@dataclass(frozen=True)
class Setting:
    """Options of LSQML: batches, and how the probe is moved by parts of a pixel; `fourier` is its default."""

    batching: str
    shift: str

    @property
    def name(self) -> str:
        return f"LSQML, {self.batching}, {self.shift}"

    @property
    def momentum(self) -> float:
        """As refine_peer has it for these batches."""
        return next(known.momentum for known in refine_peer.SETTINGS if known.batching == self.batching)


CASES = [
    Case("1,089 of 64 px", 1089, 64, 100), Case("10,000 of 64 px", 10_000, 64, 500),
    Case("4,000 of 128 px", 4000, 128, 250),
]  # fmt: skip
SMALL = Case("196 of 32 px", 196, 32, 50)
SETTINGS = [Setting("compact", "fourier"), Setting("random", "fourier"), Setting("compact", "bilinear")]


def frc(state: pp.Reconstruction, scan: pp.Scan) -> float:
    return float(pp.evaluate(state, scan)["frc"]["mean"])


def first_reaching(states: Sequence[State], level: float, score: Callable[[pp.Reconstruction], float]) -> State | None:
    """The first state of at least this score, where scores grow; None if the last has less."""
    if not states or score(states[-1][2]) < level:
        return None
    low, high = 0, len(states) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if score(states[middle][2]) >= level else (middle + 1, high)
    return states[low]


def ours(scan: pp.Scan, passes: int, device: torch.device, **options: Any) -> tuple[float, list[State]]:
    """Seconds of one refinement, and the states of another one after every pass."""
    config = pp.RefineConfig(iterations=passes, tolerance=0.0, split_half=False, **options)
    began = now(device)
    result = pp.refine(scan, None, config, device)
    seconds = now(device) - began
    states = list[State]()
    clock = {"spent": 0.0, "since": now(device)}

    def note(progress: Progress) -> None:
        clock["spent"] += now(device) - clock["since"]
        states.append((progress.passes, clock["spent"], progress.result()))
        clock["since"] = now(device)

    pp.refine(scan, None, config, device, progress=note, every=1)
    assert result.refinement is not None
    return seconds, states


def lsqml(scan: pp.Scan, setting: Setting, batch: int, passes: int, device: torch.device) -> Iterator[State]:
    """States after every epoch; the object is 40 px larger than the scan, with the same centre."""
    if "torchvision" not in sys.modules and find_spec("torchvision") is None:  # for a blur that is not used
        transforms: Any = types.ModuleType("torchvision.transforms")
        transforms.GaussianBlur = None
        sys.modules["torchvision"] = types.ModuleType("torchvision")
        sys.modules["torchvision.transforms"] = transforms
    import ptychi.api as api
    from ptychi.api.task import PtychographyTask

    extent = np.ptp(scan.positions, axis=0) + scan.patch_size + 40
    shape = [int(np.ceil(side / 2) * 2) for side in extent]
    middle = (scan.positions.max(0) + scan.positions.min(0)) / 2
    options = api.LSQMLOptions()
    options.data_options.data = scan.counts.astype(np.float32)
    options.object_options.initial_guess = np.ones((1, *shape), np.complex64)
    options.object_options.patch_interpolation_method = setting.shift
    options.probe_options.initial_guess = scan.probe[None]
    options.probe_position_options.position_y_px = (scan.positions - middle)[:, 0]
    options.probe_position_options.position_x_px = (scan.positions - middle)[:, 1]
    chosen = options.reconstructor_options
    chosen.num_epochs, chosen.batch_size, chosen.batching_mode = passes, batch, setting.batching
    chosen.momentum_acceleration_gain, chosen.random_seed = setting.momentum, 0
    chosen.default_device = "gpu" if device.type == "cuda" else "cpu"
    try:
        task, seconds = PtychographyTask(options), 0.0
        for epoch in range(1, passes + 1):
            began = now(device)
            task.run(1)
            seconds += now(device) - began
            torch.set_default_device("cpu")  # pty-chi sets its own, and our functions are called in between
            yield epoch, seconds, refine_peer._reconstruction(task, scan, middle)
            torch.set_default_device(device)
    finally:
        torch.set_default_device("cpu")


def row_of(case: Case, engine: str, batch: int | None, seconds: float, states: Sequence[State], scan: pp.Scan) -> Row:
    """One row of the table from the time of a refinement and its states."""
    passes = states[-1][0]
    reached = first_reaching(states, LEVEL, lambda state: frc(state, scan))
    row: Row = {
        "scan": case.name, "engine": engine, "batch": batch, "passes": passes, "seconds": seconds,
        "patterns_per_s": passes * scan.n / seconds, "frc": frc(states[-1][2], scan),
    }  # fmt: skip
    if reached is None:
        return row
    return row | {"passes_to_0.9": reached[0], "seconds_to_0.9": reached[1]}


def race(case: Case, passes: int, device: torch.device) -> Iterator[Row]:
    """All engines on one scan; one that fails has the reason in its note."""
    scan = case.scan()
    for shift in ("fourier", "bilinear"):
        try:
            seconds, states = ours(scan, passes, device, interpolation=shift)
            yield row_of(case, f"ours, {shift}", None, seconds, states, scan)
        except Exception as error:
            yield {"scan": case.name, "engine": f"ours, {shift}", "note": unavailable(error)}
    for setting in SETTINGS:
        row: Row = {"scan": case.name, "engine": setting.name, "batch": case.batch}
        if not refine_peer.installed():
            yield row | {"note": "n/a: pty-chi is not installed"}
            continue
        try:
            states = list(lsqml(scan, setting, case.batch, passes, device))
            yield row_of(case, setting.name, case.batch, states[-1][1], states, scan)
        except Exception as error:
            yield row | {"note": unavailable(error)}


def warm_up(device: torch.device) -> None:
    """Passes over a small scan, for what is compiled and loaded at the first call."""
    scan = SMALL.scan()
    ours(scan, 6, device)
    if refine_peer.installed():
        for setting in SETTINGS:
            list(lsqml(scan, setting, SMALL.batch, 1, device))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES], help="may be repeated")
    parser.add_argument("--passes", type=int, default=30)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads")
    parser.add_argument("--quick", action="store_true", help="a tiny scan: only to see that all engines run")
    parser.add_argument("--out", type=Path, help="folder for race.csv and .md; default: none are written")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    device = resolve_device(options.device)
    peer = f"pty-chi {version('ptychi')}" if refine_peer.installed() else "pty-chi is not installed"
    table = Rows(options.out, "race", COLUMNS, f"{machine(device)}, {peer}")
    try:
        warm_up(device)
    except Exception as error:
        print(f"warm-up: {unavailable(error)}", flush=True)
    cases = [SMALL] if options.quick else [case for case in CASES if case.name in (options.case or [case.name])]
    for case in cases:
        for row in race(case, options.passes, device):
            table.add(row)
    logging.disable(logging.NOTSET)
    ran = [row for row in table.rows if row["engine"].startswith("ours")]
    return 1 if any("note" in row for row in ran) else 0


if __name__ == "__main__":
    sys.exit(main())
