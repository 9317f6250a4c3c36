# SPDX-License-Identifier: BSD-3-Clause
"""What notebooks show: scans, results and inspections as HTML, figures, and progress bars."""

from __future__ import annotations

import base64
import io
import re
from contextlib import redirect_stderr
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

import ptychopinn as pp
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.runtime import progress as progress_module
from ptychopinn.runtime.progress import in_notebook, progress
from ptychopinn.scan import Scan


class Tags(HTMLParser):
    """Checks that tags are closed in order, and collects the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def text_of(page: str) -> str:
    tags = Tags(page)
    assert not tags.open and "<script" not in page and "<style" not in page
    return " ".join(tags.text)


def picture_of(page: str) -> np.ndarray:
    (data,) = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    image: np.ndarray = imread(io.BytesIO(base64.b64decode(data)))
    return image


@pytest.fixture(scope="module")
def scan() -> Scan:
    return replace(pp.simulate(patterns=36, size=32, photons=1e5, seed=4), pixel_size=1e-8, energy=8000.0)


@pytest.fixture(scope="module")
def result(scan: Scan) -> Reconstruction:
    assert scan.truth is not None
    return Reconstruction(scan.truth, np.ones(scan.truth.shape), origin=(0, 0), probe=scan.probe, pixel_size=1e-8)


def test_a_scan_has_picture_shapes_and_units(scan: Scan) -> None:
    page = scan._repr_html_()
    text = text_of(page)
    assert all(word in text for word in ("36 of 32 x 32 px", "10 nm", "8 keV", "known object"))
    assert picture_of(page).std() > 0.05 and len(page) < 100_000


def test_a_scan_has_its_warnings_and_its_name_as_text(scan: Scan) -> None:
    counts = scan.counts.copy()
    counts[:, 3, 4] = 60000
    page = replace(scan, counts=counts, name="<b>mine</b> & yours")._repr_html_()
    assert "problem" in text_of(page) or "warning" in text_of(page)
    assert "<b>mine</b>" not in page and "<b>mine</b> & yours" in text_of(page)


def test_a_scan_on_disk_is_shown_without_a_check(scan: Scan, tmp_path: Path) -> None:
    path = tmp_path / "scan.cxi"
    scan.save(path)
    stored = Scan.load(path, memory="stored")
    text = text_of(stored._repr_html_())
    assert "patterns on disk" in text and "not done" in text


def test_a_result_has_amplitude_and_phase(result: Reconstruction) -> None:
    page = result._repr_html_()
    assert "well illuminated 100% of the canvas" in text_of(page) and picture_of(page).std() > 0.05


def test_an_inspection_has_all_rows_and_findings(scan: Scan) -> None:
    found = pp.inspect(replace(scan, energy=None), orientation=False)
    text = text_of(found._repr_html_())
    assert "no findings" in text and "probe: linear overlap" in text and "units: photon energy" in text


def test_figures_are_shown_and_written(scan: Scan, result: Reconstruction, tmp_path: Path) -> None:
    for figure in (scan.plot(), result.plot(), result.compare(scan)):
        assert isinstance(figure, Figure)
        image = imread(io.BytesIO(figure._repr_png_()))  # type: ignore[attr-defined]
        assert image.std() > 0.05
        figure.savefig(tmp_path / "figure.png")
        assert (tmp_path / "figure.png").stat().st_size > 5000


def test_a_comparison_takes_a_truth(scan: Scan, result: Reconstruction) -> None:
    with pytest.raises(pp.InputError, match="truth"):
        result.compare(replace(scan, truth=None))


def test_bars_appear_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not in_notebook()
    shell = ModuleType("IPython")
    shell.get_ipython = lambda: SimpleNamespace(kernel=object())  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "IPython", shell)
    monkeypatch.setattr(progress_module, "DELAY", 0.0)
    assert in_notebook()
    with redirect_stderr(io.StringIO()) as stream, progress("load", 10) as advance:
        advance(3)
        advance(4)
    assert "load" in stream.getvalue()
    shell.get_ipython = lambda: SimpleNamespace()  # type: ignore[attr-defined]  # IPython in a terminal
    assert not in_notebook()
