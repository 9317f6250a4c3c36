# SPDX-License-Identifier: BSD-3-Clause
"""Recipes, files of options in the package: they load, join, train some steps, and are listed in the help."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ptychopinn.cli import main
from ptychopinn.cli.help import topics
from ptychopinn.config import Config
from ptychopinn.config.root import RECIPES
from ptychopinn.errors import InputError
from ptychopinn.physics.simulate import simulate

NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))
#: What makes every training short, whatever a recipe has.
SHORT = (
    *("--model.options", '{"steps": 2, "width": 8, "state": 2}', "--epochs", "1", "--training.start", "nothing"),
    *("--execution.progress", "false", "--execution.threads", "1", "--execution.accelerator", "cpu"),
)


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "scan.npz"
    simulate(patterns=36, size=32, photons=1e5, seed=2).save(path)
    return path


def test_there_are_recipes_for_the_common_cases() -> None:
    assert {"flat_probe", "curved_probe", "low_dose", "large_scan", "gpu_node", "cluster"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_loads_and_trains_some_steps(name: str, scan: Path, tmp_path: Path) -> None:
    config = Config.recipe(name)
    assert main(["train", str(scan), "--out", str(tmp_path / "run"), "--recipe", name, *SHORT]) == 0
    trained = Config.load(tmp_path / "run" / "config.yaml")
    stated = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    for section, values in stated.items():
        for field, value in values.items():
            assert getattr(getattr(config, section), field) == value
            if field not in ("epochs", "progress", "accelerator"):  # what the command states prevails
                assert getattr(getattr(trained, section), field) == value
    assert trained.training.epochs == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_begins_with_what_it_is_for_and_is_in_the_help(name: str) -> None:
    assert (RECIPES / f"{name}.yaml").read_text().startswith("# ")
    assert f"`{name}`" in topics()["configuration"]


def test_recipes_are_joined_in_their_order(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--recipe", "curved_probe", "--recipe=flat_probe", "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["data"]["group_size"] == 16 and printed["training"]["minutes"] == 5


def test_an_unknown_recipe_is_an_error_that_lists_them(scan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(scan), "--out", "run", "--recipe", "../low_dose"]) == 2
    assert f"no recipe '../low_dose': expected one of {', '.join(NAMES)}" in capsys.readouterr().err
    with pytest.raises(InputError, match="no recipe 'other'"):
        Config.recipe("other")
