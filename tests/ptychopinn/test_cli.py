# SPDX-License-Identifier: BSD-3-Clause
"""The command line with valid input: help, options and their precedence, output, exit codes.

Errors of the user are tested in test_bad_input.py, all steps from a scan to its figures in test_cycle.py.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from ptychopinn.cli import commands as table
from ptychopinn.cli import main
from ptychopinn.cli.options import quieten_lightning
from ptychopinn.config import Config
from ptychopinn.persistence.bundle import load_bundle, save_bundle
from ptychopinn.physics.simulate import simulate
from ptychopinn.reconstruction import Reconstruction
from ptychopinn.runtime import doctor

COMMANDS = {
    "example": ("FOLDER", "--overwrite", "make an image of it"),
    "simulate": ("SCAN.npz", "--object", "siemens", "--photons", "--step", "--overwrite"),
    "inspect": ("SCAN", "--json", "--picture", "--mask", "--no-orientation", "if there is a problem"),
    "convert": ("IN", "OUT", "--to", "--format", "--pixel-size", "ptychodus", "nexus", "kept exactly"),
    "mend": ("IN", "OUT", "--all", "--mask-faulty", "--crop", "--position-unit", "records what was done"),
    "subset": ("SCAN", "OUT", "--n", "--clusters", "--seed", "record of its origin"),
    "train": ("SCAN", "--out", "--config", "--minutes", "--from", "--resume", "--orientation"),
    "reconstruct": ("[RUN] SCAN", "--out", "--device", "those of the training"),
    "live": ("SOURCE", "--like", "--positions", "--resume", "--stay", "DECTRIS"),
    "refine": ("[START] SCAN", "--from-scratch", "--resume", "or from scratch"),
    "evaluate": ("RECON.h5", "SCAN", "--out", "--overwrite"),
    "diagnose": ("RUN", "SCAN", "--out", "--json", "most likely cause"),
    "plot": ("FILE", "--out"),
    "replay": ("SCAN", "--to", "--rate", "reorder"),
    "unpack": ("ARCHIVE.zip", "--out", "--trust", "--overwrite"),
    "doctor": ("SIMD level", "--json"),
    "completion": ("bash|zsh|tcsh", "~/.zshrc"),
    "help": ("TOPIC", "orientation"),
}
TINY = (
    *(
        "--model.options",
        '{"steps": 2, "width": 8, "state": 2}',
        "--data.group_size",
        "4",
        "--training.batch_size",
        "4",
    ),
    *("--execution.progress", "false", "--execution.threads", "1", "--execution.accelerator", "cpu"),
)
#: Words of the full help only.
FULL = {
    "simulate": ("experiment:", "--exposure Y,X/K", "--slices D,D,..."),
    "mend": ("scan file:", "--format"),
    "subset": ("scan file:", "--format"),
    "train": (
        "scan file:",
        "--training.epochs N",
        "--training.loss {poisson,amplitude}",
        "data: grouping of a scan",
    ),
    "reconstruct": ("--inference.synchronise {true,false}", "--inference.augment {1,2,4,8}", "--execution.threads N"),
    "live": ("--live.improve {true,false}", "--live.batch_seconds X", "--execution.threads N"),
    "replay": ("scan file:", "--measurement {auto,amplitude,counts}"),
    "refine": ("--refine.learn_positions", "--refine.engine {lbfgs,pie}", "--execution.accelerator {auto,cpu,gpu}"),
    "evaluate": ("--measurement {auto,amplitude,counts}",),
    "diagnose": ("--measurement {auto,amplitude,counts}", "--execution.threads N"),
    "plot": ("--probe FILE.npy",),
}
USAGE = {
    "train": "ptychopinn train [options] SCAN... --out RUN",
    "reconstruct": "ptychopinn reconstruct [options] [RUN] SCAN --out OUT.h5",
    "refine": "ptychopinn refine [options] [START] SCAN --out OUT.h5",
    "doctor": "ptychopinn doctor [options]",
}
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120"}


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=ENVIRONMENT, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a scan, a run of two epochs, and two reconstructions with the commands."""
    folder = tmp_path_factory.mktemp("cli")
    scan, run = str(folder / "scan.npz"), str(folder / "run")
    assert (
        main(["simulate", scan, "--object", "dead_leaves", "--patterns", "16", "--size", "32", "--photons", "1e5"]) == 0
    )
    assert main(["train", scan, "--out", run, "--epochs", "2", *TINY]) == 0
    for name in ("recon.h5", "recon.npz"):
        assert main(["reconstruct", run, scan, "--out", str(folder / name), "--device", "cpu"]) == 0
    return folder


def help_of(command: str, option: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as end:
        main([command, option])
    assert end.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_usage_and_common_options(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    text, full = (help_of(command, option, capsys) for option in ("--help", "--help-all"))
    usage = text.splitlines()[0].removeprefix("usage: ")
    assert usage == full.splitlines()[0].removeprefix("usage: ") == USAGE.get(command, usage)
    assert usage.startswith(f"ptychopinn {command} [options]") and text.splitlines()[1] == ""
    assert all(word in " ".join(shown.split()) for shown in (text, full) for word in COMMANDS[command])
    assert all(word in full and word not in text for word in FULL.get(command, ()))
    more = f"More options with ptychopinn {command} --help-all: "
    assert more not in full
    assert text.splitlines()[-1].startswith(more) if command in FULL else text == full


def test_full_help_lists_every_option_in_a_titled_group(capsys: pytest.CaptureFixture[str]) -> None:
    parser, commands = table.parser_of(table.COMMANDS)
    for command in commands:
        text = help_of(command, "--help-all", capsys)
        sub = parser._subcommands_action._name_parser_map[command]
        for action in sub._actions:
            assert all(f"  {option}" in text or f", {option}" in text for option in action.option_strings), action
        assert all(group.title for group in sub._action_groups)


def test_help_lists_every_tested_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert tuple(COMMANDS) == table.COMMANDS
    assert main([]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and all(f"\n  {command} " in printed.err for command in COMMANDS)


def test_help_and_import_load_no_heavy_modules() -> None:
    code = (
        "import sys, ptychopinn, ptychopinn.cli\n"
        "try: ptychopinn.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'lightning', 'matplotlib', 'h5py'} & set(sys.modules)))"
    )
    done = python("-c", code)
    assert done.stderr == "" and done.stdout.splitlines()[-1] == "[]"


def test_public_names() -> None:
    import ptychopinn

    assert dir(ptychopinn) == ptychopinn.__all__
    assert all(getattr(ptychopinn, name) for name in ptychopinn.__all__)
    with pytest.raises(AttributeError, match="module 'ptychopinn' has no attribute 'reconstrukt'"):
        ptychopinn.reconstrukt  # noqa: B018


def test_printed_configuration_can_be_trained_with(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["train", "--training.epochs", "7", "--print_config"])
    assert end.value.code == 0
    values = yaml.safe_load(capsys.readouterr().out)
    assert values["training"]["epochs"] == 7
    assert Config.from_dict({name: values[name] for name in Config().to_dict()}).training.epochs == 7


def test_run_is_repeated_from_its_configuration_and_options_override_it(folder: Path, tmp_path: Path) -> None:
    config = str(folder / "run" / "config.yaml")
    scan = str(folder / "scan.npz")
    assert main(["train", scan, "--out", str(tmp_path / "again"), "--config", config]) == 0
    (again, same), (first, original) = load_bundle(tmp_path / "again"), load_bundle(folder / "run")
    assert same == original
    assert all(torch.equal(value, first.state_dict()[name]) for name, value in again.state_dict().items())
    other = tmp_path / "other"
    assert main(["train", scan, "--out", str(other), "--config", config, "--seed", "4", "--training.epochs", "1"]) == 0
    settings = load_bundle(other)[1]
    assert (settings.training.seed, settings.training.epochs, settings.data.group_size) == (4, 1, 4)


def test_output_of_training_is_short(folder: Path, tmp_path: Path) -> None:
    run = shutil.copytree(folder / "run", tmp_path / "run")  # Lightning logs most when an earlier run is replaced
    options = ("--epochs", "1", "--data.validation_fraction", "0", "--overwrite", *TINY)
    done = python("-m", "ptychopinn.cli", "train", str(folder / "scan.npz"), "--out", str(run), *options)
    assert done.returncode == 0
    assert len(done.stderr.splitlines()) == 3, done.stderr
    first, second, third = done.stderr.splitlines()
    assert "orientation not checked, 16 patterns are fewer" in first
    assert second == "training begins with an untrained network, and ends after 1 epoch"
    assert third.startswith("trained 1 epochs in ")
    result, following = done.stdout.splitlines()
    assert result.startswith(f"{run}: trained on 16 patterns, train_loss 0.")
    assert f"ptychopinn reconstruct {run} {folder / 'scan.npz'} --out recon.h5 --refine 20" in following


def test_interrupt_saves_the_run_and_is_reported(folder: Path, tmp_path: Path) -> None:
    command = (
        "-m",
        "ptychopinn.cli",
        "train",
        str(folder / "scan.npz"),
        "--out",
        str(tmp_path),
        *TINY,
        "--epochs",
        "9999",
    )
    process = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "checkpoints" / "last.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == f"ptychopinn train: interrupted; {tmp_path} holds what was learned until then"
    assert "Traceback" not in errors
    assert load_bundle(tmp_path)[1].training.epochs == 9999


def test_interrupt_of_another_command_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def diagnose() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "diagnose", diagnose)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == "ptychopinn doctor: interrupted\n"


def test_internal_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def diagnose() -> None:
        raise ValueError("a defect")

    monkeypatch.setattr(doctor, "diagnose", diagnose)
    with pytest.raises(ValueError, match="a defect"):
        main(["doctor"])


def test_full_disk_is_reported_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write_array(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "out.npz")

    monkeypatch.setattr(np.lib.format, "write_array", write_array)
    assert main(["simulate", str(tmp_path / "out.npz"), "--patterns", "4", "--size", "32"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"ptychopinn simulate: {tmp_path / 'out.npz'}: the disk is full or a quota is used up: ")
    assert list(tmp_path.iterdir()) == []


def test_simulate_command_equals_the_function(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "scan.npz"
    arguments = ["--object", "lines", "--probe", "disk", "--scan", "spiral", "--modes", "2", "--patterns", "9"]
    arguments += ["--size", "32", "--step", "3.5", "--photons", "2e4", "--seed", "7"]
    assert main(["simulate", str(path), *arguments]) == 0
    from ptychopinn.scan import Scan

    made = Scan.load(path)
    expected = simulate("lines", "disk", "spiral", 9, 32, 3.5, 2e4, modes=2, seed=7)
    assert np.array_equal(made.counts, expected.counts) and np.array_equal(made.probe, expected.probe)
    assert np.allclose(made.positions, expected.positions, rtol=0, atol=1e-12)
    assert capsys.readouterr().out.startswith(f"{path}: 9 patterns of 32 px, object ")


@pytest.mark.parametrize("command", ["reconstruct", "refine"])
def test_a_figure_that_fails_is_a_warning_and_the_result_stays(
    command: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "r.h5"
    seen = []

    def fail(*_: object) -> None:
        seen.append(out.exists())
        raise RuntimeError("no font\nof this name")

    for name in ("plotting.images.new_figure", "plotting.refinement.new_figure"):
        monkeypatch.setattr(f"ptychopinn.{name}", fail)
    start = [] if command == "reconstruct" else ["--refine.split_half", "false", "--iterations", "1"]
    arguments = [str(folder / "run"), str(folder / "scan.npz"), "--out", str(out), "--device", "cpu"]
    assert main([command, *arguments, *start]) == 0
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    text = "not drawn: no font of this name; results are not affected, and `ptychopinn plot` draws one that is saved"
    assert set(warnings) == {text} and all(seen)
    assert Reconstruction.load(out).shape


def test_the_result_is_reported_before_it_is_drawn(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = []
    monkeypatch.setattr(
        "ptychopinn.plotting.reconstructions.plot_reconstruction",
        lambda *_: printed.append(capsys.readouterr().out) or [],
    )
    monkeypatch.setattr("ptychopinn.cli.reconstruct.print_written", lambda paths: None)
    out = tmp_path / "r.h5"
    assert main(["reconstruct", str(folder / "run"), str(folder / "scan.npz"), "--out", str(out)]) == 0
    assert len(printed) == 1 and printed[0].startswith(f"{out}: object ")


def test_reconstructions_agree_between_formats(folder: Path) -> None:
    a, b = (Reconstruction.load(folder / name) for name in ("recon.h5", "recon.npz"))
    assert np.array_equal(a.object, b.object) and np.array_equal(a.weights, b.weights) and a.origin == b.origin
    assert a.metadata["patterns"] == 16
    for name in ("amplitude.png", "phase.png"):
        assert (folder / "recon" / name).stat().st_size > 5_000


def test_inference_options_of_the_training_are_the_defaults(folder: Path, tmp_path: Path) -> None:
    model, config = load_bundle(folder / "run")
    settings = config.to_dict() | {"inference": {"group_size": 2, "synchronise": False, "probe": "scan"}}
    save_bundle(model, Config.from_dict(settings), tmp_path / "model.zip")
    command = ["reconstruct", str(tmp_path / "model.zip"), str(folder / "scan.npz"), "--device", "cpu"]
    for name, options, expected in (
        ("a.npz", [], (2, False, "scan")),
        ("b.npz", ["--inference.synchronise", "true", "--inference.group_size", "null"], (None, True, "scan")),
    ):
        assert main([*command, "--out", str(tmp_path / name), *options]) == 0
        used = Reconstruction.load(tmp_path / name).metadata["config"]["inference"]
        assert (used["group_size"], used["synchronise"], used["probe"]) == expected


def test_execution_options_of_the_command_are_used(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    scan, cpu = str(folder / "scan.npz"), ("--execution.accelerator", "cpu", "--execution.threads", "3")
    out = tmp_path / "a.npz"
    assert main(["reconstruct", str(folder / "run"), scan, "--out", str(out), *cpu]) == 0
    assert used[0] == 3 and Reconstruction.load(out).metadata["config"]["execution"]["threads"] == 3
    used.clear()
    refined = str(tmp_path / "b.h5")
    assert main(["refine", "--from-scratch", scan, "--out", refined, "--iterations", "1", *cpu]) == 0
    assert used[0] == 3


def test_plot_writes_the_figures_of_each_file(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, expected in (
        ("scan.npz", ["scan.png"]),
        ("recon.h5", ["amplitude.png", "phase.png"]),
        ("recon.npz", ["amplitude.png", "phase.png"]),
    ):
        out = tmp_path / name
        assert main(["plot", str(folder / name), "--out", str(out)]) == 0
        assert sorted(path.name for path in out.iterdir()) == expected
        assert all(path.read_bytes()[:4] == b"\x89PNG" and path.stat().st_size > 5_000 for path in out.iterdir())
        assert capsys.readouterr().out.splitlines() == [f"wrote {out / picture}" for picture in expected]


def test_plot_writes_beside_the_file_by_default(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "some.npz"
    path.write_bytes((folder / "scan.npz").read_bytes())
    assert main(["plot", str(path)]) == 0
    assert (tmp_path / "some" / "scan.png").exists()


def test_doctor_reports_no_problem_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)  # a CPU build of torch with a GPU driver is reported
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "nothing is wrong"
    names = {line[:22].strip() for line in lines}
    assert {"ptychopinn", "python", "torch", "build compiler", "threads", "cuda", "operators"} <= names


@pytest.mark.parametrize(
    ("target", "value", "problem"),
    [
        (
            "ptychopinn.runtime.doctor._PACKAGES",
            ("no-such-package",),
            "no-such-package is not installed: pip install no-such-package",
        ),
        ("torch.get_num_threads", lambda: 10_000, "torch uses 10000 threads on "),
        (
            "ptychopinn.runtime.doctor._SELF_TEST",
            "import sys; sys.exit('computes wrong values')",
            "the operators fail on cpu (computes wrong values): rebuild them: ",
        ),
    ],
)
def test_doctor_reports_each_problem(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], target: str, value: object, problem: str
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(target, value)
    assert main(["doctor"]) == 1
    *_, found, last = capsys.readouterr().out.splitlines()
    assert found.startswith(f"PROBLEM: {problem}") and last == "1 to mend"


def test_doctor_reports_missing_native_libraries(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delattr("ptychopinn.runtime.doctor", raising=False)
    monkeypatch.setitem(sys.modules, "ptychopinn.runtime.doctor", None)
    assert main(["doctor"]) == 1
    assert capsys.readouterr().out.startswith("PROBLEM: ")


def test_warnings_of_lightning_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    import lightning  # noqa: F401

    quieten_lightning()
    logging.getLogger("lightning.pytorch").info("a tip")
    logging.getLogger("lightning.pytorch.utilities").info("a tip")
    assert not logging.getLogger("lightning").handlers
    assert logging.getLogger("lightning.pytorch.utilities").isEnabledFor(logging.WARNING)
    assert not logging.getLogger("lightning.pytorch.utilities").isEnabledFor(logging.INFO)
