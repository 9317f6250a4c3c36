# SPDX-License-Identifier: BSD-3-Clause
"""Figures: their files, and the data, coordinates and labels that they show."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from ptychopinn.errors import InputError
from ptychopinn.metrics import align
from ptychopinn.plotting import (
    images,
    plot_reconstruction,
    plot_scan_overview,
    plot_training,
    reconstructions,
    scans,
    style,
    training,
)
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.scan import Scan

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """Figures by file name, recorded when they are saved."""
    figures: dict[str, Figure] = {}
    save = style.save_figure

    def record(figure: Figure, path: Path) -> Path:
        figures[path.name] = figure
        return save(figure, path)

    for module in (reconstructions, scans, training):
        monkeypatch.setattr(module, "save_figure", record)
    monkeypatch.setattr(style, "_DPI", 40)
    return figures


def example(shape: tuple[int, int] = (60, 90), ramp: float = 0.0) -> Reconstruction:
    y, x = np.indices(shape)
    image = (1 + 0.2 * np.sin(x / 5)) * np.exp(1j * (0.5 * np.cos(y / 7) + ramp * x + 2))
    weights = np.ones(shape)
    weights[:, :10] = 0
    return Reconstruction(np.where(weights > 0, image, 0), weights, (-7, 20), pixel_size=1e-7)


def make_scan(**changes: object) -> Scan:
    rng = np.random.default_rng(0)
    probe = (rng.normal(size=(2, 16, 16)) + 1j).astype(np.complex64)
    fields: dict[str, object] = {"counts": rng.poisson(3, (20, 16, 16)).astype(np.uint16), "probe": probe}
    return Scan(**(fields | {"positions": rng.random((20, 2)) * 40} | changes))


def test_reconstruction_figures(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    rec = example()
    written = plot_reconstruction(rec, tmp_path / "figures")
    assert [p.name for p in written] == ["amplitude.png", "phase.png"]
    assert sorted(p.name for p in written[0].parent.iterdir()) == ["amplitude.png", "phase.png"]
    assert all(p.read_bytes().startswith(PNG) for p in written)
    axes, bar = drawn["amplitude.png"].axes
    shown = axes.images[0]
    assert shown.get_extent() == [27.5, 109.5, 52.5, -7.5]  # a margin of two pixels, inside the canvas
    pixels = shown.get_array()
    assert np.ma.getmaskarray(pixels)[:, :2].all() and not np.ma.getmaskarray(pixels)[:, 2:].any()
    np.testing.assert_array_equal(pixels[:, 2:].filled(), rec.amplitude[:, 10:])
    assert shown.get_clim() == pytest.approx(tuple(np.percentile(rec.amplitude[:, 10:], (0.5, 99.5))))
    assert (axes.get_xlabel(), axes.get_ylabel(), bar.get_ylabel()) == ("x (scan px)", "y (scan px)", "amplitude")
    phase = drawn["phase.png"].axes[0].images[0]
    assert float(np.ma.median(phase.get_array())) == pytest.approx(0, abs=1e-5)
    assert phase.get_cmap().name == "viridis" and drawn["phase.png"].axes[0].get_title() == ""


def test_pixels_that_were_hardly_illuminated_are_grey_as_those_outside(
    tmp_path: Path, drawn: dict[str, Figure]
) -> None:
    """Row 28: in the tails of the probe the object is noise, or as it began; neither colours nor frame show it."""
    rec = example((60, 90))
    weights = np.zeros((60, 90))
    weights[5:50, 10:80] = 1e-3
    weights[12:40, 20:70] = 1.0
    image = np.where(weights == 1, rec.object, np.where(weights > 0, 50j, 0))
    maps = {name: np.abs(image).astype(np.float32) for name in ("uncertainty", "error_map")}
    plot_reconstruction(Reconstruction(image, weights, (100, 200), **maps), tmp_path)
    for name in ("amplitude", "phase", "uncertainty", "error_map"):
        axes = drawn[f"{name}.png"].axes[0]
        shown = axes.images[0]
        assert shown.get_extent() == [218.5, 270.5, 140.5, 110.5]
        masked = np.ma.getmaskarray(shown.get_array())
        assert not masked[1:-1, 1:-1].any() and masked.sum() == 2 * 52 + 2 * 28
        assert shown.get_clim()[1] < 2 and axes.get_facecolor()[:3] == (0.8, 0.8, 0.8)


def test_steep_ramp_is_removed_and_stated(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    plot_reconstruction(example(ramp=0.3), tmp_path)
    axes = drawn["phase.png"].axes[0]
    assert axes.get_title().endswith(", 0.3) rad/px removed")
    shown = axes.images[0].get_array().compressed()
    assert shown.max() - shown.min() < 1.2


def test_wrapped_phase_has_a_cyclic_colour_map(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    phase = np.random.default_rng(0).uniform(-np.pi, np.pi, (40, 50))
    plot_reconstruction(Reconstruction(np.exp(1j * phase), np.ones((40, 50)), (0, 0)), tmp_path)
    shown = drawn["phase.png"].axes[0].images[0]
    assert shown.get_cmap().name == "twilight" and shown.get_clim() == (-np.pi, np.pi)


@pytest.mark.parametrize("shape", [(8, 8), (40, 300), (300, 40)])
@pytest.mark.filterwarnings("error")
@pytest.mark.usefixtures("drawn")
def test_small_and_long_canvases_are_drawn_without_a_warning(tmp_path: Path, shape: tuple[int, int]) -> None:
    assert len(plot_reconstruction(Reconstruction(np.ones(shape), np.zeros(shape), (0.5, -3)), tmp_path)) == 2


def test_comparison_figures(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    rng = np.random.default_rng(1)
    truth = np.exp(0.3j * rng.normal(size=(64, 80)))
    aligned = align(truth + 0.02, truth, border=5)
    four = plot_reconstruction(example(), tmp_path, aligned=aligned)
    assert [p.name for p in four] == ["amplitude.png", "phase.png", "comparison.png", "frc.png"]
    images = [axes.images[0] for axes in drawn["comparison.png"].axes if axes.images]
    np.testing.assert_array_equal(images[1].get_array(), np.abs(aligned.truth))
    assert images[0].get_clim() == images[1].get_clim()
    assert images[0].get_extent() == [4.5, 74.5, 58.5, 4.5]
    low, high = images[2].get_clim()
    assert low == -high
    assert drawn["frc.png"].axes[0].get_xlabel() == "spatial frequency / Nyquist"


@pytest.mark.parametrize(
    ("width", "pixel_size", "expected"),
    [
        (100, None, (20, "20 px")),
        (300, 1.2e-8, (500 / 12, "0.5 µm")),
        (8, None, (2, "2 px")),
        (64, 1e-6, (10, "10 µm")),
    ],
)
def test_the_scale_bar_has_a_round_length(width: int, pixel_size: float | None, expected: tuple[float, str]) -> None:
    length, text = images._scale_bar(width, pixel_size)
    assert length == pytest.approx(expected[0]) and text == expected[1]


def test_scan_overview(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    scan = make_scan(bad_pixels=np.eye(16, dtype=bool))
    assert plot_scan_overview(scan, tmp_path / "scan.png") == [tmp_path / "scan.png"]
    figure = drawn["scan.png"]
    dots = figure.axes[0].collections[0].get_offsets()
    np.testing.assert_allclose(dots, scan.positions[:, ::-1] + 8)
    assert figure.axes[0].yaxis_inverted()
    pattern = figure.axes[3].images[0].get_array()
    assert np.ma.getmaskarray(pattern)[np.eye(16, dtype=bool)].all()
    off = ~np.eye(16, dtype=bool)
    np.testing.assert_allclose(pattern[off], scan.counts.mean(axis=0)[off])
    assert figure.axes[1].get_title().startswith("probe mode 1 of 2 (")


@pytest.mark.usefixtures("drawn")
def test_scan_overview_without_good_pixels(tmp_path: Path) -> None:
    scan = make_scan(bad_pixels=np.ones((16, 16), bool))
    assert plot_scan_overview(scan, tmp_path / "dark.png")[0].read_bytes().startswith(PNG)


def test_training_from_the_file_of_a_logger(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    log = tmp_path / "metrics.csv"
    log.write_text("epoch,step,train_loss,val_loss,lr\n0,9,3.0,,0.1\n0,9,,4.0,\n1,19,1.5,,0.1\n1,19,,2.0,\n")
    plot_training(log, tmp_path / "training.png")
    axes = drawn["training.png"].axes[0]
    train, validation = axes.lines
    assert [line.get_label() for line in axes.lines] == ["train_loss", "val_loss"]
    assert train.get_xydata().tolist() == [[0, 3.0], [1, 1.5]]
    assert validation.get_xydata().tolist() == [[0, 4.0], [1, 2.0]]
    assert axes.get_xlabel() == "epoch" and axes.get_yscale() == "log"


def test_training_by_step_and_with_negative_losses(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    plot_training({"epoch": [0, 0, 1], "step": [0, 5, 10], "loss": [1.0, -2.0, -3.0]}, tmp_path / "t.png")
    axes = drawn["t.png"].axes[0]
    assert axes.get_xlabel() == "step" and axes.get_yscale() == "linear"
    assert axes.lines[0].get_xydata().tolist() == [[0, 1], [5, -2], [10, -3]]
    plot_training({"loss": [3.0, 2.0]}, tmp_path / "t.png")
    assert drawn["t.png"].axes[0].lines[0].get_xydata().tolist() == [[0, 3], [1, 2]]


def test_training_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.csv: not found"):
        plot_training(tmp_path / "none.csv", tmp_path / "t.png")
    (tmp_path / "m.csv").write_text("epoch,train_loss,accuracy\n0,,1\n")
    with pytest.raises(InputError, match=r"m\.csv: no column with 'loss'.*\['accuracy', 'epoch', 'train_loss'\]"):
        plot_training(tmp_path / "m.csv", tmp_path / "t.png")
    assert not (tmp_path / "t.png").exists()


def test_pyplot_is_not_imported(tmp_path: Path) -> None:
    """pyplot would choose a backend for the process."""
    code = (
        "import sys, numpy as np\n"
        "from ptychopinn.reconstruction import Reconstruction\n"
        "from ptychopinn.plotting import plot_reconstruction\n"
        f"plot_reconstruction(Reconstruction(np.ones((9, 9)), np.ones((9, 9)), (0, 0)), {str(tmp_path)!r})\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_figures_of_several_threads_are_written_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ticks of a logarithmic axis are formulae, and matplotlib's parser of them is not made for threads."""
    losses = {"epoch": [0.0, 1.0, 2.0], "train_loss": [1.0, 0.1, 0.001]}
    writing, most = 0, 0
    savefig = Figure.savefig

    def counted(self: Figure, *arguments: Any, **options: Any) -> None:
        nonlocal writing, most
        writing += 1
        most = max(most, writing)
        time.sleep(0.02)
        savefig(self, *arguments, **options)
        writing -= 1

    monkeypatch.setattr(Figure, "savefig", counted)
    with ThreadPoolExecutor(4) as pool:
        drawn = [pool.submit(plot_training, losses, tmp_path / f"{k}.png") for k in range(8)]
        assert all(one.result()[0].exists() for one in drawn)
    assert most == 1
