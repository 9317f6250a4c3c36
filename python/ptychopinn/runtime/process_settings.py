# SPDX-License-Identifier: BSD-3-Clause
"""Settings of the caller's process that a workflow changes while it runs, and puts back, also after an error.

torch, NumPy, Lightning and Python keep them for the whole process: default device and type, random generators, number
of threads, precision, deterministic algorithms, signal handlers, environment. :func:`process_settings` is all of them.
Calls in several threads may overlap: after the last one, everything is as it was before the first. While they overlap,
they share random generators, precision and deterministic algorithms, so that results are those of the latest settings.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch

from ptychopinn.config import ExecutionConfig
from ptychopinn.runtime.float32 import float32_precision
from ptychopinn.runtime.shared_setting import SharedSetting
from ptychopinn.runtime.workers import refuse_import_by_worker

#: Environment variables that Lightning writes: for the workers that load batches, and for CUDA.
_SEED_VARIABLES = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")
_CUDA_VARIABLES = ("CUBLAS_WORKSPACE_CONFIG", "CUDA_DEVICE_ORDER")


@contextmanager
def process_settings(execution: ExecutionConfig | None = None, *, seed: int | None = None) -> Iterator[None]:
    """Context manager for a workflow: the settings that it needs inside, those of the caller afterwards.

    Inside, tensors without a stated device and type are float32 on the CPU, and TF32 is off unless
    ``execution.precision`` is "tf32". Handlers of SIGINT and SIGTERM, deterministic algorithms, cuDNN's choice of
    algorithms, the start method of processes and Lightning's environment variables may be changed inside.

    Args:
        execution: its ``threads`` and ``precision`` are used; None: defaults.
        seed: of the global random generators; None: they are not touched.

    Example:
        >>> with process_settings(ExecutionConfig(threads=1), seed=0):
        ...     torch.get_num_threads()
        1
    """
    refuse_import_by_worker()
    execution = execution or ExecutionConfig()
    with ExitStack() as stack:
        stack.enter_context(own_defaults())
        stack.enter_context(own_threads(execution.threads))
        stack.enter_context(float32_precision("tf32" if execution.precision == "tf32" else "32"))
        stack.enter_context(_algorithms.hold(None))
        stack.enter_context(_start_method.hold(None))
        stack.enter_context(restored_handlers(signal.SIGINT, signal.SIGTERM))
        stack.enter_context(torch.set_grad_enabled(torch.is_grad_enabled()))  # Lightning switches it on
        if seed is not None:
            stack.enter_context(own_seed(seed))
        yield


_default_type: SharedSetting[torch.dtype, torch.dtype] = SharedSetting(
    torch.get_default_dtype, torch.set_default_dtype, torch.set_default_dtype
)


@contextmanager
def own_defaults() -> Iterator[None]:
    """Context manager in which torch's default device is the CPU and its default type float32.

    The default device is that of the calling thread, the default type that of the process.

    Example:
        >>> with torch.device("meta"), own_defaults():
        ...     torch.zeros(2).device
        device(type='cpu')
    """
    with ExitStack() as stack:
        stack.enter_context(_default_type.hold(torch.float32))
        if not _default_device_is_cpu():  # every call of torch takes longer in such a context
            stack.enter_context(torch.device("cpu"))
        yield


def _default_device_is_cpu() -> bool:
    try:
        return torch.get_default_device().type == "cpu"
    except (RuntimeError, AssertionError):  # a device that cannot be used here
        return False


_seed_lock = threading.Lock()
_seed_calls = 0
_seed_before: dict[str, Any] = {}  # the states before the first of the running calls


@contextmanager
def own_seed(seed: int) -> Iterator[None]:
    """Context manager with the global random generators of Python, NumPy and torch seeded, as by Lightning.

    Their states are restored afterwards, and with them the environment variables PL_GLOBAL_SEED and PL_SEED_WORKERS.
    They are those of the process: calls that overlap in several threads draw from the same generators.

    Args:
        seed: 0 or larger, below 2^32.

    Example:
        >>> state = torch.get_rng_state()
        >>> with own_seed(3):
        ...     first = torch.rand(2)
        >>> with own_seed(3):
        ...     again = torch.rand(2)
        >>> torch.equal(first, again), torch.equal(torch.get_rng_state(), state)
        (True, True)
    """
    from lightning.fabric.utilities.seed import seed_everything  # takes seconds to import

    global _seed_calls, _seed_before
    with _seed_lock:
        before = _random_states()
        if _seed_calls == 0:
            _seed_before = before
        _seed_calls += 1
        seed_everything(seed, workers=True, verbose=False)
    try:
        yield
    finally:
        with _seed_lock:
            _seed_calls -= 1
            _restore_random(before if _seed_calls else _seed_before)


def _random_states() -> dict[str, Any]:
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002 the caller's
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None,
        "environment": _variables(_SEED_VARIABLES),
    }


def _restore_random(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state_all(state["cuda"])
    else:  # CUDA was not in use: its generators begin with the seed that torch has
        torch.cuda.manual_seed_all(torch.initial_seed())
    _set_variables(state["environment"])


_threads_lock = threading.Lock()
_threads_calls = 0
_threads_before = 1  # the number before the first of the running calls


class _ThisThread(threading.local):
    """Numbers of the calls that run in this thread, the innermost last."""

    def __init__(self) -> None:
        self.counts: list[int] = []


_this_thread = _ThisThread()


@contextmanager
def own_threads(count: int | None) -> Iterator[None]:
    """Context manager with this number of torch's CPU threads, restored afterwards.

    torch has the number for the calling thread, and the latest one for threads that begin later.

    Args:
        count: threads; None: no change.
    """
    global _threads_calls, _threads_before
    if count is None:
        yield
        return
    with _threads_lock:
        if _threads_calls == 0:
            _threads_before = torch.get_num_threads()
        _threads_calls += 1
        before = _this_thread.counts[-1] if _this_thread.counts else _threads_before
        torch.set_num_threads(count)
    _this_thread.counts.append(count)
    try:
        yield
    finally:
        _this_thread.counts.pop()
        with _threads_lock:
            torch.set_num_threads(before)
            _threads_calls -= 1


@contextmanager
def restored_handlers(*signals: int) -> Iterator[None]:
    """Context manager that restores the handlers of these signals, whoever changes them inside.

    Python lets only the main thread change handlers, so in another thread it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) is not handler:  # None: not installed by Python
                signal.signal(number, handler)


class _Algorithms:
    """What Lightning's Trainer sets for the whole process: deterministic algorithms, cuDNN, CUDA's variables."""

    def __init__(self) -> None:
        self.deterministic = self._deterministic()
        self.cudnn = {name: getattr(torch.backends.cudnn, name) for name in ("benchmark", "deterministic")}
        self.variables = _variables(_CUDA_VARIABLES)

    def restore(self) -> None:
        if self._deterministic() != self.deterministic:  # the call imports torch's compiler, which takes a second
            mode, warn_only = self.deterministic
            torch.use_deterministic_algorithms(mode, warn_only=warn_only)
        for name, value in self.cudnn.items():
            setattr(torch.backends.cudnn, name, value)
        _set_variables(self.variables)

    @staticmethod
    def _deterministic() -> tuple[bool, bool]:
        """Whether only such algorithms are used, and whether others are a warning instead of an error."""
        return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


_algorithms: SharedSetting[None, _Algorithms] = SharedSetting(_Algorithms, lambda value: None, _Algorithms.restore)


#: Python fixes its default when somebody asks for it, as Lightning does; a caller may still choose one after that.
_start_method: SharedSetting[None, str | None] = SharedSetting(
    lambda: multiprocessing.get_start_method(allow_none=True),
    lambda value: None,
    lambda value: multiprocessing.set_start_method(value, force=True),
)


def _variables(names: tuple[str, ...]) -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in names}


def _set_variables(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
