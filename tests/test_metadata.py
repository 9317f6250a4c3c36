# SPDX-License-Identifier: BSD-3-Clause
"""No code reads a key of metadata, which are for people; values for code are fields (docs/architecture.md).

The check reads the source: no literal key may be read from an expression that is `metadata` or ends in `.metadata`.
Writing a key is allowed. Code that converts between JSON and fields has another name for the object.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("python", "ptycho_ext", "benchmarks", "scripts")
PATHS = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
READING_METHODS = ("get", "pop", "setdefault")


def is_metadata(node: ast.expr) -> bool:
    return (isinstance(node, ast.Name) and node.id == "metadata") or (
        isinstance(node, ast.Attribute) and node.attr == "metadata"
    )


def is_key(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def keys_read(source: str) -> Iterator[str]:
    """Yield one sentence for every key of metadata that a source reads."""
    for node in ast.walk(ast.parse(source)):
        owner = key = None
        if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Store):
            owner, key = node.value, node.slice
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            if node.func.attr in READING_METHODS:
                owner, key = node.func.value, node.args[0]
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
            owner, key = node.comparators[0], node.left
        if owner is not None and key is not None and is_metadata(owner) and is_key(key):
            yield f"line {node.lineno}: reads {ast.unparse(node)}"


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_code_reads_a_key_of_metadata(path: Path) -> None:
    assert list(keys_read(path.read_text())) == []


@pytest.mark.parametrize(
    "source",
    [
        'scan.metadata["orientation"]',
        'result.metadata["refinement"]["passes"]',
        'metadata["refinement"]["split_half"] = 1',
        'x = scan.metadata.get("orientation", "given")',
        'metadata.pop("scan_indexes", None)',
        'self.metadata.setdefault("probe", 1)',
        'if "truth" in scan.metadata:\n    pass',
        'del metadata["geometry"]',
    ],
)
def test_key_that_is_read_is_reported(source: str) -> None:
    assert len(list(keys_read(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        'metadata["layers"] = 3',
        "for key, value in scan.metadata.items():\n    print(key, value)",
        'version = metadata.version("torch")',
        "energy = product.metadata.photon_energy_eV",
        'record["geometry"]',
    ],
)
def test_other_uses_of_metadata_are_not_reported(source: str) -> None:
    assert list(keys_read(source)) == []
