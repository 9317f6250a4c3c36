# SPDX-License-Identifier: BSD-3-Clause
"""What `ptychopinn doctor` reports of GPUs and of operators that crash, for builds and machines other than this one."""

from __future__ import annotations

import pytest
import torch

import ptycho_ext
from ptychopinn.runtime import doctor
from ptychopinn.runtime.cuda_versions import Driver, driver_of, problem_of
from ptychopinn.runtime.float32 import float32_precision

R535, R570, R580 = Driver("535.161.08", "12.2"), Driver("570.86.15", "12.8"), Driver("580.65.06", "13.0")


@pytest.mark.parametrize(
    ("of_torch", "of_operators", "driver", "usable", "problem"),
    [
        ("13.0", "13.0.88", R580, True, None),
        ("12.8", "12.8.61", R535, True, None),  # minor versions are compatible
        ("13.0", "12.8.61", R580, True, None),
        ("13.0", "", None, False, None),
        (None, "", None, False, None),
        (
            *(None, "12.8", R580, False),
            "torch is a CPU build and there is an NVIDIA driver 580.65.06, up to CUDA 13.0: "
            "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu130",
        ),
        (
            *("13.0", "13.0.88", R570, False),
            "torch is built for CUDA 13.0, which is newer than the driver 570.86.15, up to CUDA 12.8: "
            "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu128",
        ),
        (
            *("12.8", "12.8", Driver("450.80.02", "11.0"), False),
            "torch is built for CUDA 12.8, which is newer than the driver 450.80.02, up to CUDA 11.0: "
            "install a driver for CUDA 12 or newer",
        ),
        ("13.0", "13.0.88", R580, False, "torch is built for CUDA 13.0 and sees no GPU although there is an NVIDIA "),
        ("13.0", "", R580, True, "the operators were built without CUDA and run on the CPU: install a CUDA build of "),
        (
            *("12.8", "13.0.88", R570, True),
            "the operators are built with CUDA 13.0.88, which is newer than the driver 570.86.15, up to CUDA 12.8: "
            "install the build of ptychopinn for CUDA 12",
        ),
    ],
)
def test_cuda_of_torch_operators_and_driver_is_compared(
    of_torch: str | None, of_operators: str, driver: Driver | None, usable: bool, problem: str | None
) -> None:
    found = problem_of(of_torch, of_operators, driver, usable)
    assert found == problem if problem is None else str(found).startswith(problem)


def test_the_driver_is_read_from_what_nvidia_smi_prints() -> None:
    line = "| NVIDIA-SMI 580.65.06    Driver Version: 580.65.06    CUDA Version: 13.0     |"
    assert driver_of(line) == R580
    assert driver_of("NVIDIA-SMI has failed") == Driver("", "")
    assert str(Driver("", "")) == "driver of unknown version"


def test_a_gpu_and_its_driver_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ptycho_ext, "build_info", lambda: {"cuda": "13.0.88"})
    monkeypatch.setattr(doctor, "installed_driver", lambda: R580)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "H100")
    facts, problems = doctor._cuda()
    assert facts == [("cuda", "torch built for CUDA 13.0: H100"), ("cuda driver", str(R580))] and not problems


def test_operators_pass_their_self_test() -> None:
    assert doctor.operator_devices()[0] == "cpu"
    assert doctor.operators_problem("cpu") is None


@pytest.mark.parametrize(
    ("child", "problem"),
    [
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
            "the operators crash on cpu (signal 11): rebuild them with the system compiler: "
            "CXX=/usr/bin/g++ pip install --no-build-isolation --no-deps --force-reinstall .",
        ),
        (
            "import sys; sys.exit('computes wrong values')",
            "the operators fail on cpu (computes wrong values): rebuild them: "
            "CXX=/usr/bin/g++ pip install --no-build-isolation --no-deps --force-reinstall .",
        ),
    ],
)
def test_operators_that_crash_are_reported_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], child: str, problem: str
) -> None:
    monkeypatch.setattr(doctor, "_SELF_TEST", child)
    monkeypatch.setattr(doctor, "operator_devices", lambda: ["cpu"])
    assert doctor._operators() == ([("operators", "self-test: cpu failed")], [problem])
    assert doctor.check_operators() == 1
    assert capsys.readouterr().out == f"self-test: cpu failed\n{problem}\n"


def test_device_that_auto_takes_and_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._device()[0][0][1].startswith("the CPU, ")
    monkeypatch.setattr(doctor, "resolve_device", lambda name: torch.device("cuda", 0))
    monkeypatch.setattr(doctor, "free_memory", lambda device: 1.5e9)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "H100")
    assert doctor._device() == ([("device auto", "cuda:0, H100, 1.5 GB of memory free")], [])


def test_tf32_of_torch_is_reported() -> None:
    with float32_precision("32"):
        ((_, value),), _ = doctor._precision()
    assert value.startswith("torch: off for convolutions, off for matrix products; ptychopinn: off, unless")


@pytest.mark.parametrize(
    ("child", "result"),
    [
        ("", "captured"),
        ("import sys; print('a warning', file=sys.stderr); sys.exit(1)", "not captured: a warning"),
        ("import sys; sys.exit('computes wrong values')", "not captured: computes wrong values"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "not captured: exit code -11"),
    ],
)
def test_captures_are_tried_on_every_gpu(monkeypatch: pytest.MonkeyPatch, child: str, result: str) -> None:
    assert doctor._graphs() == ([("cuda graphs", "none without a GPU")], [])
    monkeypatch.setattr(doctor, "_CAPTURE", child)
    monkeypatch.setattr(doctor, "operator_devices", lambda: ["cpu", "cuda:0"])
    assert doctor._graphs() == ([("cuda graphs", f"cuda:0 {result}")], [])


def test_script_of_the_capture_runs_on_the_cpu_where_nothing_is_captured() -> None:
    done = doctor._in_own_process(doctor._CAPTURE, "cpu")
    assert done is not None and (done.returncode, done.stderr) == (1, "")
