# SPDX-License-Identifier: BSD-3-Clause
"""``ptychopinn doctor``: versions, build, hardware, and problems of the installation.

Each check is a function that returns facts and problems; a problem is one sentence with its remedy.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata

import torch

import ptycho_ext
from ptychopinn.runtime.batching import free_memory
from ptychopinn.runtime.cuda_versions import installed_driver, problem_of
from ptychopinn.runtime.devices import resolve_device
from ptychopinn.runtime.float32 import tf32_allowed

_PACKAGES = (
    "torch",
    "lightning",
    "numpy",
    "scipy",
    "scikit-image",
    "h5py",
    "jsonargparse",
    "docstring-parser",
    "psutil",
    "matplotlib",
    "safetensors",
)


def diagnose() -> tuple[list[tuple[str, str]], list[str]]:
    """Facts as (name, value) pairs in the order to print them, and problems, each one sentence."""
    facts: list[tuple[str, str]] = []
    problems: list[str] = []
    for check in (_versions, _integrations, _live, _build, _cpu, _cuda, _precision, _device, _operators, _graphs):
        found, wrong = check()
        facts += found
        problems += wrong
    return facts, problems


def _versions() -> tuple[list[tuple[str, str]], list[str]]:
    facts = [("ptychopinn", ptycho_ext.__version__), ("python", f"{platform.python_version()} ({sys.executable})")]
    problems = []
    for package in _PACKAGES:
        try:
            facts.append((package, metadata.version(package)))
        except metadata.PackageNotFoundError:
            facts.append((package, "missing"))
            problems.append(f"{package} is not installed: pip install {package}")
    return facts, problems


def _integrations() -> tuple[list[tuple[str, str]], list[str]]:
    """Report what connects the library to ptychodus, which need not be installed."""
    versions = {}
    for package in ("ptychopinn-ptychodus", "ptychodus"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    problems, connection = [], versions["ptychopinn-ptychodus"]
    if connection not in ("not installed", ptycho_ext.__version__):
        problems.append(
            f"ptychopinn-ptychodus is of version {connection} and ptychopinn of {ptycho_ext.__version__}: "
            "pip install --no-deps ./integrations/ptychodus"
        )
    if connection != "not installed":
        owners = set(metadata.packages_distributions().get("ptycho_torch", [])) - {"ptychopinn-ptychodus"}
        problems += [
            f"{owner} installs ptycho_torch, as ptychopinn-ptychodus does: pip uninstall one of them, and install the "
            "other again"
            for owner in sorted(owners)
        ]
    return list(versions.items()), problems


def _live() -> tuple[list[tuple[str, str]], list[str]]:
    """Report what a live run can use, of libraries that need not be installed."""
    needed = {
        "page": ("starlette", "uvicorn", "websockets"),
        "DECTRIS": ("pyzmq", "cbor2", "dectris-compression"),
        "EPICS": ("p4p",),
    }
    usable = [name for name, packages in needed.items() if all(map(_installed, packages))]
    return [("live runs", ", ".join([*usable, "files, folders"]))], []


def _installed(package: str) -> bool:
    try:
        return bool(metadata.version(package))
    except metadata.PackageNotFoundError:
        return False


def _build() -> tuple[list[tuple[str, str]], list[str]]:
    info = ptycho_ext.build_info()
    facts = [(f"build {name.replace('_', ' ')}", str(value)) for name, value in info.items() if name != "version"]
    return facts, []


def _cpu() -> tuple[list[tuple[str, str]], list[str]]:
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    facts = [(f"simd {name}", str(value)) for name, value in ptycho_ext.simd_level().items()]
    facts.append(("threads", f"{torch.get_num_threads()} of torch, {available} cores available"))
    problems = []
    if torch.get_num_threads() > available:
        problems.append(
            f"torch uses {torch.get_num_threads()} threads on {available} cores: set OMP_NUM_THREADS={available}"
        )
    return facts, problems


def _cuda() -> tuple[list[tuple[str, str]], list[str]]:
    built, driver = torch.version.cuda, installed_driver()
    usable = built is not None and torch.cuda.is_available()
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] if usable else []
    found = "torch is a CPU build" if built is None else f"torch built for CUDA {built}"
    if built is not None:
        found += f": {', '.join(names)}" if usable else ", no usable GPU"
    facts = [("cuda", found), *([] if driver is None else [("cuda driver", str(driver))])]
    problem = problem_of(built, str(ptycho_ext.build_info()["cuda"]), driver, usable)
    return facts, [] if problem is None else [problem]


def _precision() -> tuple[list[tuple[str, str]], list[str]]:
    states = [f"{'on' if allowed else 'off'} for {work}" for work, allowed in tf32_allowed().items()]
    return [("tf32", f"torch: {', '.join(states)}; ptychopinn: off, unless execution.precision is tf32")], []


def _device() -> tuple[list[tuple[str, str]], list[str]]:
    device = resolve_device("auto")
    name = "the CPU" if device.type == "cpu" else f"{device}, {torch.cuda.get_device_name(device)}"
    return [("device auto", f"{name}, {free_memory(device) / 1e9:.1f} GB of memory free")], []


_REBUILD = "CXX=/usr/bin/g++ pip install --no-build-isolation --no-deps --force-reinstall ."

# A build for another processor or with another C++ library fails in a result, or in an exception that torch passes on.
_SELF_TEST = """
import sys, torch, ptycho_ext
canvas = torch.arange(12.0, device=sys.argv[1]).reshape(3, 4)
positions = torch.tensor([[0.5, 0.0]], dtype=torch.float64, device=sys.argv[1])
if ptycho_ext.extract_patches(canvas, positions, (1, 2)).flatten().tolist() != [2.0, 3.0]:
    sys.exit("computes wrong values")
try:
    torch.ops.ptycho.extract_patches(canvas, positions, [4, 4])
except RuntimeError:
    sys.exit(0)
sys.exit("accepts a patch larger than its canvas")
"""


def operators_problem(device: str) -> str | None:
    """Run an operator on a device in a separate process, which can crash; returns the problem, or None."""
    done = _in_own_process(_SELF_TEST, device)
    if done is None:
        return f"the operators do not return on {device} within 5 minutes: rebuild them: {_REBUILD}"
    if done.returncode == 0:
        return None
    if done.returncode < 0:
        crash = f"the operators crash on {device} (signal {-done.returncode})"
        return f"{crash}: rebuild them with the system compiler: {_REBUILD}"
    return f"the operators fail on {device} ({_reason(done)}): rebuild them: {_REBUILD}"


def _in_own_process(script: str, device: str) -> subprocess.CompletedProcess[str] | None:
    """Run a script with a device as its argument; None: it did not end within 5 minutes."""
    command = [sys.executable, "-c", script, device]
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=300)
    except subprocess.TimeoutExpired:
        return None


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]


def operator_devices() -> list[str]:
    """Devices that the operators can run on: the CPU, and every GPU where they and torch were built for CUDA."""
    gpus = torch.cuda.device_count() if ptycho_ext.build_info()["cuda"] and torch.cuda.is_available() else 0
    return ["cpu", *(f"cuda:{index}" for index in range(gpus))]


def _operators() -> tuple[list[tuple[str, str]], list[str]]:
    found = {device: operators_problem(device) for device in operator_devices()}
    results = [f"{device} {'passed' if problem is None else 'failed'}" for device, problem in found.items()]
    return [("operators", f"self-test: {', '.join(results)}")], [problem for problem in found.values() if problem]


# The warning of a capture that fails is the last line on standard error, and has the reason.
_CAPTURE = """
import sys, torch, ptycho_ext
from ptychopinn.runtime.graphs import Captured
device = torch.device(sys.argv[1])
canvas = torch.ones(3, 4, dtype=torch.float32, device=device)
positions = torch.tensor([[0.5, 0.0]], dtype=torch.float64, device=device)
work = Captured(lambda: canvas.add_(ptycho_ext.extract_patches(canvas, positions, (1, 1))[0]), device, "the self-test")
for _ in range(6):
    work()
if not work.replayed:
    sys.exit(1)
if float(canvas[0, 0]) != 64:
    sys.exit("a captured graph computes wrong values")
"""


def _graphs() -> tuple[list[tuple[str, str]], list[str]]:
    """Report whether work is captured as CUDA graphs: a small capture in a process of its own."""
    devices = operator_devices()[1:]
    if not devices:
        return [("cuda graphs", "none without a GPU")], []
    results = []
    for device in devices:
        done = _in_own_process(_CAPTURE, device)
        failure = "no result within 5 minutes" if done is None else _reason(done) if done.returncode else None
        results.append(f"{device} {'captured' if failure is None else f'not captured: {failure}'}")
    return [("cuda graphs", "; ".join(results))], []


def check_operators() -> int:
    """Print the result of the self-test; returns 0 if it passed."""
    facts, problems = _operators()
    print(*(value for _, value in facts), *problems, sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(check_operators())
