# SPDX-License-Identifier: BSD-3-Clause
"""Makes the raw operators differentiable: ``torch.ops.ptycho.*`` itself records gradients, for every caller.

An operator's derivatives are a ``torch.autograd.Function`` with ``forward``, ``setup_context``, ``backward`` and
``vmap``. It is registered under two dispatch keys: Autograd, where gradients are recorded, and the key under which
torch.func's transforms see a call first. A call that wants no gradient goes straight on to the backend. torch.library's
register_autograd would do the first of these, but it knows no torch.func.

``Function.apply`` inspects the signature of a Function that has a ``setup_context`` at every call, which costs more
than a small operator. So a second Function, in the style without ``setup_context``, is made of the first one for plain
eager calls. Whatever cannot have a gradient is one argument of it, since autograd looks at each; and it is applied
without the Python of ``Function.apply``, which does nothing more where no transform of torch.func is active.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import unwrap_if_dead
from torch.autograd import forward_ad

from ptycho_ext.ops._checks import Check

_library = torch.library.Library("ptycho", "IMPL")
_below_autograd = torch._C._AutoDispatchBelowAutograd
_keys_below_autograd = torch._C._after_autograd_keyset.__and__

#: Arguments of a plan: tensors of integers.
_PLAN = ("order", "tile_start", "tile_patches")

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
    call = overload._op  # what OpOverload.__call__ calls
    gradient_wanted = _test_of(overload)
    record, packed = _recorded(function, overload)

    def apply(*args: Any) -> Any:
        args = (*args, *defaults[len(args) :])
        if torch.compiler.is_compiling():
            return function.apply(*args) if any(a is not None for a in args[own:]) else overload(*args[:own])
        if torch._C._are_functorch_transforms_active():
            return function.apply(*args)
        if gradient_wanted(args):  # a tensor that outlived its transform is unwrapped by the dispatcher, else here
            return record(*map(_unwrapped, args[:packed]), args[packed:])
        with _below_autograd():
            return call(*args[:own])

    def recorded(args: tuple[Any, ...]) -> Any:
        return record(*args[:packed], (*args[packed:], *defaults[len(args) :]))

    def transforms(*args: Any) -> Any:
        return function.apply(*args, *defaults[len(args) :])

    _library.impl(op, _autograd(overload, gradient_wanted, recorded), "Autograd", with_keyset=True)
    _library.impl(op, transforms, _TRANSFORMS)
    return apply


def composed(op: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Replace a raw operator by a composition of others where it is to be differentiated, and under torch.func.

    Args:
        op: name of the operator, which is the quicker way.
        function: the same of operators that are differentiable; takes the operator's arguments.

    Returns:
        ``apply(*args)``: the operator; cheaper than the raw one in a backward that is not differentiated itself.
    """
    overload = getattr(torch.ops.ptycho, op).default
    call = overload._op
    gradient_wanted = _test_of(overload)

    def apply(*args: Any) -> Any:
        recording = torch.is_grad_enabled() or forward_ad._current_level >= 0
        if recording or torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            return overload(*args)
        with _below_autograd():
            return call(*args)

    def recorded(args: tuple[Any, ...]) -> Any:
        return function(*args)

    def transforms(*args: Any) -> Any:
        return function(*args)

    _library.impl(op, _autograd(overload, gradient_wanted, recorded), "Autograd", with_keyset=True)
    _library.impl(op, transforms, _TRANSFORMS)
    return apply


def writes_to(op: str, *outputs: int) -> None:
    """Say of a raw operator which of its arguments it writes to: autograd learns of it, and refuses what it cannot do.

    Args:
        op: name of the operator, its function's and ``_out``.
        outputs: indices of the arguments.
    """
    overload = getattr(torch.ops.ptycho, op).default
    gradient_wanted = _test_of(overload)
    check = Check(op.removesuffix("_out"))

    def autograd(keyset: torch._C.DispatchKeySet, *args: Any) -> Any:
        check.no_gradient(gradient_wanted(args))
        written = [args[i] for i in outputs]
        check.out(*written)
        torch.autograd.graph.increment_version(written)
        return overload.redispatch(keyset & torch._C._after_ADInplaceOrView_keyset, *args)

    def transforms(*args: Any) -> None:
        check.require(False, "out", "be None under torch.func's transforms", "a tensor")

    _library.impl(op, autograd, "Autograd", with_keyset=True)
    _library.impl(op, transforms, _TRANSFORMS)


def _unwrapped(argument: Any) -> Any:
    return unwrap_if_dead(argument) if isinstance(argument, Tensor) else argument


def _autograd(
    overload: torch._ops.OpOverload, gradient_wanted: Callable[[tuple[Any, ...]], bool], recorded: Callable[..., Any]
) -> Callable[..., Any]:
    """What the dispatcher calls under the key Autograd: recorded(args), or the backend."""
    backend = overload._handle.redispatch_boxed  # what OpOverload.redispatch calls

    def autograd(keyset: torch._C.DispatchKeySet, *args: Any) -> Any:
        return recorded(args) if gradient_wanted(args) else backend(_keys_below_autograd(keyset), *args)

    return autograd


def _test_of(overload: torch._ops.OpOverload) -> Callable[[tuple[Any, ...]], bool]:
    """Whether a gradient is wanted of these arguments of an operator, or tangents are carried along.

    Under forward mode the answer is yes: there the Function refuses, where a kernel would drop the tangents. The
    tensors of a plan are integers and not looked at.
    """
    indices = _data_arguments(overload)

    def gradient_wanted(args: tuple[Any, ...]) -> bool:
        for index in indices:
            if args[index].requires_grad:
                if torch.is_grad_enabled():
                    return True
                break
        return forward_ad._current_level >= 0

    def with_optional_data(args: tuple[Any, ...]) -> bool:
        return (torch.is_grad_enabled() and torch._C._any_requires_grad(*args)) or forward_ad._current_level >= 0

    required = all(overload._schema.arguments[i].type.kind() == "TensorType" for i in indices)
    return gradient_wanted if required else with_optional_data


def _data_arguments(overload: torch._ops.OpOverload) -> list[int]:
    """Which arguments of an operator are tensors, those of a plan apart."""
    arguments = enumerate(overload._schema.arguments)
    return [i for i, a in arguments if "Tensor" in str(a.type) and a.name not in _PLAN]


def _recorded(
    function: type[torch.autograd.Function], overload: torch._ops.OpOverload
) -> tuple[Callable[..., Any], int]:
    """The Function's ``apply`` for plain eager calls, and from which argument on it takes them as one tuple.

    The operator is called beneath autograd.
    """
    own, call = len(overload._schema.arguments), overload._op
    packed = _data_arguments(overload)[-1] + 1
    lenient = getattr(function, "takes_no_gradient", False)

    def forward(ctx: Any, *args: Any) -> Any:
        args = (*args[:-1], *args[-1])
        with _below_autograd():
            output = call(*args[:own])
        if lenient:
            ctx.set_materialize_grads(False)
        function.setup_context(ctx, args, output)
        return output

    def backward(ctx: Any, *grads: Tensor) -> Any:
        return *function.backward(ctx, *grads), None

    # What backward returns for packed arguments is None, and autograd drops those that are too many.
    enough = len(inspect.signature(function.forward).parameters) > packed
    members = {"forward": staticmethod(forward), "backward": staticmethod(function.backward if enough else backward)}
    eager = type(f"{function.__name__}Eager", (torch.autograd.Function,), members)
    return super(torch.autograd.Function, eager).apply, packed  # type: ignore[misc]
