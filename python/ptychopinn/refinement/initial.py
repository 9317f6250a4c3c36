# SPDX-License-Identifier: BSD-3-Clause
"""Initial state of a refinement: a uniform object, or the object of an earlier reconstruction."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import rank_filter, uniform_filter
from torch import Tensor

from ptycho_ext import CanvasGeometry, translate_images
from ptychopinn.config import RefineConfig
from ptychopinn.errors import InputError
from ptychopinn.experiment import Experiment
from ptychopinn.physics.propagation import squared_modulus
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.refinement.ambiguities import set_mode_count
from ptychopinn.refinement.state import State
from ptychopinn.runtime.memory import available_memory
from ptychopinn.scan import Scan
from ptychopinn.storage.arrays import pattern_blocks

#: Fraction of the typical illumination from which the object of an earlier reconstruction is used.
_COVERED = 1e-4
#: Bytes that a refinement needs at least for a pixel of the canvas: object, gradient, step, illumination.
_BYTES = 32
#: Patterns from which a background is estimated, the quantile of the pixels that its darkest counts do not exceed, and
#: their least value, counts: at 0 there is no slope.
_BACKGROUND_PATTERNS = 256
_DARK_PIXELS = 0.25
_LEAST_BACKGROUND = 1e-3


def initial_state(
    scan: Scan,
    start: Reconstruction | None,
    geometry: CanvasGeometry,
    positions: NDArray[np.float64],
    config: RefineConfig,
) -> State:
    """Make the initial state of a refinement, on the CPU.

    Args:
        scan: its probe is used where ``start`` has none.
        start: an earlier reconstruction, whose object is used where it is illuminated; None: a uniform object of the
            mean transmission.
        geometry: of the canvas.
        positions: (n, 2), scan coordinates (y, x), pixels.
        config: number of probe modes, and what else is refined.

    Raises:
        InputError: the probe of ``start`` has another size than the patterns, its object is outside the scan, or the
            canvas exceeds the memory.
    """
    probe = torch.from_numpy(scan.probe)
    if start is not None and start.probe is not None:
        if start.probe.shape[-1] != scan.patch_size:
            raise InputError(
                f"{scan.name}: expected a start whose probe is {scan.patch_size} pixels wide like the patterns, "
                f"found {start.probe.shape[-1]}; --from-scratch begins without it"
            )
        probe = torch.from_numpy(start.probe)
    probe = set_mode_count(probe, config.modes or len(probe))
    good = slice(None) if scan.bad_pixels is None else ~scan.bad_pixels
    mean = sum(float(scan.counts[part][:, good].sum(dtype=np.float64)) for part in pattern_blocks(scan.counts.shape))
    mean /= scan.n
    level = math.sqrt(mean / float(squared_modulus(probe).sum()))
    _check_memory(scan.name, geometry.shape)
    image = torch.full(geometry.shape, level, dtype=torch.complex64, device="cpu")
    if start is not None:
        _insert_object(scan, start, geometry, image)
    intensities = torch.zeros(scan.n, dtype=torch.float64, device="cpu")
    state = State(image, probe.clone(), geometry.to_canvas(positions), intensities)
    _add_experiment(state, scan, start, geometry, config)
    return state


def experiment_of(scan: Scan, start: Reconstruction | None, config: RefineConfig) -> Experiment:
    """The experiment that a refinement begins with: the scan's, with what the start found and the options add.

    Raises:
        InputError: slices are asked for without a distance, or a thick sample has no pixel size or energy.
    """
    experiment = scan.experiment
    if start is not None and start.positions is not None and len(start.positions) == scan.n:
        found = start.experiment
        if found.probe_variations is not None and config.probe_variations:
            experiment = replace(
                experiment,
                probe_variations=found.probe_variations,
                variation_coefficients=found.variation_coefficients,
            )
        if found.background is not None and config.learn_background:
            experiment = replace(experiment, background=found.background)
        if len(found.slice_distances) == len(experiment.slice_distances) and config.learn_slice_distances:
            experiment = replace(experiment, slice_distances=found.slice_distances)
    if config.slices > 1 and not experiment.slice_distances:
        if config.slice_distance is None:
            raise InputError(
                f"{scan.name}: expected metres between the {config.slices} slices, found none; "
                "state refine.slice_distance (--refine.slice_distance)"
            )
        experiment = replace(experiment, slice_distances=(config.slice_distance,) * (config.slices - 1))
    if experiment.slice_distances and (scan.pixel_size is None or scan.energy is None):
        raise InputError(
            f"{scan.name}: expected a pixel size and an energy, for the propagation between slices, found none; "
            "state pixel_size and energy (--pixel-size, --energy)"
        )
    return experiment


def _add_experiment(
    state: State, scan: Scan, start: Reconstruction | None, geometry: CanvasGeometry, config: RefineConfig
) -> None:
    """Give a state the parts of its experiment."""
    experiment = experiment_of(scan, start, config)
    if experiment.probe_variations is not None:
        assert experiment.variation_coefficients is not None
        state.variations = torch.from_numpy(experiment.probe_variations.copy())
        state.coefficients = torch.from_numpy(experiment.variation_coefficients.copy())
    if experiment.background is not None or config.learn_background:
        counts = dark_counts(scan) if experiment.background is None else experiment.background
        state.background = torch.from_numpy(np.fft.ifftshift(np.sqrt(counts.astype(np.float64))))
    if experiment.slice_distances:
        state.distances = torch.tensor(experiment.slice_distances, dtype=torch.float64, device="cpu")
        if start is not None and start.slices is not None and len(start.slices) == experiment.slices:
            level = state.object.new_ones(experiment.slices, *state.object.shape)
            for image, values in zip(level, start.slices, strict=True):
                _insert_object(scan, start, geometry, image, values)
            state.object = level
        else:
            # An even object is the same in all slices, another one is in the middle.
            even = start is None
            ones = torch.ones_like(state.object)
            root = state.object ** (1 / experiment.slices)
            middle = experiment.slices // 2
            state.object = torch.stack(
                [root if even else state.object if index == middle else ones for index in range(experiment.slices)]
            )


def dark_counts(scan: Scan) -> NDArray[np.float64]:
    """First estimate of a background, (N, N) counts: the mean of the darkest tenth of the patterns in every pixel.

    It is at most that of a dark pixel, as pixels that are bright in all patterns have the sample's counts in it. Hot
    pixels have what single pixels have above their neighbours: otherwise a plane wave of the probe explains them.
    """
    chosen = np.unique(np.linspace(0, scan.n - 1, min(scan.n, _BACKGROUND_PATTERNS)).astype(int))
    counts = np.asarray(scan.subset(chosen).counts, np.float64)
    # The mean of neighbours: the lowest of single counts would be 0, where there is a count or two.
    sample = uniform_filter(counts, (1, 5, 5), mode="nearest")
    sample.sort(axis=0)
    lowest = sample[: max(1, len(sample) // 10)].mean(0)
    good = np.ones(lowest.shape, bool) if scan.bad_pixels is None else ~scan.bad_pixels
    level = np.minimum(lowest, np.quantile(lowest[good], _DARK_PIXELS))
    single = np.quantile(counts, 0.1, axis=0) * good
    excess = single - rank_filter(single, -3, size=3)  # the third of nine: two neighbours may be hot
    level += np.where(excess > 5 * np.sqrt(single), excess, 0)
    estimate: NDArray[np.float64] = np.maximum(level, _LEAST_BACKGROUND)
    return estimate


def _check_memory(name: str, shape: tuple[int, int]) -> None:
    needed, available = _BYTES * shape[0] * shape[1], available_memory()
    if needed > available:
        raise InputError(
            f"{name}: expected a canvas that fits into {available / 2**30:,.0f} GiB of memory, found one of "
            f"{shape[0]} x {shape[1]} px, which needs {needed / 2**30:,.0f} GiB; check the unit of the positions and "
            "the pixel size, or omit outlying patterns (--drop-outliers)"
        )


def _insert_object(
    scan: Scan,
    start: Reconstruction,
    geometry: CanvasGeometry,
    image: Tensor,
    values: NDArray[np.complex64] | None = None,
) -> None:
    """Copy the object of ``start``, or other values on its canvas, to the image (H, W), where it is illuminated."""
    covered = start.covered(_COVERED)
    source = torch.from_numpy(np.where(covered, start.object if values is None else values, 0))
    origin = np.array(start.origin) - geometry.origin
    corner = np.floor(origin + 0.5).astype(int)
    subpixel = origin - corner
    if np.abs(subpixel).max() > 1e-6:
        source = translate_images(source[None], torch.from_numpy(subpixel)[None])[0]
    low, high = np.maximum(corner, 0), np.minimum(corner + source.shape, image.shape)
    if (high <= low).any():
        raise InputError(
            f"{scan.name}: expected a start whose object overlaps the scan, found one at {start.origin} (y, x) "
            f"with shape {start.shape}; --from-scratch begins without it"
        )
    target = image[low[0] : high[0], low[1] : high[1]]
    part = np.s_[low[0] - corner[0] : high[0] - corner[0], low[1] - corner[1] : high[1] - corner[1]]
    target.copy_(torch.where(torch.from_numpy(covered[part]), source[part], target))
