# SPDX-License-Identifier: BSD-3-Clause
"""The build: what it reports, that no path of the building machine is in it, and which headers may see which."""

from __future__ import annotations

import doctest
import importlib
import os
import re
import subprocess
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

import ptycho_ext
from ptycho_ext import _C

CSRC = Path(__file__).parents[2] / "csrc"


def test_build_info_is_that_of_the_distribution() -> None:
    info = ptycho_ext.build_info()
    assert info["version"] == ptycho_ext.__version__ == version("ptychopinn")
    assert info["cxx_standard"] >= 202002
    assert info["torch_target_abi"] == "0x020a000000000000"
    assert "-ffp-contract=off" in info["flags"] and "fast-math" not in info["flags"]
    assert info["native"] is ("-march=native" in info["flags"])
    assert info["compiler"] and info["torch_version"]


def test_operators_do_not_ask_for_more_than_the_processor_has() -> None:
    order = ["scalar", "sse2", "avx", "avx2", "avx512"]
    level = ptycho_ext.simd_level()
    if level["processor"] in order:
        assert order.index(level["operators"]) <= order.index(level["processor"])
    else:
        assert level["operators"] == level["processor"]


def _dynamic_section(library: Path) -> str:
    try:
        return subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        pytest.skip("readelf is not installed")


def _wheel_tag() -> str:
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    return f"{python}-{python}-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"


@pytest.mark.skipif(sys.platform != "linux", reason="reads the ELF dynamic section")
def test_library_needs_libtorch_cpu_only_and_carries_no_path() -> None:
    dynamic = _dynamic_section(Path(_C.__file__).with_name("libptycho_ops.so"))
    needed = {line.split("[")[1].rstrip("]") for line in dynamic.splitlines() if "(NEEDED)" in line}
    assert {name for name in needed if "torch" in name or "c10" in name or "gomp" in name} == {"libtorch_cpu.so"}
    assert "RPATH" not in dynamic and "RUNPATH" not in dynamic


@pytest.mark.skipif(sys.platform != "linux", reason="reads the ELF symbols")
@pytest.mark.parametrize("pattern", ["libptycho_ops.so", "libptycho_ops_cuda.so", "_C*.so"])
def test_no_library_uses_iostreams(pattern: str) -> None:
    """A libstdc++ that is linked statically has streams that nobody initialised: the first number written crashes."""
    libraries = list(Path(_C.__file__).parent.glob(pattern))
    if not libraries:
        pytest.skip(f"{pattern} was not built")
    for library in libraries:
        symbols = ""
        for table in (["-D"], []):  # imported and exported, and all of a library that is not stripped
            try:
                done = subprocess.run(["nm", *table, "-C", library], capture_output=True, text=True, check=True)
            except FileNotFoundError:
                pytest.skip("nm is not installed")
            symbols += done.stdout
        assert "PyInit__C" in symbols or "throw" in symbols
        streams = r"std::.*(basic_[io]+stream|basic_[io]*stringstream|basic_stringbuf|basic_ios|ios_base|locale)\b"
        assert re.findall(rf"^.*{streams}.*$", symbols, re.MULTILINE) == []


def test_shared_maths_includes_neither_torch_nor_cuda() -> None:
    sources = sorted((CSRC / "maths").rglob("*.*"))
    assert sources
    for source in sources:
        for line in source.read_text().splitlines():
            if line.startswith("#include"):
                name = line.split()[1].strip('<>"')
                standard = "/" not in name and not name.endswith(".h")
                assert name.startswith("maths/") or standard or name == "immintrin.h", (source, line)


def test_only_torch_compat_includes_torch() -> None:
    for source in CSRC.rglob("*"):
        if source.suffix in {".h", ".cpp", ".cu"} and source.name != "torch_compat.h":
            assert "#include <torch" not in source.read_text(), source


@pytest.mark.parametrize(
    "name",
    [
        "canvas",
        "plan",
        "ops.extract",
        "ops.translate",
        "ops.reassemble",
        "ops.overlap",
        "ops.correct",
        "ops.waves",
        "ops.update",
    ],
)
def test_examples_of_the_docstrings_run(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"ptycho_ext.{name}"))
    assert result.attempted > 0 and result.failed == 0


def test_building_without_torch_stops_with_one_sentence() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.path.insert(0, 'cmake'); "
        "import build_backend; build_backend.prepare_metadata_for_build_wheel('.')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=CSRC.parent, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.splitlines() == [
        "ptychopinn: the building interpreter has no torch: pip install torch, then pip install --no-build-isolation ."
    ]


@pytest.mark.parametrize(
    ("compiler", "version", "sentence"),
    [
        ("GNU", "11.4.0", "GCC 11.4.0 is too old: ptychopinn needs GCC 12 or newer (CXX=g++-12 pip install"),
        ("Clang", "13.0.1", "Clang 13.0.1 is too old: ptychopinn needs Clang 14 or newer (CXX=clang++-14 pip install"),
        ("GNU", "12.1.0", None),
        ("Clang", "18.1.3", None),
        ("AppleClang", "15.0.0", None),
        ("IntelLLVM", "2024.0", None),
    ],
)
def test_old_compilers_are_refused_in_one_sentence(compiler: str, version: str, sentence: str | None) -> None:
    command = ["cmake", f"-DCMAKE_CXX_COMPILER_ID={compiler}", f"-DCMAKE_CXX_COMPILER_VERSION={version}"]
    environment = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    try:
        done = subprocess.run(
            [*command, "-P", CSRC.parent / "cmake" / "compiler_check.cmake"],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment,
        )
    except FileNotFoundError:
        pytest.skip("cmake is not installed")
    assert (done.returncode == 0) is (sentence is None), done.stderr
    assert (sentence or "") in " ".join(done.stderr.split())


@pytest.mark.skipif(not ptycho_ext.build_info()["cuda"], reason="built without CUDA: no nvcc was found")
def test_cuda_library_loads_without_a_gpu_and_carries_no_path() -> None:
    library = Path(_C.__file__).with_name("libptycho_ops_cuda.so")
    torch.ops.load_library(str(library))
    schemas = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("ptycho::")}
    assert schemas
    for name in schemas:
        for device in ("CPU", "CUDA") if name != "ptycho::pattern_step_backward" else ("CPU",):  # others do it there
            assert torch._C._dispatch_has_kernel_for_dispatch_key(name, device), (name, device)
    dynamic = _dynamic_section(library)
    needed = {line.split("[")[1].rstrip("]") for line in dynamic.splitlines() if "(NEEDED)" in line}
    assert {name for name in needed if "torch" in name or "cu" in name} == {"libtorch_cpu.so"}
    assert "RPATH" not in dynamic and "RUNPATH" not in dynamic


#: Registers of a thread at most, by program, type and lanes (as the compiler spells them), from the blocks that are to
#: share the 65,536 of a multiprocessor.
REGISTERS = {
    "3runINS_8SumTilesIfLi1ELb0ENS_14StackOfPatches": 56,  # 9 blocks of 128 threads: 1,188 at once on an H200
    "3runINS_8SumTilesIfLi1ELb0ENS_8ModeSums": 64,  # 8
    "3runINS_8SumTilesIfLi2ELb0E": 72,  # 7: 924
    "3runINS_8SumTilesIfLi1ELb1E": 80,  # 6: 792
    "3runINS_8SumTilesIfLi2ELb1E": 128,  # 4: 528; its loads in flight are worth more than a fifth block
    "7CrowdedINS_8SumTilesIfLi2ELb0E": 64,  # 8: 1,056, for grids that would need a second wave for a few tiles
    "7CrowdedINS_8SumTilesIfLi1ELb1E": 64,
    "7CrowdedINS_8SumTilesIfLi2ELb1E": 96,  # 5: 660
    "7ExtractIfLi1ELb0E": 48,  # 5 blocks of 256 threads, each with two columns
    "7ExtractIfLi2ELb0E": 64,  # 4
    "7ExtractIfLi1ELb1E": 64,  # 4: with 5, sm_80 and sm_100 spill
    "7ExtractIfLi2ELb1E": 64,
    "16PositionGradientIfLi1ENS_14StackOfPatches": 72,  # 7 blocks of 128 threads
    "16PositionGradientIfLi2ENS_14StackOfPatches": 96,  # 5
    "16PositionGradientIfLi1ENS_8ModeSums": 80,  # 6: with 7, sm_100 spills
    "16PositionGradientIfLi2ENS_8ModeSums": 96,
    "9ExitWavesIfLi1E": 80,  # 3 blocks of 256 threads, where one column took 110 registers and 2
    "9ExitWavesIfLi2E": 80,
    "8SumProbeIfLi2E": 96,  # 5 blocks of 128 threads
    "12PatternStepsIf": 128,  # 2 blocks of 256 threads: 264 at once on an H200; with 3 they spill
    "15TransformImagesIf": 128,
    "13ProjectGroupsIfLi1E": 64,
    "13ProjectGroupsIfLi2E": 64,
}


@pytest.mark.skipif(not ptycho_ext.build_info()["cuda"], reason="built without CUDA: no nvcc was found")
def test_cuda_kernels_neither_spill_nor_take_more_registers_than_planned() -> None:
    """What the assembler reported of every kernel for every architecture, as cmake/keep_report.py kept it."""
    objects = CSRC.parent / "build" / _wheel_tag() / "CMakeFiles" / "ptycho_ops_cuda.dir" / "csrc"
    sources = {source.relative_to(CSRC) for source in CSRC.rglob("*.cu")}
    reports = [report for source in sources if (report := objects / f"{source}.o.ptxas").exists()]
    if not reports:
        pytest.skip("not built in this tree")
    assert len(reports) == len(sources)
    pattern = (
        r"entry function '(\w+)' for '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
        r"(\d+) bytes spill loads.*?Used (\d+) registers"
    )
    kernels = [found for report in reports for found in re.findall(pattern, report.read_text(), re.DOTALL)]
    ours = [kernel for kernel in kernels if "ptycho" in kernel[0]]
    wanted = {
        f"sm_{name.split('+')[0].replace('.', '')}" for name in ptycho_ext.build_info()["cuda_architectures"].split()
    }
    assert {architecture for _, architecture, *_ in ours} == wanted
    assert len(ours) > 30 * len(wanted)
    assert [kernel for kernel in ours if kernel[2:5] != ("0", "0", "0")] == []
    for program, most in REGISTERS.items():
        used = [(kernel[1], int(kernel[5])) for kernel in ours if program in kernel[0]]
        assert {architecture for architecture, _ in used} == wanted, program
        assert max(registers for _, registers in used) <= most, (program, used)
