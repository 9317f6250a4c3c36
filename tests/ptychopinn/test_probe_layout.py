# SPDX-License-Identifier: BSD-3-Clause
"""Layouts of probes in files and of the caller: recognised, or refused with the way out."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from scan_files import COUNTS, PROBE, N, contract_npz, cxi, pair, ptyd

from ptychopinn.errors import InputError
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.scan import Scan

ONE = PROBE[:1]
OTHER = PROBE[::-1] * 2
PARTS = np.stack([ONE[0].real, ONE[0].imag])
WAY_OUT = r"state probe= \(--probe FILE\.npy\), complex with the axes \(modes, y, x\)"

#: Name -> the array, the probe that it is, the decision.
LAYOUTS: dict[str, tuple[NDArray[Any], NDArray[Any], str | None]] = {
    "(N, N)": (ONE[0], ONE, None),
    "(N, N, 1)": (ONE[0][..., None], ONE, None),
    "(M, N, N)": (PROBE, PROBE, None),
    "(N, N, M)": (PROBE.transpose(1, 2, 0), PROBE, None),
    "(1, 1, N, N)": (ONE[None], ONE, None),
    "(1, M, N, N)": (PROBE[None], PROBE, None),
    "(variations, M, N, N)": (np.stack([PROBE, OTHER, PROBE]), PROBE, "first of several"),
    "(N, N, M, variations)": (np.stack([PROBE, OTHER, PROBE]).transpose(2, 3, 1, 0), None, "first of several"),
    "parts first": (PARTS, ONE, "complex"),
    "parts first, float64": (PARTS.astype(np.float64)[None], ONE, "complex"),
    "parts last": (np.moveaxis(PARTS, 0, -1), ONE, "complex"),
    "modes, parts last": (np.stack([PROBE.real, PROBE.imag], axis=-1), PROBE, "complex"),
    "two amplitudes": (np.abs(PROBE), np.abs(PROBE), "modes"),
    "one amplitude": (np.abs(ONE), np.abs(ONE), None),
}


def same(probe: NDArray[Any], expected: NDArray[Any]) -> bool:
    """Whether two probes agree up to a factor."""
    factor = np.vdot(expected, probe) / np.vdot(expected, expected)
    return probe.shape == expected.shape and np.allclose(probe, factor * expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_are_recognised(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    """In a file, as an array, and in a file of the caller; the decision is kept and logged."""
    array, expected, decision = LAYOUTS[name]
    if expected is None:
        expected = PROBE
    path = cxi(tmp_path)
    with h5py.File(path, "a") as file:
        del file["entry_1/image_1/data"]
        file["entry_1/image_1/data"] = array
    np.save(tmp_path / "probe.npy", array)
    with caplog.at_level(logging.INFO):
        scans = [Scan.load(path), *(Scan.load(path, probe=probe) for probe in (array, tmp_path / "probe.npy"))]
    for scan in scans:
        assert same(scan.probe, expected)
        assert (scan.decisions.probe_layout and scan.decisions.probe_layout.value) == decision
    assert decision is None or caplog.text.count(f"is read as {decision}") == 3
    scans[0].save(tmp_path / "again.npz")
    assert Scan.load(tmp_path / "again.npz").decisions.probe_layout == scans[0].decisions.probe_layout


REFUSED = {
    "amplitude and phase": (np.stack([np.abs(ONE[0]), np.angle(ONE[0])]), "perhaps amplitude and phase"),
    "real parts of variations": (
        np.stack([PARTS, PARTS]),
        r"real values of shape \(2, 2, 16, 16\), which can be either",
    ),
    "oblong": (np.ones((N, N - 2), complex), r"found \(16, 14\)"),
    "five axes": (np.ones((2, 2, 2, N, N), complex), r"found \(2, 2, 2, 16, 16\)"),
    "another size": (np.ones((8, 8), complex), "a probe of the size of the patterns, 16 px, found 8 px"),
    "zeros": (np.zeros((N, N)), "found zeros only"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_layouts_are_refused_with_the_way_out(tmp_path: Path, name: str) -> None:
    array, words = REFUSED[name]
    path = cxi(tmp_path)
    with h5py.File(path, "a") as file:
        del file["entry_1/image_1/data"]
        file["entry_1/image_1/data"] = array
    with pytest.raises(InputError, match=rf"(image_1/data|probe)': .*{words}.*{WAY_OUT}"):
        Scan.load(path)
    with pytest.raises(InputError, match=rf"probe=: expected a probe of shape \(M, 16, 16\), .*modes, y, x.*{words}"):
        Scan.load(path, probe=array)


def test_layout_of_another_format_is_recognised(tmp_path: Path) -> None:
    path = pair(tmp_path)
    with h5py.File(tmp_path / "product.h5", "a") as file:
        del file["probe"]
        file["probe"] = PARTS
    assert same(Scan.load(path).probe, ONE)
    other = contract_npz(tmp_path)
    with np.load(other) as archive:
        arrays = dict(archive)
    np.savez(other, **(arrays | {"probeGuess": PARTS}))
    scan = Scan.load(other)
    assert same(scan.probe, ONE) and scan.decisions.probe_layout.value == "complex"


@pytest.mark.parametrize("names", [("r", "i"), ("real", "imag"), ("Re", "Im")])
def test_compound_types_are_complex(tmp_path: Path, names: tuple[str, str]) -> None:
    path, values = cxi(tmp_path), np.empty((N, N), [(name, np.float32) for name in names])
    values[names[0]], values[names[1]] = PARTS
    with h5py.File(path, "a") as file:
        del file["entry_1/image_1/data"]
        file["entry_1/image_1/data"] = values
    assert same(Scan.load(path).probe, ONE)


def test_probe_of_another_file(tmp_path: Path) -> None:
    scan_file = ptyd(tmp_path)
    with h5py.File(tmp_path / "recon.ptyr", "w") as file:
        file["content/probe/S00G00/data"], file["content/obj/S00G00/data"] = PROBE, np.ones((1, 40, 40), complex)
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["a/probe"], file["b/probe"], file["text"] = PROBE, OTHER, "x"
    np.savez(tmp_path / "own.npz", probe=PROBE, other=1)
    canvas = np.ones((40, 40), np.complex64)
    Reconstruction(canvas, np.ones((40, 40), np.float32), (0, 0), probe=PROBE).save(tmp_path / "result.h5")
    for name in ("recon.ptyr", "two.h5:a/probe", "own.npz", "own.npz:probe", "result.h5", f"{cxi(tmp_path).name}"):
        assert same(Scan.load(scan_file, probe=str(tmp_path / name)).probe, PROBE), name
    for name, words in (
        ("two.h5", r"expected one data set of a probe, found a/probe \(2, 16, 16\), b/probe .*; state FILE\.h5:PATH"),
        ("two.h5:c/probe", r"two\.h5: key 'c/probe': expected the key to be there, found only a, b, text"),
        ("two.h5:text", r"key 'text': expected complex or real numbers"),
        ("own.npz:none", r"own\.npz: expected the key none, found probe, other; state FILE\.npz:KEY"),
        ("absent.h5:probe", r"absent\.h5:probe: not found"),
        ("text.npy", r"text\.npy: expected an \.npy, \.npz or HDF5 file of a probe"),
    ):
        (tmp_path / "text.npy").write_text("probe")
        with pytest.raises(InputError, match=words):
            Scan.load(scan_file, probe=str(tmp_path / name))


def test_probe_of_the_size_of_the_patterns_is_read_with_any_number_of_modes(tmp_path: Path) -> None:
    """As many modes as pixels: the first axis has the modes."""
    modes = np.random.default_rng(0).normal(size=(N, N, N)).astype(np.complex64)
    path = ptyd(tmp_path)
    assert same(Scan.load(path, probe=modes).probe, modes) and len(COUNTS) == Scan.load(path, probe=modes).n
