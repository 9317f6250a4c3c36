# SPDX-License-Identifier: BSD-3-Clause
"""Links to other HDF5 files and virtual data sets are followed in the folder of the file, and refused elsewhere."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from scan_files import BAD, COUNTS, DETECTOR, DISTANCE, ENERGY, PATTERNS, WORLD, N, cxi, eiger, nexus

from ptychopinn.errors import InputError
from ptychopinn.io.scans import format_to_read
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.scan import Scan
from ptychopinn.storage.stored import StoredPatterns
from ptychopinn.world import world_positions

DATA = "entry_1/instrument_1/detector_1/data"


def replaced(path: Path, value: object) -> None:
    """Replace the patterns of a CXI file by a link, or by what a function makes of the file."""
    with h5py.File(path, "a") as file:
        del file[DATA]
        if callable(value):
            value(file)
        else:
            file[DATA] = value


def cube(path: Path, part: slice = slice(None)) -> Path:
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "w") as file:
        file["data"] = COUNTS[part]
    return path


def virtual(*sources: tuple[str, str, int]) -> Callable[[h5py.File], None]:
    """A virtual data set over blocks of frames: (file, data set, number of frames)."""

    def make(file: h5py.File) -> None:
        layout, first = h5py.VirtualLayout((sum(n for *_, n in sources), N, N), np.uint16), 0
        for name, key, n in sources:
            layout[first : first + n] = h5py.VirtualSource(name, key, (n, N, N))
            first += n
        file.create_virtual_dataset(DATA, layout)

    return make


@pytest.fixture
def master(tmp_path: Path) -> Path:
    folder = tmp_path / "scan"
    folder.mkdir()
    return cxi(folder)


@pytest.mark.parametrize("memory", ["load", "stored"])
def test_link_to_a_file_in_the_folder_is_followed(master: Path, memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cube(master.parent / "sub" / "data.h5")
    replaced(master, h5py.ExternalLink("sub/data.h5", "data"))
    monkeypatch.chdir(master.parent.parent)
    for path in (master, Path("scan") / master.name):
        scan = Scan.load(path, memory=memory)
        np.testing.assert_array_equal(scan.counts[:], COUNTS)
        assert isinstance(scan.counts, StoredPatterns) == (memory == "stored")


@pytest.mark.parametrize("name", ["/raw/visitor/data.h5", "../raw/data.h5"])
def test_data_files_that_were_copied_beside_the_master_are_found(master: Path, name: str) -> None:
    cube(master.parent / "data.h5")
    replaced(master, h5py.ExternalLink(name, "data"))
    np.testing.assert_array_equal(Scan.load(master).counts, COUNTS)


def test_master_named_by_a_symbolic_link_has_its_data_files_beside_itself(master: Path) -> None:
    cube(master.parent / "data.h5")
    replaced(master, virtual(("data.h5", "data", PATTERNS)))
    link = master.parent.parent / "link.cxi"
    link.symlink_to(master)
    for memory in ("load", "stored"):
        np.testing.assert_array_equal(Scan.load(link, memory=memory).counts[:], COUNTS)


@pytest.mark.parametrize("memory", ["load", "stored"])
@pytest.mark.parametrize("own_name", [".", "scan.cxi"])
def test_virtual_data_sets_are_read(master: Path, memory: str, own_name: str) -> None:
    """Over its own file, and over a file in the folder."""
    cube(master.parent / "data.h5", slice(5, None))
    with h5py.File(master, "a") as file:
        file["raw/first"] = COUNTS[:5]
    replaced(master, virtual((own_name, "raw/first", 5), ("data.h5", "data", PATTERNS - 5)))
    scan = Scan.load(master, memory=memory)
    np.testing.assert_array_equal(scan.counts[:], COUNTS)


def attack_etc(master: Path, outside: Path) -> None:
    replaced(master, h5py.ExternalLink("/etc/passwd", "/data"))


def attack_absolute(master: Path, outside: Path) -> None:
    replaced(master, h5py.ExternalLink(str(outside), "/data"))


def attack_parent(master: Path, outside: Path) -> None:
    replaced(master, h5py.ExternalLink("../outside.h5", "/data"))


def attack_detour(master: Path, outside: Path) -> None:
    (master.parent / "sub").mkdir()
    replaced(master, h5py.ExternalLink("sub/../../outside.h5", "/data"))


def attack_symlink(master: Path, outside: Path) -> None:
    (master.parent / "data.h5").symlink_to(outside)
    replaced(master, h5py.ExternalLink("data.h5", "/data"))


def attack_folder_symlink(master: Path, outside: Path) -> None:
    (master.parent / "sub").symlink_to(outside.parent)
    replaced(master, h5py.ExternalLink("sub/outside.h5", "/data"))


def attack_chain(master: Path, outside: Path) -> None:
    """A link to a file in the folder, which links to another outside."""
    with h5py.File(master.parent / "data.h5", "w") as file:
        file["data"] = h5py.ExternalLink("../outside.h5", "/data")
    replaced(master, h5py.ExternalLink("data.h5", "/data"))


def attack_virtual(master: Path, outside: Path) -> None:
    replaced(master, virtual((str(outside), "data", PATTERNS)))


def attack_virtual_parent(master: Path, outside: Path) -> None:
    cube(master.parent / "outside.h5")  # a file of this name is here, but HDF5 would read the other
    replaced(master, virtual(("../outside.h5", "data", PATTERNS)))


def attack_virtual_chain(master: Path, outside: Path) -> None:
    """A virtual data set over a link in its own file."""
    with h5py.File(master, "a") as file:
        file["raw"] = h5py.ExternalLink("../outside.h5", "/data")
    replaced(master, virtual((".", "raw", PATTERNS)))


def attack_virtual_twice(master: Path, outside: Path) -> None:
    """A virtual data set over one in the folder, which is over a file outside."""
    with h5py.File(master.parent / "data.h5", "w") as file:
        virtual((str(outside), "data", PATTERNS))(file)
    replaced(master, virtual(("data.h5", DATA, PATTERNS)))


def attack_storage(master: Path, outside: Path) -> None:
    def make(file: h5py.File) -> None:
        size = PATTERNS * N * N * 2
        file.create_dataset(DATA, (PATTERNS, N, N), np.uint16, external=[("/etc/passwd", 0, size)])

    replaced(master, make)


ATTACKS = [value for name, value in list(globals().items()) if name.startswith("attack_")]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
@pytest.mark.parametrize("memory", ["load", "stored"])
def test_file_outside_of_the_folder_is_never_read(
    master: Path, tmp_path: Path, attack: Callable[[Path, Path], None], memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = cube(tmp_path / "outside.h5")
    attack(master, outside)
    opened: list[str] = []
    real = h5py.File

    def watched(name: str | Path, *arguments: object, **options: object) -> h5py.File:
        opened.append(os.path.realpath(name))
        return real(name, *arguments, **options)

    monkeypatch.setattr(h5py, "File", watched)
    expected = (
        r"expected data in (the folder of the file|this file), found .* (copy the data files beside it|in the file)"
    )
    with pytest.raises(InputError, match=expected) as caught:
        Scan.load(master, memory=memory)
    assert "\n" not in str(caught.value)
    assert all(Path(name).is_relative_to(master.parent) for name in opened)


def put_selection(file: h5py.File, name: str) -> None:
    """A virtual data set over a part of a source, which is smaller than declared."""
    layout = h5py.VirtualLayout((PATTERNS, N, N), np.uint16)
    layout[:] = h5py.VirtualSource(name, "data", (PATTERNS + 2, N, N))[2:]
    file.create_virtual_dataset(DATA, layout)


def test_missing_sources_are_named(master: Path) -> None:
    """HDF5 would fill them with zeros."""
    cube(master.parent / "data.h5", slice(0, 5))
    replaced(master, virtual(("data.h5", "data", 5), ("more.h5", "data", PATTERNS - 5)))
    with pytest.raises(InputError, match=r"the file more\.h5, to which it links, in the folder .*, found none there"):
        Scan.load(master)
    with h5py.File(master.parent / "more.h5", "w"):
        pass
    with pytest.raises(InputError, match=r"the data set data of more\.h5, a source of this one, found none of this"):
        Scan.load(master)
    cube(master.parent / "more.h5", slice(5, 8))
    with pytest.raises(
        InputError, match=r"a source more\.h5:data as large as its part here, found shape \(3, 16, 16\)"
    ):
        Scan.load(master)
    replaced(master, lambda file: put_selection(file, "more.h5"))
    with pytest.raises(
        InputError, match=r"a source more\.h5:data as large as its part here, found shape \(3, 16, 16\)"
    ):
        Scan.load(master)
    (master.parent / "more.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(50))
    with pytest.raises(InputError, match=r"an HDF5 file more\.h5, to which it links, found one that is truncated"):
        Scan.load(master)


def test_circles_of_files_end(master: Path) -> None:
    with h5py.File(master.parent / "data.h5", "w") as file:
        file["data"] = h5py.ExternalLink(master.name, DATA)
    replaced(master, h5py.ExternalLink("data.h5", "data"))
    with pytest.raises(InputError, match="expected a link to data, found circular links"):
        Scan.load(master)
    replaced(master, virtual((".", DATA, PATTERNS)))
    with pytest.raises(InputError, match="circular"):
        Scan.load(master)


def test_link_that_is_not_needed_may_lead_nowhere(master: Path) -> None:
    with h5py.File(master, "a") as file:
        file["entry_1/notes"] = h5py.ExternalLink("/etc/passwd", "/x")
    assert Scan.load(master).n == PATTERNS


def test_eiger_files_on_disk_are_read_across_their_bounds_and_in_other_processes(tmp_path: Path) -> None:
    path = eiger(tmp_path)
    scan = Scan.load(path, memory="stored")
    for counts in (scan.counts, pickle.loads(pickle.dumps(scan.counts))):
        assert isinstance(counts, StoredPatterns)
        for rows in ([4, 5], [12, 0, 9, 10, 9], slice(3, 12, 2), np.arange(PATTERNS) % 2 == 1):
            np.testing.assert_array_equal(counts[rows], COUNTS[rows])
    np.testing.assert_array_equal(scan.bad_pixels, BAD)


def test_files_of_many_parts_are_closed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptychopinn.storage.blocks._OPEN_FILES", 1)
    counts = Scan.load(eiger(tmp_path), memory="stored").counts
    np.testing.assert_array_equal(counts[:], COUNTS)
    np.testing.assert_array_equal(counts[::-1], COUNTS[::-1])
    assert sum(source._file is not None for source in counts._source._sources) == 1


def test_eiger_in_one_file_and_without_classes(tmp_path: Path) -> None:
    path = tmp_path / "all.h5"
    with h5py.File(path, "w") as file:
        for number, part in enumerate((slice(0, 6), slice(6, PATTERNS)), 1):
            file[f"entry/data/data_{number:06d}"] = COUNTS[part]
    table = tmp_path / "elsewhere.csv"
    np.savetxt(table, WORLD, delimiter=",")
    assert format_to_read(path).name == "eiger"
    geometry = {"energy": ENERGY, "distance": DISTANCE, "detector_pixel_size": DETECTOR}
    np.testing.assert_array_equal(Scan.load(path, positions=table, **geometry).counts, COUNTS)
    part = Scan.load(path, positions=_first(table, 6), patterns="entry/data/data_000001", **geometry)
    np.testing.assert_array_equal(part.counts, COUNTS[:6])
    with pytest.raises(InputError, match=r"expected positions .* state positions= \(--positions TABLE\)"):
        Scan.load(path, **geometry)


def test_eiger_with_a_missing_data_file(tmp_path: Path) -> None:
    path = eiger(tmp_path)
    (tmp_path / "series_data_000002.h5").unlink()
    with pytest.raises(InputError, match=r"data_000002': expected the file series_data_000002\.h5, to which it links"):
        Scan.load(path)


def _first(table: Path, n: int) -> Path:
    path = table.with_name("first.csv")
    path.write_text("\n".join(table.read_text().splitlines()[:n]))
    return path


def test_patterns_are_stated_by_their_path(tmp_path: Path) -> None:
    path = tmp_path / "own.h5"
    with h5py.File(path, "w") as file:
        file["lab/frames"], file["lab/dark"] = COUNTS, COUNTS[:3]
    np.savetxt(tmp_path / "p.csv", WORLD, delimiter=",")
    stated = {"energy": ENERGY, "distance": DISTANCE, "detector_pixel_size": DETECTOR, "positions": tmp_path / "p.csv"}
    listed = (
        r"state patterns= \(--patterns PATH_IN_FILE\); data sets of three or four axes are .*lab/frames \(13, 16, 16\)"
    )
    for options, words in (
        ({}, "expected a scan in one of the formats"),
        ({"positions": tmp_path / "p.csv"}, "one data set of three axes, found lab/dark, lab/frames"),
        ({**stated, "patterns": "lab/frame"}, "'lab/frame': expected the key to be there, found only lab"),
    ):
        with pytest.raises(InputError, match=f"{words}.*{listed}"):
            Scan.load(path, **options)
    np.testing.assert_array_equal(Scan.load(path, patterns="lab/frames", **stated).counts, COUNTS)


def test_patterns_of_known_formats_are_stated(tmp_path: Path) -> None:
    path = cxi(tmp_path)
    with h5py.File(path, "a") as file:
        file["entry_1/corrected"] = COUNTS + np.uint16(1)
    np.testing.assert_array_equal(Scan.load(path, patterns="entry_1/corrected").counts, COUNTS + 1)
    np.savez(tmp_path / "a.npz", frames=COUNTS, xcoords=WORLD[:, 1], ycoords=WORLD[:, 0], probeGuess=np.ones((N, N)))
    assert Scan.load(tmp_path / "a.npz", patterns="frames").n == PATTERNS


def test_result_is_read_from_its_own_file(tmp_path: Path) -> None:
    path, ones = tmp_path / "result.h5", np.ones((40, 40), np.float32)
    Reconstruction(ones.astype(np.complex64), ones, (0, 0)).save(path)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = ones
    with h5py.File(path, "a") as file:
        del file["weights"]
        file["weights"] = h5py.ExternalLink("other.h5", "x")
    with pytest.raises(InputError, match="key 'weights' is missing"):
        Reconstruction.load(path)


def test_detector_that_is_not_needed_may_lead_nowhere(tmp_path: Path) -> None:
    path = nexus(tmp_path)
    with h5py.File(path, "a") as file:
        file.create_group("run/beamline/camera").attrs["NX_class"] = "NXdetector"
        file["run/beamline/camera/data"] = h5py.ExternalLink("camera.h5", "x")
    np.testing.assert_array_equal(Scan.load(path).counts, COUNTS)


def test_nexus_with_positions_of_the_caller(tmp_path: Path) -> None:
    """Also for patterns in files beside it."""
    path = nexus(tmp_path)
    with h5py.File(path, "a") as file, h5py.File(tmp_path / "eiger.h5", "w") as other:
        other["data"] = COUNTS
        del file["run/beamline/eiger/data"], file["run/stage/transformations"]
        file["run/beamline/eiger/data"] = h5py.ExternalLink("eiger.h5", "data")
    with pytest.raises(InputError, match=r"a translation \(or positions=, --positions FILE\.csv\), found neither"):
        Scan.load(path)
    np.savetxt(tmp_path / "p.csv", WORLD, delimiter=",")
    scan = Scan.load(path, positions=tmp_path / "p.csv")
    np.testing.assert_array_equal(scan.counts, COUNTS)
    np.testing.assert_allclose(world_positions(scan), WORLD, rtol=0, atol=1e-12)
