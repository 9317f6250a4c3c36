# SPDX-License-Identifier: BSD-3-Clause
"""What a GPU needs of a refinement, on the CPU: no values read in a pass, batches, memory, devices, streamed counts.

The passes on fake tensors of a CUDA device are in on_fake_cuda/check_refinement.py.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from tiny_refinements import CASES, QUICK, counted_problem, small_scan
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ptychopinn.physics import priors
from ptychopinn.refinement import lbfgs, objective, pie, regularisation, workflow
from ptychopinn.refinement.counts import Counts
from ptychopinn.refinement.engines import ENGINES, LbfgsEngine, PieEngine
from ptychopinn.refinement.history import History
from ptychopinn.refinement.interrupts import uninterrupted
from ptychopinn.refinement.objective import Objective
from ptychopinn.refinement.readback import read_back
from ptychopinn.refinement.run import Progress, Refinement
from ptychopinn.refinement.state import Layout
from ptychopinn.refinement.workflow import refine

#: Operators for whose result a host waits for its device.
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_linalg_check_errors")


class Operators(TorchDispatchMode):
    """Counts operators by name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))

    def waits(self) -> int:
        return sum(self.names[name] for name in WAITS)


@pytest.fixture(autouse=True)
def separate_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU runs, in place of the operator that takes patterns through a step in the cache of a CPU."""
    monkeypatch.setattr(objective, "runs_in_cache", lambda device, size: False)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of elements that were read back."""
    seen: list[int] = []

    def noted(values: Tensor) -> Any:
        seen.append(values.numel())
        return read_back(values)

    for module in (lbfgs, pie, objective):
        monkeypatch.setattr(module, "read_back", noted)
    return seen


def engine_of(kind: type[Any], name: str = "defaults", **options: Any) -> Any:
    case = dataclasses.replace(CASES[name], options={**CASES[name].options, **options})
    return kind(*counted_problem(case))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", [LbfgsEngine, PieEngine])
def test_a_pass_reads_one_vector(kind: type[Any], name: str, reads: list[int]) -> None:
    with torch.no_grad():
        engine = engine_of(kind, name)
        engine.advance()
        for _ in range(3):
            reads.clear()
            before = getattr(engine, "evaluations", 0)
            with Operators() as operators:
                engine.advance()
            attempts = engine.evaluations - before if kind is LbfgsEngine else 1
            assert attempts
            moving = attempts if kind is LbfgsEngine and not engine.objective.fixed_regions else 0
            assert len(reads) == attempts + moving
            assert operators.waits() == 0


def test_an_evaluation_that_reads_a_value_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = Objective.batch_correction

    def reading(self: Objective, *arguments: Any) -> Any:
        batch = exact(self, *arguments)
        batch.value.item()
        return batch

    monkeypatch.setattr(Objective, "batch_correction", reading)
    with torch.no_grad():
        engine = engine_of(LbfgsEngine)
        with Operators() as operators:
            engine._attempt()
    assert operators.waits() == 4


def recursion(pairs: list[tuple[Tensor, Tensor]], gradient: Tensor) -> Tensor:
    """Two-loop recursion: Nocedal and Wright, algorithm 7.4, with their initial matrix (7.20)."""
    direction, weights = gradient.clone(), []
    for step, change in reversed(pairs):
        weights.append(step.dot(direction) / step.dot(change))
        direction -= weights[-1] * change
    if pairs:
        step, change = pairs[-1]
        direction *= step.dot(change) / change.dot(change)
    for (step, change), weight in zip(pairs, reversed(weights), strict=True):
        direction += (weight - change.dot(direction) / step.dot(change)) * step
    return -direction


@pytest.mark.parametrize("parts", [{"learn_probe": True}, {"learn_positions": True, "learn_intensities": True}])
def test_direction_is_that_of_the_two_loop_recursion(parts: dict[str, bool]) -> None:
    """Also where the ring is full, a pair is refused, and all are forgotten."""
    _, state, config, *_ = counted_problem(CASES["defaults"])
    config = dataclasses.replace(config, **parts)
    layout = Layout(state, config)
    history, known = History(layout, 4), list[tuple[Tensor, Tensor]]()
    generator = torch.Generator().manual_seed(0)

    def drawn() -> Any:
        vector = layout.zeros()
        for part in vector:
            part.copy_(torch.randn(part.shape, dtype=torch.float64, generator=generator))
        return vector

    def flat(vector: Any) -> Tensor:
        return torch.cat([part.double() for part in vector])

    gradient = drawn()
    for index in range(12):
        out = layout.zeros()
        history.direction(gradient, out)
        torch.testing.assert_close(flat(out), recursion(known, flat(gradient)), rtol=1e-3, atol=1e-4)
        step, change, following = drawn(), layout.zeros(), layout.zeros()
        for s, c, g, f in zip(step, change, gradient, following, strict=True):
            c.copy_((-1 if index == 6 else 1) * (2 * s + torch.randn(s.shape, generator=generator).to(s) / 2))
            f.copy_(g + c)
        history.add(step, change)
        if index != 6:
            known = [*known, (flat(step), flat(change))][-4:]
        if index == 8:
            history.forget(torch.tensor(True))
            known = []
        gradient = following


@pytest.mark.parametrize("name", ["total_variation", "roughness"])
def test_gradient_of_a_prior_is_that_of_autograd(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(12, 17, dtype=torch.complex64, generator=generator)
    illumination = torch.rand(12, 17, generator=generator)
    free = image.clone().requires_grad_()
    expected = getattr(priors, name)(free[None], illumination[None])
    (gradient,) = torch.autograd.grad(expected, free)
    value, half = getattr(regularisation, name)(image, illumination / illumination.sum())
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(2 * half, gradient, rtol=1e-4, atol=1e-6)


@contextmanager
def defaults_of_another_library() -> Iterator[None]:
    torch.set_default_device("meta")  # as "cuda" would: a tensor without a stated device is in the wrong place
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    "options",
    [{}, {"engine": "pie", "interpolation": "bilinear"}, {"learn_positions": True, "search": 2, "modes": 2}],
    ids=["lbfgs", "pie", "positions"],
)
def test_default_device_and_type_of_another_library_change_nothing(options: dict[str, Any]) -> None:
    scan = small_scan(patterns=64)
    config = dataclasses.replace(QUICK, iterations=8, split_half=True, **options)
    expected = refine(scan, None, config, "cpu")
    with defaults_of_another_library():
        found = refine(scan, None, config, "cpu")
    assert np.array_equal(found.object, expected.object)
    assert found.object.dtype == np.complex64


def test_the_device_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[str] = []

    def resolve(name: str) -> torch.device:
        chosen.append(name)
        return torch.device("cpu")

    monkeypatch.setattr(workflow, "resolve_device", resolve)
    refine(small_scan(patterns=36), None, dataclasses.replace(QUICK, iterations=1))
    assert chosen == ["auto"]


@pytest.mark.parametrize("engine", list(ENGINES))
def test_batches_are_halved_where_memory_is_not_enough(
    engine: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    exact = Objective.batch_correction

    def limited(self: Objective, region: Any, *arguments: Any) -> Any:
        if len(region.rows) > 12:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return exact(self, region, *arguments)

    scan = small_scan(patterns=64)
    config = dataclasses.replace(QUICK, iterations=10, warmup=2, engine=engine, batch_size=40)
    monkeypatch.setattr(Objective, "batch_correction", limited)
    found = refine(scan, None, config, "cpu")
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "refine.batch_size: the memory of the device is not enough for batches of 40; halved, and again where needed"
    ]
    assert found.refinement is not None
    deviance = found.refinement.deviance
    assert deviance[-1] < deviance[0]


def test_a_single_pattern_that_does_not_fit_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Objective, "batch_correction", never)
    with pytest.raises(torch.OutOfMemoryError):
        refine(small_scan(patterns=36), None, QUICK, "cpu")


def test_batch_is_halved_in_the_line_search(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, other = engine_of(LbfgsEngine, batch_size=14), engine_of(LbfgsEngine, batch_size=7)
    exact, failures = Objective.gradient, [torch.OutOfMemoryError("CUDA out of memory")]

    def once(self: Objective, *arguments: Any) -> Any:
        if failures and self is engine.objective:
            raise failures.pop()
        return exact(self, *arguments)

    monkeypatch.setattr(Objective, "gradient", once)
    with torch.no_grad():
        values = [[e.advance() for _ in range(5)] for e in (engine, other)]
    assert len(engine.objective.batches) == 4
    assert values[0] == pytest.approx(values[1], rel=1e-3)


def test_batch_sizes_follow_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    small = engine_of(PieEngine, batch_size=None).objective
    assert small.batch_size() == small.batch_size(steps=True) == 48
    monkeypatch.setattr(objective, "fitting_batch", lambda device, nbytes, largest: min(largest, 10**9 // nbytes))
    small.device = torch.device("cuda")
    small.batch.value = small._fitting_batch(1)
    assert small.batch.value == 10**9 // (8 * 16 * 16 * 11)
    assert small.batch_size(steps=True) == 48  # of 25 patterns
    monkeypatch.setattr(Objective, "counts", torch.empty(10_000, 1, 1))
    assert small.batch_size(steps=True) == 625


@pytest.mark.parametrize("kind", [torch.uint16, torch.float32])
def test_streamed_counts_are_those_of_the_scan(kind: torch.dtype) -> None:
    counts = torch.arange(40 * 4 * 4, device="cpu").reshape(40, 4, 4).to(kind)
    held = Counts(counts, torch.device("cpu"))
    order = np.random.default_rng(0).permutation(40)
    rows = [np.sort(part) for part in np.split(order, [7, 7, 20, 33])]  # one is empty
    members = [torch.from_numpy(part) for part in rows]
    assert held.resident
    for part, resident, streamed in zip(rows, held.batches(members, rows), held._streamed(rows), strict=True):
        assert streamed.dtype == kind and len(streamed) == len(part)
        assert np.array_equal(streamed.numpy(), counts.numpy()[part])
        assert np.array_equal(streamed.numpy(), resident.numpy())


def test_counts_keep_their_type() -> None:
    for kind in (np.uint8, np.uint16, np.uint32, np.float32):
        scan = small_scan(patterns=36, photons=1e4)
        run = Refinement(
            dataclasses.replace(scan, counts=scan.counts.astype(kind)), None, QUICK, torch.device("cpu"), None, 1
        )
        assert run.objective.counts.numpy().dtype == kind


def test_split_half_uses_the_memory_of_the_history(monkeypatch: pytest.MonkeyPatch) -> None:
    import gc
    import weakref

    alive: list[Any] = []
    most, made = [0], History.__init__

    def counted(self: History, *arguments: Any) -> None:
        gc.collect()
        made(self, *arguments)
        alive.append(weakref.ref(self))
        most.append(sum(ref() is not None for ref in alive))

    monkeypatch.setattr(History, "__init__", counted)
    refine(small_scan(patterns=64), None, dataclasses.replace(QUICK, iterations=8, split_half=True), "cpu")
    assert len(alive) == 3 and max(most) == 1


def test_ctrl_c_waits_for_the_end_of_the_block() -> None:
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals reach the main thread")
    done: list[str] = []

    def work() -> None:
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("all")
        done.append("more")

    before: Callable[..., Any] | int | None = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            work()
        assert done == ["all"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("engine", list(ENGINES))
def test_results_during_a_refinement_do_not_change_with_it(engine: str) -> None:
    kept: list[tuple[Any, Any]] = []

    def keep(progress: Progress) -> None:
        found = progress.result()
        kept.append((found, copy.deepcopy(found)))

    config = dataclasses.replace(QUICK, engine=engine, iterations=10, keep_power=False, warmup=0)
    refine(small_scan(patterns=36), None, config, "cpu", progress=keep, every=2)
    for found, copied in kept:
        for name in ("object", "probe", "positions", "residuals", "error_map"):
            assert np.array_equal(getattr(found, name), getattr(copied, name)), name
