# SPDX-License-Identifier: BSD-3-Clause
"""Every command, in one process, on files of awkward names, for test_guest.py: run with a folder, in any locale.

The last line on standard output has the exit codes.
"""

from __future__ import annotations

import os
import sys

from ptychopinn.cli import main

#: Folder and stem of files: accents, a space, a byte that is no text, signs of formulae.
FOLDER, STEM = b"donn\xc3\xa9es \xc2\xb5m", b"s\xff c\xc3\xa9 $_{$"


def commands(name: str) -> list[list[str]]:
    """The arguments of every command, in an order in which each finds its files."""
    scan, training = f"{name}.npz", ["--epochs", "1", "--data.group_size", "4", "--execution.accelerator", "cpu"]
    return [
        ["simulate", scan, "--patterns", "81", "--size", "32", "--step", "8", "--object", "lines"],
        ["convert", scan, f"{name}.cxi", "--pixel-size", "2e-8", "--energy", "8800"],
        ["convert", scan, f"{name}.nxs", "--pixel-size", "2e-8", "--energy", "8800"],
        ["convert", scan, f"{name} pair", "--to", "ptychodus", "--pixel-size", "2e-8", "--energy", "8800"],
        ["inspect", f"{name}.cxi", "--json", f"{name}.json", "--mask", f"{name}.npy", "--picture", f"{name}.png"],
        ["subset", scan, f"{name} few.npz", "--n", "16"],
        ["train", scan, "--out", f"{name} run", *training],
        ["reconstruct", f"{name} run", scan, "--out", f"{name} r.h5"],
        ["refine", f"{name} r.h5", scan, "--out", f"{name} f.h5", "--iterations", "2"],
        ["evaluate", f"{name} f.h5", scan, "--out", f"{name} metrics.json"],
        ["plot", f"{name} f.h5"],
        ["plot", scan],
        ["doctor"],
        ["inspect", f"{name} absent.npz"],
        ["evaluate", scan, scan],
        ["unpack", f"{name} run/wts.h5.zip", "--out", f"{name} unpacked"],
        ["train", f"{name} absent.npz", "--out", f"{name} other"],
    ]


if __name__ == "__main__":
    folder = os.path.join(sys.argv[1], os.fsdecode(FOLDER))
    os.mkdir(folder)
    os.chdir(folder)
    codes = []
    for arguments in commands(os.fsdecode(STEM)):
        try:
            codes.append(main(arguments))
        except SystemExit as ended:
            codes.append(int(ended.code or 0))
    print(*codes)
