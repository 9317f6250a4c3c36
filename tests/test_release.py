# SPDX-License-Identifier: BSD-3-Clause
"""What releases are made with: workflows, versions, bounds of dependencies, scripts of wheels and of the site."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def script(name: str, folder: str = "scripts") -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / folder / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def commands(workflow: Path) -> str:
    """The shell commands of a workflow, and the values of its environments."""
    table = yaml.safe_load(workflow.read_text())
    steps = [step for job in table["jobs"].values() for step in job.get("steps", ())]
    return "\n".join(str(step.get("run", "")) for step in steps)


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_calls_what_exists(workflow: Path) -> None:
    table = yaml.safe_load(workflow.read_text())
    assert table["permissions"] == {"contents": "read"}  # a job that needs more asks for it
    assert all("timeout-minutes" in job for job in table["jobs"].values() if len(job.get("steps", ())) > 3)
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.M))
    text = commands(workflow)
    assert set(re.findall(r"\bmake ([\w-]+)", text)) <= targets
    for name in re.findall(r"\b((?:scripts|benchmarks)/[\w.-]+)", text):
        assert (ROOT / name).exists(), name
    for job in table["jobs"].values():
        assert "uses" not in job or (ROOT / job["uses"]).exists()


def test_workflows_are_there_for_all_that_is_promised() -> None:
    assert {path.stem for path in WORKFLOWS} == {"docs", "gpu", "release", "tests", "wheels"}
    text = "".join(commands(path) for path in WORKFLOWS)
    for target in ("lint", "test", "coverage", "sanitize", "docs", "wheel", "sdist", "ptychodus"):
        assert f"make {target}" in text


def test_all_distributions_have_one_version(capsys: pytest.CaptureFixture[str]) -> None:
    module = script("same_version")
    (version,) = set(module.versions().values())
    assert module.main(version) == 0
    assert module.main("9.9.9") == 1
    assert capsys.readouterr().out.count("expected 9.9.9") == len(module.FILES)


def test_lowest_versions_are_those_of_the_bounds() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    (block,) = re.findall(r"^dependencies = \[\n(.*?)^\]", project, re.M | re.S)
    bounds = dict(re.findall(r'"([\w-]+)(?:\[\w+\])?>=([\d.]+)"', block))
    assert bounds.pop("torch") == "2.10" and len(bounds) == len(block.splitlines()) - 1
    lowest = dict(re.findall(r"^([\w-]+)==([\d.]+)$", (ROOT / "requirements-lowest.txt").read_text(), re.M))
    assert lowest.keys() == bounds.keys()
    for name, bound in bounds.items():
        parts = bound.split(".")
        assert lowest[name].split(".")[: len(parts)] == parts, f"{name}: bound {bound}, tested {lowest[name]}"
    newest = re.findall(r"^([\w-]+)", (ROOT / "requirements-newest.txt").read_text(), re.M)
    assert bounds.keys() - {"pyyaml"} <= set(newest)


def test_the_recipe_has_the_dependencies_of_the_project() -> None:
    recipe = (ROOT / "recipe" / "meta.yaml").read_text()
    project = (ROOT / "pyproject.toml").read_text()
    (block,) = re.findall(r"^dependencies = \[\n(.*?)^\]", project, re.M | re.S)
    other = {"torch": "pytorch", "docstring-parser": "docstring_parser", "matplotlib": "matplotlib-base"}
    for name, bound in re.findall(r'"([\w-]+)(?:\[\w+\])?>=([\d.]+)"', block):
        assert f"    - {other.get(name, name)} >={bound}\n" in recipe, name


def test_stubs_have_the_former_versions_of_newer_symbols() -> None:
    module = script("manylinux_stubs")
    listing = (
        "0000000000091b60 g    DF .text\t000000000000009d (GLIBC_2.2.5) dlopen\n"
        "0000000000091b60 g    DF .text\t000000000000009d  GLIBC_2.34  dlopen\n"
        "0000000000091b60 g    DF .text\t000000000000009d (GLIBC_2.3.4) dlmopen\n"
        "0000000000091b60 g    DF .text\t000000000000009d  GLIBC_2.34  dlmopen\n"
        "0000000000091b60 g    DF .text\t000000000000009d (GLIBC_2.2.5) sem_wait\n"
        "0000000000091b60 g    DF .text\t000000000000009d  GLIBC_2.34  sem_wait\n"
        "0000000000091b60 g    DF .text\t000000000000009d  GLIBC_2.2.5  malloc\n"
        "0000000000091b60 g    DF .text\t000000000000009d  GLIBC_2.35  pthread_new\n"
    )
    stubs = module.stubs_of(module.versions_of(listing), "2.28")
    assert stubs == {
        "libdl.so.2": {"2.2.5": ["dlopen"], "2.3.4": ["dlmopen"]},
        "libpthread.so.0": {"2.2.5": ["sem_wait"]},
    }
    assert module.stubs_of(module.versions_of(listing), "2.35") == {}


def test_a_local_version_is_set_once() -> None:
    module = script("local_version")
    text = '[project]\nversion = "0.1.0"\n[tool]\nminimum-version = "1"\n'
    changed = module.with_local_version(text, "cu130")
    assert 'version = "0.1.0+cu130"\n' in changed and 'minimum-version = "1"' in changed
    assert module.with_local_version(changed, "cu128") == changed.replace("cu130", "cu128")
    with pytest.raises(ValueError, match="expected one version"):
        module.with_local_version("[project]\n", "cu128")


def test_dead_links_of_a_site_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = script("check_site")
    page = '<title>{}</title><a href="{}">x</a><img src="a.png"><p id="here"></p>'
    (tmp_path / "a.png").touch()
    (tmp_path / "one.html").write_text(page.format("one", "two.html#here"))
    (tmp_path / "two.html").write_text(page.format("two", "https://example.org/absent"))
    assert module.main(tmp_path) == 0
    (tmp_path / "two.html").write_text(page.format("", "one.html#absent") + '<a href="three.html">x</a>')
    assert module.main(tmp_path) == 1
    printed = capsys.readouterr().out
    assert "two.html: no title" in printed and "three.html not found" in printed and "no such anchor" in printed


def test_a_picture_that_a_page_shows_twice_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Plots of one page that have one name have one file, of the last or the first of them."""
    (tmp_path / "a.png").touch()
    (tmp_path / "one.html").write_text('<title>one</title><img src="a.png"><img src="a.png">')
    assert script("check_site").main(tmp_path) == 1
    assert "one.html: shows a.png twice" in capsys.readouterr().out


def test_every_plot_of_the_documentation_has_a_name_of_its_own() -> None:
    names = []
    for page in sorted((ROOT / "docs").rglob("*.md")):
        plots = page.read_text().split(".. plot::\n")[1:]
        for plot in plots:
            (name,) = re.findall(r"^ +:filename-prefix: (\S+)$", plot.split("\n\n")[0], re.M) or [page.stem]
            names.append(name)
    assert len(names) > 10 and len(set(names)) == len(names)


def test_signatures_on_the_site_are_short() -> None:
    pytest.importorskip("sphinx")
    long = "(counts: ~numpy.ndarray[tuple[~typing.Any, ...], ~numpy.dtype[~numpy.float64]], metadata: dict = <factory>)"
    assert (
        script("signatures", "docs/_ext").written(long)
        == "(counts: ~numpy.typing.NDArray[~numpy.float64], metadata: dict = ...)"
    )


def test_citation_names_the_seed_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    (paper,) = citation["references"]
    assert paper["doi"] == "10.1038/s41598-023-48351-7" and citation["license"] == "BSD-3-Clause"
    assert f"https://doi.org/{paper['doi']}" in (ROOT / "pyproject.toml").read_text()


def test_containers_install_the_versions_that_are_tested() -> None:
    (torch,) = re.findall(r"^TORCH \?= (\S+)", (ROOT / "Makefile").read_text(), re.M)
    for name in ("Dockerfile", "apptainer.def"):
        text = (ROOT / "containers" / name).read_text()
        assert torch in text and "requirements.txt" in text and "PTYCHO_CUDA=ON" in text


def test_the_source_archive_names_folders_of_the_project_only() -> None:
    """A pattern without a slash in front matches in every folder, such as `python` in .venv/lib/python3.11."""
    (included, excluded) = (
        re.findall(rf"^sdist\.{kind} = \[(.*)\]$", (ROOT / "pyproject.toml").read_text(), re.M)[0]
        for kind in ("include", "exclude")
    )
    patterns = re.findall(r'"([^"]+)"', included + excluded)
    assert patterns and all(pattern.startswith("/") for pattern in patterns)
