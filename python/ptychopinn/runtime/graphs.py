# SPDX-License-Identifier: BSD-3-Clause
"""Work that repeats with fixed shapes: on CUDA it is captured once as a CUDA graph and replayed.

A step of a training, a batch of a prediction or a pass of a refinement is a thousand small kernels, and the host needs
longer to launch each one than the GPU to run it. A graph launches all of them at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Generic, TypeVar

import torch

_log = logging.getLogger(__name__)

#: Calls before the capture, in which libraries choose their algorithms and optimisers make their state.
_WARM_UP = 3

Result = TypeVar("Result")


class Captured(Generic[Result]):
    """Call a function; on CUDA, capture it at its fourth call and replay it from then on.

    The function takes no arguments. It reads tensors that stay where they are and are written by the caller before each
    call, and does the same work at every call: fixed shapes, no value read back to the host, no branch on data. The
    calls before the capture do their work as well, on a stream of their own, so nothing has to be undone. A replay does
    no Python work, and returns the result of the capture, whose tensors every replay writes again: use or copy them
    before the next call. On the CPU every call is an ordinary one.

    Where the capture fails, one warning names the reason, and the function is called as on the CPU from then on.

    Args:
        function: does the work.
        device: of its tensors.
        name: of the work, for the warning, such as "the training step".
        enabled: False: never capture.

    Example:
        >>> total = torch.zeros((), device="cpu")
        >>> add = Captured(lambda: total.add_(1), torch.device("cpu"), "a sum")
        >>> add(), add()
        (tensor(2.), tensor(2.))
    """

    def __init__(
        self, function: Callable[[], Result], device: torch.device, name: str, *, enabled: bool = True
    ) -> None:
        self.function, self.device, self.name = function, device, name
        self.enabled = enabled and device.type == "cuda"
        self.calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._result: Result | None = None
        self._stream: torch.cuda.Stream | None = None

    @property
    def replayed(self) -> bool:
        """Whether calls are replays by now."""
        return self._graph is not None

    def __call__(self) -> Result:
        self.calls += 1
        if not self.enabled:
            return self.function()
        if self._graph is None and self.calls <= _WARM_UP:
            return self._on_own_stream()
        if self._graph is None and not self._capture():
            return self.function()
        assert self._graph is not None
        self._graph.replay()
        return self._result  # type: ignore[return-value]

    def _on_own_stream(self) -> Result:
        if self._stream is None:
            self._stream = torch.cuda.Stream(self.device)
        current = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = self.function()
        current.wait_stream(self._stream)
        return result

    def _capture(self) -> bool:
        """Record the function without running it; returns whether that succeeded."""
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.device(self.device):
                torch.cuda.synchronize()
                with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                    self._result = self.function()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self.enabled, self._result = False, None
            reason = str(error).strip().splitlines()[0]
            _log.warning("%s is not captured as a CUDA graph, and is slower for it: %s", self.name, reason)
            return False
        self._graph = graph
        return True
