# SPDX-License-Identifier: BSD-3-Clause
"""The NPZ format: exact round trips, each convention decided once, one clear sentence for every invalid file."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scan_files import detector_intensity

from ptychopinn.decisions import Decision
from ptychopinn.errors import InputError
from ptychopinn.io.formats.npz import read_npz, write_npz
from ptychopinn.scan import Scan

N, PATTERNS = 8, 11


def contract(**changes: Any) -> dict[str, Any]:
    """Write a file as other tools do, with counts in diff3d; a value of None removes the key."""
    rng = np.random.default_rng(3)
    arrays: dict[str, Any] = {
        "diff3d": rng.poisson(30, (PATTERNS, N, N)).astype(np.uint16),
        "xcoords": rng.uniform(4, 30, PATTERNS),
        "ycoords": rng.uniform(4, 20, PATTERNS),
        "probeGuess": (rng.normal(size=(N, N)) + 1j * rng.normal(size=(N, N))).astype(np.complex64),
    }
    return {key: value for key, value in {**arrays, **changes}.items() if value is not None}


def put(folder: Path, **changes: Any) -> Path:
    path = folder / "scan.npz"
    np.savez(path, **contract(**changes))
    return path


def scan_of(counts: np.ndarray, **changes: Any) -> Scan:
    rng = np.random.default_rng(5)
    probe = (rng.normal(size=(1, N, N)) + 1j * rng.normal(size=(1, N, N))).astype(np.complex64)
    return Scan(**{"counts": counts, "positions": rng.uniform(-3, 40, (len(counts), 2)), "probe": probe, **changes})


@pytest.mark.parametrize("largest", [1, 40, 255, 65535, 2**22 - 1, 2**22, 2**24 + 1, 2**32 - 1, 2**50 + 1])
def test_round_trip_of_integer_counts_is_exact(tmp_path: Path, largest: int) -> None:
    counts = np.random.default_rng(1).integers(0, largest, (20, N, N), np.uint64, endpoint=True)
    counts[0, 0, :5] = [largest, largest - 1, 0, 1, largest // 2]
    scan = scan_of(counts, truth=(np.arange(30).reshape(5, 6) * (1 + 2j)).astype(np.complex64), name="star")
    scan.save(tmp_path / "a.npz")
    back = Scan.load(tmp_path / "a.npz")
    np.testing.assert_array_equal(back.counts, counts)
    assert back.counts.dtype == np.min_scalar_type(int(counts.max()))
    np.testing.assert_array_equal(back.probe, scan.probe)
    np.testing.assert_allclose(back.positions, scan.positions, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(back.truth, scan.truth)
    assert back.name == "star"


def test_round_trip_of_the_other_fields_and_of_a_cube(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    probe = (rng.normal(size=(3, N, N)) + 1j * rng.normal(size=(3, N, N))).astype(np.complex64)
    bad = np.zeros((N, N), np.bool_)
    bad[1, 2] = True
    counts = rng.gamma(2, 30, (N, N, N)).astype(np.float32)  # N patterns of N x N, not integers
    scan = scan_of(counts, probe=probe, bad_pixels=bad, pixel_size=1.5e-8, energy=8000.0, metadata={"a": [1, "b"]})
    write_npz(scan, tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert file["diff3d"].dtype == np.float32 and str(file["measurement"]) == "amplitude"
        np.testing.assert_allclose(file["xcoords"], scan.positions[:, 1] + N // 2)
        np.testing.assert_allclose(file["ycoords_start"], scan.positions[:, 0] + N // 2)
        assert file["probeGuess"].shape == (3, N, N) and file["scan_index"].shape == (N,)
        assert "objectGuess" not in file.files
    back = read_npz(tmp_path / "a.npz")
    np.testing.assert_allclose(back.counts, counts, rtol=3e-7)
    np.testing.assert_array_equal(back.probe, probe)
    np.testing.assert_array_equal(back.bad_pixels, bad)
    assert (back.pixel_size, back.energy, back.metadata["a"]) == (1.5e-8, 8000.0, [1, "b"])
    assert back.decisions.probe_scale.factor == 1.0


def test_positions_are_y_x_of_the_first_sample(tmp_path: Path) -> None:
    arrays = contract()
    scan = read_npz(put(tmp_path))
    np.testing.assert_allclose(scan.positions[:, 0], arrays["ycoords"] - 4)
    np.testing.assert_allclose(scan.positions[:, 1], arrays["xcoords"] - 4)
    assert scan.name == "scan"


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8", "i2", "i4", "i8", ">u2", "f2", "f4", "f8", ">f4"])
@pytest.mark.parametrize("measurement", ["counts", "amplitude"])
def test_every_pattern_type_as_counts_and_amplitudes(tmp_path: Path, dtype: str, measurement: str) -> None:
    values = np.full((PATTERNS, N, N), 3.0)
    values[2, 1, 5] = 250  # squared, it overflows uint8 and int16
    scan = read_npz(put(tmp_path, diff3d=values.astype(dtype)), measurement=measurement)
    expected = values if measurement == "counts" else values**2
    np.testing.assert_array_equal(scan.counts, expected)
    assert scan.counts.dtype.kind == "u" and scan.counts.dtype.isnative
    assert scan.decisions.measurement == Decision(measurement, "as requested")


INTEGERS = np.random.default_rng(8).poisson(900, (PATTERNS, N, N))
REAL = np.random.default_rng(9).gamma(3, 2, (PATTERNS, N, N))


@pytest.mark.parametrize(
    ("patterns", "extra", "value", "reason", "exact"),
    [
        (INTEGERS.astype(np.int32), {}, "counts", "the type is int32", INTEGERS),
        (INTEGERS.astype(np.float32), {}, "counts", "all values are integers", INTEGERS),
        (np.sqrt(INTEGERS).astype(np.float32), {}, "amplitude", "all squares are integers", INTEGERS),
        (np.sqrt(INTEGERS), {}, "amplitude", "all squares are integers", INTEGERS),
        (
            np.sqrt(INTEGERS).astype(np.float32).astype(np.float64),
            {},
            "amplitude",
            "all squares are integers",
            INTEGERS,
        ),
        (REAL.astype(np.float32), {}, "amplitude", "the contract's default", None),
        (REAL, {"measurement": "counts"}, "counts", "stated by the key 'measurement'", None),
        (INTEGERS.astype(np.uint16), {"measurement": "amplitude"}, "amplitude", "the key 'measurement'", INTEGERS**2),
    ],
)
def test_amplitudes_and_counts_are_distinguished(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    patterns: np.ndarray,
    extra: dict[str, str],
    value: str,
    reason: str,
    exact: np.ndarray | None,
) -> None:
    with caplog.at_level(logging.DEBUG, logger="ptychopinn.io.counts"):
        scan = read_npz(put(tmp_path, diff3d=patterns, **extra))
    decision = scan.decisions.measurement
    assert decision is not None and decision.value == value and reason in decision.reason
    assert decision.by_default == ("default" in reason)
    assert f"'diff3d' read as {value}" in caplog.text and decision.reason in caplog.text
    (record,) = (record for record in caplog.records if "read as" in record.message)
    # What the file states is not news; a guess may be wrong.
    expected = logging.DEBUG if extra else logging.WARNING if decision.by_default else logging.INFO
    assert record.levelno == expected
    if exact is not None:
        np.testing.assert_array_equal(scan.counts, exact)
        assert scan.counts.dtype.kind == "u"
    else:
        np.testing.assert_allclose(
            scan.counts, patterns if value == "counts" else patterns.astype(float) ** 2, rtol=2e-7
        )
        assert scan.counts.dtype == np.float32
    assert any(record.levelno == logging.WARNING for record in caplog.records) == ("default" in reason)


def test_diffraction_precedes_diff3d(tmp_path: Path) -> None:
    scan = read_npz(put(tmp_path, diffraction=INTEGERS.astype(np.uint16)))
    np.testing.assert_array_equal(scan.counts, INTEGERS)


@pytest.mark.parametrize("n", [3, 11, 40])
def test_both_axis_orders_are_read(tmp_path: Path, n: int) -> None:
    counts = np.random.default_rng(4).poisson(30, (n, N, N)).astype(np.uint16)
    coords = {"xcoords": np.arange(n) * 1.0, "ycoords": np.arange(n) * 2.0}
    for patterns in (counts, np.moveaxis(counts, 0, -1)):
        np.testing.assert_array_equal(read_npz(put(tmp_path, diff3d=patterns, **coords)).counts, counts)


def test_cube_needs_the_key_axes(tmp_path: Path) -> None:
    cube = np.random.default_rng(4).poisson(30, (N, N, N)).astype(np.uint16)
    changes = {"diff3d": cube, "xcoords": np.arange(N), "ycoords": np.arange(N)}
    with pytest.raises(InputError, match=r"\(n, N, N\) or \(N, N, n\).*add the key axes = 'nyx' or axes = 'yxn'"):
        read_npz(put(tmp_path, **changes))
    np.testing.assert_array_equal(read_npz(put(tmp_path, **changes, axes="nyx")).counts, cube)
    np.testing.assert_array_equal(read_npz(put(tmp_path, **changes, axes="yxn")).counts, np.moveaxis(cube, -1, 0))


@pytest.mark.parametrize(
    ("shape", "modes"), [((N, N), 1), ((N, N, 1), 1), ((1, N, N), 1), ((3, N, N), 3), ((N, N, N), N)]
)
def test_probe_is_read_and_scaled(tmp_path: Path, shape: tuple[int, ...], modes: int) -> None:
    rng = np.random.default_rng(6)
    probe = (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)
    scan = read_npz(put(tmp_path, probeGuess=probe))
    assert scan.probe.shape == (modes, N, N)
    np.testing.assert_allclose(np.sum(np.abs(scan.probe) ** 2), scan.counts.sum() / PATTERNS, rtol=1e-5)
    factor = scan.decisions.probe_scale.factor
    np.testing.assert_allclose(scan.probe, factor * probe.reshape(modes, N, N), rtol=1e-5)
    marked = read_npz(put(tmp_path, probeGuess=probe, probe_units="sqrt_counts"))
    np.testing.assert_array_equal(marked.probe, probe.reshape(modes, N, N))


def test_constant_object_guess_is_no_truth(tmp_path: Path) -> None:
    scan = read_npz(put(tmp_path, objectGuess=np.full((9, 12), 1j, np.complex64)))
    assert scan.truth is None and scan.decisions.truth == Decision("omitted", "it is constant")
    truth = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(read_npz(put(tmp_path, objectGuess=truth)).truth, truth.astype(np.complex64))


def test_values_of_bad_pixels_are_ignored(tmp_path: Path) -> None:
    bad = np.zeros((N, N), np.uint8)
    bad[2, 3] = 1
    counts = INTEGERS.astype(np.float64)
    counts[:, 2, 3] = [np.nan, np.inf, -1, 0.5, *[1e6] * 7]
    scan = read_npz(put(tmp_path, diff3d=counts, bad_pixels=bad))
    assert scan.bad_pixels is not None and scan.bad_pixels.sum() == 1 and scan.bad_pixels[2, 3]
    np.testing.assert_array_equal(scan.counts[:, 2, 3], [0, 0, 0, 0, *[1e6] * 7])
    good = ~scan.bad_pixels
    np.testing.assert_array_equal(scan.counts[:, good], INTEGERS[:, good])
    np.testing.assert_allclose(
        detector_intensity(scan.probe)[good].sum(), INTEGERS[:, good].sum() / PATTERNS, rtol=1e-5
    )
    assert read_npz(put(tmp_path, bad_pixels=np.zeros((N, N), np.bool_))).bad_pixels is None


def counts_with(value: float, dtype: Any = np.float32) -> np.ndarray:
    patterns = contract()["diff3d"].astype(dtype)
    patterns[4, 1, 2] = patterns[6, 0, 0] = value
    return patterns


MANY = np.ones((300, N, N), np.uint8)

BROKEN_KEYS: list[tuple[dict[str, Any], str]] = [
    ({"diff3d": None}, r"'diff3d': expected the key to be there, found only probeGuess, xcoords, ycoords"),
    ({"probeGuess": None}, r"'probeGuess': expected the key to be there, found only diff3d, xcoords, ycoords"),
    ({"xcoords": None}, r"'xcoords': expected the key to be there"),
    ({"ycoords": None}, r"'ycoords': expected the key to be there"),
    ({"diff3d": np.array([{"a": 1}], object)}, r"'diff3d': .* found Python objects \(pickle\), which are never loaded"),
    ({"probeGuess": np.array([None], object)}, r"'probeGuess': .* found Python objects \(pickle\)"),
    ({"xcoords": np.arange(12.0)}, r"'ycoords': expected 12 values, as many as in xcoords, found 11"),
    ({"xcoords": np.arange(9.0), "ycoords": np.arange(9.0)}, r"'diff3d': expected 9 patterns, .* found 11 in shape"),
    ({"xcoords": np.zeros((11, 1))}, r"'xcoords': expected 1 axes, found shape \(11, 1\)"),
    ({"xcoords": np.full(11, np.nan)}, r"'xcoords': expected finite values, found 11 NaN .* first nan at index \(0,\)"),
    (
        {"probeGuess": np.ones((10, 10))},
        r"'probeGuess': expected a probe of the size of the patterns, 8 px, found 10 px",
    ),
    ({"probeGuess": np.ones((8, 10))}, r"'probeGuess': expected shape \(N, N\), .* found \(8, 10\)"),
    ({"probeGuess": np.ones((1, 1, 8, 10))}, r"'probeGuess': expected shape .* \(1, 1, 8, 10\); state probe= \(--pro"),
    ({"probeGuess": np.zeros((8, 8))}, r"'probeGuess': expected a probe, found zeros only"),
    ({"probeGuess": np.full((8, 8), np.inf)}, r"'probeGuess': expected finite values, found 64 NaN or infinite"),
    ({"probeGuess": np.full((8, 8), "p")}, r"'probeGuess': expected complex or real numbers, found <U1"),
    ({"diff3d": np.ones((11, 8, 10))}, r"'diff3d': expected square patterns, .* found shape \(11, 8, 10\)"),
    ({"diff3d": np.ones((11, 64))}, r"'diff3d': expected 3 axes, or 4 of a raster, found shape \(11, 64\)"),
    ({"diff3d": np.ones((0, 8, 8))}, r"'diff3d': expected at least one pattern, found shape \(0, 8, 8\)"),
    ({"diff3d": np.ones((11, 8, 8), bool)}, r"'diff3d': expected real numbers, found bool"),
    ({"diff3d": np.ones((11, 8, 8), complex)}, r"'diff3d': expected real numbers, found complex128"),
    ({"diff3d": np.full((11, 8, 8), "7")}, r"'diff3d': expected real numbers, found <U1"),
    ({"diff3d": np.zeros((11, 8, 8))}, r"'diff3d': expected photons, found patterns that are all zero"),
    (
        {"diff3d": counts_with(np.nan)},
        r"'diff3d': expected finite values, found 2 NaN .* first nan at index \(4, 1, 2\)",
    ),
    (
        {"diff3d": counts_with(np.inf)},
        r"'diff3d': expected finite values, found 2 NaN or infinite values, the first inf",
    ),
    (
        {"diff3d": counts_with(-2, np.int32)},
        r"'diff3d': expected values that are not negative, found 2 negative .* first -2",
    ),
    ({"diff3d": counts_with(-0.5)}, r"'diff3d': .* found 2 negative values, the first -0.5 at index \(4, 1, 2\)"),
    ({"measurement": "counts_"}, r"'measurement': expected 'amplitude' or 'counts', found 'counts_'"),
    ({"measurement": np.zeros(3)}, r"'measurement': expected one text, found float64 of shape \(3,\)"),
    ({"axes": "xyz"}, r"'axes': expected 'nyx' .* found 'xyz'"),
    ({"probe_units": "volt"}, r"'probe_units': expected 'sqrt_counts' or no such key, found 'volt'"),
    ({"bad_pixels": np.ones((8, 7), bool)}, r"'bad_pixels': expected shape \(8, 8\), found \(8, 7\)"),
    ({"objectGuess": np.ones((2, 9, 9))}, r"'objectGuess': expected 2 axes, found shape \(2, 9, 9\)"),
    ({"objectGuess": np.full((9, 9), np.nan)}, r"'objectGuess': expected finite values, found 81"),
    ({"pixel_size": np.zeros(2)}, r"'pixel_size': expected one number, found shape \(2,\)"),
    (
        {"pixel_size": -1.0},
        r"'pixel_size': expected a positive number; state pixel_size= if the file is wrong, found -1",
    ),
    ({"metadata_json": "{"}, r"'metadata_json': expected JSON text"),
    ({"metadata_json": "[]"}, r"'metadata_json': expected a JSON object, found list"),
    (
        {"diff3d": np.ones((11, 9, 9)), "probeGuess": np.ones((9, 9))},
        r"'diff3d': expected patterns of an even size, found shape .* crop=8 \(--crop 8\)",
    ),
]


@pytest.mark.parametrize(("changes", "sentence"), BROKEN_KEYS)
def test_invalid_key_is_reported(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    path = put(tmp_path, **changes)
    with pytest.raises(InputError, match=sentence) as caught:
        read_npz(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def remove(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("x,y\n1,2\n")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


def damage_member(path: Path) -> None:
    data = bytearray(path.read_bytes())
    middle = data.index(b"diff3d.npy") + 600
    data[middle : middle + 8] = bytes(255 - byte for byte in data[middle : middle + 8])
    path.write_bytes(data)


def foreign_member(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("diffraction", b"not an array")


def damage_start(path: Path) -> None:
    path.write_bytes(b"XX" + path.read_bytes()[2:])


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def lone_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.ones(3))


@pytest.mark.parametrize(
    ("corrupt", "sentence"),
    [
        (remove, ": not found"),
        (folder, "expected an NPZ file, found a folder"),
        (empty, r"expected an NPZ file, found an empty file \(0 bytes\)"),
        (text, "expected an NPZ file, found no zip archive"),
        (lone_array, "expected an NPZ file, found no zip archive"),
        (damage_start, "expected an NPZ file, found (no zip archive|a damaged one)"),
        (truncate, "expected an NPZ file, found a zip archive without its end, truncated"),
        (damage_member, "'diff3d': expected an intact array, found a damaged one .*; copy or export the file again"),
        (foreign_member, "'diffraction': expected an array in NumPy's format, found other bytes"),
    ],
)
def test_invalid_file_is_reported(tmp_path: Path, corrupt: Callable[[Path], None], sentence: str) -> None:
    path = put(tmp_path)
    corrupt(path)
    with pytest.raises(InputError, match=sentence) as caught:
        Scan.load(path)
    assert str(path) in str(caught.value)


def test_damaged_file_is_read_correctly_or_an_input_error(tmp_path: Path) -> None:
    path = put(tmp_path)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(150):
        data = bytearray(content)
        if rng.random() < 0.3:
            del data[rng.integers(1, len(data)) :]
        else:
            for offset in rng.integers(0, len(data), 3):
                data[offset] = rng.integers(256)
        path.write_bytes(data)
        try:
            scan = read_npz(path)
        except InputError as error:
            assert str(path) in str(error)
        else:
            np.testing.assert_array_equal(scan.counts, contract()["diff3d"])


def test_unknown_measurement_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="measurement must be one of auto, amplitude, counts, got 'intensity'"):
        read_npz(put(tmp_path), measurement="intensity")


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = scan_of(MANY)
    scan.save(tmp_path / "a.npz")
    monkeypatch.setattr(np.lib.format, "write_array", lambda file, *_, **__: file.write(b"half") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        replace(scan, name="b").save(tmp_path / "a.npz")
    monkeypatch.undo()
    assert Scan.load(tmp_path / "a.npz").name == "scan"
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
