# SPDX-License-Identifier: BSD-3-Clause
"""Patterns on disk in every layout that is read without a copy in memory, for the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ptychopinn.storage.stored import StoredPatterns


def hdf5(folder: Path, values: np.ndarray, axis: int = 0, **options: Any) -> StoredPatterns:
    path = folder / f"{len(list(folder.iterdir()))}.h5"  # an open file cannot be overwritten
    with h5py.File(path, "w") as file:
        file.create_dataset("entry/data", data=np.moveaxis(values, 0, axis), **options)
    return StoredPatterns.hdf5(path, "entry/data", axis)


def npy(folder: Path, values: np.ndarray) -> StoredPatterns:
    np.save(folder / "a.npy", values)
    return StoredPatterns.npy(folder / "a.npy")


def npz(folder: Path, values: np.ndarray) -> StoredPatterns:
    np.savez(folder / "a.npz", other=np.arange(7), diffraction=values, last="text")
    return StoredPatterns.npz(folder / "a.npz", "diffraction")


def virtual(folder: Path, values: np.ndarray) -> StoredPatterns:
    order = np.random.default_rng(1).permutation(len(values))
    return StoredPatterns.virtual(values[order], np.argsort(order))
