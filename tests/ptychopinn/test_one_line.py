# SPDX-License-Identifier: BSD-3-Clause
"""Records of the library are one short line in a terminal or a notebook, however large their arrays are."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ptychopinn
from ptychopinn.config import Config
from ptychopinn.inspection import inspect_scan
from ptychopinn.physics.simulate import simulate
from ptychopinn.scan import Scan

#: Records that no public function takes or returns.
INTERNAL = ("ptychopinn.io.", "ptychopinn.stitching.", "ptychopinn.inspection.trials", "ptychopinn.refinement.")


def public_records() -> list[type]:
    """All dataclasses of the library that a caller may meet."""
    found = []
    for module in pkgutil.walk_packages(ptychopinn.__path__, "ptychopinn."):
        if module.name.endswith("__main__") or ".compat" in module.name:
            continue
        for name, kind in vars(importlib.import_module(module.name)).items():
            if not (isinstance(kind, type) and kind.__module__ == module.name and dataclasses.is_dataclass(kind)):
                continue
            internal = module.name.startswith(INTERNAL) and name != "Progress"
            if not (internal or name.startswith("_")):
                found.append(kind)
    return found


RECORDS = public_records()


def value_of(hint: str) -> Any:
    """A large value of an annotation."""
    if "NDArray" in hint or "ndarray" in hint:
        return np.zeros((1000, 64, 64), np.uint8)
    if "Tensor" in hint:
        return torch.zeros(1000, 8)
    if hint.startswith("tuple") or hint.startswith("list") or hint.startswith("Sequence"):
        return tuple(np.linspace(0, 1, 1000).tolist())
    if hint.startswith("dict"):
        return {f"key {k}": [k] * 100 for k in range(100)}
    if hint.startswith("Path"):
        return Path("a long folder/" * 60)
    return "a long\ntext " * 60 if hint.startswith("str") else 1 / 3


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
def test_large_records_are_one_short_line(kind: type) -> None:
    record = object.__new__(kind)
    for field in dataclasses.fields(kind):
        object.__setattr__(record, field.name, value_of(str(field.type)))
    line = repr(record)
    assert line.startswith(f"{kind.__name__}(") and line.endswith(")")
    assert len(line) < 300 and "\n" not in line
    assert "array(" not in line and "tensor(" not in line


def test_records_of_the_documentation_are_there() -> None:
    names = {kind.__name__ for kind in RECORDS}
    assert names >= {"Scan", "Reconstruction", "TrainedRun", "Inspection", "OrientationReport", "RefinementReport"}
    assert names >= {"Config", "RefineConfig", "Decisions", "Prediction", "Progress", "Aligned"}


def test_lines_name_what_a_reader_looks_for(tmp_path: Path) -> None:
    scan = simulate("lines", patterns=36, size=32)
    line = repr(scan)
    assert "counts=<uint16 (36, 32, 32)>" in line and "probe=<complex64 (1, 32, 32)>" in line
    scan.save(tmp_path / "scan.npz")
    stored = Scan.load(tmp_path / "scan.npz", memory="stored")
    assert "<uint16 (36, 32, 32)>" in repr(stored) or "<float32 (36, 32, 32)>" in repr(stored)
    assert len(repr(stored.counts)) < 300
    assert repr(Config()) == "Config()"
    assert repr(Config.from_dict({"training": {"epochs": 3}})) == "Config(training=TrainingConfig(epochs=3))"
    found = inspect_scan(scan, orientation=False)
    assert "\n" not in repr(found) and "findings" in repr(found)
