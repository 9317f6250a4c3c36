# SPDX-License-Identifier: BSD-3-Clause
"""Invalid scan files are refused with one sentence; no code in them is executed and no file is written.

This module tests the files of ptychodus and the faults of HDF5 files; test_bad_formats.py tests the other formats.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from corrupt import (
    Row,
    assert_one_sentence,
    attribute,
    circle,
    counts_with,
    damage_chunk,
    empty,
    external_link,
    folder,
    hdf5,
    huge,
    in_product,
    link_over,
    missing,
    outside,
    put,
    text,
    truncate,
    virtual,
)
from scan_files import COUNTS, FILES, PATTERNS, PROBE, WORLD, N, diffraction, product

from ptychopinn.cli import main
from ptychopinn.errors import InputError
from ptychopinn.scan import Scan

RECTANGLE = np.ones((PATTERNS, N, N + 2), np.uint16)

BAD: dict[str, Row] = {
    "pair truncated": (
        "pair",
        truncate,
        {},
        r"diffraction\.h5: expected an HDF5 file, found .*truncated, damaged or still",
    ),
    "pair a text": ("pair", text, {}, r"diffraction\.h5: expected an HDF5 file, found neither HDF5 nor an NPZ archive"),
    "pair empty": ("pair", empty, {}, r"diffraction\.h5: expected an HDF5 file, found an empty file \(0 bytes\)"),
    "pair missing": ("pair", missing, {}, r"diffraction\.h5: not found"),
    "pair a folder": (
        "pair",
        folder,
        {},
        r"diffraction\.h5: expected a scan in one of the formats npz, .*, found a folder",
    ),
    "named format of a text": ("pair", text, {"format": "ptychodus"}, r"expected .*ptychodus.*, found no HDF5 file"),
    "named format of none": (
        "pair",
        text,
        {"format": "gif"},
        r"format must be auto or one of npz, .*arrays, got 'gif'",
    ),
    "pair corrupt": (
        "pair",
        damage_chunk,
        {},
        r"'patterns': expected an intact array, found a damaged one .*; copy or export",
    ),
    "product missing": (
        "pair",
        lambda path: path.with_name("product.h5").unlink(),
        {},
        r"found no product\.h5; state part",
    ),
    "product truncated": (
        "pair",
        lambda path: truncate(path.with_name("product.h5")),
        {},
        r"product\.h5: expected a product of ptychodus, found one that is truncated, damaged or still being",
    ),
    "product without y": (
        "pair",
        in_product("probe_position_y_m", None),
        {},
        r"'probe_position_y_m': expected the key to",
    ),
    "positions unlike": (
        "pair",
        in_product("probe_position_y_m", WORLD[:4, 0]),
        {},
        r"y_m': expected 13 values, as many as in .*x_m, found 4",
    ),
    "positions NaN": (
        "pair",
        in_product("probe_position_x_m", np.full(PATTERNS, np.nan)),
        {},
        r"finite values, found 13 NaN",
    ),
    "positions complex": (
        "pair",
        in_product("probe_position_x_m", WORLD[:, 0] * 1j),
        {},
        r"real numbers, found complex128",
    ),
    "indexes repeat": (
        "pair",
        put("indexes", np.full(PATTERNS, 3)),
        {},
        r"'indexes': expected each frame index once, .* 3",
    ),
    "indexes few": ("pair", put("indexes", np.arange(4)), {}, r"'indexes': expected 13 frame indexes, found 4"),
    "indexes apart": (
        "pair",
        put("indexes", np.arange(13) + 900),
        {},
        r"of the positions, 5 to 41, found none of them, 900",
    ),
    "patterns a group": (
        "pair",
        hdf5(lambda file: (file.pop("patterns"), file.create_group("patterns"))),
        {},
        r"'patterns': expected an array, found a group",
    ),
    "patterns text": ("pair", put("patterns", "many"), {}, r"'patterns': expected real numbers, found object"),
    "patterns flat": (
        "pair",
        put("patterns", COUNTS[0]),
        {},
        r"'patterns': expected patterns \(n, N, N\), found shape",
    ),
    "patterns oblong": (
        "pair",
        put("patterns", RECTANGLE),
        {},
        r"'patterns': expected square patterns, .* \(13, 16, 18\)",
    ),
    "patterns none": ("pair", put("patterns", COUNTS[:0]), {}, r"'patterns': expected at least one pattern"),
    "patterns odd": (
        "pair",
        put("patterns", COUNTS[:, 1:, 1:]),
        {},
        r"expected patterns of an even size, found shape .* crop=14 ",
    ),
    "counts NaN": (
        "pair",
        put("patterns", counts_with(np.nan)),
        {},
        r"finite values, found 1 NaN .* at index \(4, 1, 2\)",
    ),
    "counts negative": (
        "pair",
        put("patterns", counts_with(-3, np.int32)),
        {},
        r"not negative, found 1 negative values, the first -3",
    ),
    "counts a marker": (
        "pair",
        put("patterns", counts_with(2**32 - 1, np.uint32)),
        {},
        r"mask of bad pixels\), found 1 dead-pixel",
    ),
    "counts a signed marker": (
        "pair",
        put("patterns", counts_with(2**31 - 1, np.int32)),
        {},
        r"mask of bad pixels\), found 1 dead-pixel values, the first 2147483647",
    ),
    "counts huge": (
        "pair",
        put("patterns", counts_with(1e30)),
        {},
        r"at most 2\^53 photons in a pixel, found counts of up to 1e\+30",
    ),
    "counts zero": (
        "pair",
        put("patterns", COUNTS * 0),
        {},
        r"'patterns': expected photons, found patterns that are all zero",
    ),
    "declared huge": ("pair", huge("object", "product.h5"), {}, r"'object': expected an array that fits into .* GiB"),
    "mask oblong": (
        "pair",
        put("bad_pixels", np.ones((N, 3), bool)),
        {},
        r"'bad_pixels': expected shape \(16, 16\), found",
    ),
    "mask of all": (
        "pair",
        put("bad_pixels", np.ones((N, N), bool)),
        {},
        r"at least one good pixel, found bad pixels only",
    ),
    "external link": (
        "pair",
        external_link("bad_pixels"),
        {},
        r"data in the folder of the file, found a link to the other file /etc/sec.*; copy the data files beside it",
    ),
    "link out at last": (
        "pair",
        link_over("bad_pixels"),
        {},
        r"the file other\.h5, to which it links, in the folder of the file, found none there; copy the data files",
    ),
    "links in a circle": (
        "pair",
        hdf5(circle),
        {"format": "ptychodus"},
        r"expected a link to data, found circular links",
    ),
    "virtual patterns": (
        "pair",
        hdf5(virtual),
        {},
        r"'patterns': expected the file other\.h5, to which it links, in the folder of the file, found none there",
    ),
    "external storage": (
        "pair",
        hdf5(outside),
        {},
        r"'patterns': expected data in this file, found data in the other file /etc",
    ),
    "near field": (
        "pair",
        attribute("/", "far_field", False, "product.h5"),
        {},
        r"expected a far-field experiment, found a near",
    ),
    "energy in keV": ("pair", attribute("/", "photon_energy_eV", 8.05, "product.h5"), {}, r"what reads as 8\.05 eV"),
    "energy a text": (
        "pair",
        attribute("/", "photon_energy_eV", "x", "product.h5"),
        {},
        r"'photon_energy_eV': expected one num",
    ),
    "pixels oblong": (
        "pair",
        attribute("patterns", "detector_pixel_width_m", 9e-5),
        {},
        r"expected square pixels, found 9e-05 m",
    ),
    "probe small": (
        "pair",
        in_product("probe", PROBE[:, :8, :8]),
        {},
        r"probe of the size of the patterns, 16 px, found 8 px",
    ),
    "probe zero": ("pair", in_product("probe", PROBE * 0), {}, r"'probe': expected a probe, found zeros only"),
    "object flat": (
        "pair",
        in_product("object", PROBE[0, 0]),
        {},
        r"'object': expected an object \(L, H, W\), found shape",
    ),
    "training without pixels": (
        "training",
        put("probe_position_x_px", None),
        {"format": "ptychodus-training"},
        r"'probe_posi",
    ),
    "training unlike": (
        "training",
        put("probe_position_x_px", np.ones(3)),
        {},
        r"'probe_position_y_px': expected 3 values",
    ),
    "training zero pixel": (
        "training",
        put("object_pixel_width_m", 0.0),
        {},
        r"'object_pixel_width_m': expected square pix",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_file_is_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    assert_one_sentence(tmp_path, BAD[name])


def test_file_that_two_formats_can_read_needs_a_stated_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = product(tmp_path)
    diffraction(tmp_path)
    with h5py.File(path, "a") as file:
        file["chunks/0/data"], file["chunks/0/positions"] = COUNTS, WORLD
    with pytest.raises(InputError, match=r"found what ptychodus and ptyd read; name one with format= \(--format\)"):
        Scan.load(path)
    assert Scan.load(path, format="ptychodus").n == PATTERNS


@pytest.mark.parametrize("kind", ["pair", "training", "cxi", "ptyd", "nexus", "cube"])
def test_truncated_file_is_an_input_error(tmp_path: Path, kind: str) -> None:
    """At any length, with a detected and with a stated format."""
    path = FILES[kind][0](tmp_path)
    content = path.read_bytes()
    for end in np.random.default_rng(5).integers(1, len(content), 20):
        path.write_bytes(content[:end])
        for format in ("auto", FILES[kind][1]):
            with pytest.raises(InputError, match=r"expected .*(truncated|HDF5)") as caught:
                Scan.load(path, format=format)
            assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["pair", "cxi", "nexus"])
def test_command_line_prints_one_sentence(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = FILES[kind][0](tmp_path)
    truncate(path)
    out = tmp_path / "out" / "a.npz"
    assert main(["convert", str(path), str(out)]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"ptychopinn convert: {path}: expected ") and line.count("\n") == 1
    assert not out.parent.exists()
