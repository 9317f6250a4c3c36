# SPDX-License-Identifier: BSD-3-Clause
"""Reader and writer of the PtychoPINN NPZ contract, and reader of the similar training NPZ of ptychodus.

Keys: `diffraction` (preferred) or `diff3d`, `xcoords`, `ycoords`, `probeGuess`, optionally `objectGuess`, `bad_pixels`,
and those that :func:`write_npz` adds. The contract does not define whether patterns are amplitudes or counts, which
axis enumerates the patterns, and how the probe is scaled. The rules for these decisions are below and in
:mod:`ptychopinn.io.counts`; ambiguous files are errors. Pickles, and arrays larger than their data, are never loaded.
"""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn.decisions import Decision
from ptychopinn.errors import InputError
from ptychopinn.experiment import Experiment
from ptychopinn.io.build import Contents, assemble, bad_pixels_of, truth_of, units_reason
from ptychopinn.io.fields import OpenFile
from ptychopinn.io.options import MEASUREMENTS, ReadOptions
from ptychopinn.io.positions import WAYS
from ptychopinn.io.probe import PROBE_UNITS
from ptychopinn.io.probe_layout import arranged_with_variations
from ptychopinn.io.registry import Format, register
from ptychopinn.io.sniff import Content
from ptychopinn.io.stored_experiments import PREFIX, experiment_in, prefixed
from ptychopinn.records import ScanRecord
from ptychopinn.runtime.progress import progress
from ptychopinn.scan import Scan
from ptychopinn.storage.arrays import blocks_of
from ptychopinn.storage.atomic import atomic_path
from ptychopinn.storage.checksums import check_names
from ptychopinn.storage.stored import StoredPatterns, left_on_disk, save_npz

AXES = ("nyx", "yxn")


def read_npz(path: str | Path, measurement: str = "auto", memory: str = "auto") -> Scan:
    """Read a scan from an NPZ file of the PtychoPINN contract.

    Patterns are counts or amplitudes (square roots of counts). "auto" uses the key `measurement`; without it an integer
    type or integer values are counts, and other values amplitudes. Amplitudes are squared in float64. If all squares
    are integers within the rounding of the stored type, the counts are exactly these integers. A probe without
    `probe_units = "sqrt_counts"` is scaled so that sum |P|^2 over its modes is the mean number of counts in a pattern,
    which assumes an object of mean transmission 1.

    Args:
        path: the file; patterns (n, N, N) or (N, N, n), `xcoords` and `ycoords` (n,), the object pixel of patch sample
            N//2, `probeGuess` (N, N), (N, N, 1) or (M, N, N); a constant `objectGuess` is ignored.
        measurement: "amplitude", "counts" or "auto".
        memory: "load", "stored" or "auto"; patterns can stay on disk if they are uncompressed and (n, N, N). They are
            then read once or twice, to decide between counts and amplitudes and to scale the probe.

    Returns:
        The scan; `decisions` has the decisions with their reasons.

    Raises:
        InputError: the file cannot be used; the error has the file, the key, what was expected and what was found.
    """
    return read_contract(Path(path), ReadOptions(measurement=measurement, memory=memory))


def read_contract(path: Path, options: ReadOptions) -> Scan:
    """Read a file of the contract, whose coordinates are those of patch sample N//2, with the caller's options."""
    return _read(path, options, ptychodus=False)


def read_ptychodus_npz(path: Path, options: ReadOptions) -> Scan:
    """Read a training NPZ of ptychodus, with counts, and with coordinates of the patch centre, sample (N-1)/2.

    ptychodus writes the object pixel `(x - cx)/dx + (W - 1)/2` of a world coordinate x. The first sample of the patch
    is (N-1)/2 pixels before it, half a pixel from that of the contract.
    """
    return _read(path, options, ptychodus=True)


def _read(path: Path, options: ReadOptions, ptychodus: bool) -> Scan:
    with Archive(path) as archive:
        key = options.patterns or ("diffraction" if "diffraction" in archive.keys else "diff3d")
        record = _read_record(archive)
        experiment = experiment_in(archive, PREFIX, record.experiment)
        probe, layout, experiment = _read_probe(archive, options, experiment)
        pixels = _read_positions(archive, options)
        side = None if probe is None else probe.shape[-1]
        patterns, raster = _read_patterns(archive, key, side, None if pixels is None else len(pixels), options)
        size = patterns.shape[-1]
        stated = archive.text("measurement")
        if stated is not None and stated not in MEASUREMENTS[1:]:
            archive.fail("measurement", "'amplitude' or 'counts'", repr(stated))
        coordinates = Decision(
            "sample (N-1)/2" if ptychodus else "sample N//2",
            f"the format is {'ptychodus-npz' if ptychodus else 'npz'}",
        )
        if pixels is not None and not ptychodus:
            pixels += (size - 1) / 2 - size // 2
        units = units_reason(archive.text("probe_units"), "probe_units", archive)
        truth = truth_of(archive, "objectGuess", archive.array("objectGuess")) if archive.has("objectGuess") else None
        contents = Contents(
            file=archive,
            key=key,
            patterns=patterns,
            pixels=pixels,
            raster=raster,
            energy=archive.scalar("energy"),
            pixel_size=archive.scalar("pixel_size"),
            acquisition=record.acquisition,
            probe=probe,
            probe_layout=layout,
            scale_known=units,
            bad_pixels=bad_pixels_of(archive, "bad_pixels"),
            truth=truth,
            stated=stated,
            default="counts" if ptychodus else "amplitude",
            name=archive.text("name") or path.stem,
            frame_indexes=record.frame_indexes,
            experiment=experiment,
            record=replace(record, decisions=replace(record.decisions, coordinates=coordinates)),
        )
        return assemble(contents, options)


def write_npz(scan: Scan, path: str | Path) -> None:
    """Write a scan as an NPZ file of the contract, with amplitudes in `diff3d`, atomically.

    Amplitudes are float32, or float64 if a count is at least 2^22, so that integer counts below 2^51 are recovered
    exactly.

    Args:
        scan: the scan.
        path: the file; missing parent folders are created, an existing file is replaced.
    """
    centres = scan.positions + scan.patch_size // 2
    kind = np.float32 if _largest(scan.counts) < 2**22 else np.float64
    arrays: dict[str, Any] = {
        "measurement": "amplitude",
        "axes": "nyx",
        "xcoords": centres[:, 1],
        "ycoords": centres[:, 0],
        "xcoords_start": centres[:, 1],
        "ycoords_start": centres[:, 0],
        "scan_index": np.zeros(scan.n, np.int64),
        "probeGuess": scan.probe[0] if scan.modes == 1 else scan.probe,
        "probe_units": PROBE_UNITS,
        "objectGuess": scan.truth,
        "bad_pixels": scan.bad_pixels,
        "pixel_size": scan.pixel_size,
        "energy": scan.energy,
        "name": scan.name,
        "metadata_json": json.dumps(scan.record().to_json()),
        **prefixed(scan.experiment),
    }
    needed = math.prod(scan.counts.shape) * np.dtype(kind).itemsize
    with atomic_path(path, needed) as temporary, progress("write", scan.n) as advance:

        def amplitudes() -> Iterator[NDArray[Any]]:
            for _, block in blocks_of(scan.counts):
                yield np.sqrt(block, dtype=kind)
                advance(len(block))

        save_npz(temporary, "diff3d", scan.counts.shape, np.dtype(kind), amplitudes(), arrays)


def _largest(counts: NDArray[Any] | StoredPatterns) -> float:
    """The largest count, or that of the type where it is small."""
    if counts.dtype.kind == "u" and counts.dtype.itemsize <= 2:
        return float(np.iinfo(counts.dtype).max)
    return max(float(block.max()) for _, block in blocks_of(counts))


class Archive(OpenFile):
    """An open NPZ file, which reads one array at a time."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "an NPZ file")
        try:
            with zipfile.ZipFile(path) as names:  # np.load treats any other file as a pickle
                check_names(names)
            self._npz = np.load(path, allow_pickle=False)
        except (ValueError, OSError, NotImplementedError, RuntimeError, zipfile.BadZipFile) as error:
            with path.open("rb") as file:
                truncated = file.read(4) == b"PK\x03\x04"
            found = "a zip archive without its end, truncated or still being written" if truncated else "no zip archive"
            if zipfile.is_zipfile(path):
                found = f"a damaged one: {error}"
            raise InputError(
                f"{path}: expected an NPZ file, found {found}; "
                "copy or export it again, or name its format with --format"
            ) from error
        self.keys = frozenset(self._npz.files)

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._npz.close()

    def has(self, key: str) -> bool:
        return key in self.keys

    def array(self, key: str) -> NDArray[Any]:
        if key not in self.keys:
            self.fail(key, "the key to be there", f"only {', '.join(sorted(self.keys)) or 'an empty archive'}")
        try:
            self._check_declared(key)
            array = self._npz[key]
        except InputError:
            raise
        except (
            ValueError, SyntaxError, TokenError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error
        ) as error:  # fmt: skip
            if "allow_pickle" in str(error):
                self.fail(key, "an array of numbers or text", "Python objects (pickle), which are never loaded")
            self.fail(key, "an intact array", f"a damaged one ({error}); copy or export the file again")
        if not isinstance(array, np.ndarray):
            self.fail(key, "an array in NumPy's format", "other bytes")
        return array

    def _check_declared(self, key: str) -> None:
        """Check the size that a header declares, since NumPy allocates it before reading the data."""
        name = f"{key}.npy" if f"{key}.npy" in self._npz.zip.namelist() else key
        member = self._npz.zip.getinfo(name)
        self.check_memory(key, (member.file_size,), np.dtype(np.uint8))
        with self._npz.zip.open(name) as stream:
            if stream.read(6) != np.lib.format.MAGIC_PREFIX:
                return
            version = tuple(stream.read(2))
            if version not in _HEADERS:
                return
            shape, _, dtype = _HEADERS[version](stream)
        self.check_memory(key, shape, dtype)
        if not dtype.hasobject and int(np.prod(shape, dtype=object)) * dtype.itemsize > member.file_size:
            self.fail(key, "an intact array", f"{member.file_size} bytes for a shape of {shape} of {dtype}")


_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def _read_probe(
    archive: Archive, options: ReadOptions, experiment: Experiment
) -> tuple[NDArray[np.complex64] | None, Decision | None, Experiment]:
    """The probe (M, N, N), which determines N; None if the file has none and the caller states one.

    With it comes the experiment, with the variations of a probe (K, M, N, N) that has weights.
    """
    if options.probe is not None and not archive.has("probeGuess"):
        return None, None, experiment
    try:
        probe = archive.numeric("probeGuess", "iufc")
        return arranged_with_variations(archive, "probeGuess", "opr_weights", probe, experiment, None)
    except InputError:
        if options.probe is None:
            raise
        return None, None, experiment  # replaced by the caller's


def _read_positions(archive: Archive, options: ReadOptions) -> NDArray[np.float64] | None:
    """Coordinates (n, 2), (y, x); None if the file has none and the caller states positions."""
    if options.states_positions and not archive.has("xcoords"):
        return None
    if not archive.has("xcoords") and archive.keys & {"diffraction", "diff3d"}:
        archive.fail(
            "xcoords",
            "the key to be there",
            f"only {', '.join(sorted(archive.keys))}",
            WAYS,
        )
    x, y = (archive.numeric(name, "iuf", ndim=1).astype(np.float64) for name in ("xcoords", "ycoords"))
    if len(y) != len(x):
        archive.fail("ycoords", f"{len(x)} values, as many as in xcoords", f"{len(y)}")
    return np.stack([y, x], axis=1)


def _read_patterns(
    archive: Archive, key: str, size: int | None, n: int | None, options: ReadOptions
) -> tuple[NDArray[Any] | StoredPatterns, tuple[int, int] | None]:
    """Patterns (n, h, w) of the stored type, and rows and columns of a raster; axes are checked against positions."""
    axes = archive.text("axes")
    if axes not in (None, *AXES):
        archive.fail("axes", "'nyx' for (n, N, N) or 'yxn' for (N, N, n)", repr(axes))
    stored, raster = None, None
    if key in archive.keys:
        stored = left_on_disk(lambda: StoredPatterns.npz(archive.path, key), archive.path, options.memory)
    patterns = archive.numeric(key, "iuf", finite=False) if stored is None else stored
    if isinstance(patterns, np.ndarray) and patterns.ndim == 4:
        raster = (int(patterns.shape[0]), int(patterns.shape[1]))
        patterns = patterns.reshape(-1, *patterns.shape[2:])
        axes = "nyx"
    if patterns.ndim != 3:
        archive.fail(key, "3 axes, or 4 of a raster", f"shape {patterns.shape}")
    first, second, third = patterns.shape
    if axes is None:
        if patterns.shape == (n, n, n) and size in (None, n):
            archive.fail(
                key,
                f"patterns (n, N, N) or (N, N, n), distinguished by {n} positions and a probe of {n} px",
                f"shape {patterns.shape}, which fits both; add the key axes = 'nyx' or axes = 'yxn'",
            )
        axes = "yxn" if first == second != third and first != n else "nyx"
    if axes == "yxn":
        if isinstance(patterns, StoredPatterns):
            archive.fail(key, "patterns (n, N, N), which can stay on disk", f"{patterns.shape}; use memory='load'")
        patterns = np.moveaxis(patterns, -1, 0)
    found = f"shape {first, second, third}"
    if patterns.shape[0] == 0:
        archive.fail(key, "at least one pattern", found)
    height, width = patterns.shape[1:]
    if size is not None and not options.changes_frames and height == width != size:
        archive.fail(
            "probeGuess",
            f"a probe of the size of the patterns, {width} px",
            f"{size} px",
            "crop= (--crop), pad= (--pad) and bin= (--bin) change that of the patterns",
        )
    if n is not None and patterns.shape[0] != n:
        archive.fail(
            key,
            f"{n} patterns, one for each position in xcoords",
            f"{patterns.shape[0]} in {found}",
            "state other positions= (--positions) or scan_step= (--scan-step)",
        )
    return patterns, raster


def _read_record(archive: Archive) -> ScanRecord:
    text = archive.text("metadata_json")
    try:
        metadata = json.loads(text or "{}")
    except ValueError as error:
        archive.fail("metadata_json", "JSON text", f"text that is not JSON ({error})")
    if not isinstance(metadata, dict):
        archive.fail("metadata_json", "a JSON object", type(metadata).__name__)
    return ScanRecord.from_json(metadata)


def _is_npz(content: Content) -> bool:
    return content.kind == "npz" and not _is_ptychodus_npz(content)


def _is_ptychodus_npz(content: Content) -> bool:
    """Keys of ptychodus 1.7, without keys for measurement and axes."""
    marks = {"axes", "measurement", "probe_units", "metadata_json"}
    return content.kind == "npz" and content.has("diff3d", "bad_pixels", "scan_index") and not marks & content.names


_TAKES = ("positions", "patterns")
register(Format("npz", "the PtychoPINN contract", (".npz",), _is_npz, read_contract, write_npz, takes=_TAKES, order=10))
register(
    Format(
        "ptychodus-npz",
        "training NPZ of ptychodus",
        (),
        _is_ptychodus_npz,
        read_ptychodus_npz,
        takes=("patterns",),
        order=20,
    )
)
