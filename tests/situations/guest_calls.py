# SPDX-License-Identifier: BSD-3-Clause
"""Every public call in one fresh process: what it returns, and what of the process and of a caller's model it changes.

For test_guest.py: run with a file for the results (NPZ), and names of torch's default type and device. The process has
imported torch, NumPy and matplotlib, and nothing of the library; so a call also shows what its imports change. Each
change is one line on standard output.
"""

from __future__ import annotations

import gc
import locale
import logging
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch

import ptychopinn as pp


def default_device() -> str:
    """torch's, also where it cannot be used."""
    try:
        return str(torch.get_default_device())
    except (RuntimeError, AssertionError) as error:
        return str(error)


def process_state() -> dict[str, Any]:
    """Everything of the process that belongs to the caller, by name."""
    cudnn = torch.backends.cudnn
    return {
        "default type": torch.get_default_dtype(),
        "default device": default_device(),
        "torch threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled()),
        "cudnn": (cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32),
        "precision": (torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32),
        "deterministic": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        "sharing of tensors": torch.multiprocessing.get_sharing_strategy(),
        "torch seed": (torch.initial_seed(), torch.get_rng_state().tolist()),
        "numpy seed": [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],  # noqa: NPY002
        "random seed": random.getstate(),
        "environment": dict(os.environ),
        "warnings": (warnings.filters[:], warnings.formatwarning, warnings.showwarning),
        "signals": [signal.getsignal(number) for number in sorted(signal.valid_signals())],
        "loggers": {
            name: (logger.level, list(logger.handlers), logger.propagate, logger.disabled)
            for name, logger in [("", logging.root), *logging.root.manager.loggerDict.items()]
            if isinstance(logger, logging.Logger)
        },
        "logging": (logging.root.manager.disable, logging.getLoggerClass(), logging.raiseExceptions),
        "start method": multiprocessing.get_start_method(allow_none=True),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "children": len(multiprocessing.active_children()),
        "matplotlib": dict.copy(matplotlib.rcParams),
        "pyplot": "matplotlib.pyplot" in sys.modules,
        "streams": [(stream, stream.errors) for stream in (sys.stdout, sys.stderr)],  # type: ignore[attr-defined]
        "hooks": (sys.excepthook, sys.displayhook, threading.excepthook, sys.unraisablehook, sys.gettrace()),
        "numpy": (np.geterr(), repr(np.get_printoptions())),
        "python": (sys.path[:], sys.getrecursionlimit(), gc.isenabled(), gc.get_threshold(), tempfile.tempdir),
        "place": (os.getcwd(), locale.setlocale(locale.LC_ALL), os.umask(os.umask(0o22))),
    }


def changes(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    """Names of what differs; loggers that a library has made for itself do not count."""
    for name, was in before.items():
        now = after[name]
        if name == "loggers":
            now = {logger: now[logger] for logger in was}
        if isinstance(was, dict) and was != now:
            yield f"{name}: {sorted(key for key in {*was, *now} if was.get(key) != now.get(key))}"
        elif was != now:
            yield f"{name}: {str(was)[:200]} -> {str(now)[:200]}"


@dataclass
class Guest:
    """What the calls share: a folder, and what earlier calls have made."""

    folder: Path
    made: dict[str, Any] = field(default_factory=dict)

    def config(self, **training: Any) -> Any:
        """A configuration of a training that takes a second."""
        return pp.Config.from_dict(
            {
                "data": {"group_size": 4},
                "model": {"options": {"steps": 2, "width": 8, "state": 2}},
                "training": {"epochs": 1, "batch_size": 4, **training},
                "execution": {"accelerator": "cpu", "threads": 1, "picture_every": 1, "deterministic": True},
            }
        )

    @property
    def scan(self) -> Any:
        return self.made["simulate"]

    @property
    def model(self) -> Any:
        """A caller's model, in the midst of a training of the caller's own."""
        return self.made["train"].model


def weights(model: Any) -> list[Any]:
    """All that a model has learned."""
    return [value.numpy() for value in model.state_dict().values()]


def simulate(guest: Guest) -> list[Any]:
    scan = guest.made["simulate"] = pp.simulate("dead_leaves", patterns=36, size=32, photons=1e5, seed=3)
    return [scan.counts, scan.probe, scan.truth]


def convert(guest: Guest) -> list[Any]:
    from dataclasses import replace

    replace(guest.scan, pixel_size=1e-8).save(guest.folder / "scan.cxi")
    guest.scan.save(guest.folder / "scan.npz")
    return [pp.Scan.load(guest.folder / name).counts[:] for name in ("scan.cxi", "scan.npz")]


def inspect(guest: Guest) -> list[Any]:
    found = pp.inspect(guest.scan)
    assert found.orientation is not None
    return [list(found.orientation.scores.values()), found.patterns.offset, found.patterns.mean]


def train(guest: Guest) -> list[Any]:
    run = guest.made["train"] = pp.train(guest.scan, guest.folder / "run", guest.config())
    guest.made["kept"] = [value.copy() for value in weights(run.model)]
    return [*guest.made["kept"], list(run.losses.values())]


def fine_tune(guest: Guest) -> list[Any]:
    return weights(pp.train(guest.scan, guest.folder / "tuned", guest.config(seed=2), start=guest.model).model)


def run(guest: Guest) -> list[Any]:
    amplitude, phase, _ = pp.run(guest.scan, config=guest.config())
    return [amplitude, phase]


def predict(guest: Guest) -> list[Any]:
    from ptychopinn.inference.predict import predict

    return [predict(guest.model, guest.scan, guest.config()).canvases]


def reconstruct(guest: Guest) -> list[Any]:
    result = guest.made["result"] = pp.reconstruct(guest.model, guest.scan, guest.config())
    return [result.object, result.weights]


def reconstruct_several(guest: Guest) -> list[Any]:
    from dataclasses import replace

    config = replace(guest.config(), inference=replace(guest.config().inference, uncertainty="ensemble"))
    return [pp.reconstruct([guest.model, guest.model], guest.scan, config).object]


def reconstruct_to_file(guest: Guest) -> list[Any]:
    pp.reconstruct_to_file(guest.model, guest.scan, guest.folder / "large.h5", guest.config())
    return [pp.Reconstruction.load(guest.folder / "large.h5").object]


def save(guest: Guest) -> list[Any]:
    guest.made["result"].save(guest.folder / "result.h5")
    return [pp.Reconstruction.load(guest.folder / "result.h5").object]


def refine(guest: Guest) -> list[Any]:
    config = pp.RefineConfig(iterations=3, split_half=False)
    results = [pp.refine(guest.scan, start, config) for start in (None, guest.made["result"])]
    return [result.object for result in results] + [guest.made["result"].object]


def evaluate(guest: Guest) -> list[Any]:
    truth = pp.Reconstruction(guest.scan.truth, np.ones(guest.scan.truth.shape, np.float32), (0.0, 0.0))
    metrics = pp.evaluate(truth, guest.scan, border=4)
    return [metrics["frc"]["mean"], metrics["phase"]["rmse"]]


def plot(guest: Guest) -> list[Any]:
    from ptychopinn.plotting import plot_scan_overview

    written = pp.plot_reconstruction(guest.made["result"], guest.folder / "pictures")
    written += plot_scan_overview(guest.scan, guest.folder / "pictures" / "scan.png")
    return [path.stat().st_size > 0 for path in written]


def bundle(guest: Guest) -> list[Any]:
    pp.save_bundle(guest.model, guest.config(), guest.folder / "model.zip", {})
    return weights(pp.load_bundle(guest.folder / "model.zip")[0])


def refused(guest: Guest) -> list[Any]:
    """Calls that end in an error leave the process as it was, too."""
    (guest.folder / "file").write_text("")
    calls: list[Callable[[], Any]] = [
        lambda: pp.train(guest.scan, guest.folder / "file" / "run", guest.config()),
        lambda: pp.Scan.load(guest.folder / "file"),
        lambda: pp.reconstruct(guest.model, guest.scan, guest.config(), "nowhere"),
        lambda: pp.refine(guest.scan, None, pp.RefineConfig(iterations=1), "nowhere"),
    ]
    for call in calls:
        try:
            call()
        except pp.InputError:
            continue
        raise AssertionError("expected an InputError")
    return [len(calls)]


CALLS: tuple[Callable[[Guest], list[Any]], ...] = (
    simulate, convert, inspect, train, fine_tune, run, predict, reconstruct, reconstruct_several, reconstruct_to_file,
    save, refine, evaluate, plot, bundle, refused,
)  # fmt: skip


def busy(model: Any) -> dict[str, Any]:
    """Put a model into a state of the caller's: parts in training, parts fixed. Returns that state."""
    model.train()
    for k, part in enumerate(model.modules()):
        if k % 3 == 2:
            part.training = False
    for k, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(k % 2 == 0)
    return model_state(model)


def model_state(model: Any) -> dict[str, Any]:
    """All of a model that a call may change."""
    tensors = [*model.parameters(), *model.buffers()]
    return {
        "training": [part.training for part in model.modules()],
        "requires_grad": [tensor.requires_grad for tensor in tensors],
        "grad": [tensor.grad is None for tensor in tensors if tensor.is_leaf],
        "inference": [tensor.is_inference() for tensor in tensors],
        "memory": [(tensor.data_ptr(), tensor._version, tensor.dtype, str(tensor.device)) for tensor in tensors],
        "identity": [id(tensor) for tensor in tensors],
        "hooks": [len(part._forward_hooks) + len(part._backward_hooks) for part in model.modules()],
    }


def main(results: str, default_type: str, default_device: str) -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(getattr(torch, default_type))
    if default_device != "cpu":
        torch.set_default_device(default_device)
    torch.manual_seed(11)
    arrays: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        guest, model = Guest(Path(folder)), None
        for call in CALLS:
            before = process_state()
            returned = call(guest)
            for line in changes(before, process_state()):
                print(f"{call.__name__}: {line}")
            for k, value in enumerate(returned):
                arrays[f"{call.__name__} {k}"] = np.asarray(value)
            if model is not None:
                for line in changes(model, model_state(guest.model)):
                    print(f"{call.__name__}: the model's {line}")
                for was, now in zip(guest.made["kept"], weights(guest.model), strict=True):
                    assert np.array_equal(was, now), call.__name__
            if call is train:
                model = busy(guest.model)
    np.savez(results, **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(*sys.argv[1:])
