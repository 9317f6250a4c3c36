# SPDX-License-Identifier: BSD-3-Clause
"""Whether the files in a folder are whole, by their kind."""

from __future__ import annotations

import csv
import json
import zipfile
from pathlib import Path

import h5py
import numpy as np
import yaml
from PIL import Image

from ptychopinn.storage.checksums import check_seal


def broken_files(folder: Path) -> list[str]:
    """Files of a folder and those below it that are not whole, with the reason, and temporary files left behind."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.name.startswith("."):
            found.append(f"{path}: left behind")
        elif path.is_file():
            try:
                _check(path)
            except Exception as error:
                found.append(f"{path}: {error!r}")
    return found


def _check(path: Path) -> None:
    kind = path.suffix
    if kind in (".npz", ".zip", ".ckpt"):
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
    elif kind in (".h5", ".cxi", ".nxs", ".ptyd"):
        check_seal(path)
        with h5py.File(path) as file:
            file.visititems(lambda name, node: None)
    elif kind == ".json":
        json.loads(path.read_text())
    elif kind == ".yaml":
        assert isinstance(yaml.safe_load(path.read_text()), dict)
    elif kind == ".png":
        with Image.open(path) as image:
            image.load()
    elif kind == ".npy":
        np.load(path, allow_pickle=False)
    elif kind == ".csv":
        with path.open(newline="") as file:
            lines = list(csv.reader(file))
        assert len({len(line) for line in lines}) == 1, "a line is cut"
    elif kind == ".safetensors":
        from safetensors.torch import load_file

        load_file(path)
    else:
        raise AssertionError("not a file that these commands write")
