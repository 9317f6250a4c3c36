# SPDX-License-Identifier: BSD-3-Clause
"""The axes of a probe as programs write them, arranged as (M, N, N) complex.

ptychodus has (variations along the scan, modes, y, x), MATLAB's column order turns this round, and real arrays hold
real and imaginary part along a first or a last axis of two. Where this leaves a choice it is recorded and logged; where
a wrong choice would look plausible, the probe is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ptychopinn.decisions import Decision
from ptychopinn.experiment import Experiment
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
        probe: (N, N), (M, N, N), (N, N, M) or (K, M, N, N) for K probes along the scan, of which the first is used, or
            (N, N, M, K), see :func:`arranged_with_variations`; real arrays of two parts, with the axis of the parts
            first or last, are real and imaginary part if both have negative values. Axes of length 1 are permitted
            anywhere else.
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


def arranged_with_variations(
    file: OpenFile, key: str, weights_key: str, probe: NDArray[Any], experiment: Experiment, n: int | None
) -> tuple[NDArray[np.complex64], Decision | None, Experiment]:
    """Arrange a probe that varies along the scan, with its weights, as ptychodus and pty-chi have them.

    Of the axes (K, M, y, x) the first is that of K coherent modes: the strongest incoherent mode of pattern k is
    ``sum_j w_kj P_j0``, the others are those of P_0. With ``w_k0 = 1`` the weights of j > 0 are the coefficients of the
    variations; otherwise P_00 itself is a variation too, with the coefficients ``w_k0 - 1``. Without weights neither
    the probe of a pattern nor their mean is known, and the first is used alone.

    Args:
        file: the open file.
        key: of the probe.
        weights_key: of the weights (n, K).
        probe: as read from there.
        experiment: in the file; variations that it has already stay.
        n: number of positions; None: not checked here.

    Returns:
        The probe (M, N, N), the decision if there was a choice, and the experiment with the variations.

    Raises:
        InputError: as for :func:`arrange`; or the weights have another shape.
    """

    def fail(expected: str, found: str) -> NoReturn:
        file.fail(key, expected, f"{found}; {WAY_OUT}")

    array = _axes_first(probe, fail)[0]
    if array.ndim != 4 or len(array) == 1 or not file.has(weights_key):
        return (*arrange(probe, None, f"{file.path}: '{key}'", fail), experiment)
    weights = file.numeric(weights_key, "iuf", ndim=2).astype(np.float64)
    if weights.shape != (len(weights) if n is None else n, len(array)):
        wanted = f"shape ({'n' if n is None else n}, {len(array)}), weights of the probes along the scan"
        file.fail(weights_key, wanted, f"{weights.shape}")
    first, choice = arrange(array[0], None, f"{file.path}: '{key}'", fail)
    reason = f"'{weights_key}' has the weights of its {len(array)} probes along the scan for each pattern"
    decision = choice or Decision("varying", reason)
    if experiment.probe_variations is not None:
        return first, decision, experiment
    shapes, coefficients = array[1:, 0], weights[:, 1:]
    if not (weights[:, 0] == 1).all():
        shapes = np.concatenate([array[:1, 0], shapes])
        coefficients = np.concatenate([weights[:, :1] - 1, coefficients], axis=1)
    values = {"probe_variations": shapes.astype(np.complex64), "variation_coefficients": coefficients.copy()}
    return first, decision, replace(experiment, **values)


def with_variations(probe: NDArray[np.complex64], variations: NDArray[np.complex64] | None) -> NDArray[np.complex64]:
    """Probe (M, N, N) and variations (V, N, N) of its first mode as (1 + V, M, N, N), see above."""
    stack = np.zeros((1 + (0 if variations is None else len(variations)), *probe.shape), np.complex64)
    stack[0] = probe
    if variations is not None:
        stack[1:, 0] = variations
    return stack


def _axes_first(probe: NDArray[Any], fail: Callable[[str, str], NoReturn]) -> tuple[NDArray[Any], Decision | None]:
    """The probe without axes of length 1, complex where its last axis has the parts, as (K, M, N, N) if it has four."""
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
    return array, decision


def _modes_first(probe: NDArray[Any], fail: Callable[[str, str], NoReturn]) -> tuple[NDArray[Any], Decision | None]:
    """The probe as (M, N, N), with parts of its real arrays still apart if they are in the first axis."""
    array, decision = _axes_first(probe, fail)
    if array.ndim == 4:
        if array.dtype.kind != "c" and array.shape[1] == 2 and _signed(array[:, 0], array[:, 1]):
            fail(
                "one probe of real and imaginary part, or complex modes",
                f"real values of shape {probe.shape}, which can be either",
            )
        if len(array) > 1:
            reason = f"there are {len(array)} probes along the scan, and no weights of them for each pattern"
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
