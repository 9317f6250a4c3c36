# SPDX-License-Identifier: BSD-3-Clause
"""Pages that are made from the code are those that it makes, and every link of the documentation leads somewhere."""

from __future__ import annotations

import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ptychopinn.cli import commands as table

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "integrations" / "ptychodus" / "README.md",
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if not {"_build", "_project"} & set(page.parts)),
]


def test_the_page_of_the_configuration_is_that_of_the_dataclasses() -> None:
    spec = importlib.util.spec_from_file_location("configuration_page", ROOT / "scripts" / "configuration_page.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text() == module.page(), "run python scripts/configuration_page.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_of_the_project(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def resolved(name: str) -> object:
    """What a dotted name means: a module, or something in one."""
    parts = name.split(".")
    for k in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:k]))
        except ModuleNotFoundError:
            continue
        for part in parts[k:]:
            found = getattr(found, part)
        return found
    raise AttributeError(name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # a page may say that a name is a former one
def test_dotted_names_exist(page: Path) -> None:
    for name in sorted(set(re.findall(r"\bptychopinn(?:\.[A-Za-z_]\w*)+", page.read_text()))):
        if not name.endswith((".py", ".formats")):  # a file, and the group of entry points
            assert resolved(name) is not None


def test_dotted_names_are_found_after_a_bare_import() -> None:
    """As a reader types them; a name of one page must not need an import that another has brought."""
    text = "\n".join(page.read_text() for page in PAGES)
    names = sorted(set(re.findall(r"\bptychopinn(?:\.[A-Za-z_]\w*)+", text)))
    names = [name for name in names if not name.endswith((".py", ".formats"))]
    program = (
        "import sys, warnings, ptychopinn\n"
        "warnings.simplefilter('ignore', DeprecationWarning)\n"
        "missing = []\n"
        "for name in sys.argv[1:]:\n"
        "    try: eval(name)\n"
        "    except AttributeError as error: missing.append(f'{name}: {error}')\n"
        "print(*missing, sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", program, *names], capture_output=True, text=True, check=True)
    assert len(names) > 30 and not done.stdout.strip(), done.stdout


def commands_in(text: str) -> list[tuple[str, list[str]]]:
    """(command, options) of every command line in code: in fences, in backticks, in a Makefile or a script."""
    joined = text.replace("\\\n", " ")
    code = re.findall(r"^```.*?\n(.*?)^```", joined, re.M | re.S) + re.findall(r"`([^`\n]+)`", joined)
    found = []
    for line in (line.partition(" # ")[0] for part in code for line in part.splitlines()):
        for command, rest in re.findall(
            r"(?:(?<!from )(?<!import )\bptychopinn|-m ptychopinn\.cli) ([a-z]+)\b([^|;&]*)", line
        ):
            found.append((command, re.findall(r"(?<!\S)--[\w.-]+", rest)))
    return found


FILES = [*PAGES, ROOT / "benchmarks" / "README.md", *sorted((ROOT / "scripts" / "slurm").iterdir()), ROOT / "Makefile"]


@pytest.mark.parametrize("page", FILES, ids=lambda page: page.name)
def test_commands_are_those_of_the_help(page: Path) -> None:
    parser, commands = table.parser_of(table.COMMANDS)
    text = page.read_text()
    for command, options in commands_in(text if page.suffix == ".md" else f"```\n{text}\n```\n"):
        assert command in commands, f"{page.name}: ptychopinn {command}"
        actions = parser._subcommands_action._name_parser_map[command]._actions
        known = {option for action in actions for option in action.option_strings}
        assert set(options) <= known, f"{page.name}: ptychopinn {command} {set(options) - known}"


def test_commands_are_found_in_pages_and_scripts() -> None:
    text = "`ptychopinn train a.npz --out b` and\n```\ntorchrun -m ptychopinn.cli plot x \\\n  --out y  # --no\n```\n"
    assert commands_in(text) == [("plot", ["--out"]), ("train", ["--out"])]
    assert sum(len(commands_in(page.read_text())) for page in PAGES) > 50


def test_pre_commit_checks_with_the_tools_of_the_project() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    (ruff,) = re.findall(r"^ruff==(.*)$", (ROOT / "requirements.txt").read_text(), re.M)
    assert f"ruff-pre-commit\n    rev: v{ruff}\n" in hooks


def test_requirements_have_every_dependency() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    (block,) = re.findall(r"^dependencies = \[\n(.*?)^\]", project, re.M | re.S)
    names = set(re.findall(r'^  "([\w-]+)', block, re.M)) - {"torch", "pyyaml"}  # jsonargparse has pyyaml
    pinned = set(re.findall(r"^([\w-]+)(?:\[\w+\])?==", (ROOT / "requirements.txt").read_text(), re.M))
    assert names <= pinned


def test_files_of_tested_situations_exist() -> None:
    text = (ROOT / "docs" / "tested-situations.md").read_text()
    named = set(re.findall(r"`([\w/]*test_\w+\.py)`", text))
    missing = {name for name in named if not any((ROOT / p / name).exists() for p in ("", "tests/situations"))}
    rows = {int(number) for number in re.findall(r"^\| (\d+) \|", text, re.M)}
    assert not missing and rows == set(range(1, 32))
