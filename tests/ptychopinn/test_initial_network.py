# SPDX-License-Identifier: BSD-3-Clause
"""What a training begins with: the network in the package, nothing, or another model; the rule, and the rates."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import tiny, tiny_scan

import ptychopinn as pp
from ptychopinn.errors import InputError
from ptychopinn.persistence import pretrained
from ptychopinn.persistence.bundle import bundle_info, load_bundle, save_bundle
from ptychopinn.persistence.pretrained import load_pretrained
from ptychopinn.training import initial_network


@pytest.fixture
def tiny_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A package whose network is that of the tiny configuration."""
    path, config = tmp_path / "network.zip", tiny()
    torch.manual_seed(5)
    save_bundle(pretrained.build_model(config, 32, 1), config, path)
    monkeypatch.setattr(initial_network, "load_pretrained", lambda: load_pretrained(path))
    return path


def begun_with(rule: str, out: Path, caplog: pytest.LogCaptureFixture, **arguments: Any) -> tuple[Any, str]:
    config = tiny(training={"epochs": 1, "start": rule, "learning_rate": 1e-12})
    with caplog.at_level(logging.INFO, "ptychopinn"):
        run = pp.train(tiny_scan(), out, config, **arguments)
    (line,) = [r.getMessage() for r in caplog.records if r.getMessage().startswith("training begins with")]
    assert line.endswith(", and ends after 1 epoch")
    return run, line.partition(", and")[0]


def weights(model: Any) -> torch.Tensor:
    return torch.cat([value.flatten() for value in model.generator.state_dict().values()])


def test_a_training_begins_with_the_pretrained_network(
    tiny_package: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, line = begun_with("pretrained", tmp_path / "run", caplog)
    assert line == "training begins with the pretrained network"
    assert bundle_info(run.folder)["start"] == "the pretrained network"
    torch.testing.assert_close(weights(run.model), weights(load_bundle(tiny_package)[0]), rtol=0, atol=1e-6)
    probe = run.model.illumination.probe.detach().numpy()
    np.testing.assert_allclose(np.abs(probe).sum(), np.abs(tiny_scan().probe).sum(), rtol=0.1)


@pytest.mark.parametrize("start", ["auto", "nothing"])
def test_a_training_begins_with_nothing(
    start: str, tiny_package: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, line = begun_with(start, tmp_path / "run", caplog)
    assert line == "training begins with an untrained network"
    assert bundle_info(run.folder)["start"] == "an untrained network"
    assert not torch.allclose(weights(run.model), weights(load_bundle(tiny_package)[0]), atol=1e-3)


def test_auto_follows_its_rule(
    tiny_package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = []

    def rule(*arguments: Any) -> bool:
        asked.append(arguments)
        return True

    monkeypatch.setattr(initial_network, "pretrained_is_better", rule)
    _, line = begun_with("auto", tmp_path / "run", caplog)
    assert line == "training begins with the pretrained network" and asked == [(None, True, 4)]
    other = tiny(model={"options": {"steps": 3}}, training={"epochs": 1})
    assert initial_network.initial_network(other, None)[0] is None


@pytest.mark.parametrize(
    ("minutes", "on_cpu", "group_size", "better"),
    [
        (0.3, True, 16, True),
        (0.3, True, 1, False),
        (0.3, False, 16, False),
        (1.0, True, 16, False),
        (None, True, 16, False),
    ],
)
def test_the_rule(minutes: float | None, on_cpu: bool, group_size: int, better: bool) -> None:
    assert initial_network.pretrained_is_better(minutes, on_cpu, group_size) is better


@pytest.mark.parametrize(
    ("training", "rate"),
    [
        ({"start": "pretrained"}, 8e-3),
        ({"start": "nothing"}, None),
        ({"start": "pretrained", "learning_rate": 1e-3}, 1e-3),
    ],
)
def test_its_learning_rate(tiny_package: Path, tmp_path: Path, training: dict[str, Any], rate: float | None) -> None:
    run = pp.train(tiny_scan(), tmp_path / "run", tiny(training={"epochs": 1, **training}))
    assert run.config.training.learning_rate == rate


def test_another_run_overrides(tiny_package: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(9)
    given = pretrained.build_model(tiny(), 32, 1)
    run, line = begun_with("pretrained", tmp_path / "run", caplog, start=given)
    assert line == "training begins with another model"
    torch.testing.assert_close(weights(run.model), weights(given), rtol=0, atol=1e-6)


def test_another_network_cannot_begin_with_it(tiny_package: Path, tmp_path: Path) -> None:
    for model in ({"options": {"steps": 3}}, {"generator": "unet", "options": {}}):
        config = tiny(training={"start": "pretrained"}, model=model)
        with pytest.raises(InputError, match=r"training\.start: the pretrained network has model\..*; omit model"):
            pp.train(tiny_scan(), tmp_path / "run", config)
        assert not (tmp_path / "run" / "wts.h5.zip").exists()


def test_a_resumed_run_knows_what_it_began_with(
    tiny_package: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(9)
    run, _ = begun_with("nothing", tmp_path / "run", caplog, start=pretrained.build_model(tiny(), 32, 1))
    (run.folder / "wts.h5.zip").unlink()
    resumed = pp.train(tiny_scan(), run.folder, tiny(training={"epochs": 2}), resume=True)
    assert bundle_info(resumed.folder)["start"] == "another model"
