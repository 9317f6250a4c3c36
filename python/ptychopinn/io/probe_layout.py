# SPDX-License-Identifier: BSD-3-Clause
"""The axes of a probe as programs write them, arranged as (M, N, N) complex.

ptychodus has (variations along the scan, modes, y, x), MATLAB's column order turns this round, and real arrays hold
real and imaginary part along a first or a last axis of two. Where this leaves a choice it is recorded and logged; where
a wrong choice would look plausible, the probe is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ptychopinn.decisions import Decision
from ptychopinn.io.fields import OpenFile

#: What to do about a probe that cannot be used.
WAY_OUT = "state probe= (--probe FILE.npy), complex with the axes (modes, y, x)"

_log = logging.getLogger(__name__)


def arranged(file: OpenFile, key: str, probe: NDArray[Any]) -> tuple[NDArray[np.complex64], Decision | None]:
    """Arrange a probe that was read from a file, of any size; see :func:`arrange`."""

    def fail(expected: str, found: str) -> NoReturn:
        file.fail(key, expected, f"{found}; {WAY_OUT}")

    return arrange(probe, None, f"{file.path}: '{key}'", fail)


def arrange(
    probe: NDArray[Any], size: int | None, where: str, fail: Callable[[str, str], NoReturn]
) -> tuple[NDArray[np.complex64], Decision | None]:
    """Arrange a probe as (M, N, N) complex64.

    Args:
        probe: (N, N), (M, N, N), (N, N, M) or (K, M, N, N) for K variations along the scan, of which the first is used,
            or (N, N, M, K); real arrays of two parts, with the axis of the parts first or last, are real and imaginary
            part if both have negative values. Axes of length 1 are permitted anywhere else.
        size: N of the patterns; None if unknown.
        where: the file and key, for the log.
        fail: raises the error from what was expected and what was found.

    Returns:
        The probe; and the decision if there was a choice.
    """
    modes, decision = _modes_first(probe, fail)
    if modes.dtype.kind != "c" and len(modes) == 2:
        modes, decision = _two_real(modes, fail, decision)
    if decision is not None:
        level = logging.INFO if decision.value == "complex" else logging.WARNING
        _log.log(
            level, "%s: the probe of shape %s is read as %s: %s", where, probe.shape, decision.value, decision.reason
        )
    if size is not None and modes.shape[1] != size:
        fail(f"a probe of the size of the patterns, {size} px", f"{modes.shape[1]} px")
    if not modes.any():
        fail("a probe", "zeros only")
    return modes.astype(np.complex64), decision


def _modes_first(probe: NDArray[Any], fail: Callable[[str, str], NoReturn]) -> tuple[NDArray[Any], Decision | None]:
    """The probe as (M, N, N), with parts of its real arrays still apart if they are in the first axis."""
    array, decision = probe, None
    while array.ndim > 2 and array.shape[0] == 1:
        array = array[0]
    while array.ndim > 2 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim >= 3 and array.dtype.kind != "c" and array.shape[-1] == 2 and _signed(array[..., 0], array[..., 1]):
        array, decision = _joined(array[..., 0], array[..., 1]), _complex("last")
    if array.ndim == 4:
        last = array.shape[2] == array.shape[3]
        if not last and array.shape[0] == array.shape[1]:  # (N, N, M, K), in MATLAB's order
            array = array.transpose(3, 2, 0, 1)
        if array.dtype.kind != "c" and array.shape[1] == 2 and _signed(array[:, 0], array[:, 1]):
            fail(
                "one probe of real and imaginary part, or complex modes",
                f"real values of shape {probe.shape}, which can be either",
            )
        if len(array) > 1:
            reason = f"a scan has one probe along all positions, the file {len(array)}"
            decision = Decision("first of several", reason, by_default=True)
        array = array[0]
    if array.ndim == 2:
        array = array[np.newaxis]
    if array.ndim == 3 and array.shape[1] != array.shape[2] and array.shape[0] == array.shape[1]:
        array = array.transpose(2, 0, 1)
    if array.ndim != 3 or array.shape[1] != array.shape[2] or not array.size:
        fail("shape (N, N), (N, N, 1), (M, N, N), (N, N, M) or (variations, M, N, N)", f"{probe.shape}")
    return array, decision


def _two_real(
    modes: NDArray[Any], fail: Callable[[str, str], NoReturn], earlier: Decision | None
) -> tuple[NDArray[Any], Decision | None]:
    """Two real arrays: real and imaginary part, two amplitudes, or neither for certain."""
    if _signed(*modes):
        return _joined(*modes)[np.newaxis], _complex("first")
    if (modes < 0).any():
        fail(
            "real and imaginary part, both with negative values, or two amplitudes without",
            "two real arrays of which one has negative values, perhaps amplitude and phase",
        )
    reason = "two real arrays without negative values are taken as the amplitudes of two modes"
    return modes, earlier or Decision("modes", reason, by_default=True)


def _signed(*parts: NDArray[Any]) -> bool:
    return all(bool((part < 0).any()) for part in parts)


def _joined(real: NDArray[Any], imaginary: NDArray[Any]) -> NDArray[np.complex128]:
    values: NDArray[np.complex128] = real + 1j * imaginary.astype(np.float64)
    return values


def _complex(axis: str) -> Decision:
    return Decision("complex", f"its {axis} axis has two real parts with negative values, real and imaginary part")
