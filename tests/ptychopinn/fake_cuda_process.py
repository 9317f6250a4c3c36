# SPDX-License-Identifier: BSD-3-Clause
"""Run pytest in a process whose torch has a CUDA device for fake tensors, with autograd, on any machine.

    python tests/ptychopinn/fake_cuda_process.py tests/ptychopinn/on_fake_cuda/check_tools.py -k backward

A torch with CUDA on a machine with a GPU has one anyway. A build of torch without CUDA gets it from fake_cuda.cpp,
which is compiled into a temporary folder and loaded before torch: so this module does not import torch at its top.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
#: Exit status without a compiler, or with a torch for CUDA on a machine without a GPU.
IMPOSSIBLE = 77


def compiler() -> str | None:
    """Path of a C++ compiler: that of CXX, or the first of the usual names."""
    names = [os.environ.get("CXX", ""), "c++", "g++", "clang++"]
    return next((found for name in names if name and (found := shutil.which(name))), None)


def load_device(folder: Path) -> str | None:
    """Give torch the device, before it is imported; returns why that is impossible.

    Args:
        folder: for the library that is built.
    """
    spec = find_spec("torch")
    assert spec is not None and spec.origin is not None and "torch" not in sys.modules
    torch = Path(spec.origin).parent
    if (torch / "lib" / "libtorch_cuda.so").exists():
        return None if shutil.which("nvidia-smi") else "a torch for CUDA, and no GPU"
    cxx = compiler()
    if cxx is None:
        return "no C++ compiler"
    library = folder / "fake_cuda.so"
    include = [f"-I{torch / 'include'}", f"-I{torch / 'include' / 'torch' / 'csrc' / 'api' / 'include'}"]
    command = [cxx, "-std=c++20", "-O0", "-shared", "-fPIC", *include, str(HERE / "fake_cuda.cpp"), "-o", str(library)]
    subprocess.run([*command, f"-L{torch / 'lib'}", "-lc10", "-ltorch_cpu"], check=True)
    for path in (torch / "lib" / name for name in ("libtorch_global_deps.so", "libc10.so", "libtorch_cpu.so")):
        ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
    ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    return None


def main(arguments: list[str]) -> int:
    """Run pytest with these arguments; :data:`IMPOSSIBLE` and a line where there is no device for fake tensors."""
    with tempfile.TemporaryDirectory() as folder:
        reason = load_device(Path(folder))
    if reason is not None:
        print(reason)
        return IMPOSSIBLE
    import pytest

    return int(pytest.main(["-p", "no:cacheprovider", *arguments]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
