# SPDX-License-Identifier: BSD-3-Clause
"""Give a source tree a local version, such as 0.1.0+cu130, before a wheel for one CUDA is built of it.

    python scripts/local_version.py cu130 [FOLDER]

Changes pyproject.toml of the tree, so it is for a copy: a container of cibuildwheel, or an unpacked source archive.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path


def with_local_version(text: str, label: str) -> str:
    """The text of pyproject.toml with a local version; one that it has is replaced."""
    changed, count = re.subn(r'^version = "([\d.]+)(?:\+\w+)?"$', rf'version = "\1+{label}"', text, flags=re.M)
    if count != 1:
        raise ValueError(f"expected one version in pyproject.toml, found {count}")
    return changed


if __name__ == "__main__":
    file = Path(sys.argv[2] if len(sys.argv) > 2 else ".") / "pyproject.toml"
    file.write_text(with_local_version(file.read_text(), sys.argv[1]))
    print(next(line for line in file.read_text().splitlines() if line.startswith("version")))
