# SPDX-License-Identifier: BSD-3-Clause
"""Batches that are read on the host and copied to a GPU while it computes the one before.

Data that do not fit the memory of a device go through two buffers in pinned memory and two on the device. The batch
that is computed lies in a third one, which stays where it is, as a CUDA graph needs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor


class StreamedBatches:
    """Iterator over batches on a device, in tensors that stay where they are and are written again for every batch.

    On the CPU nothing is copied ahead.

    Args:
        batches: each some tensors on the CPU, of the types and shapes of the first batch but for fewer rows.
        device: for the batches.

    Yields:
        The tensors, with the rows of the first batch, and the number of rows that the batch has; the others repeat its
        first row. Use or copy them before the next batch.

    Example:
        >>> read = ([torch.full((rows, 1), 5 * rows)] for rows in (2, 1))
        >>> [(tensors[0].flatten().tolist(), rows) for tensors, rows in StreamedBatches(read, torch.device("cpu"))]
        [([10, 10], 2), ([5, 5], 1)]
    """

    def __init__(self, batches: Iterable[Sequence[Tensor]], device: torch.device) -> None:
        self.batches, self.device = batches, device

    def __iter__(self) -> Iterator[tuple[list[Tensor], int]]:
        batches = iter(self.batches)
        first = next(batches, None)
        if first is None:
            return
        static = [torch.empty(part.shape, dtype=part.dtype, device=self.device) for part in first]
        buffers = _Ahead(static, self.device) if self.device.type == "cuda" else _Direct(static)
        rows = buffers.fill(first)
        while True:
            buffers.take()
            yield static, rows
            following = next(batches, None)
            if following is None:
                return
            rows = buffers.fill(following)


class _Direct:
    """Buffers that are the static tensors themselves."""

    def __init__(self, static: list[Tensor]) -> None:
        self.static = static

    def fill(self, batch: Sequence[Tensor]) -> int:
        """Write the next batch; returns its rows."""
        return _copy_rows(self.static, batch)

    def take(self) -> None:
        """Nothing is to be done."""


class _Ahead(_Direct):
    """Two pinned buffers and two on the device, which are used in turn."""

    def __init__(self, static: list[Tensor], device: torch.device) -> None:
        super().__init__(static)
        self.stream, self.device = torch.cuda.Stream(device), device
        self.pinned = [
            [torch.empty(p.shape, dtype=p.dtype, device="cpu", pin_memory=True) for p in static] for _ in range(2)
        ]
        self.copies = [[torch.empty_like(part) for part in static] for _ in range(2)]
        self.copied, self.taken = ([torch.cuda.Event() for _ in range(2)] for _ in range(2))
        self.turn = 0
        self.stream.wait_stream(torch.cuda.current_stream(device))  # for the memory of the copies

    def fill(self, batch: Sequence[Tensor]) -> int:
        """Write the next batch, while the device computes the present one."""
        pinned, copies = self.pinned[self.turn], self.copies[self.turn]
        self.copied[self.turn].synchronize()  # of two batches ago
        rows = _copy_rows(pinned, batch)
        with torch.cuda.stream(self.stream):
            self.stream.wait_event(self.taken[self.turn])
            for there, here in zip(copies, pinned, strict=True):
                there.copy_(here, non_blocking=True)
            self.copied[self.turn].record(self.stream)
        return rows

    def take(self) -> None:
        """Make the batch that was written last the one in the static tensors."""
        current = torch.cuda.current_stream(self.device)
        current.wait_event(self.copied[self.turn])
        for there, here in zip(self.static, self.copies[self.turn], strict=True):
            there.copy_(here)
        self.taken[self.turn].record(current)
        self.turn = 1 - self.turn


def _copy_rows(static: Sequence[Tensor], batch: Sequence[Tensor]) -> int:
    """Copy a batch to larger tensors, and repeat its first row; returns the rows of the batch."""
    rows = len(batch[0])
    for there, here in zip(static, batch, strict=True):
        there[:rows].copy_(here)
        if rows < len(there):
            there[rows:].copy_(here[:1].expand_as(there[rows:]))
    return rows
