# SPDX-License-Identifier: BSD-3-Clause
"""A scan in memory, which all readers return and the rest of the package uses.

It has photon counts, positions (y, x) of patch sample [0, 0] and a probe in sqrt(counts), whatever the conventions of
its file. Fields are checked when a scan is made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptychopinn._former import Metadata
from ptychopinn._one_line import one_line
from ptychopinn.acquisition import Acquisition, check_orientation_name
from ptychopinn.decisions import Decisions
from ptychopinn.errors import InputError
from ptychopinn.experiment import Experiment
from ptychopinn.records import LATER_SCAN_KEYS, SCAN_KEYS, ScanRecord, refuse_keys
from ptychopinn.storage.arrays import pattern_blocks
from ptychopinn.storage.stored import StoredPatterns

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Largest coordinate, pixels: rounding errors are below 1e-3 px.
_LARGEST_POSITION = 1e12
_IN_CACHE = 1 << 18  # elements that are checked at a time


@dataclass(frozen=True, eq=False)
class Scan:
    """A ptychographic scan: n diffraction patterns of N x N pixels, their positions, and the probe.

    The predicted intensity of pattern k is `I_k = sum_m |fftshift(FFT2_ortho(P_m * o_k))|^2` with
    `o_k[i, j] = object(y_k + i, x_k + j)`; it is in the units of `counts`.

    Args:
        counts: (n, N, N) photon counts, an unsigned integer type or float32, zero frequency at pixel (N//2, N//2).
            Of patterns on disk a few are checked when the scan is made, and others when they are read.
        positions: (n, 2) float64 (y, x) of patch sample [0, 0], in object pixels.
        probe: (M, N, N) complex64, M incoherent modes in sqrt(counts): sum abs(P)^2 is the number of photons
            per pattern for an object of transmission 1.
        truth: (H, W) complex64, the known object, if any; its pixel [0, 0] is at position (0, 0).
        bad_pixels: (N, N) bool, True at detector pixels to ignore.
        pixel_size: metres per object pixel.
        energy: in eV, of photons, or the kinetic energy of electrons.
        name: a short name for logs, titles and default file names.
        metadata: other information, JSON types; no code reads it.
        acquisition: distance, detector pixels and world origin.
        orientation: map from the axes of the file to the positions, see :data:`ORIENTATION_NAMES`.
        frame_indexes: (n,) int64, unique index of each pattern in the file or at the detector; None: 0, 1, 2, ... .
        decisions: of the reader (units, probe, ...), with reasons.
        experiment: what differs from a thin sample, one still probe, the far field and an ideal detector.

    Raises:
        InputError: a field has the wrong shape, type or values; the message names the field.

    Example:
        >>> scan = Scan(np.ones((3, 8, 8), np.uint16), np.zeros((3, 2)), np.ones((1, 8, 8), np.complex64))
        >>> scan.n, scan.patch_size, scan.modes
        (3, 8, 1)
        >>> scan.subset([2, 0]).n
        2
    """

    counts: NDArray[Any] | StoredPatterns
    positions: NDArray[np.float64]
    probe: NDArray[np.complex64]
    truth: NDArray[np.complex64] | None = None
    bad_pixels: NDArray[np.bool_] | None = None
    pixel_size: float | None = None
    energy: float | None = None
    name: str = "scan"
    metadata: dict[str, Any] = field(default_factory=dict)
    acquisition: Acquisition = field(default_factory=Acquisition)
    orientation: str = "given"
    frame_indexes: NDArray[np.int64] | None = None
    decisions: Decisions = field(default_factory=Decisions)
    experiment: Experiment = field(default_factory=Experiment)

    __repr__ = one_line

    def __post_init__(self) -> None:
        _check_counts(self.counts)
        n, size = self.counts.shape[:2]
        _check_array("positions", self.positions, np.float64, (n, 2), "one (y, x) row for each pattern")
        if np.abs(self.positions).max() > _LARGEST_POSITION:
            raise InputError(
                f"Scan.positions must be within {_LARGEST_POSITION:g} px of 0, where 64 bits resolve a fraction of a "
                f"pixel, got {np.abs(self.positions).max():.3g}; check their unit and origin, and the pixel size"
            )
        modes = self.probe.shape[0] if isinstance(self.probe, np.ndarray) and self.probe.ndim == 3 else "M"
        _check_array("probe", self.probe, np.complex64, (modes, size, size), "modes of the size of the patterns")
        if not self.probe.size or not self.probe.any():
            raise InputError("Scan.probe must have at least one mode and not be all zero")
        if self.truth is not None:
            shape = self.truth.shape if np.ndim(self.truth) == 2 else ("H", "W")
            _check_array("truth", self.truth, np.complex64, shape, "one complex image")
        if self.bad_pixels is not None:
            _check_array("bad_pixels", self.bad_pixels, np.bool_, (size, size), "one mask for all patterns")
        for key in ("pixel_size", "energy"):
            value = getattr(self, key)
            if value is not None and not (isinstance(value, Real) and 0 < float(value) < float("inf")):
                raise InputError(f"Scan.{key} must be a positive finite number or None, got {value!r}")
        object.__setattr__(self, "acquisition", self.acquisition.checked("Scan"))
        object.__setattr__(self, "experiment", self.experiment.checked("Scan", n, size))
        check_orientation_name("Scan", self.orientation)
        if self.frame_indexes is not None:
            _check_array("frame_indexes", self.frame_indexes, np.int64, (n,), "one index for each pattern")
            if len(np.unique(self.frame_indexes)) < n:
                raise InputError("Scan.frame_indexes must hold each index once, got some that repeat")
        if not isinstance(self.metadata, dict):
            raise InputError(f"Scan.metadata must be a dictionary, got {type(self.metadata).__name__}")
        try:
            json.dumps(self.metadata)
        except (TypeError, ValueError) as error:
            raise InputError(f"Scan.metadata must hold JSON types only: {error}") from error
        refuse_keys("Scan", self.metadata, SCAN_KEYS | LATER_SCAN_KEYS)
        former = ScanRecord(self.acquisition, self.orientation, self.frame_indexes, self.decisions).to_json
        object.__setattr__(self, "metadata", Metadata(self.metadata, "Scan", SCAN_KEYS, former))

    @property
    def n(self) -> int:
        """Number of diffraction patterns."""
        return int(self.counts.shape[0])

    @property
    def patch_size(self) -> int:
        """Pixels along one side of a pattern, of the probe and of a patch (N)."""
        return int(self.counts.shape[-1])

    @property
    def modes(self) -> int:
        """Number of incoherent probe modes (M)."""
        return int(self.probe.shape[0])

    def record(self) -> ScanRecord:
        """The fields that files of the scan have as JSON."""
        return ScanRecord(
            self.acquisition, self.orientation, self.frame_indexes, self.decisions, self.metadata, self.experiment
        )

    def subset(self, indices: ArrayLike) -> Scan:
        """Select patterns and their positions, in the order of `indices`; other fields are shared.

        Patterns on disk stay on disk. `frame_indexes` are selected too, or None if an index repeats.

        Args:
            indices: integers from -n to n - 1, or a bool mask of length n.

        Returns:
            The new scan.

        Raises:
            InputError: an index is out of range, or no pattern is selected.
        """
        chosen = np.asarray(indices)
        if chosen.ndim != 1 or chosen.size == 0 or chosen.dtype.kind not in "iub":
            raise InputError(
                f"Scan.subset: indices must be a 1-D array of at least one integer, or a bool mask, "
                f"got shape {chosen.shape} of {chosen.dtype}"
            )
        try:
            counts = self.counts.subset(chosen) if isinstance(self.counts, StoredPatterns) else self.counts[chosen]
            indexes = None if self.frame_indexes is None else self.frame_indexes[chosen]
            if indexes is not None and len(np.unique(indexes)) < len(indexes):
                indexes = None
            experiment = self.experiment.subset(chosen)
            return replace(
                self, counts=counts, positions=self.positions[chosen], frame_indexes=indexes, experiment=experiment
            )
        except IndexError as error:
            raise InputError(f"Scan.subset: indices must fit a scan of {self.n} patterns: {error}") from error

    @classmethod
    def load(
        cls,
        path: str | Path,
        format: str = "auto",
        measurement: str = "auto",
        memory: str = "auto",
        *,
        probe: NDArray[Any] | str | Path | None = None,
        bad_pixels: NDArray[Any] | str | Path | None = None,
        pixel_size: float | None = None,
        energy: float | None = None,
        distance: float | None = None,
        detector_pixel_size: float | None = None,
        positions: str | Path | None = None,
        partner: str | Path | None = None,
        patterns: str | None = None,
        position_columns: tuple[str | int, str | int] | None = None,
        position_unit: str | None = None,
        position_scan: int | None = None,
        scan_shape: tuple[int, int] | None = None,
        scan_step: tuple[float, float] | float | None = None,
        crop: int | None = None,
        pad: int | None = None,
        bin: int = 1,
        square_pixels: tuple[float, float] | str | None = None,
        mask_invalid: bool = False,
        clip_negative: bool = False,
        experiment: Experiment | Mapping[str, Any] | None = None,
        radiation: str | None = None,
        near_field: bool = False,
        source_distance: float | None = None,
        gain: NDArray[Any] | float | str | Path | None = None,
        offset: NDArray[Any] | float | str | Path | None = None,
        fly_scan: int | None = None,
    ) -> Scan:
        """Read a scan; its content determines the format (see docs/formats.md).

        Options override values in the file.

        Args:
            path: the file, or for some formats a folder.
            format: the name of the format; "auto" recognises it by the content.
            measurement: "amplitude" or "counts", whichever the file holds; "auto" decides from the file and records the
                reason in `decisions.measurement`.
            memory: "load" reads all patterns, "stored" keeps them on disk, "auto" does so if they exceed a quarter of
                the available memory and the format permits it (see docs/memory.md).
            probe: (N, N) or (M, N, N) complex, or a file of such an array: `.npy`, `.npz`, HDF5, or `FILE.h5:PATH`; if
                neither the caller nor the file has a probe, it is estimated from the patterns, with a warning.
            bad_pixels: (N, N) bool or an `.npy` file of such an array, as `ptychopinn inspect --mask` writes it: pixels
                to ignore in addition to those in the file.
            pixel_size: metres per object pixel; by default computed from the next three options, or from the file.
            energy: in eV, of photons, or the kinetic energy of electrons.
            distance: metres from the sample to the detector.
            detector_pixel_size: metres per detector pixel.
            positions: table of the positions (y, x), for formats without them (see docs/formats.md).
            partner: the other file of a ptychodus pair, if it is in another folder.
            patterns: path of the patterns in an HDF5 file, or their key in an NPZ; by default that of the format.
            position_columns: names or numbers from 0 of the columns (y, x) in the table of positions.
            position_unit: of the table of positions, "m", "mm", "um", "nm", "A" or "pm".
            position_scan: number of the scan in a SPEC file of positions; None: the first.
            scan_shape: (rows, columns) of a raster; four axes of the patterns state it too.
            scan_step: (y, x) metres between the positions of a raster, or one number for both.
            crop: N, even; the middle N x N pixels of the detector are read.
            pad: N, even; detectors that are smaller than N x N pixels are filled up with bad pixels.
            bin: K; the counts of K x K pixels are summed, after `crop` and `pad`.
            square_pixels: of a detector whose pixels are not square: their sides (y, x) in metres, or "file" for those
                that the file states; patterns are resampled to square ones (see docs/geometry.md).
            mask_invalid: pixels with NaN, infinite or negative values or the dead-pixel marker become bad pixels.
            clip_negative: negative values of floats, as dark subtraction leaves them, become 0.
            experiment: fields of :class:`Experiment` that replace those of the file, or a mapping of such fields, for
                the pixels of the detector and the object in the file (see docs/geometry.md).
            radiation: "photon" or "electron"; by default as the format or the file states, else "photon".
            near_field: the detector is in the near field: `energy`, `distance` and `detector_pixel_size` give the
                Fresnel number and the object pixel.
            source_distance: metres from the focus to the sample, for the near field; infinity: a parallel beam; None:
                as the file states, else a parallel beam.
            gain: values in the file per count: one number, (h, w) for the pixels of the detector, or a file of these.
            offset: value in the file without counts, in the same ways; counts are (value - offset) / gain, at least 0.
            fly_scan: K: the probe moves during an exposure from the position of its pattern to that of the next one of
                the row, and is computed at K points.

        Returns:
            The scan.

        Raises:
            InputError: the file cannot be used; the error has the file, the key, what was expected and what was found.
        """
        from ptychopinn.io.scans import read_scan

        return read_scan(
            path,
            format,
            measurement=measurement,
            memory=memory,
            probe=probe,
            bad_pixels=bad_pixels,
            pixel_size=pixel_size,
            energy=energy,
            distance=distance,
            detector_pixel_size=detector_pixel_size,
            positions=positions,
            partner=partner,
            patterns=patterns,
            position_columns=position_columns,
            position_unit=position_unit,
            position_scan=position_scan,
            scan_shape=scan_shape,
            scan_step=scan_step,
            crop=crop,
            pad=pad,
            bin=bin,
            square_pixels=square_pixels,
            mask_invalid=mask_invalid,
            clip_negative=clip_negative,
            experiment=experiment,
            radiation=radiation,
            near_field=near_field,
            source_distance=source_distance,
            gain=gain,
            offset=offset,
            fly_scan=fly_scan,
        )

    def save(self, path: str | Path, format: str = "auto", overwrite: bool = True) -> None:
        """Write the scan atomically; the suffix selects the format unless it is named.

        Args:
            path: the file; missing parent folders are created. For "ptychodus" a folder, or one of the two files.
            format: "npz", "ptychodus", "cxi", "ptyd" or "nexus"; all but the first need a pixel size.
            overwrite: False refuses to replace a file that exists.

        Raises:
            InputError: no format has the suffix, the scan lacks a value that the format requires, or a file exists and
                `overwrite` is False.
        """
        from ptychopinn.io.scans import write_scan

        write_scan(self, path, format, overwrite)

    def plot(self) -> Figure:
        """Draw positions, first probe mode and mean diffraction pattern.

        Returns:
            The figure, which a notebook shows; ``scan.plot().savefig("scan.png")`` writes it.
        """
        from ptychopinn.plotting.scans import scan_figure

        return scan_figure(self)

    def _repr_html_(self) -> str:
        """A small picture, shapes, units and warnings, for notebooks."""
        from ptychopinn.plotting.notebook import scan_html

        return scan_html(self)


def _check_counts(counts: NDArray[Any] | StoredPatterns) -> None:
    if not isinstance(counts, np.ndarray | StoredPatterns) or not (
        counts.dtype.kind == "u" or counts.dtype == np.float32
    ):
        found = counts.dtype if isinstance(counts, np.ndarray | StoredPatterns) else type(counts).__name__
        raise InputError(f"Scan.counts must be an array of an unsigned integer type or float32, got {found}")
    if counts.ndim != 3 or counts.shape[1] != counts.shape[2]:
        raise InputError(f"Scan.counts must have shape (n, N, N), got {counts.shape}")
    n, size = counts.shape[:2]
    if n == 0:
        raise InputError("Scan.counts must hold at least one pattern, got none")
    if size < 8 or size % 2:
        raise InputError(f"Scan.counts must have patterns of an even size of 8 or more pixels, got {size}")
    if isinstance(counts, StoredPatterns):
        counts.look()
        return
    largest = 0.0
    for block in pattern_blocks(counts.shape, _IN_CACHE):
        high = float(counts[block].max())
        if counts.dtype.kind == "f":
            low = float(counts[block].min())  # min and max propagate NaN
            if not (low >= 0 and np.isfinite(high)):
                raise InputError(f"Scan.counts must be finite and not negative, got values from {low} to {high}")
        largest = max(largest, high)
        if largest > 0 and counts.dtype.kind == "u":
            return  # there is nothing else to check
    if largest == 0:
        raise InputError("Scan.counts must have at least one count, got patterns that are all zero")


def _check_array(key: str, array: Any, dtype: Any, shape: tuple[int | str, ...], description: str) -> None:
    expected = f"{np.dtype(dtype)} of shape ({', '.join(map(str, shape))}), {description}"
    if not isinstance(array, np.ndarray):
        raise InputError(f"Scan.{key} must be {expected}, got {type(array).__name__}")
    if array.dtype != dtype or array.shape != shape:
        raise InputError(f"Scan.{key} must be {expected}, got {array.dtype} of shape {array.shape}")
    if not np.isfinite(array).all():
        raise InputError(f"Scan.{key} must be finite, got {int((~np.isfinite(array)).sum())} values that are not")
