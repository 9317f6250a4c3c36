# SPDX-License-Identifier: BSD-3-Clause
"""Every block of code of the documentation runs, or is of a kind that is checked elsewhere.

Python runs, as statements, as a session with its output, or as a plot; YAML, TOML and INI files are parsed; commands
of a shell are compared with the help of the commands (test_docs.py); those of the tutorials run (test_tutorials.py).
"""

from __future__ import annotations

import configparser
import doctest
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
import yaml

import ptycho_ext
import ptychopinn as pp
from ptychopinn.config import Config
from ptychopinn.io import registry
from ptychopinn.io.scans import formats
from ptychopinn.models import GENERATORS

ROOT = Path(__file__).parents[1]
_BUILT = {"_build", "_project", "auto_gallery", "generated"}
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks" / "README.md",
    *(ROOT / "integrations").glob("*/README.md"),
    *(
        page
        for page in sorted((ROOT / "docs").rglob("*.md"))
        if not _BUILT & set(page.relative_to(ROOT).parts) and page.parent.name != "tutorials"
    ),
]
#: Directives of the site whose content is no code.
DIRECTIVES = {"command-help", "dropdown", "glossary", "include", "literalinclude", "result-table", "toctree"}
#: What is not run: text and shell (see above).
SHOWN = {"text", "sh"}
CODE = {"python", "yaml", "toml", "ini", "eval-rst"}


def blocks(text: str) -> list[tuple[str, str]]:
    """Return (language or directive, content) of the fenced blocks."""
    found = re.findall(r"^```(\S*)[^\n]*\n(.*?)^```$", text, re.M | re.S)
    return [(language.strip("{}"), code) for language, code in found]


def plots(code: str) -> list[str]:
    """The programs of the plot directives in a block of reStructuredText."""
    found = re.findall(r"^\.\. plot::\n((?:\n|   .*\n)+)", code, re.M)
    return [re.sub(r"^:.*\n", "", textwrap.dedent(program), flags=re.M) for program in found]


@pytest.fixture(autouse=True)
def registries() -> Iterator[None]:
    """Pages register a format and a generator, which other tests of the process must not find."""
    formats()
    before = [(table, dict(table)) for table in (registry._table, GENERATORS)]
    yield
    for table, entries in before:
        table.clear()
        table.update(entries)


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a page has at hand: the packages, a scan and its tensors, and files of its names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(matplotlib.rcParams, "backend", "agg")
    scan = pp.simulate("dead_leaves", patterns=49, size=32, step=9, photons=1e5, seed=3)
    for name in ("scan.npz", "next.npz"):
        scan.save(name)
    Path("lab.yaml").write_text("training: {minutes: 1}\n")
    import h5py

    with h5py.File("scan.h5", "w") as file:
        file["entry/data/data"] = np.ones((49, 256, 256), np.uint16)
    return {
        **{name: getattr(ptycho_ext, name) for name in ptycho_ext.__all__},
        "__name__": "page",
        "torch": torch,
        "np": np,
        "pp": pp,
        "ptychopinn": pp,
        "Config": Config,
        "scan": scan,
        "positions": torch.from_numpy(scan.positions),
        "patches": torch.ones(49, 32, 32, dtype=torch.complex64),
        "probe": torch.from_numpy(scan.probe[0]),
        "offsets_xy": torch.from_numpy(scan.positions).flip(-1),
        "N": 32,
    }


def short_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let trainings of a page end after an epoch, whatever it states."""
    made = Config.from_dict.__func__  # type: ignore[attr-defined]

    def short(cls: type[Config], values: Any) -> Config:
        options = {"steps": 2, "width": 8, "state": 2}
        config: Config = made(cls, values)
        training = {**config.to_dict(), "training": {**config.to_dict()["training"], "minutes": None, "epochs": 1}}
        training["model"] = {**training["model"], "options": options}
        training["execution"] = {**training["execution"], "progress": False, "picture_every": None}
        training["training"]["start"] = "nothing"
        return made(cls, training)  # type: ignore[no-any-return]

    monkeypatch.setattr(Config, "from_dict", classmethod(short))


def arrays(page: Path, names: dict[str, Any]) -> dict[str, Any]:
    """The names of a page; where patterns are on disk, positions and probe are arrays."""
    if page.name != "memory.md":
        return names
    return {**names, "positions": names["scan"].positions, "probe": np.ones((1, 256, 256), np.complex64)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_a_page_runs(page: Path, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    short_trainings(monkeypatch)
    names = arrays(page, names)
    for language, code in blocks(page.read_text()):
        assert language in CODE | SHOWN | DIRECTIVES, f"{page.name}: name the language of the block\n{code}"
        if language == "yaml":
            yaml.safe_load(code)
        elif language == "toml":
            tomllib = pytest.importorskip("tomllib", reason="Python 3.11 and newer read TOML")
            tomllib.loads(code)
        elif language == "ini":
            configparser.ConfigParser().read_string(code)
        elif language == "python":
            run(page, code, names)
        elif language == "eval-rst":
            monkeypatch.chdir(ROOT / "docs")
            for program in plots(code):
                draw(page, program)


def run(page: Path, code: str, names: dict[str, Any]) -> None:
    if ">>>" not in code:
        exec(compile(code, str(page), "exec"), names)
        return
    code = re.sub(r"\n\n(?= )", "\n<BLANKLINE>\n", code)  # in what tensors print
    test = doctest.DocTestParser().get_doctest(code, names, page.name, str(page), 0)
    report: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=report.append, clear_globs=False)
    assert not report, "".join(report)


def draw(page: Path, program: str) -> None:
    """Run a plot; it must draw something on every pair of axes."""
    import matplotlib.pyplot as plt

    plt.close("all")
    exec(compile(program, str(page), "exec"), {"__name__": "plot"})
    figures = [plt.figure(number) for number in plt.get_fignums()]
    assert figures and all(axes.has_data() or axes.texts for figure in figures for axes in figure.axes)
    plt.close("all")


def test_blocks_are_found() -> None:
    found = [language for page in PAGES for language, _ in blocks(page.read_text())]
    assert found.count("python") > 15 and found.count("sh") > 15 and found.count("eval-rst") > 10
    assert plots(".. plot::\n   :include-source: false\n\n   x = 1\n\n   y = 2\n") == ["\nx = 1\n\ny = 2\n"]
