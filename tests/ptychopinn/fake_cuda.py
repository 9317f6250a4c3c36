# SPDX-License-Identifier: BSD-3-Clause
"""A CUDA device of fake tensors: the code of the GPU runs on any machine, without values, and is counted.

Tensors on "cuda" have shapes and types only. Tensors of the CPU are real, and operators on them alone compute. What
waits for the device (``.item()``, ``if t > 0``, ``.cpu()``, ``nonzero``, a boolean index ...) raises
:class:`HostWait`, and operators on tensors of both devices raise. Gradients and slices need the process of
fake_cuda_process.py.

    with fake_cuda() as count:
        module.to("cuda")
        step()                       # raises HostWait where the host waits
        count.reset()
        step()
        assert count.operators < 300 and count.uploads == 0
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves

import ptycho_ext

DEVICE = torch.device("cuda", 0)
GIGABYTE = 1 << 30

#: Operators for whose result the host waits, by the name of their packet.
_WAITS = {
    "_local_scalar_dense", "is_nonzero", "equal", "allclose", "nonzero", "nonzero_numpy", "argwhere", "masked_select",
    "_unique", "_unique2", "unique_dim", "unique_consecutive", "bincount", "histc", "repeat_interleave",
    "_linalg_check_errors",
}  # fmt: skip
#: Operators that make or describe tensors, and run nothing on the device.
_NOTHING = {
    "empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided", "resize_", "set_",
    "is_same_size", "is_pinned", "sym_size", "sym_stride", "sym_numel", "sym_storage_offset", "lift", "record_stream",
}  # fmt: skip


class HostWait(RuntimeError):
    """The host waits for the device."""


def _is_cuda(value: Any) -> bool:
    return value is not None and torch.device(value).type == "cuda"


def _arbitrary(like: Tensor) -> Tensor:
    """A tensor of the CPU in place of one of the device: zeros for indices, and ones for numbers."""
    value = 1 if like.is_floating_point() or like.is_complex() else 0
    return torch.full(like.shape, value, dtype=like.dtype, device="cpu")


class Counting(TorchDispatchMode):
    """Count what the device is given to do.

    Args:
        answer: False: to wait for the device is an error. True: waits are counted and answered, numbers with 1 and
            tensors with ones (integers: zeros); operators whose shape depends on data are errors all the same.

    Attributes:
        operators: operators on tensors of the device that compute: views, allocations and copies between devices are
            not counted. A ``_foreach`` operator counts once.
        names: how often each of them, by name.
        read_backs: how often the host waited for a result of the device.
        uploads: copies from the CPU to the device.
        allocated: bytes of new tensors on the device.
        synchronised: calls that wait for all that the device does.
        replays: of captured graphs, whose work is not counted again.
    """

    def __init__(self, answer: bool = False) -> None:
        super().__init__()
        self.answer, self.capturing = answer, False
        self.reset()

    def reset(self) -> None:
        """Set all counts to zero."""
        self.operators = self.read_backs = self.uploads = self.allocated = self.synchronised = self.replays = 0
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        kwargs.pop("pin_memory", None)
        name = func.overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if name == "_pin_memory":
            return args[0].clone()
        if not _is_cuda(kwargs.get("device")) and not any(t.is_cuda for t in tensors):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if name in ("_to_copy", "copy_"):
            return self._copy(name, func, args, kwargs)
        if name in _WAITS or _has_boolean_index(name, args):
            return self._wait(name, func, args, kwargs)
        host = [t for t in tensors if not t.is_cuda and t.ndim > 0]
        if name.startswith("_fused_"):  # updates in place, which torch has for real tensors only
            if host:
                raise RuntimeError(f"{name}: tensors on cpu and cuda devices")
            self._count(name)
            return None
        self._upload(len(host), name)  # indices of the CPU; all else is refused
        result = func(*args, **kwargs)
        if not func.is_view and name not in _NOTHING and func.namespace != "prim":
            self._count(name)
        self._allocate(func, result)
        return result

    def _count(self, name: str) -> None:
        self.operators += 1
        self.names[name] += 1

    def _allocate(self, func: OpOverload, result: Any) -> None:
        results = result if isinstance(result, tuple) else (result,)
        for value, form in zip(results, func._schema.returns, strict=False):
            if form.alias_info is None:
                new = [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor) and leaf.is_cuda]
                self.allocated += sum(t.numel() * t.element_size() for t in new)

    def _upload(self, number: int, name: str) -> None:
        if number and self.capturing:
            raise HostWait(f"{name}: a copy from the CPU in a graph")
        self.uploads += number

    def _copy(self, name: str, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if name == "_to_copy":
            source, to_cuda = args[0], _is_cuda(kwargs.get("device", args[0].device))
        else:
            source, to_cuda = args[1], args[0].is_cuda
        if to_cuda:
            if not source.is_cuda:
                self._upload(1, name)
            else:
                self._count(name)
            result = func(*args, **kwargs)
            self._allocate(func, result)
            return result
        self._read_back("a copy to the CPU")
        if name == "copy_":
            return args[0]
        with unset_fake_temporarily():
            return _arbitrary(source).to(kwargs.get("dtype") or source.dtype)

    def _wait(self, name: str, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._read_back(name)
        if name == "_local_scalar_dense":
            with unset_fake_temporarily():
                return _arbitrary(args[0]).flatten().tolist()[0]
        if name in ("equal", "allclose", "is_nonzero"):
            return True
        return func(*args, **kwargs)

    def _read_back(self, name: str) -> None:
        self.read_backs += 1
        if not self.answer or self.capturing:
            raise HostWait(f"{name}: the host waits for the device{' in a graph' if self.capturing else ''}")

    def _synchronise(self, *_: Any, **__: Any) -> None:
        self.synchronised += 1


def _has_boolean_index(name: str, args: tuple[Any, ...]) -> bool:
    """Whether an operator looks for the non-zero places of a mask."""
    if name not in ("index", "index_put_", "index_put", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"):
        return False
    masks = [i for i in args[1] if isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8)]
    filled = "put" in name and len(args[1]) == len(masks) == 1 and args[2].numel() == 1  # becomes masked_fill
    return bool(masks) and not filled


class _Stream:
    """A stream, or an event, of which nothing is waited for."""

    device = DEVICE

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def wait_stream(self, other: _Stream) -> None: ...

    def wait_event(self, event: _Stream) -> None: ...

    def record(self, stream: _Stream | None = None) -> None: ...

    def record_event(self, event: _Stream | None = None) -> _Stream:
        return event or _Stream()

    def wait(self, stream: _Stream | None = None) -> None: ...

    def query(self) -> bool:
        return True

    def elapsed_time(self, other: _Stream) -> float:
        return 1.0


class _Cuda:
    """What is called of ``torch.cuda``."""

    def __init__(self, count: Counting) -> None:
        cuda = self
        self.count, self.stream = count, _Stream()

        class Stream(_Stream):
            def synchronize(self) -> None:
                count._synchronise()

        class Graph:
            def replay(self) -> None:
                count.replays += 1

            def pool(self) -> tuple[int, int]:
                return 0, 0

            def reset(self) -> None: ...

        @contextlib.contextmanager
        def scope(*_: Any, **__: Any) -> Iterator[None]:
            yield

        @contextlib.contextmanager
        def graph(*_: Any, **__: Any) -> Iterator[None]:
            count.capturing = True
            try:
                yield
            finally:
                count.capturing = False

        free = 64 * GIGABYTE
        self.functions: dict[str, Any] = {
            "Stream": Stream, "Event": Stream, "CUDAGraph": Graph, "graph": graph, "stream": scope, "device": scope,
            "current_stream": lambda *_: cuda.stream, "default_stream": lambda *_: cuda.stream,
            "synchronize": count._synchronise, "is_current_stream_capturing": lambda: count.capturing,
            "mem_get_info": lambda *_: (free, free), "memory_reserved": lambda *_: 0,
            "memory_allocated": lambda *_: 0, "max_memory_allocated": lambda *_: 0,
            "reset_peak_memory_stats": lambda *_: None, "empty_cache": lambda: None, "set_device": lambda *_: None,
            "current_device": lambda: 0, "get_device_name": lambda *_: "fake", "graph_pool_handle": lambda: (0, 0),
            "get_device_capability": lambda *_: (9, 0),
        }  # fmt: skip


@contextlib.contextmanager
def fake_cuda(answer: bool = False) -> Iterator[Counting]:
    """Give this process a CUDA device of fake tensors, and count what it is given to do.

    ``torch.cuda.is_available()`` remains as it is, since torch would use a device that reports itself; the operators
    report a build for CUDA. Streams, events, graphs and the free memory (64 GiB) of ``torch.cuda`` are replaced: a
    graph calls its function once, in which copies from the CPU are errors too, and its replays do nothing.

    Args:
        answer: to read-backs, see :class:`Counting`.
    """
    count = Counting(answer)
    built = {**ptycho_ext.build_info(), "cuda": True}
    with contextlib.ExitStack() as stack:
        for name, function in _Cuda(count).functions.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, function))
        stack.enter_context(mock.patch.object(ptycho_ext, "build_info", return_value=built))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(count)
        yield count


def to_fake_cuda(value: Any) -> Any:
    """Move a tensor, a tuple, list or dict of tensors, or a module (itself) to the device of :func:`fake_cuda`."""
    if isinstance(value, torch.nn.Module):
        return value.to(DEVICE)
    leaves, form = tree_flatten(value)
    return form.unflatten([leaf.to(DEVICE) if isinstance(leaf, Tensor) else leaf for leaf in leaves])
