# SPDX-License-Identifier: BSD-3-Clause
"""Other code's torch.set_default_device and torch.set_default_dtype change no result: same bits, same types."""

from __future__ import annotations

import subprocess
import sys

import default_results
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ptychopinn.models import GENERATORS, Generator, PtychoModel, register_generator
from ptychopinn.runtime.devices import resolve_device


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, np.ndarray]]:
    """Arrays by name, computed in processes with torch's own defaults and with others."""
    folder, found = tmp_path_factory.mktemp("defaults"), {}
    for defaults in ("plain", "meta"):
        path = folder / f"{defaults}.npz"
        command = [sys.executable, default_results.__file__, str(path), defaults]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        with np.load(path) as file:
            found[defaults] = dict(file)
    return found


@pytest.mark.parametrize("part", default_results.PARTS)
def test_results_do_not_depend_on_the_defaults(results: dict[str, dict[str, np.ndarray]], part: str) -> None:
    plain, other = results["plain"], results["meta"]
    names = [name for name in plain if name.startswith(f"{part} ")]
    assert names and plain.keys() == other.keys()
    for name in names:
        assert plain[name].dtype == other[name].dtype, name
        np.testing.assert_array_equal(plain[name], other[name], err_msg=name)


def test_generator_of_another_distribution_is_made_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptychopinn.models.registry.GENERATORS", dict(GENERATORS))

    @register_generator("theirs")
    class Theirs(Generator):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, counts: Tensor, positions: Tensor, canvas_size: tuple[int, int], probe: Tensor) -> Tensor:
            raise NotImplementedError

    with torch.device("meta"):
        model = PtychoModel("theirs", None, 32)
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


def test_device_of_a_name_does_not_depend_on_the_default() -> None:
    with torch.device("meta"):
        assert resolve_device("cpu") == torch.device("cpu")
        assert resolve_device("auto").type in ("cpu", "cuda")
        assert resolve_device(torch.device("cpu")) == torch.device("cpu")
