# SPDX-License-Identifier: BSD-3-Clause
"""Every tensor that the library makes has a stated device and type.

Other code in the process may have called ``torch.set_default_device`` or ``torch.set_default_dtype``. The source is
read for calls of torch's factories and of layers with parameters that leave them to the defaults; the results with and
without other defaults are compared in test_default_device.py.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("ptycho_ext", "python/ptychopinn", "integrations")

#: Factories of the default type, and those of an integer type or that of their arguments.
FLOATS = (
    *("zeros", "ones", "empty", "full", "eye", "linspace", "logspace", "rand", "randn", "tensor", "as_tensor"),
    *("asarray", "scalar_tensor", "empty_strided", "empty_permuted", "fft.fftfreq", "fft.rfftfreq"),
    *("hann_window", "hamming_window", "bartlett_window", "blackman_window", "kaiser_window"),
)
INTEGERS = ("arange", "range", "randint", "randperm", "tril_indices", "triu_indices")
#: Layers that make parameters, of the default device and type where these are not arguments.
LAYERS = {
    *(f"Conv{n}d" for n in (1, 2, 3)),
    *(f"ConvTranspose{n}d" for n in (1, 2, 3)),
    *(f"BatchNorm{n}d" for n in (1, 2, 3)),
    *("Linear", "Bilinear", "GroupNorm", "LayerNorm", "RMSNorm", "Embedding", "LSTM", "GRU", "MultiheadAttention"),
    *("PReLU", "Transformer", "TransformerEncoderLayer", "TransformerDecoderLayer"),
}
#: Constructors of old, which take no device.
OLD = {"Tensor", "FloatTensor", "DoubleTensor", "IntTensor", "LongTensor", "BoolTensor"}


def faults(source: str) -> Iterator[str]:
    """Yield a sentence for every call that leaves the device or the type to torch's defaults."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module in ("torch", "torch.fft", "torch.nn"):
            names = {alias.name for alias in node.names} & (
                {*FLOATS, *INTEGERS, "fftfreq", "rfftfreq"} | OLD - {"Tensor"} | LAYERS
            )
            yield from (f"line {node.lineno}: {name} is imported by itself: call torch.{name}" for name in names)
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        stated = {keyword.arg for keyword in node.keywords}
        if None in stated:  # **arguments, which the results show
            continue
        factory = name.removeprefix("torch.") if name.startswith("torch.") else ""
        if factory in OLD or name == "Tensor":
            yield f"line {node.lineno}: {name} takes no device: call torch.empty or torch.tensor"
        elif factory in FLOATS + INTEGERS:
            literals = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
            typed = "dtype" in stated or not (factory in FLOATS or any(isinstance(v, float) for v in literals))
            if not ("device" in stated and typed):
                yield f"line {node.lineno}: {name} needs device= and, unless its result is of integers, dtype="
        elif name.removeprefix("torch.").removeprefix("nn.") in LAYERS and not {"device", "dtype"} <= stated:
            yield f"line {node.lineno}: {name} needs device= and dtype="


def sources() -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_factories_state_device_and_type(path: Path) -> None:
    found = list(faults(path.read_text()))
    assert not found, "\n".join(found)


def test_sources_exist() -> None:
    names = {str(path.relative_to(ROOT)) for path in sources()}
    assert {"ptycho_ext/canvas.py", "python/ptychopinn/models/unrolled.py"} <= names
    assert any(name.startswith("integrations/") for name in names)


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("torch.zeros(3)", True),
        ("torch.zeros(3, device=d)", True),
        ("torch.zeros(3, dtype=t)", True),
        ("torch.zeros(3, device=d, dtype=t)", False),
        ("torch.zeros(3, **place)", False),
        ("torch.arange(3)", True),
        ("torch.arange(n, device=d)", False),
        ("torch.arange(0.5, n, device=d)", True),
        ("torch.fft.fftfreq(8, device=d)", True),
        ("torch.as_tensor(values)", True),
        ("torch.FloatTensor(3)", True),
        ("Tensor([1.0])", True),
        ("torch.zeros_like(x)", False),
        ("x.new_zeros(3)", False),
        ("torch.from_numpy(a)", False),
        ("np.zeros(3)", False),
        ("nn.Conv2d(1, 1, 3)", True),
        ("torch.nn.Linear(1, 1)", True),
        ("nn.Conv2d(1, 1, 3, **ON_CPU)", False),
        ("from torch import zeros", True),
        ("from torch import Tensor, nn", False),
        ("from torch.nn import Linear", True),
    ],
)
def test_faults_are_found(source: str, wrong: bool) -> None:
    assert bool(list(faults(source))) == wrong
