# SPDX-License-Identifier: BSD-3-Clause
"""The devices of the operator tests, and the CUDA operators built for the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """Set torch's default device during a test; op_cases.here() copies other tensors to it."""
    if request.param != "cpu":
        torch.set_default_device(request.param)
    yield torch.device(request.param)
    torch.set_default_device(None)


@pytest.fixture(scope="session")
def blocks() -> Any:
    """torch.ops.ptycho_blocks: tests/native, built if its sources have changed."""
    if not (ROOT / "csrc").exists():
        pytest.skip("the sources are not here")
    sanitize = os.environ.get("PTYCHO_SANITIZE", "")
    build = ROOT / "build" / ("blocks-sanitized" if sanitize else "blocks")
    configure = ["cmake", "-S", ROOT / "tests" / "native", "-B", build, f"-DPython_EXECUTABLE={sys.executable}"]
    environment = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    for command in ([*configure, f"-DPTYCHO_SANITIZE={sanitize}"], ["cmake", "--build", build]):
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
        except FileNotFoundError:
            pytest.skip("cmake is not installed")
        assert done.returncode == 0, done.stdout + done.stderr
    torch.ops.load_library(str(build / "libptycho_blocks.so"))
    return torch.ops.ptycho_blocks
