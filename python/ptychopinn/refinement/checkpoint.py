# SPDX-License-Identifier: BSD-3-Clause
"""Checkpoints of a refinement: plain tensors and values, read without running code, with a fingerprint of the scan."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from threading import Thread
from typing import Any
from zlib import crc32

import torch

from ptycho_ext import CanvasGeometry
from ptychopinn.config import RefineConfig
from ptychopinn.errors import InputError
from ptychopinn.persistence.checkpoint import save_tensors
from ptychopinn.scan import Scan
from ptychopinn.storage.arrays import total_counts
from ptychopinn.storage.checksums import check_zip

#: Of the values in a checkpoint. A refinement of another version is not resumed.
VERSION = 2
#: Takes the values of a checkpoint.
Writer = Callable[[dict[str, Any]], None]
#: Fraction of the time that checkpoints may take.
_FRACTION = 0.05
#: Options that may change when a refinement is resumed.
_MAY_CHANGE = {"iterations", "minutes", "tolerance", "split_half", "uncertainty", "replicas"}


def fingerprint(scan: Scan, geometry: CanvasGeometry) -> dict[str, Any]:
    """Values that identify a scan and its canvas."""
    return {
        "patterns": scan.n,
        "counts": total_counts(scan.counts),
        "positions": crc32(scan.positions.tobytes()),
        "probe": crc32(scan.probe.tobytes()),
        "origin": list(geometry.origin),
        "shape": list(geometry.shape),
    }


def write_checkpoint(path: Path, values: dict[str, Any]) -> None:
    """Write tensors and plain values by name, atomically."""
    save_tensors(path, values)


class CheckpointWriter:
    """Writes checkpoints seldom enough to take at most a twentieth of the time, and the last one always.

    Args:
        path: the file.
        background: write a copy of the values on a thread, so that the refinement waits for the copy alone.
        clock: seconds.
    """

    def __init__(self, path: Path, background: bool, clock: Callable[[], float] = time.perf_counter) -> None:
        self.path, self.background, self.clock = path, background, clock
        self._seconds, self._end = 0.0, clock()
        self._thread: Thread | None = None
        self._error: BaseException | None = None

    def save(self, save: Callable[[Writer], None], last: bool = False) -> None:
        """Write a checkpoint, if it is time or the last one.

        Args:
            save: hands the values to a function.
            last: whether it is the last one, which is complete when this returns.

        Raises:
            OSError: this checkpoint, or the one before, could not be written.
        """
        begin = self.clock()
        if not last and (self._writes() or begin - self._end < self._seconds / _FRACTION):
            return
        self.wait()
        save(self._write)
        if last:
            self.wait()
        self._end = self.clock()
        self._seconds = self._end - begin

    def wait(self) -> None:
        """Wait for the thread, if one writes, and raise what it raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _writes(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _write(self, values: dict[str, Any]) -> None:
        if not self.background:
            write_checkpoint(self.path, values)
            return
        copied = _copy(values)

        def work() -> None:
            try:
                write_checkpoint(self.path, copied)
            except BaseException as error:
                self._error = error

        self._thread = Thread(target=work, name="checkpoint")
        self._thread.start()


def _copy(value: Any) -> Any:
    """A copy of nested values with tensors on the CPU."""
    if isinstance(value, torch.Tensor):
        return value.to("cpu", copy=True)
    if isinstance(value, dict):
        return {name: _copy(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_copy, value))
    return value


def read_checkpoint(
    path: Path, scan: Scan, geometry: CanvasGeometry, config: RefineConfig, device: torch.device
) -> dict[str, Any]:
    """Read a checkpoint and check that it belongs to a scan and a configuration.

    Args:
        path: the file.
        scan: the scan to refine.
        geometry: of its canvas.
        config: the configuration; iterations, minutes, tolerance, split_half, uncertainty and replicas may differ from
            the checkpoint's.
        device: of the tensors.

    Raises:
        InputError: the file is no checkpoint of a refinement, or of another scan, start or configuration.
    """
    saved = _loaded(path, device)
    version, same = saved.get("version", 1), saved.get("scan") == fingerprint(scan, geometry)
    if version != VERSION:
        raise InputError(
            f"{path}: expected a checkpoint of version {VERSION}, found version {version}; begin again without --resume"
        )
    if not same:
        raise InputError(
            f"{path}: expected a refinement of {scan.name}, found one of another scan or start; "
            "begin again without --resume"
        )
    for name, value in dataclasses.asdict(config).items():
        if name not in _MAY_CHANGE and saved["config"].get(name) != value:
            raise InputError(
                f"{path}: expected a refinement with refine.{name} {value!r}, "
                f"found {saved['config'].get(name)!r}; state that, or begin again without --resume"
            )
    return saved


def passes_of(path: Path) -> int:
    """Number of passes of the refinement that a checkpoint is of.

    Raises:
        InputError: the file is no checkpoint of a refinement, or is damaged.
    """
    return int(_loaded(path, torch.device("cpu")).get("passes", 0))


def _loaded(path: Path, device: torch.device) -> dict[str, Any]:
    check_zip(path)
    try:
        saved: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        saved["scan"]
    except (OSError, RuntimeError, KeyError, EOFError, TypeError, AttributeError, UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{path}: expected a refinement to resume, found none: {reason}; begin again without --resume"
        ) from None
    return saved
