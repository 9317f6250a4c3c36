# SPDX-License-Identifier: BSD-3-Clause
"""Read and write the PtychoPINN NPZ contract, the one file format every tool around this package understands.

Keys: `diffraction` (wins) or `diff3d`, `xcoords`, `ycoords`, `probeGuess`, optionally `objectGuess`, `bad_pixels` and
what our writer adds. The contract leaves open whether patterns are amplitudes or counts, which axis counts the patterns
and how the probe is scaled; each is decided here once, by a rule that `Scan.metadata` records, or refused.
No pickle is ever loaded. Files are checked block by block, so that the checks cost no second copy of the patterns.
"""

from __future__ import annotations

import json
import logging
import zipfile
import zlib
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ptychopinn.data.atomic import atomic_path
from ptychopinn.data.scan import Scan, pattern_blocks
from ptychopinn.data.stored import StoredPatterns, npz_on_disk, save_npz
from ptychopinn.errors import InputError

MEASUREMENTS = ("auto", "amplitude", "counts")
AXES = ("nyx", "yxn")
PROBE_UNITS = "sqrt_counts"

_log = logging.getLogger(__name__)


def read_npz(path: str | Path, measurement: str = "auto", memory: str = "auto") -> Scan:
    """Read a scan from an NPZ file of the PtychoPINN contract.

    Patterns are counts or amplitudes (square roots of counts). Under "auto" this is decided by the key `measurement`,
    else an integer type or whole values mean counts, else amplitudes. Amplitudes are squared in float64, and where the
    squares are integers within the rounding of the file's type, the counts are those integers exactly.
    A probe that is not marked `probe_units = "sqrt_counts"` is scaled so that sum |P|^2 over its modes is the mean
    number of counts in a pattern, that is, for an object of mean transmission 1.

    Args:
        path: the file; patterns (n, N, N) or (N, N, n), `xcoords` and `ycoords` (n,), the object pixel of patch sample
            N//2, `probeGuess` (N, N), (N, N, 1) or (M, N, N); a constant `objectGuess` is no truth.
        measurement: "amplitude", "counts" or "auto".
        memory: "load", "stored" or "auto"; patterns stay on disk only if they are uncompressed and (n, N, N). They are
            read through once all the same, or twice, to decide what they are and to scale the probe.

    Returns:
        The scan; `metadata["measurement"]` and `metadata["probe_scaling"]` say what was decided and why.

    Raises:
        InputError: one sentence with the file, the key, what was expected and what was found.
    """
    path = Path(path)
    if measurement not in MEASUREMENTS:
        raise InputError(f"measurement must be one of {', '.join(MEASUREMENTS)}, got {measurement!r}")
    with _Archive(path) as archive:
        key = "diffraction" if "diffraction" in archive.keys else "diff3d"
        probe = _read_probe(archive)
        size = probe.shape[-1]
        x, y = (archive.numbers(name, "iuf", ndim=1).astype(np.float64) for name in ("xcoords", "ycoords"))
        if len(y) != len(x):
            archive.fail("ycoords", f"{len(x)} values, as many as in xcoords", f"{len(y)}")
        patterns = _read_patterns(archive, key, size, len(x), memory)
        bad_pixels = _read_bad_pixels(archive, size)
        stated = archive.text("measurement")
        if stated is not None and stated not in MEASUREMENTS[1:]:
            archive.fail("measurement", "'amplitude' or 'counts'", repr(stated))
        counts, decision = _read_counts(archive, key, patterns, bad_pixels, measurement, stated)
        metadata = _read_metadata(archive)
        metadata["measurement"] = decision
        probe = _scale_probe(archive, probe, counts, bad_pixels, metadata)
        try:
            return Scan(
                counts=counts,
                positions=np.stack([y, x], axis=1) - size // 2,
                probe=probe,
                truth=_read_truth(archive),
                bad_pixels=bad_pixels,
                pixel_size=archive.scalar("pixel_size"),
                energy=archive.scalar("energy"),
                name=archive.text("name") or path.stem,
                metadata=metadata,
            )
        except InputError as error:
            raise InputError(f"{path}: {error}") from error


def write_npz(scan: Scan, path: str | Path) -> None:
    """Write a scan as an NPZ file of the contract, with amplitudes in `diff3d`, whole or not at all.

    Amplitudes are float32, or float64 where a count reaches 2^22 and float32 could not give the integer back: reading
    integer counts below 2^51 returns them exactly.

    Args:
        scan: what to write.
        path: the file; missing parent folders are created, an existing file is replaced.
    """
    centres = scan.positions + scan.patch_size // 2
    parts = pattern_blocks(scan.counts.shape)
    exact_in_float32 = max(float(scan.counts[part].max()) for part in parts) < 2**22
    kind = np.float32 if exact_in_float32 else np.float64
    amplitudes = (np.sqrt(scan.counts[part], dtype=kind) for part in pattern_blocks(scan.counts.shape))
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
        "metadata_json": json.dumps(scan.metadata),
    }
    with atomic_path(path) as temporary:
        save_npz(temporary, "diff3d", scan.counts.shape, np.dtype(kind), amplitudes, arrays)


class _Archive:
    """An open NPZ file that reads one key at a time and words every complaint about it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise InputError(f"{path}: expected an NPZ file, found {'a folder' if path.is_dir() else 'no file'}")
        if path.stat().st_size == 0:
            raise InputError(f"{path}: expected an NPZ file, found an empty file (0 bytes)")
        try:
            zipfile.ZipFile(path).close()  # np.load takes any other file for a pickle and words its refusal so
            self._npz = np.load(path, allow_pickle=False)
        except (ValueError, OSError, NotImplementedError, zipfile.BadZipFile) as error:
            with path.open("rb") as file:
                truncated = file.read(4) == b"PK\x03\x04"
            found = "a zip archive without its end, truncated or still being written" if truncated else "no zip archive"
            raise InputError(f"{path}: expected an NPZ file, found {found}") from error
        self.keys = frozenset(self._npz.files)

    def __enter__(self) -> _Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._npz.close()

    def fail(self, key: str, expected: str, found: str) -> NoReturn:
        raise InputError(f"{self.path}: key '{key}': expected {expected}, found {found}")

    def array(self, key: str) -> NDArray[Any]:
        if key not in self.keys:
            self.fail(key, "the key to be there", f"only {', '.join(sorted(self.keys)) or 'an empty archive'}")
        try:
            array = self._npz[key]
        except (ValueError, SyntaxError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            if "allow_pickle" in str(error):
                self.fail(key, "an array of numbers or text", "Python objects (pickle), which are never loaded")
            self.fail(key, "an intact array", f"a damaged one ({error}); copy or export the file again")
        if not isinstance(array, np.ndarray):
            self.fail(key, "an array in NumPy's format", "other bytes")
        return array

    def numbers(self, key: str, kinds: str, ndim: int | None = None, finite: bool = True) -> NDArray[Any]:
        """The array under `key` in native byte order, which must be of one of these NumPy kinds."""
        array = self.array(key)
        if array.dtype.kind not in kinds:
            self.fail(key, "complex or real numbers" if "c" in kinds else "real numbers", f"{array.dtype}")
        if ndim is not None and array.ndim != ndim:
            self.fail(key, f"{ndim} axes", f"shape {array.shape}")
        if finite and not (good := np.isfinite(array)).all():
            self.fail_values(key, "finite values", "NaN or infinite", array, ~good)
        return array.astype(array.dtype.newbyteorder("="), copy=False)

    def fail_values(
        self, key: str, expected: str, fault: str, array: NDArray[Any], wrong: NDArray[np.bool_]
    ) -> NoReturn:
        first = tuple(int(i) for i in np.unravel_index(np.argmax(wrong), wrong.shape))
        self.fail(key, expected, f"{int(wrong.sum())} {fault} values, the first {array[first]} at index {first}")

    def text(self, key: str) -> str | None:
        if key not in self.keys:
            return None
        array = self.array(key)
        if array.dtype.kind != "U" or array.size != 1:
            self.fail(key, "one text", f"{array.dtype} of shape {array.shape}")
        return str(array.item())

    def scalar(self, key: str) -> float | None:
        if key not in self.keys:
            return None
        array = self.numbers(key, "iuf")
        if array.size != 1:
            self.fail(key, "one number", f"shape {array.shape}")
        return float(array.item())


def _read_probe(archive: _Archive) -> NDArray[np.complex64]:
    """The probe as (M, N, N), which sets N."""
    probe = archive.numbers("probeGuess", "iufc")
    if probe.ndim == 3 and probe.shape[2] == 1 and probe.shape[0] == probe.shape[1]:
        probe = probe[:, :, 0]
    if probe.ndim == 2:
        probe = probe[np.newaxis]
    if probe.ndim != 3 or probe.shape[1] != probe.shape[2]:
        archive.fail("probeGuess", "shape (N, N), (N, N, 1) or (M, N, N)", f"{archive.array('probeGuess').shape}")
    if not probe.any():
        archive.fail("probeGuess", "a probe", "zeros only")
    return probe.astype(np.complex64)


def _read_patterns(archive: _Archive, key: str, size: int, n: int, memory: str) -> NDArray[Any] | StoredPatterns:
    """The patterns as (n, N, N), in the file's type; the positions and the probe must agree with the axis order."""
    stored = npz_on_disk(archive.path, key, memory) if key in archive.keys else None
    patterns = archive.numbers(key, "iuf", ndim=3, finite=False) if stored is None else stored
    axes = archive.text("axes")
    if axes not in (None, *AXES):
        archive.fail("axes", "'nyx' for (n, N, N) or 'yxn' for (N, N, n)", repr(axes))
    first, second, third = patterns.shape
    if axes is None:
        if patterns.shape == (n, n, n) and n == size:
            archive.fail(
                key,
                f"patterns (n, N, N) or (N, N, n) that {n} positions and a probe of {size} px tell apart",
                f"shape {patterns.shape}, which can be read both ways; add the key axes = 'nyx' or axes = 'yxn'",
            )
        axes = "yxn" if first == second != third else "nyx"
    if axes == "yxn":
        if isinstance(patterns, StoredPatterns):
            archive.fail(key, "patterns (n, N, N) to read from where they lie", f"shape {patterns.shape}; load them")
        patterns = np.moveaxis(patterns, -1, 0)
    found = f"shape {first, second, third}"
    if patterns.shape[1] != patterns.shape[2]:
        archive.fail(key, "square patterns, (n, N, N) or (N, N, n)", found)
    if patterns.shape[0] == 0:
        archive.fail(key, "at least one pattern", found)
    if patterns.shape[1] != size:
        archive.fail("probeGuess", f"a probe of the size of the patterns, {patterns.shape[1]} px", f"{size} px")
    if patterns.shape[0] != n:
        archive.fail(key, f"{n} patterns, one for each position in xcoords", f"{patterns.shape[0]} in {found}")
    return patterns


def _read_bad_pixels(archive: _Archive, size: int) -> NDArray[np.bool_] | None:
    if "bad_pixels" not in archive.keys:
        return None
    mask = archive.numbers("bad_pixels", "biu")
    if mask.shape != (size, size):
        archive.fail("bad_pixels", f"shape {size, size}", f"{mask.shape}")
    return mask.astype(np.bool_) if mask.any() else None


def _read_counts(
    archive: _Archive,
    key: str,
    patterns: NDArray[Any] | StoredPatterns,
    bad: NDArray[np.bool_] | None,
    requested: str,
    stated: str | None,
) -> tuple[NDArray[Any] | StoredPatterns, dict[str, str]]:
    """Photon counts from patterns of either kind, with the decision which kind they were and its reason."""
    good = np.ones(patterns.shape[1:], np.bool_) if bad is None else ~bad
    if isinstance(patterns, StoredPatterns):
        patterns = patterns.converted(bad=bad)  # refuses by itself what is invalid
    elif patterns.dtype.kind != "u":
        _refuse_invalid(archive, key, patterns, good)
    whole = squares_whole = True
    largest = 0.0
    rounding = _relative_rounding(patterns)
    for part in pattern_blocks(patterns.shape):
        block = _valid_block(patterns[part], bad)
        largest = max(largest, float(block.max()))
        block = block[:, good]
        whole = whole and bool(np.all(block == np.rint(block)))
        squares = np.square(block)
        squares_whole = squares_whole and bool(np.all(np.abs(squares - np.rint(squares)) <= rounding * squares))
    if largest == 0:
        archive.fail(key, "photons", "patterns that are all zero")

    value, reason = _decide(patterns.dtype, whole and largest > 1, squares_whole, requested, stated)
    guessed = reason == _DEFAULT_REASON
    _log.log(logging.WARNING if guessed else logging.INFO, "%s: '%s' read as %s: %s", archive.path, key, value, reason)
    decision = {"value": value, "reason": reason}
    if value == "counts" and patterns.dtype.kind == "u":
        return patterns if isinstance(patterns, StoredPatterns) else np.ascontiguousarray(patterns), decision
    exact = squares_whole if value == "amplitude" else whole
    power = 2 if value == "amplitude" else 1
    exact = exact and largest**power < 2**53
    dtype = np.min_scalar_type(round(largest**power)) if exact else np.dtype(np.float32)
    if isinstance(patterns, StoredPatterns):
        return patterns.converted(bad=bad, power=power, dtype=dtype), decision
    counts = np.empty(patterns.shape, dtype)
    for part in pattern_blocks(patterns.shape):
        block = _valid_block(patterns[part], bad) ** power  # float64: squares of uint16 or float32 lose nothing here
        counts[part] = np.rint(block) if exact else block
    return counts, decision


_DEFAULT_REASON = (
    "the contract's default, since neither the values nor their squares are whole numbers "
    "(the option 'measurement' states it)"
)


def _decide(
    dtype: np.dtype[Any], whole: bool, squares_whole: bool, requested: str, stated: str | None
) -> tuple[str, str]:
    if requested != "auto":
        return requested, "as requested"
    if stated is not None:
        return stated, "the key 'measurement' says so"
    if dtype.kind != "f":
        return "counts", f"the type is {dtype}"
    if whole:
        return "counts", "all values are whole numbers"
    if squares_whole:
        return "amplitude", "all squares are whole numbers within rounding"
    return "amplitude", _DEFAULT_REASON


def _refuse_invalid(archive: _Archive, key: str, patterns: NDArray[Any], good: NDArray[np.bool_]) -> None:
    for part in pattern_blocks(patterns.shape):
        block = patterns[part]
        if np.all(np.isfinite(block) & (block >= 0)):
            continue
        if (wrong := ~np.isfinite(patterns) & good).any():
            archive.fail_values(key, "finite values", "NaN or infinite", patterns, wrong)
        if (wrong := (patterns < 0) & good).any():
            archive.fail_values(key, "values that are not negative", "negative", patterns, wrong)
        return  # only bad pixels are invalid


def _valid_block(block: NDArray[Any], bad: NDArray[np.bool_] | None) -> NDArray[np.float64]:
    """Patterns in float64, zero where a bad pixel holds NaN, infinity or a negative marker."""
    values = block.astype(np.float64)
    if bad is not None:
        values[~(np.isfinite(values) & (values >= 0))] = 0
    return values


def _relative_rounding(patterns: NDArray[Any] | StoredPatterns) -> float:
    """How far a square may be from an integer, relative to it, when the amplitudes were rounded to the file's type."""
    if patterns.dtype.kind != "f":
        return 0.0
    dtype = patterns.dtype.type
    if dtype == np.float64 and np.array_equal(patterns[0], patterns[0].astype(np.float32), equal_nan=True):
        dtype = np.float32  # float64 in the file, but rounded to float32 before
    return 1.5 * float(np.finfo(dtype).eps)


def _scale_probe(
    archive: _Archive,
    probe: NDArray[np.complex64],
    counts: NDArray[Any] | StoredPatterns,
    bad: NDArray[np.bool_] | None,
    metadata: dict[str, Any],
) -> NDArray[np.complex64]:
    """The probe in sqrt(counts): the only place where a probe from an NPZ file meets a scale factor."""
    units = archive.text("probe_units")
    if units is not None:
        if units != PROBE_UNITS:
            archive.fail("probe_units", f"'{PROBE_UNITS}' or no such key", repr(units))
        metadata.setdefault("probe_scaling", {"factor": 1.0, "reason": "the key 'probe_units' says sqrt_counts"})
        return probe
    good = np.ones(counts.shape[1:], np.bool_) if bad is None else ~bad
    total = sum(float(counts[part].sum(axis=0, dtype=np.float64)[good].sum()) for part in pattern_blocks(counts.shape))
    power = float(np.square(np.abs(probe.astype(np.complex128))).sum())
    factor = float(np.sqrt(total / counts.shape[0] / power))
    metadata["probe_scaling"] = {"factor": factor, "reason": "sum |P|^2 over modes is the mean counts of a pattern"}
    return (probe * factor).astype(np.complex64)


def _read_truth(archive: _Archive) -> NDArray[np.complex64] | None:
    if "objectGuess" not in archive.keys:
        return None
    truth = archive.numbers("objectGuess", "iufc", ndim=2)
    constant = truth.size == 0 or np.abs(truth - truth.flat[0]).max() <= 1e-6 * np.abs(truth.flat[0])
    return None if constant else truth.astype(np.complex64)


def _read_metadata(archive: _Archive) -> dict[str, Any]:
    text = archive.text("metadata_json")
    try:
        metadata = json.loads(text or "{}")
    except ValueError as error:
        archive.fail("metadata_json", "JSON text", f"text that is not JSON ({error})")
    if not isinstance(metadata, dict):
        archive.fail("metadata_json", "a JSON object", type(metadata).__name__)
    return metadata
