# SPDX-License-Identifier: BSD-3-Clause
"""Every block of shell and Python in the tutorials runs, each page in its own folder."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from ptychopinn.cli import main

PAGES = sorted((Path(__file__).parents[1] / "docs" / "tutorials").glob("[!i]*.md"))  # without the index


def blocks(text: str) -> list[tuple[str, str]]:
    """Return (language, code) of the fenced blocks."""
    return re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_of_a_tutorial_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "tutorial"}
    found = blocks(page.read_text())
    assert found
    for language, code in found:
        if language == "python":
            exec(compile(code, page.name, "exec"), names)
        elif language == "bash":
            for line in code.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if not words:
                    continue
                assert words[0] == "ptychopinn", f"{page.name} can only run commands of its own, found {words[0]}"
                assert main(words[1:]) == 0, line
        else:
            assert language in ("yaml", "text", "json"), f"{page.name} has a block of {language}"
