# SPDX-License-Identifier: BSD-3-Clause
"""Check what the wheels of all distributions install: each its own packages, and nothing in the place of another's.

    python scripts/wheel_contents.py dist/*.whl

The main wheel must hold nothing of ptychodus, or `import ptychodus` succeeds where it is not installed.
"""

from __future__ import annotations

import re
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

#: Distribution, as in the name of its wheel -> patterns of what it may install beside its metadata.
CONTENTS = {
    "ptychopinn": r"(ptycho_ext|ptychopinn)/.+",
    "ptychopinn_napari": r"ptychopinn_napari/.+",
    "ptychopinn_ptychodus": r"(ptycho_torch|ptychopinn_ptychodus)/.+|ptychodus/plugins/ptychopinn\.py",
}

#: Files besides sources that must be there.
REQUIRED = {
    "ptychopinn": ("ptychopinn/models/pretrained/network.zip", "ptychopinn/models/pretrained/network.json"),
    "ptychopinn_napari": ("ptychopinn_napari/napari.yaml",),
    "ptychopinn_ptychodus": (),
}


def missing(distribution: str, names: Iterable[str]) -> list[str]:
    """The files that a wheel of this distribution must hold and that are not among ``names``."""
    found = set(names)
    return [name for name in REQUIRED[distribution] if name not in found]


def misplaced(distribution: str, names: Iterable[str]) -> list[str]:
    """The files among ``names`` that a wheel of this distribution must not hold."""
    pattern = re.compile(rf"{CONTENTS[distribution]}|{distribution}-[^/]+\.dist-info/.+")
    return [name for name in names if not pattern.fullmatch(name) or "__pycache__" in name]


def main(wheels: list[str]) -> int:
    """Print a line for every wheel; 1 if one holds what it must not, or there is none."""
    failed = not wheels
    for wheel in map(Path, wheels):
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]  # folders, of a repaired wheel
        distribution = wheel.name.partition("-")[0]
        faults = [f", must not hold {name}" for name in misplaced(distribution, names)]
        faults += [f", must hold {name}" for name in missing(distribution, names)]
        print(f"{wheel.name}: {len(names)} files{''.join(faults)}")
        failed |= bool(faults)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
