# SPDX-License-Identifier: BSD-3-Clause
"""The HDF5 files of ptychodus 1.7: `diffraction.h5` with `product.h5`, and `training_data.h5`.

Patterns and positions are in two files and are paired by frame index. World coordinates are in metres. The world
coordinate x is object pixel `(x - cx)/dx + (W - 1)/2`, the patch centre; the first sample is (N-1)/2 pixels before it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn.acquisition import Acquisition
from ptychopinn.decisions import Decision
from ptychopinn.errors import InputError
from ptychopinn.experiment import Experiment
from ptychopinn.io.build import Contents, assemble, bad_pixels_of, first_pixel, truth_of, units_reason
from ptychopinn.io.formats.ptychodus_layers import layers_of
from ptychopinn.io.geometry import detector_sides, one_size
from ptychopinn.io.hdf5 import PACKAGE_GROUP, Frames, Hdf5, put_counts, put_package_group
from ptychopinn.io.indexes import frame_indexes, indexes_of, pair_by_index, with_pairing
from ptychopinn.io.lazy import h5py
from ptychopinn.io.options import ReadOptions
from ptychopinn.io.probe import PROBE_UNITS, stacked
from ptychopinn.io.probe_layout import arranged_with_variations, with_variations
from ptychopinn.io.registry import Format, register
from ptychopinn.io.sniff import Content
from ptychopinn.io.stored_experiments import GROUP as EXPERIMENT
from ptychopinn.io.stored_experiments import experiment_in, warn_of_unread
from ptychopinn.records import ScanRecord
from ptychopinn.scan import Scan
from ptychopinn.storage.atomic import atomic_path
from ptychopinn.storage.new_hdf5 import new_hdf5, open_new_hdf5, put_array
from ptychopinn.world import (
    known_detector_pixel_size,
    needed_pixel_size,
    photon_energy,
    world_origin,
    world_positions,
)

PATTERNS, PRODUCT = "diffraction", "product"
_TRAINING = ("probe_position_x_px", "probe_position_y_px")


def read_ptychodus(path: Path, options: ReadOptions) -> Scan:
    """Read a scan from a pair of files of ptychodus.

    Args:
        path: either file, or the folder that holds `diffraction.h5` and `product.h5`.
        options: from the caller; `partner` is the other file if it is in another folder.

    Returns:
        The scan, of the patterns that have a position; `decisions.pairing` has the numbers of omitted patterns and
        positions.

    Raises:
        InputError: the file cannot be used; the error has the file, the key, what was expected and what was found.
    """
    first, second = _pair_to_read(path, options)
    with Hdf5(first, "a diffraction file of ptychodus") as patterns, Hdf5(second, "a product of ptychodus") as product:
        frames = Frames(patterns, [patterns.need("patterns")])
        record = ScanRecord.from_json(product.json(f"{PACKAGE_GROUP}/metadata_json"))
        world = columns(product, "probe_position_x_m", "probe_position_y_m")
        indexes = indexes_of(patterns, "indexes", frames.total)
        position_indexes = indexes_of(product, "probe_position_indexes", len(world))
        pairs = pair_by_index(patterns, indexes, position_indexes, frames.total, len(world))
        found = layers_of(product)
        width, height = (
            patterns.attribute("patterns", f"detector_pixel_{side}_m") or None for side in ("width", "height")
        )
        side, pixel_sides = detector_sides(patterns, "patterns@detector_pixel_width_m", (width, height), options)
        stated = options.near_field or record.experiment.fresnel_number is not None
        if product.flag("/", "far_field") is False and not stated:
            near = "a near-field one; state near_field= (--near-field) and the lengths, docs/geometry.md"
            product.fail("far_field", "a far-field experiment", near)
        experiment = experiment_in(product, f"{PACKAGE_GROUP}/{EXPERIMENT}/", record.experiment, len(world))
        if not experiment.slice_distances:
            experiment = replace(experiment, slice_distances=found.distances)
        probe, layout = None, None
        if options.probe is None:
            probe, layout, experiment = probe_of(product, record.metadata, experiment, len(world))
        contents = Contents(
            file=patterns,
            key="patterns",
            patterns=frames if pairs.patterns is None else frames.take(pairs.patterns),
            world=world[pairs.positions],
            energy=product.attribute("/", "photon_energy_eV") or product.attribute("/", "probe_energy_eV") or None,
            photon_energy=True,
            pixel_size=found.pixel_size,
            acquisition=Acquisition(
                distance=product.attribute("/", "detector_object_distance_m") or None,
                detector_pixel_size=side,
                world_origin=found.origin,
                source_distance=product.attribute("/", "focus_object_distance_m") or None,
            ),
            pixel_sides=pixel_sides,
            probe=probe,
            probe_layout=layout,
            scale_known=_scale_known(product, probe),
            bad_pixels=bad_pixels_of(patterns, "bad_pixels"),
            truth=found.image,
            stated=patterns.text_attribute("patterns", "measurement"),
            name=product.text_attribute("/", "name") or first.stem,
            frame_indexes=pairs.frame_indexes,
            record=with_pairing(record, pairs),
            experiment=experiment.subset(pairs.positions),
        )
        return assemble(contents, options)


def read_training(path: Path, options: ReadOptions) -> Scan:
    """Read training data that ptychodus exported as HDF5, with positions in object pixels."""
    with Hdf5(path, "a training file of ptychodus") as file:
        frames = Frames(file, [file.need("patterns")])
        width, height = (file.scalar(f"object_pixel_{side}_m") for side in ("width", "height"))
        pixel_size = one_size(file, "object_pixel_width_m", width, height)
        shape = file.numeric("object", "iufc", ndim=2).shape
        contents = Contents(
            file=file,
            key="patterns",
            patterns=frames,
            pixels=columns(file, *_TRAINING),
            energy=file.scalar("photon_energy_eV"),
            photon_energy=True,
            pixel_size=pixel_size,
            acquisition=Acquisition(
                distance=file.scalar("detector_object_distance_m"),
                world_origin=None if pixel_size is None else first_pixel((0.0, 0.0), pixel_size, shape),
            ),
            probe=None if options.probe is not None else stacked(file, "probe", file.numeric("probe", "iufc")),
            bad_pixels=bad_pixels_of(file, "bad_pixels"),
            truth=truth_of(file, "object", file.array("object")),
            stated=file.text_attribute("patterns", "measurement"),
        )
        return assemble(contents, options)


def pair_to_write(path: Path) -> tuple[Path, Path]:
    """Paths of the diffraction file and the product to write.

    Args:
        path: a folder, or a name with "diffraction" or "product", which the other file replaces by the other word.

    Raises:
        InputError: a file has neither word in its name.

    Example:
        >>> [str(name) for name in pair_to_write(Path("run/a_product.h5"))]
        ['run/a_diffraction.h5', 'run/a_product.h5']
    """
    if path.suffix == "" or path.is_dir():
        return path / f"{PATTERNS}.h5", path / f"{PRODUCT}.h5"
    partner = _partner_name(path)
    if partner is None:
        raise InputError(
            f"{path}: expected a folder to write diffraction.h5 and product.h5 in, or a file with "
            f"diffraction or product in its name, found '{path.name}'; name another with OUT or --to"
        )
    return (path, partner) if PATTERNS in path.stem else (partner, path)


def write_ptychodus(scan: Scan, path: Path) -> None:
    """Write a scan as a pair of files of ptychodus, both or neither.

    Args:
        scan: must have a pixel size.
        path: see :func:`pair_to_write`.
    """
    first, second = pair_to_write(path)
    pixel_size = needed_pixel_size(scan)
    indexes = frame_indexes(scan)
    detector_pixel = known_detector_pixel_size(scan) or 0.0
    truth = np.ones(_empty_shape(scan), np.complex64) if scan.truth is None else scan.truth
    with atomic_path(first) as one:
        with open_new_hdf5(one) as file:
            patterns = put_counts(file, "patterns", scan.counts)
            patterns.attrs["detector_pixel_width_m"] = patterns.attrs["detector_pixel_height_m"] = detector_pixel
            put_array(file, "indexes", indexes)
            bad = scan.bad_pixels
            file["bad_pixels"] = np.zeros(scan.counts.shape[1:], np.bool_) if bad is None else bad
        with new_hdf5(second) as file:
            put_product(
                file,
                name=scan.name,
                image=truth,
                probe=scan.probe,
                pixel_size=pixel_size,
                origin_m=world_origin(scan),
                world=world_positions(scan),
                indexes=indexes,
                energy=photon_energy(scan) or 0.0,
                distance=scan.acquisition.distance or 0.0,
                source_distance=scan.acquisition.source_distance or 0.0,
                experiment=scan.experiment,
            )
            # The product has the variations of the probe itself.
            still = replace(scan.experiment, probe_variations=None, variation_coefficients=None)
            put_package_group(file, replace(scan, experiment=still))
    warn_of_unread(path, scan.experiment, "ptychodus", ("a probe that varies", "the near field"))


def put_product(
    file: h5py.File,
    *,
    name: str,
    image: NDArray[np.complex64],
    probe: NDArray[np.complex64],
    pixel_size: float,
    origin_m: NDArray[np.float64],
    world: NDArray[np.float64],
    indexes: NDArray[np.int64],
    energy: float,
    distance: float,
    source_distance: float = 0.0,
    comments: str = "",
    experiment: Experiment | None = None,
) -> None:
    """Write a product in the schema of ptychodus, in which an energy or distance of 0 is unknown.

    A probe that varies has the axes (1 + variations, modes, y, x), of which the first mode varies, and weights for each
    position, `opr_weights` (n, 1 + variations), as ptychodus and pty-chi have them.

    Args:
        file: an empty file.
        name: of the product.
        image: (H, W), the object, or (S, H, W), the slices of a thick sample.
        probe: (M, N, N) in sqrt(counts).
        pixel_size: metres per object pixel.
        origin_m: (y, x) metres, the world coordinate of the object's pixel (0, 0).
        world: (n, 2) metres (y, x) of the positions.
        indexes: (n,) frame indexes of the positions.
        energy: eV.
        distance: metres.
        source_distance: metres from the focus to the sample, 0 for a parallel beam and the far field.
        comments: free text.
        experiment: variations of the probe, near field and distances of slices are written.
    """
    experiment = experiment or Experiment()
    image = image if image.ndim == 3 else image[np.newaxis]
    attributes = {
        "detector_object_distance_m": distance,
        "focus_object_distance_m": source_distance,
        "photon_energy_eV": energy,
        "probe_photon_count": float(np.square(np.abs(probe.astype(np.complex128))).sum()),
        "exposure_time_s": 0.0,
        "mass_attenuation_m2_per_kg": 0.0,
        "tomography_angle_deg": 0.0,
        "tilt_angle_deg": 0.0,
    }
    far = experiment.fresnel_number is None
    file.attrs.update({"name": name, "comments": comments, "far_field": far, **attributes})
    centre = origin_m + pixel_size * (np.asarray(image.shape[1:], np.float64) - 1) / 2
    put_array(file, "object", image)
    put_array(file, "probe", with_variations(probe, experiment.probe_variations))
    if experiment.variation_coefficients is not None:
        put_array(file, "opr_weights", np.insert(experiment.variation_coefficients, 0, 1.0, axis=1))
    for key in ("object", "probe"):
        file[key].attrs.update({"pixel_width_m": pixel_size, "pixel_height_m": pixel_size})
    file["object"].attrs.update({"center_y_m": centre[0], "center_x_m": centre[1]})
    file["probe"].attrs["probe_units"] = PROBE_UNITS
    for key, values in (("indexes", indexes), ("y_m", world[:, 0]), ("x_m", world[:, 1])):
        put_array(file, f"probe_position_{key}", values)
    spacing = experiment.slice_distances if len(image) > 1 else ()
    file["object_layer_spacing_m"] = np.asarray(spacing, np.float64)
    file["loss_epochs"], file["loss_values"] = np.zeros(0, np.int64), np.zeros(0)


def _pair_to_read(path: Path, options: ReadOptions) -> tuple[Path, Path]:
    """Paths of diffraction file and product to read, from either of them or their folder."""
    if path.is_dir():
        return path / f"{PATTERNS}.h5", path / f"{PRODUCT}.h5"
    with Hdf5(path, "a file of a ptychodus pair") as file:
        has_patterns = file.has("patterns")
    if options.partner is not None:
        partner = Path(options.partner)
    else:
        named = _partner_name(path)
        beside = path.with_name(f"{PRODUCT if has_patterns else PATTERNS}.h5")
        candidates = [name for name in (named, beside) if name is not None]
        found = next((name for name in candidates if name.is_file()), None)
        if found is None:
            what = "product with its positions" if has_patterns else "diffraction file with its patterns"
            names = " or ".join(dict.fromkeys(str(name.name) for name in candidates))
            raise InputError(f"{path}: expected its {what} beside it, found no {names}; state partner= (--partner)")
        partner = found
    return (path, partner) if has_patterns else (partner, path)


def _partner_name(path: Path) -> Path | None:
    for one, other in ((PATTERNS, PRODUCT), (PRODUCT, PATTERNS)):
        if one in path.stem:
            return path.with_name(path.name.replace(one, other))
    return None


def columns(file: Hdf5, x_key: str, y_key: str) -> NDArray[np.float64]:
    """Positions (n, 2), (y, x), from two arrays."""
    x, y = (file.numeric(key, "iuf", ndim=1).astype(np.float64) for key in (x_key, y_key))
    if len(x) != len(y):
        file.fail(y_key, f"{len(x)} values, as many as in {x_key}", f"{len(y)}")
    return np.stack([y, x], axis=1)


def probe_of(
    product: Hdf5, metadata: dict[str, Any], experiment: Experiment, n: int
) -> tuple[NDArray[np.complex64] | None, Decision | None, Experiment]:
    """Incoherent modes (M, N, N) of the first coherent mode, and the experiment with the others as variations.

    Without weights the others are not known to be variations; their number is kept in the metadata.
    """
    if not product.has("probe"):
        return None, None, experiment
    probe = product.numeric("probe", "iufc")
    if probe.ndim == 4 and len(probe) > 1 and not product.has("opr_weights"):
        metadata["probe_variations"] = len(probe)
    return arranged_with_variations(product, "probe", "opr_weights", probe, experiment, n)


def _scale_known(product: Hdf5, probe: NDArray[np.complex64] | None) -> str | None:
    """The reason why the probe is known to be in sqrt(counts), None if it is not known."""
    if probe is None:
        return None
    if (
        reason := units_reason(product.text_attribute("probe", "probe_units"), "probe@probe_units", product)
    ) is not None:
        return reason
    photons = product.attribute("/", "probe_photon_count") or 0.0
    power = float(np.square(np.abs(probe.astype(np.complex128))).sum())
    if photons > 0 and abs(power / photons - 1) < 1e-3:
        return "its power is the probe_photon_count of the product"
    return None


def _empty_shape(scan: Scan) -> tuple[int, int]:
    """Shape (H, W) of an object that contains all patches of a scan."""
    height, width = np.ceil(scan.positions.max(axis=0)).astype(int) + scan.patch_size + 1
    return max(int(height), scan.patch_size), max(int(width), scan.patch_size)


def _is_ptychodus(content: Content) -> bool:
    if content.kind == "folder":
        return content.has("diffraction.h5", "product.h5")
    patterns = content.has("patterns", "indexes")
    product = content.has("probe_position_x_m", "probe_position_y_m")
    return content.kind == "hdf5" and (patterns or product)


def _is_training(content: Content) -> bool:
    return content.kind == "hdf5" and content.has("patterns", *_TRAINING)


register(
    Format(
        "ptychodus",
        "diffraction.h5 and product.h5 of ptychodus",
        (),
        _is_ptychodus,
        read_ptychodus,
        write_ptychodus,
        files_of=pair_to_write,
        takes=("partner",),
        order=30,
    )
)
register(Format("ptychodus-training", "training HDF5 of ptychodus", (), _is_training, read_training, order=40))
