# SPDX-License-Identifier: BSD-3-Clause
"""Scans with a known object, in the folders that ptychodus works on in its headless mode, written by its own code.

Another size, a non-square object, its centre away from zero, several probe modes: each must come back with the shape of
the object that ptychodus asked for, and with its phase.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptychodus.api.assemble import AssembledDiffractionData
from ptychodus.api.constants import energy_eV_to_wavelength_m
from ptychodus.api.geometry import ImageExtent, PixelGeometry
from ptychodus.api.io import save_diffraction_data, save_product, save_ptychopinn_training_data
from ptychodus.api.object import Object, ObjectCenter
from ptychodus.api.probe import ProbeSequence
from ptychodus.api.probe_positions import ProbePosition, ProbePositionSequence
from ptychodus.api.product import Product, ProductMetadata
from ptychodus.api.propagate import compute_far_field_pixel_geometry
from ptychodus.api.reconstruct import prepare_reconstruct_input
from skimage.registration import phase_cross_correlation

ENERGY, DISTANCE, PIXEL = 1e4, 1.0, 75e-6


@dataclass(frozen=True)
class Case:
    """A scan: patterns of ``size`` px on a raster of rows by columns, and how it is trained on."""

    name: str
    size: int
    rows: int
    columns: int
    modes: int
    group: int
    epochs: int
    centre: tuple[float, float]
    first: int = 0
    masked: bool = False


CASES = (
    Case("small", 32, 10, 10, 1, 1, 40, (0.0, 0.0)),
    Case("two-modes", 64, 10, 10, 2, 1, 40, (2.5e-6, -1e-6)),
    Case("non-square", 32, 8, 16, 1, 4, 30, (-7e-6, 4e-6)),
)

#: Of which the first route cannot know where it lies.
PART = Case("part", 32, 12, 10, 1, 4, 40, (2e-6, 1e-6), first=50, masked=True)


def probe_of(case: Case, photons: float = 1e5) -> NDArray[np.complex64]:
    """(modes, N, N): a curved spot, and weaker ones that are orthogonal to it by their symmetry."""
    y, x = np.mgrid[: case.size, : case.size] - (case.size - 1) / 2
    spot = np.exp(-(x**2 + y**2) / (2 * (0.15 * case.size) ** 2) + 0.01j * (32 / case.size) * (x**2 + y**2))
    modes = np.stack([spot, 0.4 * spot * x / (0.15 * case.size)])[: case.modes]
    return (modes * np.sqrt(photons / np.square(np.abs(modes)).sum())).astype(np.complex64)


def object_of(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.complex64]:
    """A smooth random phase with a little absorption."""
    frequency = np.add.outer(np.fft.fftfreq(shape[0]) ** 2, np.fft.fftfreq(shape[1]) ** 2)
    field = np.fft.ifft2(np.fft.fft2(rng.normal(size=shape)) * np.exp(-frequency / 2 / 0.04**2)).real
    field /= np.abs(field).max()
    return (np.exp(0.8j * field) * (1 - 0.15 * field**2)).astype(np.complex64)


def settings_of(case: Case, algorithm: str) -> str:
    """Settings of a case, for either route."""
    return f"[Processing]\nAlgorithm = {algorithm}\n" + (
        f"[PtychoPINNTorchData]\nmodel_size = {case.size}\nnum_channels = {case.group}\n"
        "coordinate_subsampling_factor = 1\n"
        "x_lower_bound = 0.0\nx_upper_bound = 1.0\ny_lower_bound = 0.0\ny_upper_bound = 1.0\n"
        f"[PtychoPINNTorchTraining]\nepochs = {case.epochs}\nbatch_size = 8\nlearning_rate = 0.002\n"
        "num_dataloader_workers = 0\ndevice = cpu\ndistributed_strategy = auto\n"
        f"[PtychoPINNNetworkData]\ngroup_size = {case.group}\n"
        f"[PtychoPINNNetworkTraining]\nepochs = {case.epochs}\nbatch_size = 8\n"
        "[PtychoPINNNetworkExecution]\naccelerator = cpu\npicture_every = none\n"
        f"[PtychoPINNRefinement]\niterations = {max(case.epochs, 40)}\ntolerance = 0.0\n"
        "[PtychoPINNRefinementExecution]\naccelerator = cpu\n"
    )


def write(case: Case, folder: Path, algorithm: str) -> NDArray[np.complex64]:
    """The folders ``train`` and ``infer`` of a case; returns its object."""
    rng = np.random.default_rng(7)
    step, size = case.size / 8, case.size
    wavelength = energy_eV_to_wavelength_m(ENERGY)
    detector = PixelGeometry(PIXEL, PIXEL)
    pixel = compute_far_field_pixel_geometry(
        detector, ImageExtent(size, size), wavelength_m=wavelength, propagation_distance_m=DISTANCE
    )
    shape = (int(size + (case.rows - 1) * step) + 8, int(size + (case.columns - 1) * step) + 10)
    truth, probe = object_of(shape, rng), probe_of(case)
    points, patterns = [], []
    # The middle of the scanned area is that of the object, as ptychodus lays objects out.
    spans = [(count - 1) * step for count in (case.rows, case.columns)]
    first = [(side - size - span) / 2 for side, span in zip(shape, spans, strict=True)]
    for row in range(case.rows):
        for column in range(case.columns):
            corner = [int(first[0] + row * step), int(first[1] + column * step)]
            y, x = (c + (size - 1) / 2 - (side - 1) / 2 for c, side in zip(corner, shape, strict=True))
            points.append(
                ProbePosition(len(points), case.centre[1] + pixel.width_m * x, case.centre[0] + pixel.height_m * y)
            )
            patch = truth[corner[0] : corner[0] + size, corner[1] : corner[1] + size]
            waves = np.fft.fftshift(
                np.fft.fft2(np.fft.ifftshift(probe * patch, axes=(1, 2)), norm="ortho"), axes=(1, 2)
            )
            patterns.append(rng.poisson(np.square(np.abs(waves)).sum(0)))
    counts = np.array(patterns, np.uint16)
    bad = np.zeros((size, size), np.bool_)
    if case.masked:  # in the middle of the pattern, with nonsense in them
        bad[size // 2, size // 2 : size // 2 + 3] = True
        counts[:, bad] = 60_000
    # The later patterns only, by their indexes; the product has all positions.
    data = AssembledDiffractionData(np.arange(len(counts))[case.first :], counts[case.first :], detector, bad)
    metadata = ProductMetadata(
        name=case.name, comments="", detector_distance_m=DISTANCE, photon_energy_eV=ENERGY, probe_photon_count=1e5,
        exposure_time_s=0.01, mass_attenuation_m2_per_kg=0.0, tomography_angle_deg=0.0,
    )  # fmt: skip

    def product(image: NDArray[np.complex64]) -> Any:
        return Product(
            metadata=metadata, probe_positions=ProbePositionSequence(points),
            probes=ProbeSequence(probe[np.newaxis], None, pixel),
            object_=Object(image, pixel, ObjectCenter(case.centre[1], case.centre[0])), losses=[],
        )  # fmt: skip

    for name in ("train", "infer"):
        (folder / name).mkdir(parents=True)
        save_diffraction_data(folder / name / "diffraction.h5", data)
        save_product(folder / name / "product.h5", product(np.ones_like(truth)))
        (folder / name / "settings.ini").write_text(settings_of(case, algorithm))
    if "torch" in algorithm:  # the other route trains on the pair itself
        given = prepare_reconstruct_input(data, product(truth))
        save_ptychopinn_training_data(folder / "train" / "train_data.npz", given)
    return truth


def ptychodus(folder: Path, job: str, source: str, target: str) -> tuple[int, str]:
    """The exit code and the log of a headless run of ptychodus."""
    command = [str(Path(sys.executable).with_name("ptychodus")), "-b", job, "-i", source, "-o", target]
    environment = os.environ | {"HOME": str(folder), "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return ended.returncode, ended.stdout


def likeness(
    found: NDArray[np.complexfloating], truth: NDArray[np.complexfloating]
) -> tuple[float, NDArray[np.float64]]:
    """Of the phases without their planes: their correlation, and (y, x) pixels between them."""

    def phase(image: NDArray[np.complexfloating]) -> NDArray[np.float64]:
        y, x = np.mgrid[: image.shape[0], : image.shape[1]]
        terms = np.column_stack([y.ravel(), x.ravel(), np.ones(image.size)])
        values = np.angle(image).ravel()
        return (values - terms @ np.linalg.lstsq(terms, values, rcond=None)[0]).reshape(image.shape)

    one, other = phase(found), phase(truth)
    # A window, since what goes out on one side does not come in on the other.
    window = np.outer(*(np.hanning(side) for side in one.shape))
    shift, _, _ = phase_cross_correlation(other * window, one * window, upsample_factor=20, normalization=None)
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1]), shift
