# SPDX-License-Identifier: BSD-3-Clause
"""Check that all distributions, the citation and a tag have one version: python scripts/same_version.py 0.1.0."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = {
    "pyproject.toml": r'^version = "([^"]+)"',
    "integrations/ptychodus/pyproject.toml": r'^version = "([^"]+)"',
    "integrations/napari/pyproject.toml": r'^version = "([^"]+)"',
    "CITATION.cff": r"^version: (\S+)",
    "recipe/meta.yaml": r'set version = "([^"]+)"',
}


def versions() -> dict[str, str]:
    """The version in every file."""
    found = {}
    for name, pattern in FILES.items():
        (found[name],) = re.findall(pattern, (ROOT / name).read_text(), re.M)
    return found


def main(wanted: str) -> int:
    """Print what differs from the wanted version; 1 if anything does."""
    wrong = {name: version for name, version in versions().items() if version != wanted}
    for name, version in wrong.items():
        print(f"{name}: version {version}, expected {wanted}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
