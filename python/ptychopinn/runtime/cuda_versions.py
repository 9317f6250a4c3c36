# SPDX-License-Identifier: BSD-3-Clause
"""Whether the CUDA of torch, of the operators and of the driver fit, in one sentence with the command that mends it.

Within a major version newer builds run on older drivers (CUDA's minor version compatibility), so majors are compared.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass

from ptychopinn._one_line import one_line

#: Major version of a driver's CUDA -> the newest build of torch that runs on it.
_TORCH_BUILDS = {12: "cu128", 13: "cu130"}


@dataclass(frozen=True)
class Driver:
    """An NVIDIA driver.

    Attributes:
        version: such as "580.65.06"; "" if unknown.
        cuda: the newest CUDA that it supports, such as "13.0"; "" if unknown.
    """

    version: str
    cuda: str

    __repr__ = one_line

    def __str__(self) -> str:
        return f"driver {self.version or 'of unknown version'}" + (f", up to CUDA {self.cuda}" if self.cuda else "")


def installed_driver() -> Driver | None:
    """The driver that nvidia-smi reports, None if there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        done = subprocess.run([program], capture_output=True, text=True, errors="replace", timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return Driver("", "")
    return driver_of(done.stdout)


def driver_of(printed: str) -> Driver:
    """The driver that the output of nvidia-smi names."""
    version = re.search(r"Driver Version:\s*([\d.]+)", printed)
    cuda = re.search(r"CUDA(?: UMD)? Version:\s*([\d.]+)", printed)
    return Driver(version[1] if version else "", cuda[1] if cuda else "")


def problem_of(torch_cuda: str | None, operators_cuda: str, driver: Driver | None, usable: bool) -> str | None:
    """The one sentence on what does not fit, with its remedy; None if all fits, or there is no GPU.

    Args:
        torch_cuda: CUDA that torch was built for, None for a CPU build.
        operators_cuda: CUDA that the operators were built with, "" for none.
        driver: the driver, if there is one.
        usable: torch can use a GPU.
    """
    newest = _major(driver.cuda) if driver is not None else None
    if torch_cuda is None:
        return None if driver is None else f"torch is a CPU build and there is an NVIDIA {driver}: {_torch(newest)}"
    if not usable:
        if driver is None:
            return None
        if newest is not None and newest < (_major(torch_cuda) or 0):
            return f"torch is built for CUDA {torch_cuda}, which is newer than the {driver}: {_torch(newest)}"
        return (
            f"torch is built for CUDA {torch_cuda} and sees no GPU although there is an NVIDIA {driver}: "
            "check nvidia-smi, CUDA_VISIBLE_DEVICES and, in a container, --gpus all or --nv"
        )
    if not operators_cuda:
        return (
            "the operators were built without CUDA and run on the CPU: install a CUDA build of ptychopinn "
            "(docs/install.md), or with nvcc pip install --no-build-isolation --no-deps --force-reinstall ."
        )
    if newest is not None and newest < (_major(operators_cuda) or 0):
        return (
            f"the operators are built with CUDA {operators_cuda}, which is newer than the {driver}: install the "
            f"build of ptychopinn for CUDA {newest} (docs/install.md), or a newer driver"
        )
    return None


def _torch(driver_major: int | None) -> str:
    """The command that installs a torch for a driver."""
    if driver_major is not None and driver_major < min(_TORCH_BUILDS):
        return "install a driver for CUDA 12 or newer"
    build = _TORCH_BUILDS.get(driver_major or 0)
    index = f" --index-url https://download.pytorch.org/whl/{build}" if build else ""
    return f"pip install --force-reinstall torch{index}"


def _major(version: str) -> int | None:
    number = version.partition(".")[0]
    return int(number) if number.isdigit() else None
