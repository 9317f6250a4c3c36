# SPDX-License-Identifier: BSD-3-Clause
"""Estimate the time of a training step and of an inference batch on an NVIDIA H200, without a GPU.

A step runs on tensors of the device "meta", which have shapes and no values; every operator of forward, backward and
optimiser is recorded with its kernels, bytes and floating-point operations. A kernel of a captured graph takes

    gap + latency + max(bytes / bandwidth, operations / rate)

with constants that were fitted to profiles of one network on an H200 (see CALIBRATION below and benchmarks/README.md).

    python benchmarks/estimate.py                        # all networks; writes results/quality/architecture_h200.csv
    python benchmarks/estimate.py --generator ffno --options '{"width": 24}' --size 64 --members 1 --patterns 64
    python benchmarks/estimate.py --measure 1            # seconds on this CPU with one thread, to architecture_cpu.csv
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ptychopinn.models import PtychoModel
from ptychopinn.physics.likelihood import loss_of_fields
from ptychopinn.physics.overlap import canvas_illumination, illumination_weight

RESULTS = Path(__file__).parent / "results" / "quality"

#: Networks of the table: generator and options.
NETWORKS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("unrolled", {}),
    ("unrolled", {"width": 24}),
    ("unrolled", {"width": 32}),
    ("unrolled", {"steps": 8}),
    ("unrolled", {"steps": 10}),
    ("unrolled", {"every": 1}),
    ("unrolled", {"width": 32, "every": 1}),
    ("ffno", {}),
    ("sru_net", {}),
    ("unet", {}),
    ("cnn", {}),
)
#: Pixels of the patterns in a step of a training, and patterns in a batch of a reconstruction, by default on a GPU.
_PIXELS_IN_STEP, _PATTERNS_IN_BATCH = 64 * 64**2, 4096

# CALIBRATION. Microseconds, bytes and operations per microsecond.
#: Between two kernels of a graph: a step of 1,237 launches takes 3.148 ms, of which kernels run 2.06.
_GAP = 0.9
#: Bytes of large tensors, read and written.
_BANDWIDTH = 3.9e6
#: Latency of a kernel, by kind.
_LATENCY = {
    "elementwise": 1.0, "cat": 1.0, "pool": 1.0, "reduction": 3.4, "fft": 2.1, "convolution": 5.7, "weights": 9.0,
    "product": 4.0, "extract": 2.2, "sum": 8.0,
}  # fmt: skip
#: Fraction of the bandwidth that a kind has: sums and extractions of the operators' table, others of the profiles.
_FRACTION = {"elementwise": 0.8, "cat": 0.27, "pool": 0.13, "reduction": 0.25, "fft": 0.8, "extract": 0.7, "sum": 0.5}
#: Rates of convolutions (forward and derivative by the input, derivative by the weights) and of matrix products, by
#: precision. Convolutions in TF32 were measured. Not measured: those in float32, here a third and a half of the peak
#: of 67e6 at most, and all products.
_RATES = {"tf32": (36e6, 9.2e6, 100e6), "32": (20e6, 9.2e6, 30e6)}
#: Channels that a convolution's tile has at least: fewer take as long.
_TILE = 32

_EXTRACT = {"extract_patches", "exit_waves", "correct_fields", "correct_fields_backward", "update_canvas"}
_REDUCTIONS = {"sum", "amax", "amin", "max", "mean", "norm", "linalg_vector_norm", "argmax", "_foreach_norm"}
_NOTHING = {
    "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "_unsafe_view", "alias",
    "lift_fresh", "_reshape_alias", "is_same_size", "set_", "resize_",
}  # fmt: skip


class Kernel(NamedTuple):
    """A kernel: its operator, kind, bytes read and written, floating-point operations, and those of a full tile."""

    operator: str
    kind: str
    nbytes: float
    operations: float = 0.0
    tiled: float = 0.0


def duration(kernel: Kernel, precision: str) -> float:
    """Microseconds of a kernel of a captured graph, the gap before the next one included."""
    bandwidth = _BANDWIDTH * _FRACTION.get(kernel.kind, 1.0)
    forward, weights, product = _RATES[precision]
    rate = {"weights": weights, "product": product}.get(kernel.kind, forward)
    return _GAP + _LATENCY[kernel.kind] + max(kernel.nbytes / bandwidth, kernel.tiled / rate)


def _nbytes(tensor: Tensor) -> int:
    """Bytes of the memory that a tensor shows, without its repetitions."""
    if tensor.numel() == 0:
        return 0
    sizes = [size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride]
    return math.prod(sizes) * tensor.element_size()


class Recorder(TorchDispatchMode):
    """Record the kernels of all operators.

    Attributes:
        kernels: in the order of their launch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels: list[Kernel] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if not func.is_view and name not in _NOTHING and func.namespace != "prim":
            self.kernels += _kernels(name, args, kwargs or {}, result)
        return result


def _kernels(name: str, args: Any, kwargs: Any, result: Any) -> list[Kernel]:
    read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    written = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
    nbytes = sum(map(_nbytes, read)) + sum(map(_nbytes, written))
    if name in ("zero_", "fill_", "zeros", "ones", "full", "new_zeros", "new_ones", "zeros_like", "ones_like"):
        return [Kernel(name, "elementwise", sum(map(_nbytes, written)))]
    if name == "convolution":
        return [*_conversions(args[0]), _convolution(name, args[0], args[1], result)]
    if name == "convolution_backward":
        return list(_convolution_backward(name, args))
    if name in ("mm", "bmm", "addmm", "baddbmm"):
        left, right = read[-2:]
        operations = 2.0 * left.numel() * right.shape[-1]
        return [Kernel(name, "product", nbytes, operations, operations)]
    if name.startswith("_fft"):
        axes = len(args[1])
        return [Kernel(name, "fft", nbytes)] * axes
    if name in _REDUCTIONS or name.endswith("_norm"):
        return [Kernel(name, "reduction", nbytes)]
    if name.startswith(("native_group_norm", "_fused_rms")):
        return [Kernel(name, "reduction", nbytes), Kernel(name, "elementwise", nbytes)]
    if name in _EXTRACT:
        return [Kernel(name, "extract", nbytes)]
    if name in ("cat", "stack") or "pool2d" in name:
        return [Kernel(name, "cat" if name in ("cat", "stack") else "pool", nbytes)]
    if hasattr(torch.ops.ptycho, name):
        return [Kernel(name, "sum", nbytes)]
    return [Kernel(name, "elementwise", nbytes)]


def _conversions(image: Tensor) -> list[Kernel]:
    """The copy that puts the channels of an image last."""
    if image.is_contiguous(memory_format=torch.channels_last) or image.shape[1] == 1:
        return []
    return [Kernel("convert", "elementwise", 2 * _nbytes(image))]


def _convolution(name: str, image: Tensor, weight: Tensor, result: Tensor, kind: str = "convolution") -> Kernel:
    """One of the three products of a convolution: its operations, with the channels of a tile, and its bytes."""
    nbytes = _nbytes(image) + _nbytes(weight) + _nbytes(result)
    outputs, inputs = weight.shape[:2]
    if inputs == 1 and outputs > 1:  # every channel by itself: no product of matrices
        return Kernel(name, kind, 4.0 * nbytes, 2.0 * result.numel() * math.prod(weight.shape[2:]))
    taps = math.prod(weight.shape[2:])
    pixels = result.numel() / result.shape[1]
    tiled = max(inputs, _TILE / 2) * max(outputs, _TILE)
    return Kernel(name, kind, nbytes, 2.0 * pixels * taps * inputs * outputs, 2.0 * pixels * taps * tiled)


def _convolution_backward(name: str, args: Any) -> Iterator[Kernel]:
    gradient, image, weight, mask = args[0], args[1], args[2], args[-1]
    yield from _conversions(gradient)
    if mask[0]:
        yield _convolution(name, image, weight, gradient)
    if mask[1]:
        yield _convolution(name, image, weight, gradient, "weights")
    if mask[2]:
        yield Kernel(name, "reduction", _nbytes(gradient))


class Shape(NamedTuple):
    """Shapes of a step: N, C and B; with a group's canvas for positions whose step is 0.15 N."""

    size: int
    members: int
    groups: int

    @property
    def canvas(self) -> tuple[int, int]:
        span = 0.15 * self.size * (math.sqrt(self.members) - 1) * 1.2  # groups are not quite squares
        side = self.size + 4 * math.ceil(span / 4)
        return side, side


def training_shape(size: int, members: int) -> Shape:
    """Shapes of a step of a training on a GPU."""
    return Shape(size, members, math.ceil(max(16, _PIXELS_IN_STEP // size**2) / members))


def inference_shape(size: int, members: int) -> Shape:
    """Shapes of a batch of a reconstruction on a GPU."""
    return Shape(size, members, _PATTERNS_IN_BATCH // members)


def model_on(device: str, generator: str, options: dict[str, Any], shape: Shape) -> PtychoModel:
    """A model on the CPU, or without values on the device "meta"."""
    return PtychoModel(generator, options, shape.size, learn_probe=True, group_size=shape.members).to(device)


def data_on(device: str, shape: Shape) -> tuple[Tensor, Tensor]:
    """Counts (B, C, N, N) and positions (B, C, 2)."""
    generator = None if device == "meta" else torch.Generator().manual_seed(0)
    counts = 100 * torch.rand(shape.groups, shape.members, shape.size, shape.size, device=device, generator=generator)
    largest = float(shape.canvas[0] - shape.size)
    positions = torch.rand(shape.groups, shape.members, 2, dtype=torch.float64, device=device, generator=generator).mul(
        largest
    )
    return counts, positions


def training_step(model: PtychoModel, shape: Shape, device: str = "meta") -> Callable[[], None]:
    """A step without its optimiser: gather, forward, loss and gradients."""
    table, positions = data_on(device, shape)
    rows = torch.zeros(shape.groups * shape.members, dtype=torch.int64, device=device)

    def step() -> None:
        counts = table.flatten(0, 1).index_select(0, rows).view(table.shape)
        canvases = model(counts, positions, shape.canvas)
        loss = loss_of_fields("poisson", model.predict_fields(canvases, positions), counts, model.good)
        loss.backward()

    return step


def inference_batch(model: PtychoModel, shape: Shape, device: str = "meta") -> Callable[[], None]:
    """A batch of a reconstruction: canvases and their weights."""
    table, positions = data_on(device, shape)
    rows = torch.zeros(shape.groups * shape.members, dtype=torch.int64, device=device)

    @torch.no_grad()
    def batch() -> None:
        counts = table.flatten(0, 1).index_select(0, rows).view(table.shape)
        model(counts, positions, shape.canvas)
        canvas_illumination(illumination_weight(model.illumination.probe), positions, shape.canvas)

    return batch


def recorded(step: Callable[[], None]) -> list[Kernel]:
    """The kernels of a call."""
    step()
    recorder = Recorder()
    with recorder:
        step()
    return recorder.kernels


def optimiser_kernels(model: PtychoModel) -> list[Kernel]:
    """Clipping of gradients, fused Adam of the network and momentum of the probe."""
    network = sum(p.numel() for p in model.generator.parameters())
    probe = sum(p.numel() for p in model.illumination.parameters())
    kernels = [Kernel("_fused_adam", "elementwise", 28.0 * network), Kernel("_fused_sgd", "elementwise", 20.0 * probe)]
    for number in (network, probe):
        norms = [Kernel("_foreach_norm", "reduction", 4.0 * number), Kernel("norm", "reduction", 0.0)]
        kernels += [
            *norms,
            *[Kernel("clip", "elementwise", 0.0)] * 3,
            Kernel("_foreach_mul_", "elementwise", 8.0 * number),
        ]
    return kernels


def estimate(generator: str, options: dict[str, Any], shape: Shape, *, training: bool) -> dict[str, Any]:
    """Kernels, bytes, operations and milliseconds of a training step, or of a batch of a reconstruction.

    Args:
        generator: name in the registry.
        options: of the generator.
        shape: of the batch.
        training: a step with gradients and optimiser; else inference.
    """
    model = model_on("meta", generator, options, shape)
    if training:
        kernels = recorded(training_step(model, shape)) + optimiser_kernels(model)
    else:
        model.generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        kernels = recorded(inference_batch(model.eval().requires_grad_(False), shape))
    patterns = shape.groups * shape.members
    row: dict[str, Any] = {
        "generator": generator, "options": json.dumps(options), "N": shape.size, "C": shape.members,
        "B": shape.groups, "what": "training" if training else "inference",
        "parameters": sum(p.numel() for p in model.generator.parameters()), "kernels": len(kernels),
        "gigabytes": sum(k.nbytes for k in kernels) / 1e9, "teraflops": sum(k.operations for k in kernels) / 1e12,
    }  # fmt: skip
    for precision in _RATES:
        microseconds = sum(duration(kernel, precision) for kernel in kernels)
        row[f"ms_{precision}"] = microseconds / 1e3
        row[f"patterns_per_s_{precision}"] = patterns / microseconds * 1e6
    return row


def breakdown(kernels: Sequence[Kernel], precision: str = "tf32") -> dict[str, float]:
    """Microseconds of the kernels by kind, largest first."""
    total: Counter[str] = Counter()
    for kernel in kernels:
        total[kernel.kind] += duration(kernel, precision)  # type: ignore[assignment]
    return dict(total.most_common())


def measure(generator: str, options: dict[str, Any], shape: Shape, seconds: float = 1.5) -> dict[str, Any]:
    """CPU seconds of a training step (with Adam) and of a pattern in a reconstruction: the least of several calls."""
    model = model_on("cpu", generator, options, shape)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.0)
    step = training_step(model, shape, "cpu")

    def with_optimiser() -> None:
        step()
        optimiser.step()
        optimiser.zero_grad()

    training = _shortest(with_optimiser, seconds)
    large = shape._replace(groups=min(16, 4 * shape.groups))
    model.generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    inference = _shortest(inference_batch(model.eval(), large, "cpu"), seconds)
    return {
        "generator": generator, "options": json.dumps(options), "N": shape.size, "C": shape.members,
        "threads": torch.get_num_threads(), "patterns_in_step": shape.groups * shape.members, "step_s": training,
        "training_patterns_per_s": shape.groups * shape.members / training,
        "inference_s_per_pattern": inference / (large.groups * large.members),
        "inference_patterns_per_s": large.groups * large.members / inference,
    }  # fmt: skip


def _shortest(call: Callable[[], None], seconds: float) -> float:
    call()
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        start = time.process_time()  # of this process alone, on a shared machine
        call()
        times.append(time.process_time() - start)
    return min(times)


def rows_of(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    networks = [(arguments.generator, arguments.options)] if arguments.generator else NETWORKS
    for size in arguments.size:
        for members in arguments.members:
            for generator, options in networks:
                if arguments.measure:
                    yield measure(generator, options, Shape(size, members, math.ceil(16 / members)))
                    continue
                for training in (True, False):
                    shape = training_shape(size, members) if training else inference_shape(size, members)
                    if arguments.patterns:
                        shape = shape._replace(groups=math.ceil(arguments.patterns / members))
                    yield estimate(generator, options, shape, training=training)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--generator", help="one network; default: all of the table")
    parser.add_argument("--options", type=json.loads, default={}, help="of the generator, JSON")
    parser.add_argument("--size", type=int, nargs="+", default=[64, 128], help="N")
    parser.add_argument("--members", type=int, nargs="+", default=[1, 16], help="C")
    parser.add_argument("--patterns", type=int, help="in a batch; default: that of the library on a GPU")
    parser.add_argument("--measure", type=int, metavar="THREADS", help="measure on this CPU instead")
    parser.add_argument("--out", type=Path, help="CSV; default: that of all networks")
    arguments = parser.parse_args()
    if arguments.measure:
        torch.set_num_threads(arguments.measure)
    out = arguments.out
    if out is None and not arguments.generator:
        out = RESULTS / ("architecture_cpu.csv" if arguments.measure else "architecture_h200.csv")
    rows = []
    for row in rows_of(arguments):
        rows.append({key: f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()})
        print(", ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
        if out is not None:
            with out.open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
