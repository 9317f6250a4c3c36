# SPDX-License-Identifier: BSD-3-Clause
"""Selection of a device: a GPU only if both torch and the operators can use it.

The same rule for training (accelerators of Lightning) and inference (devices of torch). With a CPU-only build on a GPU
node, "auto" is the CPU, and a request for the GPU is an error.
"""

from __future__ import annotations

import torch

import ptycho_ext
from ptychopinn.config import ExecutionConfig
from ptychopinn.errors import InputError

_REMEDY = "the operators were built without CUDA: use the CPU, or rebuild where nvcc is found"


def gpu_usable() -> bool:
    """Whether torch finds a CUDA device and the operators were built for it."""
    return torch.cuda.is_available() and bool(ptycho_ext.build_info()["cuda"])


def resolve_device(name: str | torch.device) -> torch.device:
    """The torch device of a name: "auto" (a GPU if it can be used), "cpu", "cuda", "cuda:1" ...; or this device.

    Raises:
        InputError: torch cannot use the device, or the operators cannot.
    """
    if name == "auto":
        return torch.device("cuda" if gpu_usable() else "cpu")
    try:
        device = torch.empty(0, dtype=torch.float32, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device: expected one that torch can use here, got {str(name)!r}: {reason}") from None
    _require_operators(device.type, str(name))
    return device


def device_of(execution: ExecutionConfig) -> torch.device:
    """The torch device of a training with these settings, for computations without Lightning.

    Raises:
        InputError: it cannot be used.
    """
    name = {"gpu": "cuda"}.get(execution.accelerator, execution.accelerator)
    device, wanted = resolve_device(name), str(execution.devices)
    if device.type == "cuda" and wanted.endswith(",") and wanted[:-1].isdigit():
        return resolve_device(f"cuda:{wanted[:-1]}")  # "1,": GPU 1, as Lightning has it
    return device


def prepare_device(execution: ExecutionConfig) -> torch.device:
    """:func:`device_of` these settings, with torch's number of threads set to theirs for good: for a program's process.

    In the process of a caller, :func:`ptychopinn.runtime.process_settings.own_threads` sets it for a while.
    """
    if execution.threads is not None:
        torch.set_num_threads(execution.threads)
    return device_of(execution)


def resolve_accelerator(name: str) -> str:
    """Lightning's accelerator for ``execution.accelerator``.

    Raises:
        InputError: a GPU is requested and the operators cannot use it.
    """
    if name == "auto":
        return "gpu" if gpu_usable() else "cpu"
    _require_operators(name, name)
    return name


def _require_operators(kind: str, name: str) -> None:
    if kind in ("cuda", "gpu") and not ptycho_ext.build_info()["cuda"]:
        raise InputError(f"device: {name!r} cannot be used: {_REMEDY}")
    if kind not in ("cpu", "cuda", "gpu"):
        raise InputError(f"device: {name!r} cannot be used: the operators run on CPU and CUDA devices only")
