# SPDX-License-Identifier: BSD-3-Clause
"""Every way to wait for the device is noticed, forwards and backwards, and what a step needs runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from fake_cuda import DEVICE, HostWait, fake_cuda, to_fake_cuda
from torch import Tensor, nn

from ptychopinn.runtime.batching import fitting_batch
from ptychopinn.runtime.devices import resolve_device
from ptychopinn.runtime.graphs import Captured

WAITS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda t: t.sum().item(),
    "float": lambda t: float(t.sum()),
    "int": lambda t: int(t.sum()),
    "bool": lambda t: 1 if t.sum() > 0 else 0,
    "assert all": lambda t: bool(t.isfinite().all()),
    "tolist": lambda t: t.tolist(),
    "cpu": lambda t: t.cpu(),
    "to": lambda t: t.to("cpu", torch.float64),
    "numpy": lambda t: t.detach().cpu().numpy(),
    "copy_": lambda t: torch.empty(t.shape).copy_(t),
    "equal": lambda t: torch.equal(t, t),
    "allclose": lambda t: torch.allclose(t, t),
    "nonzero": lambda t: t.nonzero(),
    "where": lambda t: torch.where(t > 0),
    "unique": lambda t: t.unique(),
    "masked_select": lambda t: t.masked_select(t > 0),
    "mask": lambda t: t[t > 0],
    "mask written": lambda t: t.detach().__setitem__(t > 0, t.detach()[0, 0].expand(16)),
    "scalar index": lambda t: t[(t[0] > 0).sum()],
    "bincount": lambda t: t.long().flatten().bincount(),
    "repeat_interleave": lambda t: t.repeat_interleave(t.long()[0], dim=0),
    "range": lambda t: torch.arange(t.sum(), device=DEVICE),  # type: ignore[call-overload]
}


@pytest.fixture
def t() -> Tensor:
    return torch.ones(4, 4)


@pytest.mark.parametrize("name", WAITS)
def test_wait_is_noticed(name: str) -> None:
    with fake_cuda() as count:
        t = to_fake_cuda(torch.ones(4, 4))
        with pytest.raises(HostWait):
            WAITS[name](t)
        assert count.read_backs == 1


@pytest.mark.parametrize("name", WAITS)
def test_wait_in_a_backward_is_noticed(name: str) -> None:
    class Waiting(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
            WAITS[name](grad)
            return grad

    with fake_cuda() as count:
        x = torch.ones(4, 4, device="cuda", requires_grad=True)
        loss = Waiting.apply(x).square().sum()
        with pytest.raises(HostWait):
            loss.backward()
        assert count.read_backs == 1


def mixed(x: Tensor, other: Tensor) -> list[Callable[[], object]]:
    return [
        lambda: x + other,
        lambda: other * x,
        lambda: torch.cat([x, other]),
        lambda: x @ other,
        lambda: torch.where(other > 0, x, x),
        lambda: x.add_(other),
        lambda: torch.lerp(x, x, other),
        lambda: nn.functional.mse_loss(x, other),
        lambda: torch.stack([x, other]),
    ]


@pytest.mark.parametrize("index", range(9))
def test_mixture_of_devices_is_an_error(index: int) -> None:
    with fake_cuda():
        x = torch.ones(4, 4, device="cuda")
        with pytest.raises((RuntimeError, ValueError), match=r"device|cuda"):
            mixed(x, torch.ones(4, 4))[index]()


def test_mixture_of_devices_in_a_backward_is_an_error() -> None:
    class Mixing(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
            return grad + torch.ones(grad.shape)

    with fake_cuda():
        x = torch.ones(4, 4, device="cuda", requires_grad=True)
        with pytest.raises(RuntimeError, match="device"):
            Mixing.apply(x).sum().backward()


def test_uploads_are_counted() -> None:
    with fake_cuda() as count:
        x = torch.zeros(4, 4, device="cuda")
        assert count.uploads == 0
        torch.ones(3).to("cuda")
        torch.tensor([1.0, 2.0], device="cuda")
        x.copy_(torch.ones(4, 4))
        assert count.uploads == 3
        x[torch.tensor([0, 1])]  # an index of the CPU is copied
        assert count.uploads == 4 and count.read_backs == 0


def test_operators_and_bytes() -> None:
    with fake_cuda() as count:
        x = torch.empty(8, 4, device="cuda")
        assert (count.operators, count.allocated) == (0, 128)
        x.view(4, 8).t()[1:].unsqueeze(0).expand(2, -1, -1).detach()
        assert (count.operators, count.allocated) == (0, 128)
        x.add_(1)
        assert (count.operators, count.allocated) == (1, 128)
        y = x * 2 + x
        assert y.device == DEVICE and (count.operators, count.allocated) == (3, 128 + 256)
        torch.add(x, x, out=y)
        assert (count.operators, count.allocated) == (4, 128 + 256)
        torch._foreach_add_([x, y], 1.0)
        assert count.operators == 5 and count.names["_foreach_add_"] == 1
        x.t().contiguous()
        assert count.names["clone"] == 1


def test_operators_of_a_backward_are_counted() -> None:
    with fake_cuda() as count:
        x = torch.ones(4, device="cuda", requires_grad=True)
        y = (x * x).sum()
        forward = count.operators
        y.backward()
        assert x.grad is not None and x.grad.device == DEVICE
        assert count.operators - forward >= 3  # ones, two products and their sum


def test_host_computes_in_between(t: Tensor) -> None:
    with fake_cuda():
        assert float(torch.arange(4).float().mean() + t.sum()) == 17.5
        assert torch.from_numpy(t.numpy()).nonzero().shape == (16, 2)


def test_answers() -> None:
    with fake_cuda(answer=True) as count:
        x = torch.rand(4, 4, device="cuda")
        assert float(x.sum()) == 1.0 and int(x.argmax()) == 0
        assert x.cpu().numpy().shape == (4, 4) and x[:1, 0].tolist() == [1.0]
        assert count.read_backs == 4
        with pytest.raises(Exception, match="nonzero"):
            x.nonzero()


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.second = nn.ConvTranspose2d(4, 2, 2, stride=2)
        self.register_buffer("window", torch.ones(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(nn.functional.avg_pool2d(self.norm(self.first(x * self.window)).relu(), 2))
        field = torch.fft.fft2(torch.complex(y[:, 0], y[:, 1]), norm="ortho")
        return torch.fft.ifftshift(torch.fft.rfft2(field.abs().square())).abs().mean()


def learning_rate(optimizer: torch.optim.Optimizer) -> None:
    """A tensor on the device, as a captured step needs it; the constructors look at the value of theirs."""
    for group in optimizer.param_groups:
        group["lr"] = torch.full((), 1e-3, device=DEVICE)


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adam": lambda p: torch.optim.Adam(p, capturable=True),
    "adam foreach": lambda p: torch.optim.Adam(p, capturable=True, foreach=True),
    "adam fused": lambda p: torch.optim.Adam(p, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, capturable=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_step(name: str) -> None:
    with fake_cuda() as count:
        network = to_fake_cuda(Network())
        assert all(p.device == DEVICE for p in [*network.parameters(), *network.buffers()])
        optimizer = OPTIMIZERS[name](network.parameters())
        learning_rate(optimizer)
        x = torch.zeros(2, 1, 8, 8, device="cuda")
        norms = torch.zeros((), device=DEVICE)

        def step() -> Tensor:
            optimizer.zero_grad(set_to_none=False)
            loss = network(x)
            loss.backward()
            norms.copy_(nn.utils.clip_grad_norm_(network.parameters(), 1.0, foreach=True))
            optimizer.step()
            return loss

        step()
        count.reset()
        step()
        assert (count.read_backs, count.uploads, count.synchronised) == (0, 0, 0)
        first = count.operators
        assert 20 < first < 600
        count.reset()
        step()
        assert count.operators == first
        captured = Captured(step, DEVICE, "the step")
        for _ in range(6):
            assert captured().device == DEVICE
        assert captured.replayed and count.replays == 3


def test_wait_in_a_graph_is_noticed() -> None:
    with fake_cuda(answer=True):
        x = torch.zeros(4, device="cuda")
        assert float(x.sum()) == 1.0
        captured = Captured(lambda: float(x.sum()), DEVICE, "a sum")
        for _ in range(4):
            captured()
        assert not captured.enabled
        captured = Captured(lambda: x.copy_(torch.ones(4)), DEVICE, "an upload")  # type: ignore[arg-type]
        for _ in range(4):
            captured()
        assert not captured.enabled


def test_foreach_operators() -> None:
    with fake_cuda() as count:
        some = [torch.zeros(n, device="cuda") for n in (3, 4)]
        count.reset()
        torch._foreach_lerp_(some, [2 * s for s in some], 0.5)
        norms = torch._foreach_norm(some)
        torch._foreach_mul_(some, norms)
        assert count.names["_foreach_norm"] == 1 and count.read_backs == 0


def test_devices_of_the_library() -> None:
    with fake_cuda():
        assert resolve_device("cuda").type == "cuda"
        assert fitting_batch(DEVICE, 1 << 30, 1000) == 32


def test_nothing_remains() -> None:
    before = torch.cuda.Stream
    with fake_cuda():
        pass
    assert torch.cuda.Stream is before and float(torch.ones(2).sum()) == 2.0
