# SPDX-License-Identifier: BSD-3-Clause
"""The arrows of the architecture: which room may import which, read from the source, inside functions too.

Names of modules in string literals count as imports, because some rooms import others on first use. The checker itself
is tested on sources that break a rule.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {
    "ptycho_ext": ROOT / "ptycho_ext",
    "ptychopinn": ROOT / "python" / "ptychopinn",
    "ptycho_torch": ROOT / "python" / "ptycho_torch",
}

#: Room -> rooms it may import besides itself. A room is a folder or a module right under ptychopinn. Read from the
#: bottom: everything may import errors and the operators, and nothing imports what stands above it.
_BASE = {"errors", "processes", "ptycho_ext"}
_DATA = _BASE | {"config", "data"}
_PHYSICS = _DATA | {"physics"}
_MODELS = _PHYSICS | {"models"}
_INFERENCE = _MODELS | {"metrics", "inference", "devices"}
_TRAINING = _INFERENCE | {"training", "refinement"}
ALLOWED: dict[str, set[str]] = {
    "ptycho_ext": set(),
    "errors": set(),
    "config": {"errors"},
    "devices": _BASE | {"config"},
    "processes": {"errors"},
    "parent": set(),
    "data": _DATA,
    "physics": _PHYSICS,
    "metrics": _BASE | {"data"},
    "models": _MODELS,
    "inference": _INFERENCE,
    "training": _INFERENCE | {"training"},
    "refinement": _INFERENCE | {"refinement"},
    "inspection": _TRAINING - {"training"} | {"inspection"},
    "doctor": _TRAINING,
    "pipeline": _TRAINING | {"pipeline"},
    "commands": _TRAINING | {"doctor", "inspection", "commands"},
    "cli": {"errors", "commands"},
    "__main__": {"cli"},
    "__init__": _TRAINING | {"pipeline"},
    "compat": _TRAINING | {"doctor", "cli", "pipeline", "parent", "__init__"},
    "ptycho_torch": _TRAINING | {"parent", "ptycho_torch"},
}

#: Rooms -> packages from outside that they must not import.
FORBIDDEN_OUTSIDE: dict[str, set[str]] = {
    "ptycho_ext": {"lightning", "pytorch_lightning", "scipy", "skimage", "h5py", "matplotlib", "jsonargparse"},
    "errors": {"torch", "lightning", "numpy"},
    "config": {"torch", "lightning", "numpy", "jsonargparse"},
    "physics": {"lightning", "pytorch_lightning", "matplotlib", "h5py"},
    "models": {"lightning", "pytorch_lightning", "matplotlib", "h5py"},
    "inference": {"lightning", "pytorch_lightning"},
    "metrics": {"lightning", "pytorch_lightning"},
    "refinement": {"lightning", "pytorch_lightning", "matplotlib"},
    "inspection": {"lightning", "pytorch_lightning"},
}

_MODULE_NAME = re.compile(r"(ptychopinn|ptycho_ext|ptycho_torch)(\.[A-Za-z_]\w*)+")


def imported(source: str, package: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every module that a source of ``package`` (dotted, of its folder) imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = parts[: len(parts) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from ptychopinn import data` names a room only in its alias.
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _MODULE_NAME.fullmatch(node.value):
            yield node.lineno, node.value


def room_of(name: str) -> str | None:
    """The room that a dotted name lies in; None outside the library."""
    parts = name.split(".")
    if parts[0] in ("ptycho_ext", "ptycho_torch"):
        return parts[0]
    if parts[0] != "ptychopinn":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in ALLOWED else "__init__"


def violations(source: str, room: str, package: str) -> list[str]:
    """One sentence for every import of ``source``, in ``room``, that goes against an arrow."""
    wrong = []
    for line, name in imported(source, package):
        target, top = room_of(name), name.split(".")[0]
        if target is None:
            if top in FORBIDDEN_OUTSIDE.get(room, ()):
                wrong.append(f"line {line}: {room} must not import {top}")
        elif target != room and target not in ALLOWED[room]:
            wrong.append(f"line {line}: {room} must not import {target} ({name})")
        elif target == "ptycho_ext" and room != "ptycho_ext" and name.count(".") > 1:
            wrong.append(f"line {line}: {room} must import public names of ptycho_ext only ({name})")
    return wrong


def files() -> list[tuple[str, Path]]:
    """(room, path) of every source of both packages."""
    found = []
    for package, folder in SOURCES.items():
        for path in sorted(folder.rglob("*.py")):
            room = path.relative_to(folder).parts[0].removesuffix(".py")
            found.append((room if package == "ptychopinn" else package, path))
    return found


def package_of(path: Path) -> str:
    base = ROOT if "ptycho_ext" in path.relative_to(ROOT).parts[:1] else ROOT / "python"
    return ".".join(path.relative_to(base).parts[:-1])


@pytest.mark.parametrize(("room", "path"), files(), ids=lambda value: str(getattr(value, "stem", value)))
def test_arrows_point_downwards(room: str, path: Path) -> None:
    assert room in ALLOWED, f"{path.name}: give the room {room!r} its place in ALLOWED"
    assert violations(path.read_text(), room, package_of(path)) == []


def test_rooms_are_found_and_ordered() -> None:
    rooms = {room for room, _ in files()}
    assert {"ptycho_ext", "data", "physics", "models", "inference", "training", "metrics", "cli"} <= rooms
    for room, targets in ALLOWED.items():
        for target in targets - {room}:
            assert room not in ALLOWED[target], f"{room} and {target} import each other"
        assert "compat" not in targets


@pytest.mark.parametrize(
    ("room", "source", "says"),
    [
        ("ptycho_ext", "from ptychopinn.errors import InputError", "ptycho_ext must not import errors"),
        ("ptycho_ext", "import lightning as L", "ptycho_ext must not import lightning"),
        ("data", "from ptychopinn.physics.probes import disk", "data must not import physics"),
        ("data", "def f():\n    from ptychopinn.models import PtychoModel", "line 2: data must not import models"),
        ("data", "import ptychopinn.training.workflow", "data must not import training"),
        ("data", "from ptychopinn import train", "data must not import __init__"),
        ("data", "from ptychopinn import metrics", "data must not import metrics"),
        ("data", "from ..models import registry", "data must not import models"),
        ("data", "from .. import inference", "data must not import inference"),
        ("data", 'READERS = {".h5": "ptychopinn.compat.reader"}', "data must not import compat"),
        ("physics", "if True:\n    import ptychopinn.metrics", "line 2: physics must not import metrics"),
        ("metrics", "from ptychopinn.physics.probes import disk", "metrics must not import physics"),
        ("models", "import lightning.pytorch", "models must not import lightning"),
        ("models", "from ptycho_ext.ops.extract import extract_patches", "public names of ptycho_ext only"),
        ("inference", "from ptychopinn.training.module import PtychoModule", "inference must not import training"),
        ("training", "from ptychopinn.cli import main", "training must not import cli"),
        ("cli", "import ptychopinn.compat", "cli must not import compat"),
        ("config", "from ptychopinn.models.registry import GENERATORS", "config must not import models"),
        ("errors", "import torch", "errors must not import torch"),
    ],
)
def test_checker_sees_an_import_against_the_arrows(room: str, source: str, says: str) -> None:
    found = violations(source, room, "ptycho_ext" if room == "ptycho_ext" else f"ptychopinn.{room}")
    assert len(found) == 1 and says in found[0], found


@pytest.mark.parametrize(
    ("room", "source"),
    [
        (
            "models",
            "from ptycho_ext import extract_patches\nfrom ptychopinn.physics.start import start_waves\nimport torch",
        ),
        ("data", "from .scan import Scan\nfrom ..errors import InputError"),
        ("training", "from ptychopinn.inference import bundle"),
        ("compat", "from ptychopinn.cli import main\nimport ptychopinn"),
        ("data", '"a sentence about ptychopinn.models and others"'),
    ],
)
def test_checker_lets_the_others_pass(room: str, source: str) -> None:
    assert violations(source, room, f"ptychopinn.{room}") == []
