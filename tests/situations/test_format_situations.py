# SPDX-License-Identifier: BSD-3-Clause
"""Files as they come from detectors and microscopes: invalid values, sizes, rasters, tables of positions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from situation import Situation, edit_counts, edit_npz

GEOMETRY = "--pixel-size 2e-8"


def gap(value: float, dtype: type) -> Callable[[Path], None]:
    """Write a gap of two columns with this value in every pattern."""

    def change(counts: np.ndarray) -> np.ndarray:
        values = counts.astype(dtype)
        values[:, :, 20:22] = value
        return values

    return edit_counts(change)


def dark_subtracted(counts: np.ndarray) -> np.ndarray:
    return counts - np.float32(0.5)


def frames(folder: Path) -> np.ndarray:
    """Return the counts of the sound scan."""
    with np.load(folder / "scan.npz") as archive:
        return np.rint(np.square(archive["diff3d"], dtype=np.float64)).astype(np.uint16)


def as_raster(folder: Path) -> None:
    np.save(folder / "frames.npy", frames(folder).reshape(8, 8, 32, 32))


def as_stack(folder: Path) -> None:
    np.save(folder / "frames.npy", frames(folder))


def as_tiff_folder(folder: Path) -> None:
    (folder / "frames").mkdir()
    for k, frame in enumerate(frames(folder)):
        tifffile.imwrite(folder / "frames" / f"img_{k}.tif", frame)


def table(text: Callable[[int], str], rows: int = 64) -> Callable[[Path], None]:
    """Write the patterns as a stack, and a table of positions with these rows."""

    def write(folder: Path) -> None:
        as_stack(folder)
        (folder / "p.txt").write_text("\n".join(text(k) for k in range(-1, rows)))

    return write


def words_of(row: int, separator: str = " ") -> str:
    return "# samx_um samy_um" if row < 0 else f"{row % 8 * 0.1:.3f}{separator}{row // 8 * 0.1:.3f}"


TABLE = [
    Situation(
        "a gap of NaN",
        "inspect scan.npz",
        2,
        (r"4096 NaN or infinite values.*; mask_invalid= \(--mask-invalid\) masks these pixels",),
        gap(np.nan, np.float32),
        row="6",
    ),
    Situation(
        "a gap of NaN is masked",
        "convert scan.npz a.npz --mask-invalid",
        0,
        ("64 patterns of 32 px",),
        gap(np.nan, np.float32),
        row="6",
    ),
    Situation(
        "a gap of -1",
        "convert scan.npz a.npz",
        2,
        (r"4096 negative values.*--mask-invalid",),
        gap(-1, np.int32),
        row="6",
    ),
    Situation(
        "a gap of -1 is masked",
        "convert scan.npz a.npz --mask-invalid",
        0,
        ("64 patterns of 32 px",),
        gap(-1, np.int32),
        row="6",
    ),
    Situation(
        "a gap of 2^32-1",
        "convert scan.npz a.npz",
        2,
        (r"4096 dead-pixel values.*--mask-invalid",),
        gap(2**32 - 1, np.uint32),
        row="6",
    ),
    Situation(
        "a gap of 2^32-1 is masked",
        "convert scan.npz a.npz --mask-invalid",
        0,
        ("64 patterns of 32 px",),
        gap(2**32 - 1, np.uint32),
        row="6",
    ),
    Situation(
        "negative after dark subtraction",
        "convert scan.npz a.npz",
        2,
        (r"negative values.*clip_negative= \(--clip-negative\) makes them 0",),
        edit_counts(dark_subtracted),
        row="6",
    ),
    Situation(
        "negative values are clipped",
        "convert scan.npz a.npz --clip-negative",
        0,
        ("64 patterns of 32 px",),
        edit_counts(dark_subtracted),
        row="6",
    ),
    Situation(
        "a rectangular detector",
        "convert scan.npz a.npz",
        0,
        ("64 patterns of 32 px",),
        edit_npz(diff3d=lambda patterns: patterns[:, 3:29]),
        row="7",
    ),
    Situation(
        "a rectangular detector is padded",
        "convert scan.npz a.npz --pad 32",
        0,
        ("64 patterns of 32 px",),
        edit_npz(diff3d=lambda patterns: patterns[:, 3:29]),
        row="7",
    ),
    Situation(
        "an odd detector",
        "convert scan.npz a.npz",
        2,
        (r"even size.*crop=30 \(--crop 30\).*pad=32 \(--pad 32\)",),
        edit_npz(diff3d=lambda patterns: patterns[:, 1:, 1:], probeGuess=lambda probe: probe[1:, 1:]),
        row="7",
    ),
    Situation(
        "an odd detector is cropped",
        "convert scan.npz a.npz --crop 16",
        0,
        ("64 patterns of 16 px",),
        edit_npz(diff3d=lambda patterns: patterns[:, 1:, 1:], probeGuess=lambda probe: probe[1:, 1:]),
        row="7",
    ),
    Situation("bins for a first look", "convert scan.npz a.npz --bin 2", 0, ("64 patterns of 16 px",), row="7"),
    Situation(
        "a raster without positions",
        f"convert frames.npy a.npz {GEOMETRY}",
        2,
        (r"found 8 x 8 patterns without; state positions= \(--positions TABLE\).*--scan-step.*--scan-shape",),
        as_raster,
        row="7",
    ),
    Situation(
        "a raster with its step",
        f"convert frames.npy a.npz {GEOMETRY} --scan-step 1e-7",
        0,
        ("64 patterns of 32 px",),
        as_raster,
        row="7",
    ),
    Situation(
        "a stack of a raster",
        f"convert frames.npy a.npz {GEOMETRY} --scan-step 1e-7,2e-7 --scan-shape 8,8",
        0,
        ("64 patterns of 32 px",),
        as_stack,
        row="7",
    ),
    Situation(
        "a wrong shape of the raster",
        f"convert frames.npy a.npz {GEOMETRY} --scan-step 1e-7 --scan-shape 8,9",
        2,
        (r"8 x 9 = 72 patterns of the raster, found 64",),
        as_stack,
        row="7",
    ),
    Situation(
        "a shape that is none",
        f"convert frames.npy a.npz {GEOMETRY} --scan-step 1e-7 --scan-shape 8x8",
        2,
        (r"--scan-shape must be ROWS,COLUMNS, got '8x8'",),
        as_stack,
        row="7",
    ),
    Situation(
        "a folder of TIFF files",
        f"convert frames a.npz {GEOMETRY} --scan-step 1e-7 --scan-shape 8,8",
        0,
        ("64 patterns of 32 px",),
        as_tiff_folder,
        row="7",
    ),
    Situation(
        "a table with units and names",
        f"convert frames.npy a.npz {GEOMETRY} --positions p.txt",
        0,
        ("64 patterns of 32 px",),
        table(words_of),
        row="3",
    ),
    Situation(
        "a table with decimal commas",
        f"convert frames.npy a.npz {GEOMETRY} --positions p.txt",
        2,
        ("found decimal commas.*replace them by points",),
        table(lambda row: words_of(row, ";").replace(".", ",")),
        row="3",
    ),
    Situation(
        "a table of another scan",
        f"convert frames.npy a.npz {GEOMETRY} --positions p.txt",
        2,
        ("expected 64 positions.*found 63; state the table of this scan",),
        table(words_of, 63),
        row="3",
    ),
    Situation(
        "an unknown unit",
        f"convert frames.npy a.npz {GEOMETRY} --positions p.txt",
        2,
        ("a length as the unit.*found 'V'; state position_unit=",),
        table(lambda row: "x [V],y [V]" if row < 0 else words_of(row, ",")),
        row="3",
    ),
    Situation(
        "an unknown unit is stated",
        f"convert frames.npy a.npz {GEOMETRY} --positions p.txt --position-unit um",
        0,
        ("64 patterns of 32 px",),
        table(lambda row: "x [V],y [V]" if row < 0 else words_of(row, ",")),
        row="3",
    ),
]


@pytest.mark.parametrize("situation", TABLE, ids=lambda situation: situation.name)
def test_formats(
    situation: Situation, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    situation.check(folder, capsys, monkeypatch)
