# SPDX-License-Identifier: BSD-3-Clause
"""Counts of a scan in the type of their file: on the device, or in pinned memory where the device does not hold them.

They are read in their type by correct_fields. From pinned memory, the counts of the next batch are copied on a stream
of their own while a batch is computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptychopinn.batches.resident import select, upload
from ptychopinn.runtime.batching import free_memory
from ptychopinn.storage.stored import StoredPatterns, load_counts

#: Types of counts that correct_fields reads -> types of the same width that index_select supports on CUDA.
_SAME_WIDTH = {
    torch.uint8: torch.uint8,
    torch.int16: torch.int16,
    torch.uint16: torch.int16,
    torch.int32: torch.int32,
    torch.uint32: torch.int32,
    torch.int64: torch.int64,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
}
#: Fraction of the device's free memory that counts may take.
_FRACTION = 0.6
#: Buffers of counts: one is read while the other is written.
_BUFFERS = 2


def upload_counts(counts: NDArray[Any] | StoredPatterns, device: torch.device) -> Tensor:
    """All counts (n, N, N) with the zero frequency at [0, 0], in their type.

    On a CUDA device if they fit there, else in pinned memory. Of counts that are on the CPU anyway, the zero frequency
    is moved on the device.

    Raises:
        InputError: see :func:`ptychopinn.storage.stored.load_counts`.
    """
    kind = torch.from_numpy(np.empty(0, counts.dtype)).dtype
    if device.type != "cuda" or kind not in _SAME_WIDTH:
        return torch.from_numpy(load_counts(counts, "refine")).to(device)
    if counts.nbytes > _FRACTION * free_memory(device):
        return torch.from_numpy(load_counts(counts, "refine")).pin_memory()
    uploaded = torch.empty(counts.shape, dtype=kind, device=device)
    upload(counts, uploaded)
    return uploaded


class Counts:
    """Counts by pattern, on the device of the computation.

    Args:
        counts: (n, N, N), any real type, on that device or on the CPU.
        device: of the computation.

    Attributes:
        resident: whether they are on the device.
    """

    def __init__(self, counts: Tensor, device: torch.device) -> None:
        self.counts = counts if counts.dtype in _SAME_WIDTH else counts.to(torch.float32)
        self.device = device
        self.resident = counts.device == device

    def select(self, members: Tensor) -> Tensor:
        """Counts (b, N, N), in their type, of the patterns with indices ``members`` (b,), on the device."""
        return select(self.counts, members.to(self.counts.device)).to(self.device)

    def batches(self, members: Sequence[Tensor], rows: Sequence[NDArray[np.int64]]) -> Iterator[Tensor]:
        """Counts of one batch after the other.

        Args:
            members: indices of the patterns of every batch, on the device.
            rows: the same on the CPU.
        """
        if self.resident:
            yield from map(self.select, members)
        else:
            yield from self._streamed(rows)

    def _streamed(self, rows: Sequence[NDArray[np.int64]]) -> Iterator[Tensor]:
        """Copy the counts of the next batch while one is used; each is valid until the next but one is asked for."""
        kind = self.counts.dtype
        source = self.counts.view(_SAME_WIDTH[kind])
        shape = (max(map(len, rows), default=0), *source.shape[1:])
        on_cuda = self.device.type == "cuda"
        host, device = (
            [torch.empty(shape, dtype=source.dtype, device=place, pin_memory=pinned) for _ in range(_BUFFERS)]
            for place, pinned in ((torch.device("cpu"), on_cuda), (self.device, False))
        )
        stream = torch.cuda.Stream(self.device) if on_cuda else None
        if stream is not None:
            stream.wait_stream(torch.cuda.current_stream(self.device))  # which may still use the memory of the buffers
        copied: list[Any] = [None] * _BUFFERS
        used: list[Any] = [None] * _BUFFERS

        def copy(index: int) -> None:
            slot, count = index % _BUFFERS, len(rows[index])
            if copied[slot] is not None:
                copied[slot].synchronize()  # the copy before the last has left its pinned buffer long ago
            torch.index_select(source, 0, torch.from_numpy(rows[index]), out=host[slot][:count])
            if stream is None:
                device[slot][:count].copy_(host[slot][:count])
                return
            if used[slot] is not None:
                stream.wait_event(used[slot])
            with torch.cuda.stream(stream):
                device[slot][:count].copy_(host[slot][:count], non_blocking=True)
                copied[slot] = torch.cuda.Event()
                copied[slot].record(stream)

        for index in range(len(rows)):
            slot = index % _BUFFERS
            if index == 0:
                copy(0)
            if stream is not None:
                torch.cuda.current_stream(self.device).wait_event(copied[slot])
            if index + 1 < len(rows):
                copy(index + 1)
            yield device[slot][: len(rows[index])].view(kind)
            if stream is not None:
                used[slot] = torch.cuda.Event()
                used[slot].record(torch.cuda.current_stream(self.device))
