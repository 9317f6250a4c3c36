# SPDX-License-Identifier: BSD-3-Clause
"""The layers of the architecture (docs/architecture.md), and circular imports.

A file imports from lower layers and from its own folder only, and there are no circular imports. The checks read the
source, including functions. Names of modules in string literals count as imports, because some modules import others on
first use; so do imports for type checkers, except those of other packages. The checks are tested on sources that break
a rule.
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
    "ptychopinn_napari": ROOT / "integrations" / "napari" / "src" / "ptychopinn_napari",
}

#: Layers from the top: folders, or modules, of ptychopinn. Those of one layer do not import each other. Those on top,
#: which nothing imports, are adapters: compat, the packages
#: of integrations/ptychodus, and former names of modules.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("cli", "compat", "ptycho_torch", "ptychopinn_ptychodus", "ptychopinn_napari", "data", "processes"),
    ("__init__",),
    ("streaming",),
    ("pipeline", "first_image"),
    ("mending", "diagnosis"),
    ("inspection",),
    ("training", "refinement", "pretraining"),
    ("inference", "plotting"),
    ("persistence",),
    ("stitching", "models", "metrics", "io", "findings"),
    ("batches", "physics"),
    ("reconstruction", "world"),
    ("scan",),
    ("records",),
    ("acquisition", "decisions", "experiment", "refinement_report", "probe_size"),
    ("storage",),
    ("runtime",),
    ("config",),
    ("errors", "_former", "_one_line", "_submodules"),
    ("ptycho_ext",),
)
LAYER_OF = {folder: number for number, folders in enumerate(LAYERS) for folder in folders}

#: The only permitted upward imports: (module, method) -> imported module. The methods read, write and draw.
UPWARD: dict[tuple[str, str], str] = {
    ("ptychopinn.scan", "Scan.load"): "ptychopinn.io.scans",
    ("ptychopinn.scan", "Scan.save"): "ptychopinn.io.scans",
    ("ptychopinn.scan", "Scan.plot"): "ptychopinn.plotting.scans",
    ("ptychopinn.scan", "Scan._repr_html_"): "ptychopinn.plotting.notebook",
    ("ptychopinn.reconstruction", "Reconstruction.plot"): "ptychopinn.plotting.reconstructions",
    ("ptychopinn.reconstruction", "Reconstruction.compare"): "ptychopinn.plotting.reconstructions",
    ("ptychopinn.reconstruction", "Reconstruction._repr_html_"): "ptychopinn.plotting.notebook",
    ("ptychopinn.reconstruction", "Reconstruction.load"): "ptychopinn.io.reconstructions",
    ("ptychopinn.reconstruction", "Reconstruction.save"): "ptychopinn.io.reconstructions",
}

#: Folder -> other packages that it must not import.
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
    "findings": _LIGHTNING | {"matplotlib", "h5py"},
    "metrics": _LIGHTNING | {"torch", "matplotlib", "h5py"},
    "stitching": _LIGHTNING | {"matplotlib", "h5py"},
    "inference": _LIGHTNING | {"matplotlib"},
    "pretraining": _LIGHTNING | {"matplotlib", "h5py"},
    "persistence": _LIGHTNING | {"matplotlib"},
    "plotting": _LIGHTNING | {"torch", "h5py"},
    "refinement": _LIGHTNING | {"matplotlib"},
    "inspection": _LIGHTNING,
    "diagnosis": _LIGHTNING | {"h5py"},
    "mending": _LIGHTNING | {"matplotlib", "h5py"},
}

_MODULE_NAME = re.compile(
    r"(ptychopinn|ptycho_ext|ptycho_torch|ptychopinn_ptychodus|ptychopinn_napari)(\.[A-Za-z_]\w*)+"
)


class Import(NamedTuple):
    """An import of ``name`` (dotted) in ``where`` (the method or function; "" at the top of the module)."""

    line: int
    where: str
    name: str
    for_types: bool = False


def imports(source: str, package: str) -> Iterator[Import]:
    """Yield every import of a source in ``package`` (dotted)."""

    def walk(node: ast.AST, where: str, typed: bool = False) -> Iterator[Import]:
        typed = typed or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        if isinstance(node, ast.Import):
            yield from (Import(node.lineno, where, alias.name, typed) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = parts[: len(parts) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from ptychopinn import io` names a folder only in its alias.
            yield from (Import(node.lineno, where, f"{module}.{alias.name}", typed) for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _MODULE_NAME.fullmatch(node.value):
            if folder_of(node.value) != "__init__":  # a dotted name of something else, such as a group of entry points
                yield Import(node.lineno, where, node.value)
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            where = f"{where}.{node.name}".lstrip(".")
        for child in ast.iter_child_nodes(node):
            yield from walk(child, where, typed)

    return walk(ast.parse(source), "")


def folder_of(name: str) -> str | None:
    """Return the folder of a dotted name; None for other packages."""
    parts = name.split(".")
    if parts[0] != "ptychopinn":
        return parts[0] if parts[0] in SOURCES else None
    return parts[1] if len(parts) > 1 and parts[1] in LAYER_OF else "__init__"


def is_permitted(module: str, found: Import) -> bool:
    """Return whether this import of ``module`` is a permitted upward import."""
    target = UPWARD.get((module, found.where))
    return target is not None and (found.name + ".").startswith(target + ".")


def violations(source: str, module: str, *, package: bool = False) -> list[str]:
    """Return one sentence for every forbidden import of the source of ``module`` (dotted), a package or a module."""
    wrong, folder = [], folder_of(module)
    assert folder is not None
    for found in imports(source, module if package else module.rpartition(".")[0]):
        target, top = folder_of(found.name), found.name.split(".")[0]
        if target is None:
            if top in FORBIDDEN_OUTSIDE.get(folder, ()) and not found.for_types:
                wrong.append(f"line {found.line}: {folder} must not import {top}")
        elif target != folder and LAYER_OF[target] <= LAYER_OF[folder] and not is_permitted(module, found):
            wrong.append(f"line {found.line}: {folder} must not import {target} ({found.name})")
        elif target == "ptycho_ext" and folder != "ptycho_ext" and found.name.count(".") > 1:
            wrong.append(f"line {found.line}: {folder} must import public names of ptycho_ext only ({found.name})")
    return wrong


def module_of(path: Path) -> str:
    base = next(folder.parent for folder in SOURCES.values() if path.is_relative_to(folder))
    parts = path.relative_to(base).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = [path for root in SOURCES.values() for path in sorted(root.rglob("*.py"))]


@pytest.mark.parametrize("path", PATHS, ids=module_of)
def test_imports_lead_downwards(path: Path) -> None:
    module = module_of(path)
    assert module in ("ptycho_ext", "ptychopinn") or folder_of(module) != "__init__", f"{module}: add it to LAYERS"
    assert violations(path.read_text(), module, package=path.name == "__init__.py") == []


def test_layers_list_every_folder() -> None:
    assert {folder_of(module_of(path)) for path in PATHS} == set(LAYER_OF)


@pytest.mark.parametrize(
    ("module", "source", "sentence"),
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
            "if TYPE_CHECKING:\n    import ptychopinn.io\nelse:\n    x = 1",
            "line 2: models must not import io",
        ),
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
def test_upward_import_is_reported(module: str, source: str, sentence: str) -> None:
    found = violations(source, module)
    assert len(found) == 1 and sentence in found[0], found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("ptychopinn.models.a", "from ptycho_ext import x\nfrom ptychopinn.physics.start import y\nimport torch"),
        ("ptychopinn.io.a", "from .options import ReadOptions\nfrom ..errors import InputError"),
        ("ptychopinn.training.a", "from ptychopinn.persistence import bundle"),
        ("ptychopinn.compat.a", "from ptychopinn.inspection import inspect_scan\nimport ptychopinn"),
        ("ptychopinn.io.a", "if TYPE_CHECKING:\n    from matplotlib.figure import Figure"),
        ("ptychopinn.io.a", '"a sentence about ptychopinn.models and others"'),
        ("ptychopinn.scan", "class Scan:\n    def load(cls):\n        from ptychopinn.io.scans import read_scan"),
    ],
)
def test_permitted_imports_are_not_reported(module: str, source: str) -> None:
    assert violations(source, module) == []


@pytest.mark.parametrize("where", UPWARD.values(), ids=lambda where: where)
def test_permitted_upward_imports_name_existing_modules(where: str) -> None:
    assert where in {module_of(path) for path in PATHS}


@pytest.mark.parametrize(("module", "method"), UPWARD, ids=lambda name: name)
def test_methods_with_upward_imports_are_one_import_and_one_call(module: str, method: str) -> None:
    kind, _, name = method.partition(".")
    tree = ast.parse((ROOT / "python" / f"{module.replace('.', '/')}.py").read_text())
    body = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == kind).body
    function = next(node for node in body if isinstance(node, ast.FunctionDef) and node.name == name)
    _, imported, call = function.body  # after the docstring
    assert isinstance(imported, ast.ImportFrom) and imported.module == UPWARD[module, method]
    assert isinstance(call, ast.Return | ast.Expr) and isinstance(call.value, ast.Call)


def graph(sources: Mapping[str, str], packages: frozenset[str] = frozenset()) -> dict[str, set[str]]:
    """Return module -> imported modules, without the permitted upward imports, of module -> source.

    The import of a module also runs its package. This is not counted, because it would make every package that imports
    from its own modules circular.
    """
    edges: dict[str, set[str]] = {}
    for module, source in sources.items():
        edges[module] = set()
        for found in imports(source, module if module in packages else module.rpartition(".")[0]):
            name = found.name
            while name and name not in sources:  # a name in a module, or of another package
                name = name.rpartition(".")[0]
            if name and name != module and not is_permitted(module, found):
                edges[module].add(name)
    return edges


def circle(edges: Mapping[str, set[str]]) -> list[str]:
    """Return the modules of a circular import, with the first one again at the end; empty if there is none."""
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


def test_no_circular_imports() -> None:
    paths = [*PATHS, *SOURCES["ptycho_ext"].rglob("*.pyi")]  # a stub represents its native module
    packages = frozenset(module_of(path) for path in paths if path.name == "__init__.py")
    edges = graph({module_of(path): path.read_text() for path in paths}, packages)
    assert "ptychopinn.storage.stored" in edges["ptychopinn.scan"]
    assert edges["ptycho_ext._load"] == {"ptycho_ext._C"} and "ptycho_ext.ops" in edges["ptycho_ext"]
    assert circle(edges) == []


@pytest.mark.parametrize(
    ("sources", "size"),
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
        ({"ptycho_ext": "from ptycho_ext.a import x", "ptycho_ext.a": "from ptycho_ext import y"}, 2),
        (
            {
                "ptycho_ext": "from ptycho_ext.a import x",
                "ptycho_ext.a": "from ptycho_ext import b",
                "ptycho_ext.b": "",
            },
            0,
        ),
        ({"ptychopinn.a": "from .b import x", "ptychopinn.b": "import os", "ptychopinn.c": "from . import a"}, 0),
    ],
)
def test_circular_import_is_reported(sources: dict[str, str], size: int) -> None:
    modules = circle(graph(sources))
    assert len(modules) == (size + 1 if size else 0) and modules[:1] == modules[-1:]


def test_only_permitted_methods_are_exempt_from_circles() -> None:
    method = "class Scan:\n    def {}(self):\n        from ptychopinn.io.scans import read_scan"
    other = {"ptychopinn.io.scans": "from ptychopinn.scan import Scan"}
    assert circle(graph({"ptychopinn.scan": method.format("load"), **other})) == []
    assert circle(graph({"ptychopinn.scan": method.format("subset"), **other})) != []
