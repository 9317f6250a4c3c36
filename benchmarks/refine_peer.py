# SPDX-License-Identifier: BSD-3-Clause
"""LSQML of pty-chi on the same scan, optional, for benchmarks/refine.py.

Install it without its dependencies, which would install another torch::

    pip install --no-deps ptychi==2.2.0 pandas scikit-learn joblib threadpoolctl narwhals tifffile
    pip install pydantic

It imports torchvision for one blur, which no case uses; an empty module replaces it where it is not installed.
"""

from __future__ import annotations

import logging
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from ptycho_ext import extract_patches_adjoint
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.scan import Scan


@dataclass(frozen=True)
class PeerSetting:
    """Options of LSQML that differ from its defaults; both settings are recommended by its documentation."""

    name: str
    batching: str
    momentum: float
    batch: int = 100


#: The defaults (random batches), and compact batches with the momentum recommended for them.
SETTINGS = (PeerSetting("lsqml", "random", 0.0), PeerSetting("lsqml compact", "compact", 0.5))


def installed() -> bool:
    """Whether pty-chi can be imported."""
    return find_spec("ptychi") is not None


def lsqml(
    scan: Scan, setting: PeerSetting, epochs: int, adjust: Callable[[Any], None] | None = None
) -> Iterator[tuple[int, float, Reconstruction]]:
    """Yield (epochs, CPU-seconds, reconstruction) after every epoch; the initial object is 1, the probe is refined.

    The object is 40 px larger than the scan, whose centre is at the object's centre. ``adjust`` changes the options of
    LSQML before it begins.
    """
    _prepare()
    from ptychi.api.task import PtychographyTask

    shape, middle = _frame([scan])
    options = _options(scan, setting, epochs, shape, middle)
    if adjust is not None:
        adjust(options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        task = PtychographyTask(options)
        seconds = 0.0
        for epoch in range(1, epochs + 1):
            began = time.process_time()
            task.run(1)
            seconds += time.process_time() - began
            yield epoch, seconds, _reconstruction(task, scan, middle)


def shared_object(
    scans: Sequence[Scan], setting: PeerSetting, epochs: int
) -> Iterator[tuple[int, float, Reconstruction]]:
    """Yield as :func:`lsqml`, of the workflow for scans of one sample: an epoch of each scan in turn, with one object.

    The scans are in one coordinate system, each with its own probe; the reconstruction has the probe of the first, and
    the illumination by all.
    """
    _prepare()
    import ptychi.api as api
    from ptychi.workflows.multiscan_shared_object import MultiscanSharedObjectWorkflow

    class Stepwise(MultiscanSharedObjectWorkflow):  # type: ignore[misc]
        """The workflow, whose ``run`` continues with the tasks of the one before."""

        built: list[Any] | None = None

        def _build_tasks(self) -> None:
            if self.built is None:
                super()._build_tasks()
                self.built = self.tasks
            self.tasks = self.built

    shape, middle = _frame(scans)
    every = [_options(scan, setting, epochs, shape, middle) for scan in scans]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outer = api.MultiscanSharedObjectWorkflowOptions(num_outer_epochs=epochs, num_inner_epochs=1)
        workflow = Stepwise(every, workflow_options=outer)
        workflow.workflow_options.num_outer_epochs = 1
        workflow._build_tasks()
        seconds = 0.0
        for epoch in range(1, epochs + 1):
            workflow.tasks = []
            began = time.process_time()
            workflow.run()
            seconds += time.process_time() - began
            states = [_reconstruction(task, scan, middle) for task, scan in zip(workflow.tasks, scans, strict=True)]
            yield epoch, seconds, replace(states[0], weights=np.sum([state.weights for state in states], axis=0))


def _prepare() -> None:
    """What pty-chi needs before it is imported."""
    if "torchvision" not in sys.modules and find_spec("torchvision") is None:
        transforms = types.ModuleType("torchvision.transforms")
        transforms.GaussianBlur = None  # type: ignore[attr-defined]
        sys.modules["torchvision"] = types.ModuleType("torchvision")
        sys.modules["torchvision.transforms"] = transforms
    logging.disable(logging.INFO)


def _frame(scans: Sequence[Scan]) -> tuple[list[int], np.ndarray]:
    """Shape of the object of scans in one coordinate system, and its centre, as a position."""
    positions = np.concatenate([scan.positions for scan in scans])
    extent = np.ptp(positions, axis=0) + scans[0].patch_size + 40
    return [int(np.ceil(side / 2) * 2) for side in extent], (positions.max(0) + positions.min(0)) / 2


def _options(scan: Scan, setting: PeerSetting, epochs: int, shape: list[int], middle: np.ndarray) -> Any:
    """Options of LSQML for a scan, whose position ``middle`` is the centre of the object."""
    import ptychi.api as api

    options = api.LSQMLOptions()
    options.data_options.data = scan.counts.astype(np.float32)
    options.object_options.initial_guess = np.ones((1, *shape), np.complex64)
    options.probe_options.initial_guess = scan.probe[None]
    options.probe_position_options.position_y_px = (scan.positions - middle)[:, 0]
    options.probe_position_options.position_x_px = (scan.positions - middle)[:, 1]
    reconstructor = options.reconstructor_options
    reconstructor.num_epochs, reconstructor.batch_size = epochs, setting.batch
    reconstructor.batching_mode, reconstructor.momentum_acceleration_gain = setting.batching, setting.momentum
    reconstructor.default_device, reconstructor.random_seed = "cpu", 0
    return options


def correct_positions(adam: float | None = None) -> Callable[[Any], None]:
    """Make the function that has positions corrected by the gradient from the second epoch on.

    Args:
        adam: step size of Adam, pixels, with steps of up to 1 px; None: the defaults.
    """

    def adjust(options: Any) -> None:
        import ptychi.api as api

        positions = options.probe_position_options
        positions.optimizable, positions.optimization_plan.start = True, 1
        if adam is not None:
            positions.optimizer, positions.step_size = api.Optimizers.ADAM, adam
            positions.correction_options.update_magnitude_limit = 1.0

    return adjust


def _reconstruction(task: object, scan: Scan, middle: np.ndarray) -> Reconstruction:
    slices = task.get_data_to_cpu("object", as_numpy=True).astype(np.complex64)  # type: ignore[attr-defined]
    image = slices.prod(0)
    probe = task.get_data_to_cpu("probe", as_numpy=True)[0].astype(np.complex64)  # type: ignore[attr-defined]
    size = scan.patch_size
    origin = middle - (np.array(image.shape) / 2 - size / 2)
    intensity = torch.from_numpy(np.square(np.abs(probe)).sum(0)).float().expand(scan.n, size, size).contiguous()
    found = [getattr(task, f"get_probe_positions_{axis}")(as_numpy=True) for axis in "yx"]
    positions = np.stack(found, 1).astype(np.float64) + middle
    weights = extract_patches_adjoint(intensity, torch.from_numpy(positions - origin), image.shape)
    thick = {"slices": slices, "experiment": scan.experiment} if len(slices) > 1 else {}
    first = (float(origin[0]), float(origin[1]))
    return Reconstruction(
        image, weights.numpy(), first, probe, positions=positions, pixel_size=scan.pixel_size, **thick
    )
