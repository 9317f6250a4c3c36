# SPDX-License-Identifier: BSD-3-Clause
"""Benchmark of live runs: a scan is replayed at a rate, with faults, and received over each kind of source.

Sender and receiver are processes of their own, as at a beamline; both share the machine. A row has the frames per
second that arrived, the seconds from a frame's arrival to the picture that has it (median and 99th percentile of all
frames), the memory of the receiver after a tenth of the time and at the end, and whether the result is that of the
finished scan to the bit. Long runs repeat the same scan (``--repeat``), and have no final reconstruction.

    python benchmarks/live.py --sources zmq hdf5 --patterns 10000 --rate 300 --faults drop,reorder,repeat
"""

from __future__ import annotations

import argparse
import multiprocessing
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from rows import Rows, machine

import ptychopinn as pp
from ptychopinn.config import LiveConfig
from ptychopinn.scan import Scan
from ptychopinn.storage.stored import StoredPatterns
from ptychopinn.streaming.page.board import Board
from ptychopinn.streaming.replay import Faults, Replayed, open_sender, replay
from ptychopinn.streaming.workflow import frames_folder, live

RESULTS = Path(__file__).parent / "results"
COLUMNS = {
    "source": "", "size": "", "frames": "", "rate": ".0f", "received": "", "frames_per_s": ".0f", "median_s": ".2f",
    "p99_s": ".2f", "memory_early_mb": ".0f", "memory_end_mb": ".0f", "passes": "", "lost": "", "repeated": "",
    "reordered": "", "same_bits": "",
}  # fmt: skip


def scan_of(patterns: int, size: int, repeat: int) -> Scan:
    """A simulated scan, repeated: the same patterns again and again, each time as new frames."""
    scan = pp.simulate("photos", "defocused", patterns=patterns, size=size, seed=1)
    if repeat == 1:
        return scan
    rows = np.arange(repeat * patterns) % patterns
    counts = StoredPatterns.virtual(np.asarray(scan.counts), rows)
    return Scan(counts, scan.positions[rows], scan.probe, name=scan.name)


def send(options: argparse.Namespace, address: str, queue: Any) -> None:
    """Replay in a process of its own."""
    scan = scan_of(options.patterns, options.size, options.repeat)
    sender = open_sender(address)
    queue.put(replay(scan, sender, options.rate, Faults.parse(options.faults), options.seed))
    sender.close()


def receive(options: argparse.Namespace, address: str, out: Path, queue: Any) -> None:
    """Receive in a process of its own."""
    torch.set_num_threads(options.threads)
    like = scan_of(options.patterns, options.size, 1)
    settings = LiveConfig(final=options.repeat == 1)
    board = Board("benchmark")
    live(address, out=out, like=like, settings=settings, network=not options.no_network, board=board)
    queue.put(dict(board.snapshot().status))


def address_of(source: str, folder: Path) -> str:
    """A new address of a kind of source."""
    if source == "zmq":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return f"zmq://127.0.0.1:{free.getsockname()[1]}"
    if source == "pva":
        return "pva://ptychopinn:benchmark"
    if source == "folder":
        (folder / "incoming").mkdir()
        return str(folder / "incoming")
    return str(folder / "incoming.h5")


def measure(options: argparse.Namespace, source: str, folder: Path) -> dict[str, Any]:
    """One run."""
    context = multiprocessing.get_context("spawn")
    sent, got = context.Queue(), context.Queue()
    address, out = address_of(source, folder), folder / "live.h5"
    receiver = context.Process(target=receive, args=(options, address, out, got))
    receiver.start()
    sender = context.Process(target=send, args=(options, address, sent))
    sender.start()
    seconds = options.patterns * options.repeat / options.rate
    begun, memory = time.monotonic(), list[tuple[float, int]]()
    process = psutil.Process(receiver.pid)
    while sender.is_alive() and receiver.is_alive():
        memory.append((time.monotonic() - begun, process.memory_info().rss))
        time.sleep(1.0)
    replayed: Replayed = sent.get(timeout=60)
    status = got.get(timeout=3600)
    receiver.join()
    sender.join()
    early = [rss for at, rss in memory if 0.1 * seconds < at < 0.2 * seconds] or [memory[0][1]]
    late = [rss for _, rss in memory[-max(1, len(memory) // 20) :]]
    if options.plot:
        print("memory, MB:", [round(rss / 1e6) for _, rss in memory[:: max(1, len(memory) // 40)]])
    return {
        "source": source, "size": options.size, "frames": options.patterns * options.repeat, "rate": options.rate,
        "received": status["received"], "frames_per_s": replayed.sent / replayed.seconds,
        "median_s": status["latency"]["median"], "p99_s": status["latency"]["p99"],
        "memory_early_mb": float(np.median(early)) / 1e6, "memory_end_mb": float(np.median(late)) / 1e6,
        "passes": status["passes"], "lost": status["lost_count"], "repeated": status["repeated"],
        "reordered": status["reordered"], "same_bits": same_bits(options, replayed, out),
    }  # fmt: skip


def same_bits(options: argparse.Namespace, replayed: Replayed, out: Path) -> str:
    """Whether result and frames are those of the finished scan; "-" of long runs."""
    if options.repeat > 1 or options.no_network:
        return "-"
    scan = scan_of(options.patterns, options.size, 1)
    kept = np.setdiff1d(np.arange(scan.n), np.array(replayed.lost, np.int64))
    stored = Scan.load(frames_folder(out))
    result, want = pp.Reconstruction.load(out), pp.reconstruct(None, scan.subset(kept), accept="all")
    same = np.array_equal(stored.counts[:], scan.counts[kept]) and np.array_equal(result.object, want.object)
    return "yes" if same else "no"


def main() -> int:
    """Measure, print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", nargs="+", default=["zmq", "hdf5"], choices=["zmq", "hdf5", "folder", "pva"])
    parser.add_argument("--patterns", type=int, default=10_000)
    parser.add_argument("--repeat", type=int, default=1, help="of the scan, for long runs")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--rate", type=float, default=300.0, help="frames per second")
    parser.add_argument("--faults", default="drop,reorder,repeat")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=psutil.cpu_count(logical=False) or 1, help="of the receiver")
    parser.add_argument("--no-network", action="store_true", help="refinement from nothing alone")
    parser.add_argument("--plot", action="store_true", help="print the memory over time")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the tables")
    parser.add_argument("--name", default="live", help="of the tables")
    options = parser.parse_args()
    heading = f"Live runs, {options.threads} threads of the receiver; {machine(torch.device('cpu'))}"
    rows = Rows(options.out, options.name, COLUMNS, heading)
    for source in options.sources:
        with tempfile.TemporaryDirectory() as folder:
            rows.add(measure(options, source, Path(folder)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
