# SPDX-License-Identifier: BSD-3-Clause
"""An unmodified ptychodus 1.7.0 trains and reconstructs with this package, headless, on scans with a known object.

    python scripts/ptychodus_acceptance.py FOLDER

Run it with the Python of an environment that holds both; FOLDER is made anew. Scans are written by ptychodus' own code:
another size, a non-square object, its centre away from zero, several probe modes. Each must come back with the shape of
the object that ptychodus asked for, and with its phase.
"""

from __future__ import annotations

import os
import shutil
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
from ptychodus.api.io import load_product, save_diffraction_data, save_product, save_ptychopinn_training_data
from ptychodus.api.object import Object, ObjectCenter
from ptychodus.api.probe import ProbeSequence
from ptychodus.api.probe_positions import ProbePosition, ProbePositionSequence
from ptychodus.api.product import Product, ProductMetadata
from ptychodus.api.propagate import compute_far_field_pixel_geometry
from ptychodus.api.reconstruct import prepare_reconstruct_input

ENERGY, DISTANCE, PIXEL = 1e4, 1.0, 75e-6
LEAST = 0.75


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


CASES = (
    Case("small", 32, 10, 10, 1, 1, 40, (0.0, 0.0)),
    Case("two-modes", 64, 10, 10, 2, 1, 40, (2.5e-6, -1e-6)),
    Case("non-square", 32, 8, 16, 1, 4, 30, (-7e-6, 4e-6)),
)


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


def write(case: Case, folder: Path) -> tuple[int, int]:
    """The folders ``train`` and ``infer`` of a case, and its truth; returns the object's shape."""
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
    data = AssembledDiffractionData(np.arange(len(counts)), counts, detector, np.zeros((size, size), np.bool_))
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

    settings = (
        "[Processing]\nAlgorithm = ptychopinn-torch_unsupervised\n"
        f"[PtychoPINNTorchData]\nmodel_size = {size}\nnum_channels = {case.group}\ncoordinate_subsampling_factor = 1\n"
        "x_lower_bound = 0.0\nx_upper_bound = 1.0\ny_lower_bound = 0.0\ny_upper_bound = 1.0\n"
        f"[PtychoPINNTorchTraining]\nepochs = {case.epochs}\nbatch_size = 8\nlearning_rate = 0.002\n"
        "num_dataloader_workers = 0\ndevice = cpu\ndistributed_strategy = auto\n"
    )
    for name in ("train", "infer"):
        (folder / name).mkdir(parents=True)
        save_diffraction_data(folder / name / "diffraction.h5", data)
        save_product(folder / name / "product.h5", product(np.ones_like(truth)))
        (folder / name / "settings.ini").write_text(settings)
    save_ptychopinn_training_data(folder / "train" / "train_data.npz", prepare_reconstruct_input(data, product(truth)))
    np.save(folder / "truth.npy", truth)
    return shape


def ptychodus(folder: Path, job: str, source: str, target: str) -> None:
    """One headless run of ptychodus."""
    command = [str(Path(sys.executable).with_name("ptychodus")), "-b", job, "-i", source, "-o", target]
    environment = os.environ | {"HOME": str(folder), "CUDA_VISIBLE_DEVICES": ""}
    with (folder / f"{job}.log").open("w") as log:
        subprocess.run(command, cwd=folder, env=environment, stdout=log, stderr=log, check=True)


def likeness(found: NDArray[np.complexfloating], truth: NDArray[np.complexfloating], border: int) -> float:
    """Correlation of the phases inside a border, without their planes."""

    def phase(image: NDArray[np.complexfloating]) -> NDArray[np.float64]:
        part = np.angle(image[border:-border, border:-border])
        y, x = np.mgrid[: part.shape[0], : part.shape[1]]
        terms = np.column_stack([y.ravel(), x.ravel(), np.ones(part.size)])
        return part.ravel() - terms @ np.linalg.lstsq(terms, part.ravel(), rcond=None)[0]

    return float(np.corrcoef(phase(found), phase(truth))[0, 1])


def accept(case: Case, folder: Path) -> bool:
    """Whether a case comes back; says so."""
    shape = write(case, folder)
    ptychodus(folder, "train", "train", "trained")
    (checkpoint,) = (folder / "trained").rglob("model.ckpt")
    shutil.copy(checkpoint, folder / "infer" / "model.ckpt")
    ptychodus(folder, "reconstruct", "infer", "result")
    products = sorted((folder / "result").glob("product.*.h5"))
    if not products:
        print(f"{case.name}: no product was written, see {folder}/reconstruct.log")
        return False
    product = load_product(products[-1])
    found = product.object_.get_array()[0]
    score = likeness(found, np.load(folder / "truth.npy"), case.size // 2) if found.shape == shape else float("nan")
    good = product.metadata.name.endswith("_ptychopinn-torch_unsupervised") and score > LEAST
    print(f"{case.name}: {'accepted' if good else 'REFUSED'}: shape {found.shape}, asked {shape}; phase {score:.3f}")
    return good


def main() -> int:
    folder = Path(sys.argv[1])
    shutil.rmtree(folder, ignore_errors=True)
    return 0 if all([accept(case, (folder / case.name).resolve()) for case in CASES]) else 1


if __name__ == "__main__":
    sys.exit(main())
