# SPDX-License-Identifier: BSD-3-Clause
"""Settings of the caller's process: in effect while a call runs, restored after it, after errors and in threads too."""

from __future__ import annotations

import os
import random
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.seed import seed_everything
from process_flags import caller, flags
from torch import nn

from ptychopinn.config import ExecutionConfig
from ptychopinn.runtime import float32
from ptychopinn.runtime.float32 import _operations, float32_precision, tf32_allowed
from ptychopinn.runtime.process_settings import (
    own_defaults,
    own_seed,
    own_threads,
    process_settings,
    restored_handlers,
)
from ptychopinn.runtime.warning_filters import ignored_warnings


def change_all() -> None:
    """What a workflow, or Lightning in it, may do."""
    random.random()
    np.random.rand()  # noqa: NPY002
    torch.rand(3)
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False
    torch.set_grad_enabled(True)
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: None)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("precision", ["32", "tf32", "bf16"])
def test_everything_is_restored(fails: bool, precision: str) -> None:
    with caller():
        before = flags()
        try:
            with process_settings(ExecutionConfig(threads=1, precision=precision), seed=3):  # type: ignore[arg-type]
                assert torch.zeros(1).device.type == "cpu" and torch.zeros(1).dtype == torch.float32
                assert torch.get_num_threads() == 1
                assert set(tf32_allowed().values()) == {precision == "tf32"}
                assert os.environ["PL_GLOBAL_SEED"] == "3" and os.environ["PL_SEED_WORKERS"] == "1"
                change_all()
                if fails:
                    raise ZeroDivisionError
        except ZeroDivisionError:
            assert fails
        assert flags() == before


def test_nothing_is_seeded_without_a_seed() -> None:
    torch.manual_seed(4)
    expected = torch.rand(2)
    torch.manual_seed(4)
    with process_settings():
        assert torch.equal(torch.rand(2), expected)


def test_layers_without_a_stated_device_are_float32_on_the_cpu() -> None:
    with caller(), own_defaults():
        assert {(p.device.type, p.dtype) for p in nn.Linear(2, 2).parameters()} == {("cpu", torch.float32)}


def test_default_device_in_another_thread_is_its_own() -> None:
    """torch keeps the default device for each thread; the call in one leaves that of another alone."""
    devices, entered, over = [], threading.Event(), threading.Event()

    def work() -> None:
        with own_defaults():
            entered.set()
            over.wait(10)

    with torch.device("meta"):
        thread = threading.Thread(target=work)
        thread.start()
        assert entered.wait(10)
        devices.append(torch.zeros(1).device.type)
        over.set()
        thread.join()
    assert devices == ["meta"]


def test_torch_is_not_slowed_down_where_the_default_device_is_the_cpu() -> None:
    with own_defaults():
        assert torch._C._len_torch_function_stack() == 0


def test_seed_is_that_of_lightning() -> None:
    def draws() -> list[float]:
        return [random.random(), float(np.random.rand()), float(torch.rand(()))]  # noqa: NPY002

    with own_seed(7):
        drawn = draws()
    with own_seed(0):
        seed_everything(7, workers=True, verbose=False)
        assert draws() == drawn


def test_gpu_that_was_not_in_use_begins_with_the_seed_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    torch.manual_seed(23)
    with own_seed(7):
        pass
    assert seeds[-1] == 23


def test_generators_of_a_gpu_in_use_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    restored: list[object] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: ["states"])
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", restored.extend)
    with own_seed(7):
        pass
    assert restored == ["states"]


@pytest.mark.parametrize("kind", ["32", "tf32"])
def test_both_interfaces_of_the_precision_agree(kind: str) -> None:
    """Lightning reads the older one, and torch raises an error where they differ."""
    with float32_precision(kind):  # type: ignore[arg-type]
        assert torch.get_float32_matmul_precision() == ("high" if kind == "tf32" else "highest")
        assert torch.backends.cudnn.allow_tf32 == torch.backends.cuda.matmul.allow_tf32 == (kind == "tf32")
        assert [operation.fp32_precision for operation in _operations()[3:]] == ["ieee"] * 3


def every_precision() -> Iterator[Callable[[], None]]:
    """States that a caller may have brought about, by the newer interface, the older one, and both."""

    def newer(owner: Any, value: str) -> Callable[[], None]:
        return lambda: setattr(owner, "fp32_precision", value)

    backends: Any = torch.backends
    yield lambda: None
    yield newer(backends.cudnn.conv, "ieee")
    yield newer(backends.cuda.matmul, "tf32")
    yield newer(backends, "tf32")
    yield newer(backends.mkldnn.matmul, "bf16")
    yield lambda: torch.set_float32_matmul_precision("medium")
    yield lambda: setattr(backends.cudnn, "allow_tf32", False)
    yield lambda: setattr(backends.cuda.matmul, "allow_tf32", True)
    yield lambda: (torch.set_float32_matmul_precision("high"), setattr(backends.cuda.matmul, "fp32_precision", "ieee"))  # type: ignore[func-returns-value, return-value]


@pytest.mark.parametrize("state", list(every_precision()))
def test_precision_of_the_caller_is_restored(state: Callable[[], None]) -> None:
    with float32_precision("32"):  # restores what this test changes
        backends: Any = torch.backends
        backends.cudnn.allow_tf32 = True
        torch.set_float32_matmul_precision("highest")
        state()
        before = flags()
        saved = float32._save()
        for kind in ("32", "tf32", "32"):
            float32._set(kind)  # type: ignore[arg-type]
            assert set(tf32_allowed().values()) == {kind == "tf32"}
        float32._apply(saved)
        assert flags() == before
        backends.fp32_precision = "none"


def test_inherited_precision_stays_inherited() -> None:
    with float32_precision("32"):
        backends: Any = torch.backends
        backends.cuda.matmul.fp32_precision = "none"
        saved = float32._save()
        float32._set("32")
        float32._apply(saved)
        backends.fp32_precision = "tf32"
        inherited = backends.cuda.matmul.fp32_precision
        backends.fp32_precision = "none"
    assert inherited == "tf32"


def test_handlers_are_left_alone_outside_the_main_thread() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with restored_handlers(signal.SIGINT, signal.SIGTERM):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before] == [signal.getsignal(signal.SIGINT)]


def test_expected_warnings_are_ignored_and_others_are_not() -> None:
    with warnings.catch_warnings(record=True) as seen:
        with ignored_warnings("expected .* here"):
            warnings.warn("expected 3 here", stacklevel=1)
            warnings.warn("another", stacklevel=1)
        warnings.warn("expected 4 here", stacklevel=1)
    assert [str(warning.message) for warning in seen] == ["another", "expected 4 here"]


def test_filter_of_the_caller_stays() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the caller's")
        before = list(warnings.filters)
        with ignored_warnings("the caller's", "ours"):
            assert len(warnings.filters) == len(before) + 1
        assert warnings.filters == before


OVERLAPPING: dict[str, Callable[[int], AbstractContextManager[None]]] = {
    "all": lambda k: process_settings(ExecutionConfig(threads=1 + k, precision="tf32" if k else "32"), seed=k),
    "defaults": lambda k: own_defaults(),
    "seed": own_seed,
    "threads": lambda k: own_threads(k + 1),
    "precision": lambda k: float32_precision("tf32" if k else "32"),
    "warnings": lambda k: ignored_warnings("a", "b"),
}


@pytest.mark.parametrize("name", OVERLAPPING)
@pytest.mark.parametrize("last", [0, 1, 2])
def test_calls_that_overlap_in_threads_restore_what_was_before_the_first(name: str, last: int) -> None:
    """Three calls begin one after the other; they end in every cyclic order. ``catch_warnings`` fails this."""
    begin, end = [threading.Event() for _ in range(3)], [threading.Event() for _ in range(3)]

    def work(k: int) -> None:
        with OVERLAPPING[name](k):
            begin[k].set()
            assert end[k].wait(20)

    def of_process() -> dict[str, Any]:
        return {key: value for key, value in flags().items() if key not in ("device", "gradients")}

    before = of_process()
    threads = [threading.Thread(target=work, args=(k,)) for k in range(3)]
    for k, thread in enumerate(threads):
        thread.start()
        assert begin[k].wait(20)
    for k in ((last + 1) % 3, (last + 2) % 3, last):
        end[k].set()
        threads[k].join()
    assert of_process() == before
    later: list[int] = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [before["threads"]]


def test_calls_in_calls_restore_the_outer_one() -> None:
    with own_threads(1), float32_precision("tf32"), own_seed(1):
        outer = flags()
        with process_settings(ExecutionConfig(threads=2), seed=2):
            assert torch.get_num_threads() == 2 and not any(tf32_allowed().values())
        assert flags() == outer
