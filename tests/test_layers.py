# SPDX-License-Identifier: BSD-3-Clause
"""The floors of the architecture (docs/architecture.md).

A file imports from lower floors and from its own room only, and no modules import each other in a circle. Both are read
from the source, inside functions too. Names of modules in string literals count as imports, because some modules import
others on first use; so do imports for type checkers. The checker itself is tested on sources that break a rule.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {
    "ptycho_ext": ROOT / "ptycho_ext",
    "ptychopinn": ROOT / "python" / "ptychopinn",
    "ptycho_torch": ROOT / "integrations" / "ptychodus" / "src" / "ptycho_torch",
    "ptychopinn_ptychodus": ROOT / "integrations" / "ptychodus" / "src" / "ptychopinn_ptychodus",
}

#: From the top. A room is a folder or a module right under ptychopinn; neighbours on a floor do not import each other.
#: What only hands on to others is on top, where nothing imports it: compat, the packages of integrations/ptychodus, and
#: former names of modules.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("cli", "compat", "ptycho_torch", "ptychopinn_ptychodus", "data", "processes"),
    ("__init__",),
    ("pipeline",),
    ("inspection",),
    ("training", "refinement"),
    ("inference", "persistence", "plotting"),
    ("stitching", "models", "metrics", "io"),
    ("batches", "physics"),
    ("reconstruction", "world"),
    ("scan",),
    ("records",),
    ("acquisition", "decisions", "refinement_report"),
    ("storage",),
    ("runtime",),
    ("config",),
    ("errors", "_former"),
    ("ptycho_ext",),
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

#: The only imports that lead upwards: methods of the types that read and write files when they are called.
DOORS: dict[tuple[str, str], str] = {
    ("ptychopinn.scan", "Scan.load"): "ptychopinn.io.scans",
    ("ptychopinn.scan", "Scan.save"): "ptychopinn.io.scans",
    ("ptychopinn.reconstruction", "Reconstruction.load"): "ptychopinn.io.reconstructions",
    ("ptychopinn.reconstruction", "Reconstruction.save"): "ptychopinn.io.reconstructions",
}

#: Rooms -> packages from outside that they must not import.
_LIGHTNING = {"lightning", "pytorch_lightning"}
FORBIDDEN_OUTSIDE: dict[str, set[str]] = {
    "ptycho_ext": _LIGHTNING | {"scipy", "skimage", "h5py", "matplotlib", "jsonargparse"},
    "errors": {"torch", "lightning", "numpy"},
    "config": {"torch", "lightning", "numpy", "jsonargparse"},
    "storage": _LIGHTNING | {"torch", "matplotlib"},
    "scan": _LIGHTNING | {"torch", "matplotlib", "h5py"},
    "reconstruction": _LIGHTNING | {"torch", "matplotlib", "h5py"},
    "world": _LIGHTNING | {"torch", "matplotlib", "h5py"},
    "records": _LIGHTNING | {"torch", "matplotlib", "h5py"},
    "acquisition": _LIGHTNING | {"torch", "matplotlib", "h5py"},
    "decisions": _LIGHTNING | {"torch", "matplotlib", "h5py"},
    "refinement_report": _LIGHTNING | {"torch", "matplotlib", "h5py"},
    "physics": _LIGHTNING | {"matplotlib", "h5py"},
    "batches": {"matplotlib", "h5py"},
    "io": _LIGHTNING | {"torch", "matplotlib"},
    "models": _LIGHTNING | {"matplotlib", "h5py"},
    "metrics": _LIGHTNING | {"torch", "matplotlib", "h5py"},
    "stitching": _LIGHTNING | {"matplotlib", "h5py"},
    "inference": _LIGHTNING | {"matplotlib"},
    "persistence": _LIGHTNING | {"matplotlib"},
    "plotting": _LIGHTNING | {"torch", "h5py"},
    "refinement": _LIGHTNING | {"matplotlib"},
    "inspection": _LIGHTNING,
}

_MODULE_NAME = re.compile(r"(ptychopinn|ptycho_ext|ptycho_torch|ptychopinn_ptychodus)(\.[A-Za-z_]\w*)+")


class Import(NamedTuple):
    """An import of ``name`` (dotted) by ``where`` (the method or function, "" at the top of the module)."""

    line: int
    where: str
    name: str


def imports(source: str, package: str) -> Iterator[Import]:
    """Every import of a source of ``package`` (dotted, of its folder)."""

    def walk(node: ast.AST, where: str) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(node.lineno, where, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = parts[: len(parts) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from ptychopinn import io` names a room only in its alias.
            yield from (Import(node.lineno, where, f"{module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _MODULE_NAME.fullmatch(node.value):
            if room_of(node.value) != "__init__":  # a word with a dot, such as the name of a group of entry points
                yield Import(node.lineno, where, node.value)
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            where = f"{where}.{node.name}".lstrip(".")
        for child in ast.iter_child_nodes(node):
            yield from walk(child, where)

    return walk(ast.parse(source), "")


def room_of(name: str) -> str | None:
    """The room that a dotted name lies in; None outside the library."""
    parts = name.split(".")
    if parts[0] != "ptychopinn":
        return parts[0] if parts[0] in SOURCES else None
    return parts[1] if len(parts) > 1 and parts[1] in FLOOR_OF else "__init__"


def is_door(module: str, found: Import) -> bool:
    """Whether this import of ``module`` is one of the doors, through which it may lead upwards."""
    target = DOORS.get((module, found.where))
    return target is not None and (found.name + ".").startswith(target + ".")


def violations(source: str, module: str, *, package: bool = False) -> list[str]:
    """One sentence for every import of the source of ``module`` (dotted; or of a package's) that leads upwards."""
    wrong, room = [], room_of(module)
    assert room is not None
    for found in imports(source, module if package else module.rpartition(".")[0]):
        target, top = room_of(found.name), found.name.split(".")[0]
        if target is None:
            if top in FORBIDDEN_OUTSIDE.get(room, ()):
                wrong.append(f"line {found.line}: {room} must not import {top}")
        elif target != room and FLOOR_OF[target] <= FLOOR_OF[room] and not is_door(module, found):
            wrong.append(f"line {found.line}: {room} must not import {target} ({found.name})")
        elif target == "ptycho_ext" and room != "ptycho_ext" and found.name.count(".") > 1:
            wrong.append(f"line {found.line}: {room} must import public names of ptycho_ext only ({found.name})")
    return wrong


def module_of(path: Path) -> str:
    base = next(folder.parent for folder in SOURCES.values() if path.is_relative_to(folder))
    parts = path.relative_to(base).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = [path for folder in SOURCES.values() for path in sorted(folder.rglob("*.py"))]


@pytest.mark.parametrize("path", PATHS, ids=module_of)
def test_imports_lead_downwards(path: Path) -> None:
    module = module_of(path)
    assert module in ("ptycho_ext", "ptychopinn") or room_of(module) != "__init__", f"{module}: give it a floor"
    assert violations(path.read_text(), module, package=path.name == "__init__.py") == []


def test_rooms_are_found() -> None:
    rooms = {room_of(module_of(path)) for path in PATHS}
    assert rooms == set(FLOOR_OF)


@pytest.mark.parametrize(
    ("module", "source", "says"),
    [
        ("ptycho_ext.a", "from ptychopinn.errors import InputError", "ptycho_ext must not import errors"),
        ("ptycho_ext.a", "import lightning as L", "ptycho_ext must not import lightning"),
        ("ptychopinn.io.a", "from ptychopinn.stitching.phases import stitch", "io must not import stitching"),
        (
            "ptychopinn.io.a",
            "def f():\n    from ptychopinn.models import PtychoModel",
            "line 2: io must not import mod",
        ),
        ("ptychopinn.io.a", "import ptychopinn.training.workflow", "io must not import training"),
        ("ptychopinn.io.a", "from ptychopinn import train", "io must not import __init__"),
        ("ptychopinn.io.a", "from ptychopinn import metrics", "io must not import metrics"),
        ("ptychopinn.io.a", "from ..models import registry", "io must not import models"),
        ("ptychopinn.io.a", "from .. import inference", "io must not import inference"),
        ("ptychopinn.io.a", 'READERS = {".h5": "ptychopinn.compat.reader"}', "io must not import compat"),
        ("ptychopinn.physics.a", "if True:\n    import ptychopinn.metrics", "line 2: physics must not import metrics"),
        ("ptychopinn.metrics.a", "from ptychopinn.plotting import style", "metrics must not import plotting"),
        ("ptychopinn.models.a", "import lightning.pytorch", "models must not import lightning"),
        (
            "ptychopinn.models.a",
            "from ptycho_ext.ops.extract import extract_patches",
            "public names of ptycho_ext only",
        ),
        ("ptychopinn.inference.a", "import ptychopinn.training.module", "inference must not import training"),
        ("ptychopinn.training.a", "from ptychopinn.cli import main", "training must not import cli"),
        ("ptychopinn.cli.a", "import ptychopinn.compat", "cli must not import compat"),
        ("ptychopinn.io.a", "import ptycho_torch.mapping", "io must not import ptycho_torch"),
        ("ptychopinn.io.a", 'X = "ptychopinn_ptychodus.scans"', "io must not import ptychopinn_ptychodus"),
        ("ptycho_torch.a", "from ptychopinn_ptychodus import b", "ptycho_torch must not import ptychopinn_ptychodus"),
        ("ptychopinn.config.a", "from ptychopinn.models.registry import X", "config must not import models"),
        ("ptychopinn.errors", "import torch", "errors must not import torch"),
        ("ptychopinn.scan", "from ptychopinn.io.scans import read_scan", "line 1: scan must not import io"),
        (
            "ptychopinn.scan",
            "class Scan:\n    def subset(self):\n        from ptychopinn.io.scans import read_scan",
            "line 3: scan must not import io",
        ),
        (
            "ptychopinn.scan",
            "class Scan:\n    def load(cls):\n        from ptychopinn.io.hdf5 import Hdf5",
            "line 3: scan must not import io",
        ),
    ],
)
def test_checker_sees_an_import_that_leads_upwards(module: str, source: str, says: str) -> None:
    found = violations(source, module)
    assert len(found) == 1 and says in found[0], found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("ptychopinn.models.a", "from ptycho_ext import x\nfrom ptychopinn.physics.start import y\nimport torch"),
        ("ptychopinn.io.a", "from .options import ReadOptions\nfrom ..errors import InputError"),
        ("ptychopinn.training.a", "from ptychopinn.persistence import bundle"),
        ("ptychopinn.compat.a", "from ptychopinn.inspection import inspect_scan\nimport ptychopinn"),
        ("ptychopinn.io.a", '"a sentence about ptychopinn.models and others"'),
        ("ptychopinn.scan", "class Scan:\n    def load(cls):\n        from ptychopinn.io.scans import read_scan"),
    ],
)
def test_checker_lets_the_others_pass(module: str, source: str) -> None:
    assert violations(source, module) == []


@pytest.mark.parametrize("where", DOORS.values(), ids=lambda where: where)
def test_doors_lead_to_modules(where: str) -> None:
    assert where in {module_of(path) for path in PATHS}


@pytest.mark.parametrize(("module", "method"), DOORS, ids=lambda name: name)
def test_doors_are_one_import_and_one_call(module: str, method: str) -> None:
    kind, _, name = method.partition(".")
    tree = ast.parse((ROOT / "python" / f"{module.replace('.', '/')}.py").read_text())
    body = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == kind).body
    door = next(node for node in body if isinstance(node, ast.FunctionDef) and node.name == name)
    _, imported, call = door.body  # after the docstring
    assert isinstance(imported, ast.ImportFrom) and imported.module == DOORS[module, method]
    assert isinstance(call, ast.Return | ast.Expr) and isinstance(call.value, ast.Call)


def graph(sources: Mapping[str, str], packages: frozenset[str] = frozenset()) -> dict[str, set[str]]:
    """Module -> modules that it imports, at its top or inside functions, of name -> source; doors are left out.

    That a module's package runs before it is not counted: it would put every package that hands out names in a circle.
    """
    edges: dict[str, set[str]] = {}
    for module, source in sources.items():
        edges[module] = set()
        for found in imports(source, module if module in packages else module.rpartition(".")[0]):
            name = found.name
            while name and name not in sources:  # a name in a module, or outside
                name = name.rpartition(".")[0]
            if name and name != module and not is_door(module, found):
                edges[module].add(name)
    return edges


def circle(edges: Mapping[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle, the first one named again at its end; empty if there is none."""
    done: set[str] = set()

    def follow(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for target in sorted(edges[module]):
            if found := follow(target, [*path, module]):
                return found
        done.add(module)
        return []

    return next((found for module in sorted(edges) if (found := follow(module, []))), [])


def test_no_modules_import_each_other_in_a_circle() -> None:
    paths = [path for path in PATHS if not module_of(path).startswith("ptycho_ext")]
    packages = frozenset(module_of(path) for path in paths if path.name == "__init__.py")
    edges = graph({module_of(path): path.read_text() for path in paths}, packages)
    assert "ptychopinn.storage.stored" in edges["ptychopinn.scan"]
    assert circle(edges) == []


@pytest.mark.parametrize(
    ("sources", "found"),
    [
        ({"ptychopinn.a": "import ptychopinn.b", "ptychopinn.b": "from .a import x"}, 2),
        ({"ptychopinn.a": "def f():\n    from . import b", "ptychopinn.b": "from ptychopinn import a"}, 2),
        (
            {
                "ptychopinn.a": "from .b import x",
                "ptychopinn.b": "import ptychopinn.c",
                "ptychopinn.c": "from . import a",
            },
            3,
        ),
        ({"ptychopinn.io.a": 'X = "ptychopinn.io.b"', "ptychopinn.io.b": "from .a import x"}, 2),
        ({"ptychopinn.a": "from .b import x", "ptychopinn.b": "import os", "ptychopinn.c": "from . import a"}, 0),
    ],
)
def test_checker_notices_a_circle(sources: dict[str, str], found: int) -> None:
    met = circle(graph(sources))
    assert len(met) == (found + 1 if found else 0) and met[:1] == met[-1:]


def test_a_door_makes_no_circle_and_another_method_does() -> None:
    door = "class Scan:\n    def {}(self):\n        from ptychopinn.io.scans import read_scan"
    there = {"ptychopinn.io.scans": "from ptychopinn.scan import Scan"}
    assert circle(graph({"ptychopinn.scan": door.format("load"), **there})) == []
    assert circle(graph({"ptychopinn.scan": door.format("subset"), **there})) != []
