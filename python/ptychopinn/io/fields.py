# SPDX-License-Identifier: BSD-3-Clause
"""Base class of open files: checks of arrays and scalars by key, and the text of errors.

Type, shape, finiteness and size of values are checked here for all formats, so that the same fault has the same error
text in each: file, key, what was expected, what was found.
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

#: Words in the keys of positions.
_POSITIONS = ("position", "coords", "translation", "transformations")


class OpenFile(ABC):
    """An open file whose arrays are read by key and checked; subclasses implement `has` and `array`.

    Args:
        path: the file.
        kind: the format with its article, for errors: "an NPZ file".

    Raises:
        InputError: the file does not exist, is empty, or is a folder.
    """

    def __init__(self, path: Path, kind: str) -> None:
        self.path = path
        self.kind = kind
        if not path.exists():
            raise not_found(path)
        if not path.is_file():
            raise InputError(f"{path}: expected {kind}, found a folder; name a file in it")
        if path.stat().st_size == 0:
            raise InputError(f"{path}: expected {kind}, found an empty file (0 bytes); copy it again")

    @property
    def growing(self) -> bool:
        """Whether another program is writing the file, in a way that permits reading."""
        return False

    @abstractmethod
    def has(self, key: str) -> bool:
        """Whether the file has this key."""

    @abstractmethod
    def array(self, key: str) -> NDArray[Any]:
        """Read the array at `key`; InputError if it is missing or damaged."""

    def fail(self, key: str, expected: str, found: str, way: str = "") -> NoReturn:
        """Raise the InputError about a key.

        Args:
            key: of the file.
            expected: in words.
            found: in words, perhaps with the way out after a semicolon.
            way: the option or command that mends it; by default it follows from the key.
        """
        if not way and ";" not in found and "pip install" not in found:
            way = self._way(key)
        raise InputError(f"{self.path}: key '{key}': expected {expected}, found {found}{'; ' if way else ''}{way}")

    def _way(self, key: str) -> str:
        """The way out of an error about a key: what the caller can state in its place, or another export."""
        name = key.lower()
        if "ptychodus" not in self.kind and any(word in name for word in _POSITIONS):
            return "state positions= (--positions TABLE)"
        if "probe" in name and "position" not in name:
            return "state probe= (--probe FILE.npy)"
        return "export the file again, or its arrays in another format (docs/formats.md)"

    def fail_values(
        self, key: str, expected: str, fault: str, array: NDArray[Any], wrong: NDArray[np.bool_], way: str = ""
    ) -> NoReturn:
        """Raise the InputError about values, with their number and the first of them."""
        first = tuple(int(i) for i in np.unravel_index(np.argmax(wrong), wrong.shape))
        found = f"{int(wrong.sum())} {fault} values, the first {array[first]} at index {first}"
        self.fail(key, expected, found, way)

    def check_kind(self, key: str, dtype: np.dtype[Any], kinds: str) -> None:
        """Raise InputError unless `dtype` is of one of these NumPy kinds."""
        if dtype.kind not in kinds:
            real = "real numbers" if "f" in kinds else "whole numbers or booleans"
            self.fail(key, "complex or real numbers" if "c" in kinds else real, f"{dtype}")

    def numeric(self, key: str, kinds: str, ndim: int | None = None, finite: bool = True) -> NDArray[Any]:
        """Read the numeric array at `key` and check it; see :meth:`check`."""
        return self.check(key, self.array(key), kinds, ndim, finite)

    def check(
        self, key: str, array: NDArray[Any], kinds: str, ndim: int | None = None, finite: bool = True
    ) -> NDArray[Any]:
        """Check an array that was read from `key`.

        Args:
            key: for errors.
            array: to check.
            kinds: NumPy kinds that are permitted, such as "iuf".
            ndim: required number of axes; None: any.
            finite: require finite values.

        Returns:
            The array in native byte order.

        Raises:
            InputError: kind, axes or values are not as required.
        """
        self.check_kind(key, array.dtype, kinds)
        if ndim is not None and array.ndim != ndim:
            self.fail(key, f"{ndim} axes", f"shape {array.shape}")
        if finite and not (good := np.isfinite(array)).all():
            self.fail_values(key, "finite values", "NaN or infinite", array, ~good)
        return array.astype(array.dtype.newbyteorder("="), copy=False)

    def text(self, key: str) -> str | None:
        """The text at `key`, None if there is no such key."""
        if not self.has(key):
            return None
        array = self.array(key)
        if array.dtype.kind not in "US" or array.size != 1:
            self.fail(key, "one text", f"{array.dtype} of shape {array.shape}")
        value = array.item()
        return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)

    def scalar(self, key: str) -> float | None:
        """The real number at `key`, None if there is no such key."""
        if not self.has(key):
            return None
        array = self.numeric(key, "iuf")
        if array.size != 1:
            self.fail(key, "one number", f"shape {array.shape}")
        return float(array.item())

    def check_memory(self, key: str, shape: Sequence[int], dtype: np.dtype[Any]) -> None:
        """Raise InputError if an array exceeds the memory of this machine; a file can declare any size."""
        needed, available = math.prod(shape) * dtype.itemsize, physical_memory()
        if needed > available:
            found = f"shape {tuple(int(i) for i in shape)} of {dtype}, which is {needed / 2**30:,.0f} GiB"
            self.fail(key, f"an array that fits into {available / 2**30:,.0f} GiB of memory", found)


def complex_parts(dtype: np.dtype[Any]) -> tuple[str, str] | None:
    """Names of real and imaginary part in a compound type; h5py itself knows r and i alone."""
    names = dtype.names or ()
    pairs = {("re", "im"), ("real", "imag"), ("real", "imaginary"), ("r", "i")}
    if tuple(name.lower() for name in names) in pairs and all(dtype[name].kind in "iuf" for name in names):
        return names[0], names[1]
    return None
