# SPDX-License-Identifier: BSD-3-Clause
"""The checks of on_fake_cuda/, each file in a process of its own, whose torch has a CUDA device for fake tensors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fake_cuda_process import IMPOSSIBLE

HERE = Path(__file__).parent


@pytest.mark.parametrize("name", sorted(path.name for path in (HERE / "on_fake_cuda").glob("check_*.py")))
def test_checks(name: str) -> None:
    command = [sys.executable, str(HERE / "fake_cuda_process.py"), "-q", str(HERE / "on_fake_cuda" / name)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == IMPOSSIBLE:
        pytest.skip(done.stdout.strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-5000:]
