# SPDX-License-Identifier: BSD-3-Clause
"""Geometry, orientation, frame indexes, decisions and the refinement report are fields, in memory and in every file.

Files of 0.1 had them in metadata. The tests write such files with the keys of that version.
"""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ptychopinn.acquisition import Acquisition
from ptychopinn.decisions import Decision, Decisions, Pairing, ProbeScale
from ptychopinn.errors import InputError
from ptychopinn.io.products import write_product
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.records import RESULT_KEYS, SCAN_KEYS, ResultRecord, ScanRecord
from ptychopinn.refinement_report import RefinementReport
from ptychopinn.scan import Scan

N, PATTERNS = 8, 5
INDEXES = np.array([4, 7, 2, 90, 11])
ORIGIN = (1.5e-6, -2.5e-6)

#: The metadata of a scan in 0.1.
FORMER_SCAN: dict[str, Any] = {
    "geometry": {"distance_m": 2.0, "detector_pixel_size_m": 7.5e-5, "world_origin_m": list(ORIGIN)},
    "orientation": "swap_flip_y",
    "scan_indexes": INDEXES.tolist(),
    "measurement": {"value": "counts", "reason": "the type is uint16"},
    "coordinates": {"value": "sample N//2", "reason": "the format is npz"},
    "probe": {"value": "guessed", "reason": "the file has none"},
    "probe_scaling": {"factor": 2.5, "reason": "sum |P|^2 over modes is the mean counts of a pattern"},
    "truth": {"value": "left out", "reason": "its pixels are another size"},
    "pairing": {"left_out": {"patterns": 2, "positions": 1}, "reason": "scan indexes without a partner"},
    "sample": "a butterfly",
}
#: The metadata of a refined result in 0.1.
FORMER_RESULT: dict[str, Any] = {
    "scan": "a",
    "patterns": 5,
    "refinement": {
        "passes": 3,
        "seconds": 1.25,
        "deviance": [4.0, 2.0, 1.5],
        "interrupted": False,
        "mode_powers": [0.75, 0.25],
        "positions_affine": {"matrix": [[1.0, 0.0], [0.5, 1.0]], "shift": [0.0, 2.0]},
        "config": {"iterations": 3, "engine": "lbfgs"},
        "split_half": {"mean": 0.9, "crossing_0.5": 0.7, "frequency": [0.0, 1.0], "correlation": [1.0, 0.2]},
    },
}
DECISIONS = Decisions(
    measurement=Decision("counts", "the type is uint16"),
    coordinates=Decision("sample N//2", "the format is npz"),
    probe=Decision("guessed", "the file has none"),
    probe_scale=ProbeScale(2.5, "sum |P|^2 over modes is the mean counts of a pattern"),
    truth=Decision("omitted", "its pixels are another size"),
    pairing=Pairing(2, 1, "scan indexes without a partner"),
)
REPORT = RefinementReport(
    passes=3,
    seconds=1.25,
    deviance=(4.0, 2.0, 1.5),
    mode_powers=(0.75, 0.25),
    affine_matrix=((1.0, 0.0), (0.5, 1.0)),
    affine_shift=(0.0, 2.0),
    split_half=FORMER_RESULT["refinement"]["split_half"],
    config={"iterations": 3, "engine": "lbfgs"},
)


def scan_of(**changes: Any) -> Scan:
    rng = np.random.default_rng(0)
    fields: dict[str, Any] = {
        "counts": rng.poisson(30, (PATTERNS, N, N)).astype(np.uint16),
        "positions": rng.uniform(0, 20, (PATTERNS, 2)),
        "probe": np.ones((1, N, N), np.complex64),
        "pixel_size": 1e-8,
        "energy": 8000.0,
        "metadata": {"sample": "a butterfly"},
        "acquisition": Acquisition(2.0, 7.5e-5, ORIGIN),
        "orientation": "swap_flip_y",
        "frame_indexes": INDEXES,
        "decisions": DECISIONS,
    }
    return Scan(**fields | changes)


def result_of(**changes: Any) -> Reconstruction:
    fields: dict[str, Any] = {
        "object": np.ones((12, 14), np.complex64),
        "weights": np.ones((12, 14), np.float32),
        "origin": (0.0, 0.0),
        "metadata": {"scan": "a", "patterns": 5},
    }
    return Reconstruction(**fields | changes)


def plain(record: ScanRecord | ResultRecord) -> dict[str, Any]:
    """Return the JSON of a record after a round trip through text."""
    read: dict[str, Any] = json.loads(json.dumps(record.to_json(), allow_nan=False))
    return read


@pytest.mark.parametrize(
    ("name", "exact"), [("a.npz", True), ("a.cxi", False), ("a.nxs", False), ("a.ptyd", False), ("a", False)]
)
def test_every_format_keeps_the_fields_of_a_scan(tmp_path: Path, name: str, exact: bool) -> None:
    scan = scan_of()
    scan.save(tmp_path / name, "ptychodus" if name == "a" else "auto")
    back = Scan.load(tmp_path / name)
    assert back.frame_indexes is not None and back.frame_indexes.dtype == np.int64
    np.testing.assert_array_equal(back.frame_indexes, INDEXES)
    assert back.orientation == "swap_flip_y" and back.metadata == {"sample": "a butterfly"}
    assert back.acquisition.distance == 2.0 and back.acquisition.detector_pixel_size == 7.5e-5
    np.testing.assert_allclose(back.acquisition.world_origin, ORIGIN, rtol=0, atol=0 if exact else 1e-20)
    measured = back.decisions.measurement
    assert measured is not None and measured.value == ("amplitude" if exact else "counts")
    # Decisions of this reader replace those of the first one; the others are kept.
    npz = Decision("sample N//2", "the format is npz")
    assert back.decisions == replace(DECISIONS, measurement=measured, coordinates=npz)


def test_scan_file_of_0_1_is_read_into_fields(tmp_path: Path) -> None:
    scan = scan_of()
    y, x = scan.positions.T + N // 2
    np.savez(
        tmp_path / "a.npz",
        diff3d=scan.counts,
        xcoords=x,
        ycoords=y,
        probeGuess=scan.probe[0],
        probe_units="sqrt_counts",
        measurement="counts",
        axes="nyx",
        pixel_size=1e-8,
        energy=8000.0,
        name="a",
        metadata_json=json.dumps(FORMER_SCAN),
    )
    back = Scan.load(tmp_path / "a.npz")
    measured = Decision("counts", "stated by the key 'measurement'")
    assert back.acquisition == scan.acquisition and back.orientation == scan.orientation
    np.testing.assert_array_equal(back.frame_indexes, INDEXES)
    assert back.decisions == replace(DECISIONS, measurement=measured) and back.metadata == {"sample": "a butterfly"}


def test_hdf5_group_of_0_1_is_read_into_fields(tmp_path: Path) -> None:
    plain_scan = scan_of(acquisition=Acquisition(2.0), orientation="given", frame_indexes=None, decisions=Decisions())
    for name in ("a.cxi", "a.nxs", "a.ptyd"):
        plain_scan.save(tmp_path / name)
        with h5py.File(tmp_path / name, "a") as file:
            group = file["ptychopinn" if name == "a.ptyd" else "entry_1/ptychopinn"]
            del group["metadata_json"]
            group["metadata_json"] = json.dumps(FORMER_SCAN)
        back = Scan.load(tmp_path / name)
        assert back.orientation == "swap_flip_y" and back.decisions.pairing == DECISIONS.pairing
        assert back.decisions.probe_scale == DECISIONS.probe_scale and back.metadata == {"sample": "a butterfly"}
        if name != "a.ptyd":  # the indexes of that format take precedence
            np.testing.assert_array_equal(back.frame_indexes, INDEXES)


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
def test_result_file_of_0_1_is_read_into_fields(tmp_path: Path, suffix: str) -> None:
    path = result_of().save(tmp_path / f"r{suffix}")
    text = json.dumps(FORMER_RESULT)
    if suffix == ".h5":
        with h5py.File(path, "a") as file:
            del file["metadata"]
            file["metadata"] = text
    else:
        with np.load(path) as file:
            arrays = dict(file)
        np.savez(path, **{**arrays, "metadata": text})
    back = Reconstruction.load(path)
    assert back.refinement == REPORT and back.metadata == {"scan": "a", "patterns": 5}
    assert back.acquisition == Acquisition() and back.orientation == "given"


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
def test_file_keeps_the_fields_of_a_result(tmp_path: Path, suffix: str) -> None:
    result = result_of(acquisition=Acquisition(2.0, None, ORIGIN), orientation="swap", refinement=REPORT)
    back = Reconstruction.load(result.save(tmp_path / f"r{suffix}"))
    assert (back.acquisition, back.orientation, back.refinement) == (result.acquisition, "swap", REPORT)
    assert back.metadata == result.metadata


def test_json_keeps_the_keys_of_0_1() -> None:
    truth = {"truth": FORMER_SCAN["truth"] | {"value": "omitted"}}
    assert plain(scan_of().record()) == FORMER_SCAN | truth
    assert plain(ScanRecord.from_json(FORMER_SCAN)) == FORMER_SCAN | truth
    assert plain(ResultRecord.from_json(FORMER_RESULT)) == FORMER_RESULT
    assert set(FORMER_SCAN) - {"sample"} == set(SCAN_KEYS)
    by_default = ScanRecord(decisions=Decisions(measurement=Decision("counts", "why", by_default=True)))
    assert ScanRecord.from_json(plain(by_default)).decisions == by_default.decisions
    assert ScanRecord().to_json() == ResultRecord().to_json() == {}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("geometry", "far"),
        ("orientation", "sideways"),
        ("orientation", ["swap"]),
        ("scan_indexes", "0 to 4"),
        ("scan_indexes", [1, 1.5]),
        ("scan_indexes", [1, 1]),
        ("scan_indexes", [2**70]),
        ("measurement", "counts"),
        ("measurement", {"value": 1, "reason": None}),
        ("probe", "a zone plate"),
        ("probe_scaling", {"factor": "2", "reason": "x"}),
        ("truth", None),
        ("pairing", {"left_out": 3, "reason": "x"}),
    ],
)
def test_invalid_values_are_dropped_with_a_warning(caplog: pytest.LogCaptureFixture, key: str, value: Any) -> None:
    record = ScanRecord.from_json({key: value, "sample": "x"})
    assert record.to_json() == {"sample": "x"} and repr(key) in caplog.text


def test_each_length_is_checked_separately(caplog: pytest.LogCaptureFixture) -> None:
    geometry = {"distance_m": -1, "detector_pixel_size_m": 1e-5, "world_origin_m": [1.0, "b"]}
    assert ScanRecord.from_json({"geometry": geometry}).acquisition == Acquisition(None, 1e-5)
    for value in ({"passes": 3}, [], {"passes": "x", "seconds": 1, "deviance": []}):
        assert ResultRecord.from_json({"refinement": value}).refinement is None
    assert caplog.text.count("'refinement'") == 3


def test_frame_indexes_of_the_wrong_length_are_dropped(tmp_path: Path) -> None:
    scan = scan_of()
    y, x = scan.positions.T + N // 2
    former = json.dumps({"scan_indexes": [3, 4]})
    np.savez(
        tmp_path / "a.npz", diff3d=scan.counts, xcoords=x, ycoords=y, probeGuess=scan.probe[0], metadata_json=former
    )
    assert Scan.load(tmp_path / "a.npz").frame_indexes is None


def test_former_keys_can_be_read_with_a_warning() -> None:
    scan, result = scan_of(), result_of(refinement=REPORT)
    for key, field in SCAN_KEYS.items():
        expected = FORMER_SCAN[key] if key != "truth" else FORMER_SCAN[key] | {"value": "omitted"}
        with pytest.warns(DeprecationWarning, match=rf"Scan\.metadata\['{key}'\] is now Scan\.{field}") as caught:
            assert scan.metadata[key] == expected
        assert caught[0].filename == __file__
        with pytest.warns(DeprecationWarning, match=rf"is now Scan\.{field}") as caught:
            assert scan.metadata.get(key) == expected
        assert caught[0].filename == __file__
    with pytest.warns(DeprecationWarning, match=r"is now Reconstruction\.refinement"):
        assert result.metadata["refinement"]["passes"] == 3
    # The source of this scan, without that of its own source.
    with pytest.warns(DeprecationWarning, match=r"is now Scan\.orientation"):
        assert replace(scan, orientation="swap").metadata["orientation"] == "swap"
    again = pickle.loads(pickle.dumps(scan))
    with pytest.warns(DeprecationWarning, match=r"is now Scan\.orientation"):
        assert again.metadata["orientation"] == "swap_flip_y" and again.metadata == scan.metadata


@pytest.mark.filterwarnings("error")
def test_other_keys_behave_as_in_a_dictionary() -> None:
    bare = scan_of(acquisition=Acquisition(), orientation="given", frame_indexes=None, decisions=Decisions())
    assert bare.metadata["sample"] == "a butterfly" and bare.metadata.get("nothing", 1) == 1
    for key in ("nothing", *SCAN_KEYS):
        assert bare.metadata.get(key) is None
        with pytest.raises(KeyError, match=key):
            bare.metadata[key]
    assert json.loads(json.dumps(bare.metadata)) == {"sample": "a butterfly"}


def test_metadata_with_the_key_of_a_field_are_refused() -> None:
    for key, field in SCAN_KEYS.items():
        with pytest.raises(InputError, match=rf"must not have the key '{key}': state it in Scan\.{field}"):
            scan_of(metadata={key: FORMER_SCAN[key]})
    for key, field in RESULT_KEYS.items():
        with pytest.raises(InputError, match=rf"must not have the key '{key}': state it in Reconstruction\.{field}"):
            result_of(metadata={key: 1})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"acquisition": Acquisition(distance=-1.0)}, r"Scan\.acquisition\.distance must be positive finite metres"),
        ({"acquisition": Acquisition(detector_pixel_size=float("nan"))}, r"detector_pixel_size must be positive"),
        ({"acquisition": Acquisition(world_origin=(0.0,))}, r"world_origin must be two finite metres \(y, x\)"),  # type: ignore[arg-type]
        ({"orientation": "mirror"}, r"Scan\.orientation must be one of given, flip_y, .*, got 'mirror'"),
        ({"frame_indexes": INDEXES[:4]}, r"Scan\.frame_indexes must be int64 of shape \(5\), one index"),
        ({"frame_indexes": INDEXES.astype(np.int32)}, r"Scan\.frame_indexes must be int64"),
        ({"frame_indexes": np.array([1, 1, 2, 3, 4])}, r"Scan\.frame_indexes must hold each index once"),
        ({"metadata": [1]}, r"Scan\.metadata must be a dictionary, got list"),
    ],
)
def test_fields_are_checked(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        scan_of(**changes)


def test_result_without_a_scan_uses_its_own_geometry(tmp_path: Path) -> None:
    scan = scan_of()
    result = result_of(
        probe=scan.probe, positions=scan.positions, pixel_size=scan.pixel_size, acquisition=scan.acquisition
    )
    write_product(result, tmp_path / "alone.h5")
    write_product(result, tmp_path / "with.h5", scan)
    with h5py.File(tmp_path / "alone.h5") as alone, h5py.File(tmp_path / "with.h5") as other:
        for key in ("center_x_m", "center_y_m"):
            assert alone["object"].attrs[key] == other["object"].attrs[key]
        assert alone.attrs["detector_object_distance_m"] == 2.0
        np.testing.assert_array_equal(alone["probe_position_x_m"], other["probe_position_x_m"])
