# SPDX-License-Identifier: BSD-3-Clause
"""What live sources and their setups do with the geometry of a detector."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
from collecting import collect

from ptychopinn import Scan, simulate
from ptychopinn.experiment import Experiment
from ptychopinn.storage.spool import Spool
from ptychopinn.streaming.dectris_stream import encode
from ptychopinn.streaming.frames import Fault, Series
from ptychopinn.streaming.setup import Setup
from ptychopinn.streaming.sources.dectris import MessageReader
from ptychopinn.streaming.sources.hdf5 import Hdf5Source


def test_a_stream_of_pixels_that_are_not_square_is_reported() -> None:
    fields = {"pixel_size_x": 1e-4, "pixel_size_y": 2e-4}
    start = encode({"type": "start", "series_id": 1, "series_unique_id": "a", "channels": ["t"], **fields})
    series, fault = MessageReader("zmq://detector:31001", None).items(start)
    assert isinstance(series, Series) and series.detector_pixel_size == 1e-4
    assert isinstance(fault, Fault) and "--square-pixels" in fault.sentence


def test_a_growing_file_of_pixels_that_are_not_square_is_not_used(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a_master.h5", "w") as file:
        detector = file.create_group("entry/instrument/detector")
        detector["x_pixel_size"], detector["y_pixel_size"] = 1e-4, 2e-4
        file["entry/data/data_000001"] = np.ones((3, 8, 8), np.uint16)
    source = Hdf5Source(tmp_path / "a_master.h5", quiet=0.4)
    fault, *_ = collect(source, bool)
    assert isinstance(fault, Fault) and "--square-pixels file" in fault.sentence


def test_the_distance_of_the_focus_is_kept(tmp_path: Path) -> None:
    scan = simulate(patterns=9, size=16, seed=1, experiment=Experiment(fresnel_number=0.05))
    setup = Setup.like(replace(scan, acquisition=replace(scan.acquisition, source_distance=-0.2)))
    spool = Spool.create(tmp_path / "a", 16, setup.facts("a", "px"))
    spool.add_frames([(0, scan.counts[0])])
    spool.add_positions([(0, 1.0, 2.0)])
    assert Scan.load(tmp_path / "a").acquisition.source_distance == -0.2
