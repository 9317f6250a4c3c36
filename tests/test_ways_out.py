# SPDX-License-Identifier: BSD-3-Clause
"""Every sentence "expected ..., found ..." ends with a way out: what mends it, or what to state in its place.

Sentences about a key of a scan file are made by `OpenFile.fail`, which adds a way out to those that have none.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from ptychopinn.errors import InputError
from ptychopinn.io.fields import OpenFile

ROOT = Path(__file__).parents[1] / "python" / "ptychopinn"
#: Words that begin a way out.
MARKS = (";", "--")
#: Sentences whose way out is in a variable: file and its first words.
IN_A_VARIABLE = {
    ("errors.py", "{sentence}"),
    ("storage/hdf5_files.py", "{name}: expected data that can be decompressed"),
    ("io/hdf5.py", "{path}: expected {kind}, found {reason_of(error)}"),
    ("io/probe.py", "{where}: expected a probe of shape"),
    ("storage/stored.py", "{self}: pattern {rows[pattern]}: expected"),
}


def sentences(source: str) -> Iterator[tuple[int, str]]:
    """Lines and texts of the InputErrors in a source that state what was expected and found."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "InputError":
            text = " ".join(ast.unparse(argument) for argument in node.args)
            if "expected" in text and "found" in text:
                yield node.lineno, text


def without_way_out(source: str, file: str) -> list[str]:
    permitted = [words for name, words in IN_A_VARIABLE if name == file]
    return [
        f"{file}:{line}: {text[:160]}"
        for line, text in sentences(source)
        if not any(mark in text for mark in MARKS) and not any(words in text for words in permitted)
    ]


def test_every_sentence_names_a_way_out() -> None:
    missing = [
        sentence
        for path in sorted(ROOT.rglob("*.py"))
        for sentence in without_way_out(path.read_text(), str(path.relative_to(ROOT)))
    ]
    assert not missing, "\n".join(missing)


def test_a_sentence_without_a_way_out_is_found() -> None:
    assert without_way_out('raise InputError(f"{path}: expected a file, found a folder")', "x.py")
    assert not without_way_out('raise InputError(f"{path}: expected a file, found a folder; name a file")', "x.py")


class Nothing(OpenFile):
    def __init__(self, kind: str = "an HDF5 file") -> None:
        self.path, self.kind = Path("scan.h5"), kind

    def has(self, key: str) -> bool:
        return False

    def array(self, key: str) -> None:  # type: ignore[override]
        raise KeyError(key)


@pytest.mark.parametrize(
    ("key", "way"),
    [
        ("xcoords", r"state positions= \(--positions TABLE\)"),
        ("entry_1/image_1/probe", r"state probe= \(--probe FILE\.npy\)"),
        ("mask", r"export the file again, or its arrays in another format \(docs/formats\.md\)"),
    ],
)
def test_a_key_of_a_scan_has_a_way_out(key: str, way: str) -> None:
    with pytest.raises(InputError, match=rf"key '{key}': expected numbers, found text; {way}$"):
        Nothing().fail(key, "numbers", "text")
    with pytest.raises(InputError, match=r"found text; do this$"):
        Nothing().fail(key, "numbers", "text", "do this")
    with pytest.raises(InputError, match=r"found text; do that$"):
        Nothing().fail(key, "numbers", "text; do that")
