# SPDX-License-Identifier: BSD-3-Clause
"""How many items are computed at once: by the device's free memory, and fewer where that was too much."""

from __future__ import annotations

import logging

import torch

from ptychopinn.runtime.memory import available_memory

_log = logging.getLogger(__name__)

#: Fraction of a GPU's free memory that a batch may take.
_FRACTION = 0.5


def free_memory(device: torch.device) -> int:
    """Bytes that new tensors on a device can take, those that torch holds unused included."""
    if device.type != "cuda":
        return available_memory()
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def fitting_batch(device: torch.device, nbytes: int, largest: int) -> int:
    """The batch that half of a device's free memory holds: at least 1, at most `largest`.

    Args:
        device: of the computation.
        nbytes: for one item, with all that is computed for it.
        largest: items beyond which a batch is no faster.
    """
    return max(1, min(largest, int(_FRACTION * free_memory(device)) // max(nbytes, 1)))


class BatchSize:
    """A number of items per batch that is halved when the memory of the device is not enough.

    Args:
        value: items to begin with.
        option: what the user would set, for the message, such as "inference.batch_size".

    Example:
        >>> size = BatchSize(8, "inference.batch_size")
        >>> size.halve(torch.OutOfMemoryError("CUDA out of memory"))
        >>> size.value
        4
    """

    def __init__(self, value: int, option: str) -> None:
        self.value, self.option = value, option
        self._told = False

    def halve(self, error: torch.OutOfMemoryError) -> None:
        """Halve the batch after this error, which is raised again where the batch is a single item.

        Raises:
            torch.OutOfMemoryError: `error`.
        """
        if self.value == 1:
            raise error
        self.value = max(1, self.value // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        message = "%s: the memory of the device is not enough for batches of %d; halved, and again where needed"
        _log.log(logging.DEBUG if self._told else logging.WARNING, message, self.option, 2 * self.value)
        self._told = True
