# SPDX-License-Identifier: BSD-3-Clause
"""Reader of the folder in which a live run keeps the frames that it receives (:mod:`ptychopinn.storage.spool`).

It can be read during the run: a scan of the frames that have a position so far, in the order of their indexes.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn.acquisition import Acquisition
from ptychopinn.decisions import Pairing
from ptychopinn.errors import InputError, not_found
from ptychopinn.experiment import Experiment
from ptychopinn.io.build import Contents, assemble
from ptychopinn.io.fields import OpenFile
from ptychopinn.io.options import ReadOptions
from ptychopinn.io.registry import Format, register
from ptychopinn.io.stored_experiments import NAMES, PREFIX
from ptychopinn.records import ScanRecord
from ptychopinn.scan import Scan
from ptychopinn.storage.arrays import total_counts
from ptychopinn.storage.spool import FACTS_NAME, Spool
from ptychopinn.storage.stored import StoredPatterns, left_on_disk

_KEY = "frames"
#: Ratio of the mean counts of a pattern to those that a probe was scaled to, beyond which it is scaled again.
_SAME_EXPOSURE = 1.25


def read_live(path: Path, options: ReadOptions) -> Scan:
    """Read the frames that a live run has received so far.

    Args:
        path: the folder, ``NAME.frames`` beside the result ``NAME.h5``.
        options: from the caller.

    Raises:
        InputError: the folder is not found or not one of these, or no frame has a position.
    """
    if not path.exists():
        raise not_found(path)
    return scan_of(Spool(path), options)


def scan_of(spool: Spool, options: ReadOptions | None = None, indexes: NDArray[np.int64] | None = None) -> Scan:
    """A scan of frames that have a position.

    Args:
        spool: the frames.
        options: from the caller.
        indexes: of the frames, in their order; None: all that have a position, ascending.

    Raises:
        InputError: no frame has a position.
    """
    options, facts = options or ReadOptions(), spool.facts
    indexes = spool.complete() if indexes is None else indexes
    if len(indexes) == 0:
        raise InputError(
            f"{spool.folder}: expected frames with positions, found {len(spool)} frames, none with a position; state "
            "--positions for the live run"
        )
    stored = spool.patterns(indexes)
    kept = left_on_disk(lambda: stored, spool.folder, options.memory)
    positions, in_pixels = spool.positions(indexes), facts.get("position_unit") == "px"
    middle = (spool.size - 1) / 2
    probe = spool.array("probe")
    missing = len(spool) - len(indexes)
    record = ScanRecord()
    if missing:
        pairing = Pairing(missing, 0, "their positions have not come")
        record = replace(record, decisions=replace(record.decisions, pairing=pairing))
    contents = Contents(
        file=_Folder(spool),
        key=_KEY,
        patterns=stored[:] if kept is None else kept,
        world=None if in_pixels else positions,
        pixels=positions + middle if in_pixels else None,
        energy=facts.get("energy"),
        pixel_size=facts.get("pixel_size"),
        acquisition=Acquisition(
            facts.get("distance"), facts.get("detector_pixel_size"), source_distance=facts.get("source_distance")
        ),
        probe=probe,
        scale_known=None if probe is None else _scale_reason(facts.get("mean_counts"), stored),
        bad_pixels=spool.array("bad_pixels"),
        stated="counts",
        name=facts.get("name", ""),
        frame_indexes=indexes,
        record=record,
        experiment=_experiment(spool),
    )
    scan = assemble(contents, options)
    # Without the rounding of a sum and a difference.
    return replace(scan, positions=positions) if in_pixels and not options.states_positions else scan


def _experiment(spool: Spool) -> Experiment:
    """What the setup of the live run has beside the plain forward model, for all patterns."""
    arrays = {name: array for name in NAMES if (array := spool.array(f"{PREFIX}{name}")) is not None}
    return Experiment.from_parts(arrays, ScanRecord.from_json(spool.facts).experiment.scalars())


def _scale_reason(expected: Any, stored: StoredPatterns) -> str | None:
    """Why the probe's scale is known; None where it is not, or where the exposure has changed since."""
    if expected is None or not same_exposure(total_counts(stored) / len(stored), float(expected)):
        return None
    return "the setup of the live run has it in sqrt(counts)"


def same_exposure(counts: float, expected: float) -> bool:
    """Whether mean counts of a pattern are those of the scan that a probe is from, nearly."""
    return counts > 0 and abs(math.log(counts / expected)) <= math.log(_SAME_EXPOSURE)


class _Folder(OpenFile):
    """A spool as an open file, for errors."""

    def __init__(self, spool: Spool) -> None:
        self.path, self.kind, self.spool = spool.folder, "the frames of a live run", spool

    def has(self, key: str) -> bool:
        return key == _KEY

    def array(self, key: str) -> NDArray[Any]:
        return self.spool.patterns(self.spool.complete())[:]


register(
    Format(
        "live",
        "frames that a live run has received, in a folder",
        (".frames",),
        lambda content: content.kind == "folder" and content.has(FACTS_NAME),
        read_live,
        order=78,
    )
)
