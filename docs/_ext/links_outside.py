# SPDX-License-Identifier: BSD-3-Clause
"""Links of a page to files of the project outside of docs/: pages of the site where there is one, else downloads.

The pages of docs/ are read in the project as well, where such links are paths.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

ROOT = Path(__file__).parents[2]
#: File of the project -> page of the site that includes it.
PAGES = {
    "CONTRIBUTING.md": "/contributing.md",
    "CHANGELOG.md": "/changes.md",
    "benchmarks/README.md": "/measuring.md",
    "integrations/ptychodus/README.md": "/ptychodus.md",
}
_LINK = re.compile(r"\]\(([^)#\s]+)(#[\w-]*)?\)")


def _rewritten(page: Path, match: re.Match[str]) -> str:
    target, anchor = match[1], match[2] or ""
    if "://" in target or target.startswith(("mailto:", "/")):
        return match[0]
    path = (page.parent / target).resolve()
    if path.is_relative_to(ROOT / "docs") or not path.is_relative_to(ROOT):
        return match[0]
    name = str(PurePosixPath(path.relative_to(ROOT)))
    if name in PAGES:
        return f"]({PAGES[name]}{anchor})"
    if path.is_dir():
        return "](/measuring.md)"
    return f"]({_downloadable(path, name)})"


def _downloadable(path: Path, name: str) -> str:
    """The path, from the root of docs/, of a copy of a file of the project."""
    copy = ROOT / "docs" / "_project" / (f"{name}.txt" if path.suffix == ".md" else name)
    copy.parent.mkdir(parents=True, exist_ok=True)
    if not copy.exists() or copy.read_bytes() != path.read_bytes():
        copy.write_bytes(path.read_bytes())
    return f"/{copy.relative_to(ROOT / 'docs')}"


def read(app: Any, name: str, source: list[str]) -> None:
    """Rewrite the links of a page, which Sphinx has read."""
    page = Path(app.srcdir) / f"{name}.md"
    if page.exists():
        source[0] = _LINK.sub(lambda match: _rewritten(page, match), source[0])


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("source-read", read)
    return {"parallel_read_safe": True}
