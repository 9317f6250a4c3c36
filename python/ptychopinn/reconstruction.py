# SPDX-License-Identifier: BSD-3-Clause
"""The result of a reconstruction: the object on its canvas, with positions, probe and quality measures.

Inference and refinement return this type, and metrics, plots and the command line take it. It has the origin of the
canvas in scan coordinates, and the illumination of each pixel. :mod:`ptychopinn.io.reconstructions` reads and writes
its files.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ptychopinn._former import Metadata
from ptychopinn._one_line import one_line
from ptychopinn.acquisition import Acquisition, check_orientation_name
from ptychopinn.errors import InputError
from ptychopinn.experiment import Experiment
from ptychopinn.records import LATER_RESULT_KEYS, RESULT_KEYS, ResultRecord, refuse_keys
from ptychopinn.refinement_report import RefinementReport
from ptychopinn.scan import Scan

if TYPE_CHECKING:
    from matplotlib.figure import Figure


#: Maps (H, W), >= 0, beside the object.
MAPS = ("uncertainty", "amplitude_uncertainty", "phase_uncertainty", "error_map")
#: Maps (S, H, W), >= 0, beside the slices of a thick sample.
SLICE_MAPS = ("slices_amplitude_uncertainty", "slices_phase_uncertainty")


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """A complex object on its canvas, with the illumination that each pixel received.

    Args:
        object: (H, W) complex64 transmission; finite.
        weights: (H, W) float32 >= 0, summed illumination weight; 0 marks a pixel that was never illuminated.
        origin: (y, x) scan coordinate of ``object[0, 0]``, in pixels.
        probe: (M, N, N) complex64 incoherent modes, in sqrt(counts), or None.
        uncertainty: (H, W) float32 >= 0, standard deviation of the complex object, or None.
        positions: (n, 2) float64 (y, x) scan positions of the reconstruction, in pixels, or None.
        residuals: (n,) float32 >= 0, deviance per detector pixel of each pattern, or None.
        error_map: (H, W) float32 >= 0, residuals averaged with the illumination of each pixel, or None.
        intensities: (n,) float32 >= 0, intensity of each pattern relative to that of the probe, or None.
        pixel_size: metres per pixel, or None.
        metadata: other information, JSON types; no code reads it.
        acquisition: distance, detector pixels and world origin of the scan.
        orientation: of the scan's positions.
        refinement: the report of the refinement, or None.
        slices: (S, H, W) complex64, transmission of every slice of a thick sample, whose product is `object`; or None.
        experiment: what the reconstruction found, or was told, beside object and probe.
        amplitude_uncertainty: (H, W) float32 >= 0, standard deviation of the amplitude, or None.
        phase_uncertainty: (H, W) float32 >= 0, standard deviation of the phase, rad, or None.
        slices_amplitude_uncertainty: (S, H, W) float32 >= 0, as ``amplitude_uncertainty``, of the slices, or None.
        slices_phase_uncertainty: (S, H, W) float32 >= 0, as ``phase_uncertainty``, of the slices, or None.

    Raises:
        InputError: a field has the wrong shape or kind, or is not finite.

    Example:
        >>> r = Reconstruction(np.ones((4, 6), np.complex64), np.ones((4, 6), np.float32), origin=(-2.0, 3.0))
        >>> r.shape, int(r.covered().sum())
        ((4, 6), 24)
    """

    object: np.ndarray
    weights: np.ndarray
    origin: tuple[float, float]
    probe: np.ndarray | None = None
    uncertainty: np.ndarray | None = None
    positions: np.ndarray | None = None
    residuals: np.ndarray | None = None
    error_map: np.ndarray | None = None
    intensities: np.ndarray | None = None
    pixel_size: float | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    acquisition: Acquisition = field(default_factory=Acquisition)
    orientation: str = "given"
    refinement: RefinementReport | None = None
    slices: np.ndarray | None = None
    experiment: Experiment = field(default_factory=Experiment)
    amplitude_uncertainty: np.ndarray | None = None
    phase_uncertainty: np.ndarray | None = None
    slices_amplitude_uncertainty: np.ndarray | None = None
    slices_phase_uncertainty: np.ndarray | None = None

    __repr__ = one_line

    def __post_init__(self) -> None:
        image = _array("object", self.object, 2, np.complex64)
        weights = _array("weights", self.weights, 2, np.float32)
        if weights.shape != image.shape:
            raise InputError(f"weights must have the shape of object, {image.shape}, got {weights.shape}")
        if weights.min() < 0:
            raise InputError(f"weights must be >= 0, got a minimum of {weights.min():g}")
        probe = None if self.probe is None else _array("probe", self.probe, 3, np.complex64)
        if probe is not None and probe.shape[1] != probe.shape[2]:
            raise InputError(f"probe must be (modes, N, N), got shape {probe.shape}")
        maps = {name: self._not_negative(name, image.shape) for name in MAPS}
        positions = None if self.positions is None else _array("positions", self.positions, 2, np.float64)
        if positions is not None and positions.shape[1] != 2:
            raise InputError(f"positions must be (n, 2), got shape {positions.shape}")
        count = None if positions is None else (len(positions),)
        lists = {name: self._not_negative(name, count) for name in ("residuals", "intensities")}
        slices = None if self.slices is None else _array("slices", self.slices, 3, np.complex64)
        if slices is not None and (slices.shape[1:] != image.shape or len(slices) != self.experiment.slices):
            raise InputError(
                f"slices must be ({self.experiment.slices}, {image.shape[0]}, {image.shape[1]}), one image for each "
                f"slice of the experiment, got {slices.shape}"
            )
        if slices is None and any(getattr(self, name) is not None for name in SLICE_MAPS):
            raise InputError(f"expected slices beside {' and '.join(SLICE_MAPS)}, found none; omit the maps")
        maps |= {name: self._not_negative(name, (slices if slices is not None else image).shape) for name in SLICE_MAPS}
        experiment = self.experiment.checked(
            "Reconstruction", count and count[0], None if probe is None else probe.shape[-1]
        )
        origin = np.asarray(self.origin)
        if origin.shape != (2,) or origin.dtype.kind not in "iuf" or not np.isfinite(origin).all():
            raise InputError(f"origin must be two finite numbers (y, x), got {self.origin!r}")
        pixel_size = None if self.pixel_size is None else float(self.pixel_size)
        if pixel_size is not None and not (math.isfinite(pixel_size) and pixel_size > 0):
            raise InputError(f"pixel_size must be positive metres, got {pixel_size:g}")
        json_of(self.metadata)
        refuse_keys("Reconstruction", self.metadata, RESULT_KEYS | LATER_RESULT_KEYS)
        acquisition = self.acquisition.checked("Reconstruction")
        check_orientation_name("Reconstruction", self.orientation)
        former = ResultRecord(acquisition, self.orientation, self.refinement).to_json
        checked = {
            "object": image,
            "weights": weights,
            "origin": (float(origin[0]), float(origin[1])),
            "probe": probe,
            "positions": positions,
            **maps,
            **lists,
            "pixel_size": pixel_size,
            "acquisition": acquisition,
            "slices": slices,
            "experiment": experiment,
            "metadata": Metadata(self.metadata, "Reconstruction", RESULT_KEYS, former),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def _not_negative(self, name: str, shape: tuple[int, ...] | None) -> np.ndarray | None:
        """A field as float32, checked to be >= 0 and of this shape (None: one-dimensional); None if it is not set."""
        if getattr(self, name) is None:
            return None
        array = _array(name, getattr(self, name), 1 if shape is None else len(shape), np.float32)
        if (shape is not None and array.shape != shape) or array.min() < 0:
            where = (
                "hold one value for each position"
                if shape is None or len(shape) == 1
                else f"have the shape of {'object' if len(shape) == 2 else 'slices'}, {shape}"
            )
            raise InputError(
                f"{name} must be >= 0 and {where}, got shape {array.shape} with a minimum of {array.min():g}"
            )
        return array

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of the canvas."""
        height, width = self.object.shape
        return height, width

    @property
    def amplitude(self) -> np.ndarray:
        """(H, W) float32 modulus of the object."""
        amplitude: np.ndarray = np.abs(self.object)
        return amplitude

    @property
    def phase(self) -> np.ndarray:
        """(H, W) float32 phase of the object, in (-pi, pi] rad."""
        phase: np.ndarray = np.angle(self.object)
        return phase

    def record(self) -> ResultRecord:
        """The fields that files of the result have as JSON."""
        return ResultRecord(self.acquisition, self.orientation, self.refinement, self.metadata, self.experiment)

    def covered(self, threshold: float = 0.2) -> np.ndarray:
        """Mask of the well-illuminated pixels.

        A pixel is covered when its weight is above ``threshold`` times the typical weight: the weighted median, that
        is, the weight such that pixels with at least this weight received half of the illumination. Unlike the maximum
        it ignores a few hot pixels, and unlike the plain median it ignores the weakly illuminated border. With the
        default the mask is close to the hull of the scan positions (at a straight edge of a scan the weight falls to
        one half and at a corner to one quarter).

        Args:
            threshold: fraction of the typical weight, >= 0; with 0 every pixel that was illuminated at all.

        Returns:
            (H, W) bool.

        Raises:
            InputError: threshold is negative or not finite.

        Example:
            >>> r = Reconstruction(np.ones((1, 4)), np.array([[0.0, 1.0, 8.0, 10.0]]), origin=(0, 0))
            >>> r.covered().tolist()
            [[False, False, True, True]]
        """
        if not (math.isfinite(threshold) and threshold >= 0):
            raise InputError(f"threshold must be a finite number >= 0, got {threshold}")
        ordered = np.sort(self.weights, axis=None).astype(np.float64)
        total = np.cumsum(ordered)
        typical = ordered[np.searchsorted(total, 0.5 * total[-1])]
        mask: np.ndarray = self.weights > threshold * typical
        return mask

    def cropped(self, threshold: float = 0.2) -> Reconstruction:
        """Crop to the smallest rectangle with all pixels of :meth:`covered`; `origin` changes accordingly.

        Args:
            threshold: as in :meth:`covered`.

        Example:
            >>> r = Reconstruction(np.ones((1, 4)), np.array([[0.0, 1.0, 8.0, 10.0]]), origin=(0, 0))
            >>> r.cropped().shape, r.cropped().origin
            ((1, 2), (0.0, 2.0))
        """
        rows, columns = (np.flatnonzero(self.covered(threshold).any(axis)) for axis in (1, 0))
        part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        maps: dict[str, Any] = {
            name: np.ascontiguousarray(value[..., part[0], part[1]])
            for name in (*MAPS, "slices", *SLICE_MAPS)
            if (value := getattr(self, name)) is not None
        }
        return replace(
            self,
            object=self.object[part],
            weights=self.weights[part],
            origin=(self.origin[0] + int(rows[0]), self.origin[1] + int(columns[0])),
            **maps,
        )

    def save(self, path: str | Path, format: str = "auto", scan: Scan | None = None) -> Path:
        """Write the reconstruction atomically.

        HDF5 (``.h5``, ``.hdf5``)::

            /            attributes: schema_version = 1, origin (2,) float64 (y, x) px, pixel_size float64 m [optional]
            /object      (H, W) complex64
            /weights     (H, W) float32
            /probe       (M, N, N) complex64 [optional]
            /uncertainty (H, W) float32 [optional], and likewise /amplitude_uncertainty and /phase_uncertainty
            /positions   (n, 2) float64 [optional]
            /residuals   (n,) float32 [optional]
            /error_map   (H, W) float32 [optional]
            /intensities (n,) float32 [optional]
            /slices      (S, H, W) complex64 [optional]
            /slices_amplitude_uncertainty, /slices_phase_uncertainty: (S, H, W) float32 [optional]
            /experiment  group of the arrays of the experiment, by the names of its fields [optional]
            /metadata    JSON text (scalar string): metadata, and geometry, orientation, refinement and the scalars of
                         the experiment where set

        Arrays are contiguous and not compressed; :meth:`load` reads files with compressed ones, too.

        NPZ (``.npz``, compressed): the same names as arrays, the settings 0-d or (2,), ``metadata`` a 0-d string, and
        ``experiment_NAME`` for the arrays of the experiment.

        Args:
            path: destination; missing folders are created.
            format: "auto" selects by suffix; "ptychodus" (a product) and "nexus" are for other programs, and
                :meth:`load` does not read them.
            scan: the reconstructed scan, for its world coordinates, energy and distance in files of other programs.

        Returns:
            The path written.

        Raises:
            InputError: the suffix is not one of the above, a value that the format requires is unknown, or the disk is
                full; an earlier file is then unchanged.
        """
        from ptychopinn.io.reconstructions import write_reconstruction

        return write_reconstruction(self, path, format, scan)

    @classmethod
    def load(cls, path: str | Path) -> Reconstruction:
        """Read a file written by :meth:`save`, or a product of ptychodus with an object.

        Args:
            path: an ``.h5``, ``.hdf5`` or ``.npz`` file.

        Returns:
            The reconstruction; arrays and settings are bitwise equal to those saved. Of a product the object's pixel
            (0, 0) is the origin, and its layers, with distances between them, are the slices.

        Raises:
            InputError: the file is missing, unreadable, of another schema, or a key is missing or invalid.
        """
        from ptychopinn.io.reconstructions import read_reconstruction

        return read_reconstruction(path)

    def plot(self) -> Figure:
        """Draw amplitude and phase; pixels that were not measured are grey.

        Returns:
            The figure, which a notebook shows; ``result.plot().savefig("result.png")`` writes it.
        """
        from ptychopinn.plotting.reconstructions import reconstruction_figure

        return reconstruction_figure(self)

    def compare(self, scan: Scan) -> Figure:
        """Draw the reconstruction beside the known object of its scan, and their difference.

        Args:
            scan: the scan, with a truth.

        Returns:
            The figure, as of :meth:`plot`.

        Raises:
            InputError: the scan has no truth, or it does not overlap the reconstruction.
        """
        from ptychopinn.plotting.reconstructions import figure_beside_truth

        return figure_beside_truth(self, scan)

    def _repr_html_(self) -> str:
        """A small picture, shapes and units, for notebooks."""
        from ptychopinn.plotting.notebook import reconstruction_html

        return reconstruction_html(self)


def _array(name: str, value: Any, dimensions: int, dtype: type[np.generic]) -> np.ndarray:
    array = np.asarray(value)
    kinds = "iufc" if np.issubdtype(dtype, np.complexfloating) else "iuf"
    if array.ndim != dimensions or array.size == 0 or array.dtype.kind not in kinds:
        wanted = f"a non-empty {dimensions}-d {'complex' if 'c' in kinds else 'real'} array"
        raise InputError(f"{name} must be {wanted}, got {array.dtype} of shape {array.shape}")
    array = np.ascontiguousarray(array, dtype=dtype)
    if not np.isfinite(array).all():
        raise InputError(f"{name} must be finite, got {np.count_nonzero(~np.isfinite(array))} values that are not")
    return array


def json_of(metadata: Any) -> str:
    """Metadata as JSON text; InputError if it is not a dictionary of JSON types."""
    if not isinstance(metadata, dict):
        raise InputError(f"metadata must be a dictionary, got {type(metadata).__name__}")
    try:
        return json.dumps(metadata, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"metadata must hold only what JSON can: {error}") from error
