# SPDX-License-Identifier: BSD-3-Clause
"""Makes the raw operators differentiable: ``torch.ops.ptycho.*`` itself records gradients, for every caller.

An operator's derivatives are a ``torch.autograd.Function`` with ``forward``, ``setup_context``, ``backward`` and
``vmap``. It is registered under two dispatch keys: Autograd, where gradients are recorded, and the key under which
torch.func's transforms see a call first. A call that wants no gradient goes straight on to the backend. torch.library's
register_autograd would do the first of these, but it knows no torch.func.

``Function.apply`` inspects the signature of a Function that has a ``setup_context`` at every call, which costs more
than a small operator. So a second Function, in the style without ``setup_context``, is made of the first one for plain
eager calls.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ptycho_ext.ops._checks import Check

_library = torch.library.Library("ptycho", "IMPL")

#: Where torch.func's transforms intercept a call.
_TRANSFORMS = "FuncTorchDynamicLayerFrontMode"


def differentiable(op: str, function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """Give a raw operator the derivatives of a Function.

    Args:
        op: name of the operator; its arguments are the Function's first ones.
        function: its ``forward`` calls the operator; arguments that the operator has not got are None, and defaults
            are those of the operator.

    Returns:
        ``apply(*args)``: the operator, given the Function's arguments; cheaper than the raw operator, which the
        dispatcher takes through Python once.
    """
    overload = getattr(torch.ops.ptycho, op).default
    own = len(overload._schema.arguments)
    parameters = inspect.signature(function.forward).parameters.values()
    # The dispatcher passes no trailing arguments that have their default.
    defaults: list[Any] = [None if p.default is p.empty else p.default for p in parameters]
    eager = _without_setup_context(function)

    def apply(*args: Any) -> Any:
        args = (*args, *defaults[len(args) :])
        if torch.compiler.is_compiling():
            return function.apply(*args) if any(a is not None for a in args[own:]) else overload(*args[:own])
        if torch._C._are_functorch_transforms_active():
            return function.apply(*args)
        if _gradient_wanted(args):
            return eager.apply(*args)
        with torch._C._AutoDispatchBelowAutograd():
            return overload(*args[:own])

    def autograd(keyset: torch._C.DispatchKeySet, *args: Any) -> Any:
        if _gradient_wanted(args):
            return eager.apply(*args, *defaults[len(args) :])
        return overload.redispatch(keyset & torch._C._after_autograd_keyset, *args)

    def transforms(*args: Any) -> Any:
        return function.apply(*args, *defaults[len(args) :])

    _library.impl(op, autograd, "Autograd", with_keyset=True)
    _library.impl(op, transforms, _TRANSFORMS)
    return apply


def writes_to(op: str, *outputs: int) -> None:
    """Say of a raw operator which of its arguments it writes to: autograd learns of it, and refuses what it cannot do.

    Args:
        op: name of the operator, its function's and ``_out``.
        outputs: places of the arguments.
    """
    overload = getattr(torch.ops.ptycho, op).default
    check = Check(op.removesuffix("_out"))

    def autograd(keyset: torch._C.DispatchKeySet, *args: Any) -> Any:
        check.no_gradient(_gradient_wanted(args))
        written = [args[i] for i in outputs]
        check.out(*written)
        torch.autograd.graph.increment_version(written)
        return overload.redispatch(keyset & torch._C._after_ADInplaceOrView_keyset, *args)

    def transforms(*args: Any) -> None:
        check.require(False, "out", "be None under torch.func's transforms", "a tensor")

    _library.impl(op, autograd, "Autograd", with_keyset=True)
    _library.impl(op, transforms, _TRANSFORMS)


def _gradient_wanted(args: tuple[Any, ...]) -> bool:
    """Under forward mode too: there the Function refuses, where a kernel would drop the tangents."""
    return (torch.is_grad_enabled() and torch._C._any_requires_grad(*args)) or forward_ad._current_level >= 0


def _without_setup_context(function: type[torch.autograd.Function]) -> type[torch.autograd.Function]:
    """The Function in the style that has no ``setup_context``; its operator is called beneath autograd."""

    def forward(ctx: Any, *args: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            output = function.forward(*args)
        function.setup_context(ctx, args, output)
        return output

    def backward(ctx: Any, *grads: Tensor) -> Any:
        return function.backward(ctx, *grads)

    members = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type(f"{function.__name__}Eager", (torch.autograd.Function,), members)
