# SPDX-License-Identifier: BSD-3-Clause
"""Distributed processes of torchrun: joining, common decisions, sums and errors.

Used by training, reconstruction and refinement. Errors are exchanged with gloo on the CPU, so that they never wait for
a GPU; sums are computed on the device of their tensors. In a single process these functions have no effect.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from ptychopinn.errors import InputError, RemoteError, not_found


def launched() -> int:
    """Number of processes that torchrun has started on all nodes; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def distributed() -> bool:
    """Whether this is one of several processes that have joined."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank_and_size() -> tuple[int, int]:
    """Rank of this process, and number of processes."""
    return (dist.get_rank(), dist.get_world_size()) if distributed() else (0, 1)


@contextmanager
def processes(device: torch.device | None = None) -> Iterator[torch.device]:
    """Context manager that joins the processes of torchrun, if any, and yields the device of this process.

    The process group exists until the process ends. The first process writes the result files. Can be nested.

    Args:
        device: requested device; None: the CPU.

    Raises:
        InputError: only some of torchrun's environment variables are set.
        RemoteError: another process ended unexpectedly; torchrun names it.
    """
    device = device or torch.device("cpu")
    if launched() == 1:
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if dist.is_initialized():
        yield device
        return
    if "MASTER_ADDR" not in os.environ:
        raise InputError(
            f"environment: expected RANK, WORLD_SIZE and MASTER_ADDR as torchrun sets them, found no MASTER_ADDR and "
            f"WORLD_SIZE={launched()}; start with torchrun, or unset RANK and WORLD_SIZE"
        )
    # Once: torchrun's store keeps the addresses of a group that was left. And until the end: the others see the
    # connection break, and torchrun might end this process before it has reported what is wrong.
    atexit.register(_leave)
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield device
        dist.barrier()
    except RuntimeError as error:
        if "gloo" in str(error) and "by peer" in str(error):
            raise RemoteError("another process has ended; its output has the reason", lost=True) from None
        raise


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def shared_errors() -> Iterator[None]:
    """Context manager that raises an InputError of one process in all processes, and reports it once.

    No process waits for one that has failed. The block must not communicate.

    Raises:
        InputError: in the first process; in the others its subclass RemoteError.
    """
    if not distributed():
        yield
        return
    sentence = None
    try:
        yield
    except InputError as error:
        sentence = str(error)
    except OSError as error:
        if error.filename is None:
            raise
        absent = isinstance(error, FileNotFoundError)
        sentence = str(not_found(error.filename)) if absent else f"{error.filename}: {error.strerror}"
    _, count = rank_and_size()
    sentences: list[str | None] = [None] * count
    dist.all_gather_object(sentences, sentence)
    failed = [rank for rank in range(count) if sentences[rank] is not None]
    if failed:
        text = str(sentences[failed[0]])
        if sentences != [text] * count:
            text = f"{text} (found by process {failed[0] + 1} of {count})"
        raise for_this_process(InputError(text)) from None


def for_this_process(error: InputError) -> InputError:
    """Convert an error that all processes have: the first process reports it, others raise RemoteError."""
    return error if rank_and_size()[0] == 0 else RemoteError(str(error))


def reduce_sums(*tensors: Tensor) -> None:
    """Sum each tensor over all processes, in place."""
    if distributed():
        for tensor in tensors:
            dist.all_reduce(torch.view_as_real(tensor) if tensor.is_complex() else tensor)


def broadcast(*tensors: Tensor) -> None:
    """Overwrite each tensor with that of the first process."""
    if distributed():
        for tensor in tensors:
            dist.broadcast(torch.view_as_real(tensor) if tensor.is_complex() else tensor, 0)


def agree(over: bool) -> bool:
    """Whether `over` is True in any process, so that all end at the same step although clocks and signals differ."""
    if not distributed():
        return over
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    answer = torch.tensor(float(over), dtype=torch.float32, device=device)
    dist.all_reduce(answer)
    return bool(answer > 0)
