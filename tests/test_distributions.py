# SPDX-License-Identifier: BSD-3-Clause
"""What the two distributions of this repository install: read from their configurations, and from a wheel."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import ptycho_ext
from ptychopinn.persistence.pretrained import PRETRAINED
from ptychopinn.runtime import doctor

tomllib = pytest.importorskip("tomllib", reason="a part of Python from 3.11 on")

ROOT = Path(__file__).parents[1]
INTEGRATION = ROOT / "integrations" / "ptychodus"


@pytest.fixture(scope="module")
def contents() -> ModuleType:
    """The script that checks wheels."""
    spec = importlib.util.spec_from_file_location("wheel_contents", ROOT / "scripts" / "wheel_contents.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def configuration(folder: Path) -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text())
    return table


def test_the_main_distribution_holds_two_packages_and_nothing_of_ptychodus() -> None:
    build = configuration(ROOT)["tool"]["scikit-build"]
    assert build["wheel"]["packages"] == ["ptycho_ext", "python/ptychopinn"] and build["wheel"]["install-dir"] == ""
    cmake = "\n".join(path.read_text() for path in [ROOT / "CMakeLists.txt", *sorted((ROOT / "cmake").glob("*.cmake"))])
    assert set(re.findall(r"\bDESTINATION\s+(\S+?)\)", cmake)) == {"ptycho_ext"}
    assert {path.name for path in (ROOT / "python").iterdir() if any(path.rglob("*.py"))} == {"ptychopinn"}


def test_the_folder_of_plug_ins_comes_with_ptychodus_and_not_with_an_editable_install() -> None:
    table = configuration(INTEGRATION)
    assert any(re.match(r"ptychodus\b", line) for line in table["project"]["dependencies"])
    build = table["tool"]["scikit-build"]
    (override,) = build["overrides"]
    packages = build["wheel"]["packages"]
    assert override["if"] == {"state": "editable"} and build["wheel"]["cmake"] is False
    assert override["wheel"]["packages"] == {k: v for k, v in packages.items() if k != "ptychodus/plugins"}
    assert {path.parts[0] for path in map(Path, packages)} == {"ptycho_torch", "ptychopinn_ptychodus", "ptychodus"}
    assert all((INTEGRATION / folder).is_dir() for folder in packages.values())


def test_both_have_one_version() -> None:
    main, other = (configuration(folder)["project"] for folder in (ROOT, INTEGRATION))
    assert main["version"] == other["version"] and main["license"] == other["license"]
    assert f"ptychopinn=={'.'.join(main['version'].split('.')[:2])}.*" in other["dependencies"]
    assert (INTEGRATION / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


@pytest.mark.parametrize(
    ("distribution", "name"),
    [
        ("ptychopinn", "ptychodus/plugins/ptychopinn.py"),
        ("ptychopinn", "ptycho_torch/__init__.py"),
        ("ptychopinn", "other.py"),
        ("ptychopinn", "ptychopinn/__pycache__/scan.cpython-311.pyc"),
        ("ptychopinn_ptychodus", "ptychodus/__init__.py"),
        ("ptychopinn_ptychodus", "ptychopinn/scan.py"),
    ],
)
def test_a_misplaced_file_is_noticed(contents: ModuleType, distribution: str, name: str) -> None:
    package = "ptycho_ext" if distribution == "ptychopinn" else "ptycho_torch"
    fine = [f"{package}/__init__.py", f"{distribution}-0.1.0.dist-info/METADATA"]
    assert contents.misplaced(distribution, [*fine, name]) == [name]
    assert contents.misplaced(distribution, fine) == []


@pytest.mark.slow
def test_the_wheel_for_ptychodus_needs_no_torch_and_no_compiler(contents: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("scikit_build_core", reason="not installed: pip install -r requirements.txt")
    shutil.copytree(INTEGRATION, tmp_path / "source")
    hidden = tmp_path / "hidden" / "torch"  # instead of the one that is installed
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ImportError('torch is not needed to build')")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--no-index"]
    subprocess.run(
        [*command, "--wheel-dir", str(tmp_path), str(tmp_path / "source")],
        check=True,
        env={"PYTHONPATH": str(hidden.parent), "PATH": ""},
    )
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert contents.main([str(wheel)]) == 0
    names = zipfile.ZipFile(wheel).namelist()
    sources = {str(path.relative_to(INTEGRATION / "src")) for path in (INTEGRATION / "src").rglob("*.py")}
    assert sources | {"ptychodus/plugins/ptychopinn.py"} == {name for name in names if name.endswith(".py")}


@pytest.mark.parametrize(
    ("versions", "owners", "problem"),
    [
        ({}, ["PtychoPINN"], None),
        ({"ptychodus": "1.7.0"}, [], None),
        ({"ptychopinn-ptychodus": ptycho_ext.__version__}, ["ptychopinn-ptychodus"], None),
        ({"ptychopinn-ptychodus": "0.0.1"}, [], "ptychopinn-ptychodus is of version 0.0.1 and ptychopinn of "),
        (
            {"ptychopinn-ptychodus": ptycho_ext.__version__},
            ["PtychoPINN", "ptychopinn-ptychodus"],
            "PtychoPINN installs ptycho_torch, as ptychopinn-ptychodus does",
        ),
    ],
    ids=["none", "ptychodus", "ours", "version", "collision"],
)
def test_the_doctor_reports_what_is_beside_the_library(
    monkeypatch: pytest.MonkeyPatch, versions: dict[str, str], owners: list[str], problem: str | None
) -> None:
    def version(package: str) -> str:
        if package not in versions:
            raise metadata.PackageNotFoundError(package)
        return versions[package]

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(metadata, "packages_distributions", lambda: {"ptycho_torch": owners})
    facts, problems = doctor._integrations()
    assert dict(facts) == {name: versions.get(name, "not installed") for name in ("ptychopinn-ptychodus", "ptychodus")}
    assert len(problems) == (problem is not None)
    assert all(found.startswith(str(problem)) for found in problems)


def wheel_of(names: list[str], folder: Path) -> Path:
    path = folder / "ptychopinn-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "")
    return path


def test_a_wheel_without_the_pretrained_network_is_noticed(
    contents: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    required = list(contents.REQUIRED["ptychopinn"])
    assert contents.main([str(wheel_of(["ptychopinn/__init__.py", *required], tmp_path))]) == 0
    assert contents.main([str(wheel_of(["ptychopinn/__init__.py", required[0]], tmp_path))]) == 1
    assert "must hold ptychopinn/models/pretrained/network.json" in capsys.readouterr().out


@pytest.mark.slow
def test_the_wheel_has_the_pretrained_network(contents: ModuleType, tmp_path: Path) -> None:
    """Built from the sources without the native library, which takes no compiler."""
    pytest.importorskip("scikit_build_core", reason="not installed: pip install -r requirements.txt")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--no-index"]
    command += ["-C", "wheel.cmake=false", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("ptychopinn-*.whl")
    assert contents.main([str(wheel)]) == 0
    with zipfile.ZipFile(wheel) as archive:
        stored = archive.read("ptychopinn/models/pretrained/network.zip")
    assert stored == PRETRAINED.read_bytes() and len(stored) < 2e6
