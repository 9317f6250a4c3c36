# SPDX-License-Identifier: BSD-3-Clause
"""A file being read, whatever its format: how keys are checked and how every complaint about them is worded.

A reader of a format says where things lie; what is a number, a text, finite or too large is decided here once, so that
the same fault reads the same in every format: file, key, what was expected, what was found.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ptychopinn.errors import InputError, not_found
from ptychopinn.runtime.memory import physical_memory


class Source(ABC):
    """An open file: `array` is the format's, the checks are everybody's.

    Args:
        path: the file.
        kind: the format with its article, for the sentences.
    """

    def __init__(self, path: Path, kind: str) -> None:
        self.path = path
        self.kind = kind
        if not path.exists():
            raise not_found(path)
        if not path.is_file():
            raise InputError(f"{path}: expected {kind}, found a folder")
        if path.stat().st_size == 0:
            raise InputError(f"{path}: expected {kind}, found an empty file (0 bytes)")

    @abstractmethod
    def has(self, key: str) -> bool:
        """Whether there is anything under `key`."""

    @abstractmethod
    def array(self, key: str) -> NDArray[Any]:
        """The array under `key`; InputError if it is missing or damaged."""

    def fail(self, key: str, expected: str, found: str) -> NoReturn:
        """The sentence of every complaint about a key."""
        raise InputError(f"{self.path}: key '{key}': expected {expected}, found {found}")

    def fail_values(
        self, key: str, expected: str, fault: str, array: NDArray[Any], wrong: NDArray[np.bool_]
    ) -> NoReturn:
        """The same for values: how many are wrong, and the first of them."""
        first = tuple(int(i) for i in np.unravel_index(np.argmax(wrong), wrong.shape))
        self.fail(key, expected, f"{int(wrong.sum())} {fault} values, the first {array[first]} at index {first}")

    def check_kind(self, key: str, dtype: np.dtype[Any], kinds: str) -> None:
        """`dtype` must be of one of these NumPy kinds."""
        if dtype.kind not in kinds:
            self.fail(key, "complex or real numbers" if "c" in kinds else "real numbers", f"{dtype}")

    def numbers(self, key: str, kinds: str, ndim: int | None = None, finite: bool = True) -> NDArray[Any]:
        """The array under `key` in native byte order, which must be of one of these NumPy kinds."""
        return self.check(key, self.array(key), kinds, ndim, finite)

    def check(
        self, key: str, array: NDArray[Any], kinds: str, ndim: int | None = None, finite: bool = True
    ) -> NDArray[Any]:
        """`array`, which stood under `key`, in native byte order; it must be as `numbers` says."""
        self.check_kind(key, array.dtype, kinds)
        if ndim is not None and array.ndim != ndim:
            self.fail(key, f"{ndim} axes", f"shape {array.shape}")
        if finite and not (good := np.isfinite(array)).all():
            self.fail_values(key, "finite values", "NaN or infinite", array, ~good)
        return array.astype(array.dtype.newbyteorder("="), copy=False)

    def text(self, key: str) -> str | None:
        """The one text under `key`, None if there is no such key."""
        if not self.has(key):
            return None
        array = self.array(key)
        if array.dtype.kind not in "US" or array.size != 1:
            self.fail(key, "one text", f"{array.dtype} of shape {array.shape}")
        value = array.item()
        return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)

    def scalar(self, key: str) -> float | None:
        """The one real number under `key`, None if there is no such key."""
        if not self.has(key):
            return None
        array = self.numbers(key, "iuf")
        if array.size != 1:
            self.fail(key, "one number", f"shape {array.shape}")
        return float(array.item())

    def check_memory(self, key: str, shape: Sequence[int], dtype: np.dtype[Any]) -> None:
        """Refuse an array that this machine cannot hold: a declared size costs nothing to write."""
        needed, there = math.prod(shape) * dtype.itemsize, physical_memory()
        if needed > there:
            found = f"shape {tuple(int(i) for i in shape)} of {dtype}, which is {needed / 2**30:,.0f} GiB"
            self.fail(key, f"an array that fits into {there / 2**30:,.0f} GiB of memory", found)
