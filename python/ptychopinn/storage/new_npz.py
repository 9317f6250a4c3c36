# SPDX-License-Identifier: BSD-3-Clause
"""NPZ files with one array that is written in blocks, and so may be larger than memory."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def save_npz(
    path: Path,
    key: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    blocks: Iterable[NDArray[Any]],
    others: Mapping[str, Any],
) -> None:
    """Write an uncompressed .npz file, as numpy.savez does, with one array in blocks.

    Args:
        path: the file.
        key: name of the array that is written in blocks.
        shape: of that array.
        dtype: of that array.
        blocks: its parts along the first axis, in order.
        others: further arrays by name; those that are None are omitted.
    """
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
            header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(member, header)
            for block in blocks:
                member.write(np.ascontiguousarray(block, dtype).data)
        for name, value in others.items():
            if value is not None:
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asanyarray(value), allow_pickle=False)
