# SPDX-License-Identifier: BSD-3-Clause
"""Every file is written through ptychopinn.storage, which is atomic and words a full disk.

The source is read for other ways.

A call that writes is permitted in `storage/`, and inside a block of `atomic_path`, `atomic_file`, `new_hdf5` or
`open_new_hdf5`. Few other functions are listed with their reason.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "python" / "ptychopinn").rglob("*.py")) + sorted(
    (ROOT / "integrations" / "ptychodus" / "src").rglob("*.py")
)
#: Context managers that give a path or a file to write to.
SAFE = {"atomic_path", "atomic_file", "new_hdf5", "open_new_hdf5"}
#: Names of functions and methods that write a file.
WRITERS = {
    "write_bytes", "write_text", "save", "savez", "savez_compressed", "savetxt", "savefig", "to_csv", "tofile", "dump",
    "copyfile", "copy", "copy2", "move", "NamedTemporaryFile", "TemporaryFile", "mkstemp", "CSVLogger", "FileHandler",
}  # fmt: skip
#: Objects whose method of such a name writes a file.
MODULES = {"np", "numpy", "torch", "shutil", "tempfile", "json", "pickle", "yaml", "figure", "plt"}
#: Those whose object does not matter.
ALWAYS = {"savefig", "to_csv", "tofile", "CSVLogger", "FileHandler"}
#: Permitted: file and function, and why.
PERMITTED = {
    ("plotting/inline.py", "encoded"): "an image in memory",
    ("cli/app.py", "_unprinted"): "the null device",
    ("streaming/dectris_stream.py", "compressed"): "a file in memory",
    ("streaming/senders/folder.py", "send"): "a table that grows while it is read",
    ("streaming/senders/hdf5.py", "begin"): "a file that grows while it is read",
    ("stitching/scratch.py", "__init__"): "a scratch file without a name, whose errors are worded there",
}


def writing_calls(source: str) -> Iterator[tuple[int, str, str]]:
    """Calls that write a file outside a safe block: line, function around it, text."""
    yield from _calls(ast.parse(source), "", False)


def _calls(node: ast.AST, function: str, safe: bool) -> Iterator[tuple[int, str, str]]:
    if isinstance(node, ast.FunctionDef):
        function = node.name
    if isinstance(node, ast.With):
        for item in node.items:  # a later item may use an earlier one
            yield from _calls(item.context_expr, function, safe)
            call = item.context_expr
            safe = safe or (isinstance(call, ast.Call) and _name(call.func)[1] in SAFE)
        for part in node.body:
            yield from _calls(part, function, safe)
        return
    if isinstance(node, ast.Call) and not safe and _writes(node):
        yield node.lineno, function, ast.unparse(node)[:80]
    for child in ast.iter_child_nodes(node):
        yield from _calls(child, function, safe)


def _name(function: ast.expr) -> tuple[str, str]:
    """Name of the object and of the function or method; the former is empty for a function."""
    if isinstance(function, ast.Attribute):
        owner = function.value
        return (owner.id if isinstance(owner, ast.Name) else "?"), function.attr
    return "", function.id if isinstance(function, ast.Name) else "?"


def _writes(call: ast.Call) -> bool:
    owner, name = _name(call.func)
    if name in ALWAYS:
        return True
    if name in ("write_bytes", "write_text"):
        return owner != ""  # a path's own method, instead of the function of storage
    if name in WRITERS:
        return owner in MODULES
    if name in ("open", "File", "ZipFile", "fdopen"):
        place = 0 if name == "open" and owner not in ("", "io", "os", "archive") else 1
        modes = [call.args[place]] if len(call.args) > place else []
        modes += [keyword.value for keyword in call.keywords if keyword.arg == "mode"]
        return any(isinstance(mode, ast.Constant) and set(str(mode.value)) & set("wax+") for mode in modes)
    return False


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_written_by_storage(path: Path) -> None:
    within = str(path).split("/ptychopinn/")[-1]
    wrong = [
        f"{path}:{line}: {text}: write through ptychopinn.storage.atomic"
        for line, function, text in writing_calls(path.read_text(encoding="utf-8"))
        if (within, function) not in PERMITTED and not within.startswith("storage/")
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("open('a', 'w')", 1),
        ("open('a')", 0),
        ("path.open('ab')", 1),
        ("path.open(mode='x')", 1),
        ("path.write_text('x')", 1),
        ("write_text(path, 'x')", 0),
        ("np.savez(path, a=1)", 1),
        ("torch.save(values, path)", 1),
        ("scan.save(path)", 0),
        ("h5py.File(path, 'a')", 1),
        ("h5py.File(path, 'r')", 0),
        ("figure.savefig(path)", 1),
        ("with atomic_path(p) as t:\n    np.savez(t)\n    t.write_text('')", 0),
        ("with atomic_path(p) as t, zipfile.ZipFile(t, 'w') as a:\n    pass", 0),
        ("with zipfile.ZipFile(t, 'w') as a:\n    pass", 1),
    ],
)
def test_the_check_itself(source: str, count: int) -> None:
    assert len(list(writing_calls(source))) == count
