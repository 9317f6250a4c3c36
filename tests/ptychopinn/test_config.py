# SPDX-License-Identifier: BSD-3-Clause
"""The configuration: errors name the field, unknown names are refused, and round trips are exact."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ptychopinn.config import (
    Config,
    DataConfig,
    ExecutionConfig,
    InferenceConfig,
    ModelConfig,
    RefineConfig,
    TrainingConfig,
)
from ptychopinn.config.field_docs import field_choices, field_docs
from ptychopinn.errors import InputError

REFUSED = [
    ("data", {"group_size": 0}, "data.group_size must be at least 1, got 0"),
    ("data", {"group_size": 5, "pool": 3}, "data.pool must be at least 4, got 3"),
    ("data", {"validation_fraction": -0.1}, r"data.validation_fraction must be in \[0, 1\), got -0.1"),
    ("data", {"validation_fraction": 1.0}, r"data.validation_fraction must be in \[0, 1\), got 1.0"),
    ("data", {"neighbours": "all"}, "data.neighbours must be nearest or quadrants, got 'all'"),
    ("data", {"min_distance": -1.0}, "data.min_distance must be at least 0, got -1.0"),
    (
        "data",
        {"min_distance": 3.0, "max_distance": 3.0},
        r"data.max_distance must be above data.min_distance \(3.0\), got 3.0",
    ),
    ("data", {"oversampling": 0}, "data.oversampling must be at least 1, got 0"),
    ("data", {"largest_canvas": 0}, "data.largest_canvas must be at least 1, got 0"),
    ("data", {"y_bounds": [0.5, 0.5]}, "data.y_bounds must be two fractions, 0 <= low < high <= 1, got"),
    ("data", {"x_bounds": [0.0, 0.5, 1.0]}, "data.x_bounds must be two fractions, 0 <= low < high <= 1, got"),
    ("data", {"validation": "random"}, "data.validation must be scattered or region, got 'random'"),
    ("training", {"epochs": 0}, "training.epochs must be at least 1, got 0"),
    ("training", {"minutes": 0}, "training.minutes must be positive, got 0"),
    ("training", {"batch_size": 0}, "training.batch_size must be at least 1, got 0"),
    ("training", {"learning_rate": 0.0}, "training.learning_rate must be positive, got 0.0"),
    ("training", {"learning_rate": float("nan")}, "training.learning_rate must be positive, got nan"),
    ("training", {"probe_step": -1.0}, "training.probe_step must be positive, got -1.0"),
    ("training", {"position_step": 0.0}, "training.position_step must be positive, got 0.0"),
    ("training", {"accumulate": 0}, "training.accumulate must be at least 1, got 0"),
    ("training", {"patience": 0}, "training.patience must be at least 1, got 0"),
    (
        "training",
        {"schedule": "linear"},
        "schedule must be cosine, exponential, plateau or constant, got 'linear'",
    ),
    ("training", {"merge_own": -0.1}, "training.merge_own must be at least 0, got -0.1"),
    ("training", {"merge_pool": 0}, "training.merge_pool must be at least 1, got 0"),
    ("training", {"merge": 0}, "training.merge must be at least 1, got 0"),
    ("training", {"stop_ratio": 0.0}, "training.stop_ratio must be positive, got 0.0"),
    ("training", {"total_variation": -0.1}, "training.total_variation must be at least 0, got -0.1"),
    ("training", {"average": 1.0}, "training.average must be between 0 and 1, got 1.0"),
    ("training", {"warmup": 1.0}, r"training.warmup must be in \[0, 1\), got 1.0"),
    ("training", {"warmup": -0.5}, r"training.warmup must be in \[0, 1\), got -0.5"),
    ("training", {"loss": "mse"}, "training.loss must be poisson or amplitude, got 'mse'"),
    ("training", {"gradient_clip": 0.0}, "training.gradient_clip must be positive, got 0.0"),
    ("training", {"seed": -1}, "training.seed must be in"),
    ("training", {"seed": 2**32}, "training.seed must be in"),
    ("inference", {"batch_size": 0}, "inference.batch_size must be at least 1, got 0"),
    ("inference", {"group_size": 0}, "inference.group_size must be at least 1, got 0"),
    ("inference", {"coverage": 0}, "inference.coverage must be at least 1, got 0"),
    ("inference", {"probe": "mine"}, "inference.probe must be auto, scan or model, got 'mine'"),
    ("inference", {"positions": "mine"}, "inference.positions must be auto or scan, got 'mine'"),
    ("inference", {"augment": 3}, "inference.augment must be 1, 2, 4 or 8, got 3"),
    (
        "inference",
        {"uncertainty": "some"},
        "inference.uncertainty must be none, overlaps, ensemble or bootstrap, got 'some'",
    ),
    ("inference", {"replicas": 0}, "inference.replicas must be at least 1, got 0"),
    ("execution", {"precision": "64"}, "execution.precision must be 32, tf32, bf16 or 16, got '64'"),
    ("execution", {"strategy": "fsdp"}, "execution.strategy must be auto or ddp, got 'fsdp'"),
    ("inference", {"weighting": "all"}, "inference.weighting must be probe, centre or uniform, got 'all'"),
    ("execution", {"threads": 0}, "execution.threads must be at least 1, got 0"),
    ("execution", {"logger": "wandb"}, "execution.logger must be csv, tensorboard, mlflow or none, got 'wandb'"),
    ("execution", {"early_stopping": 0}, "execution.early_stopping must be at least 1, got 0"),
    ("execution", {"picture_every": 0}, "execution.picture_every must be at least 1, got 0"),
    ("execution", {"grace": -1.0}, "execution.grace must be at least 0, got -1.0"),
    ("execution", {"workers": -1}, "execution.workers must be at least 0, got -1"),
]

#: Values at the limits of the rules, which are accepted.
ACCEPTED = {
    "data": {
        "group_size": 1,
        "neighbours": "quadrants",
        "pool": 0,
        "max_distance": 0.5,
        "largest_canvas": 1,
        "y_bounds": [0.0, 0.1],
        "validation_fraction": 0.0,
        "validation": "region",
    },
    "model": {
        "generator": "unet",
        "options": {"width": 8},
        "learn_probe": False,
        "learn_scale": True,
        "learn_positions": True,
    },
    "training": {
        "epochs": 1,
        "minutes": 0.1,
        "batch_size": 1,
        "warmup": 0.0,
        "loss": "amplitude",
        "schedule": "plateau",
        "patience": 1,
        "accumulate": 1,
        "average": 0.5,
        "total_variation": 0.0,
        "supervised": True,
        "gradient_clip": 1e-9,
        "seed": 2**32 - 1,
    },
    "inference": {
        "batch_size": 1,
        "group_size": 1,
        "synchronise": False,
        "probe": "model",
        "augment": 8,
        "uncertainty": "ensemble",
        "replicas": 1,
    },
    "execution": {"accelerator": "cpu", "devices": 2, "threads": 1, "workers": 0, "progress": False, "precision": "16"},
}


@pytest.mark.parametrize(("section", "values", "message"), REFUSED)
def test_rule_names_the_field_and_the_value(section: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Config.from_dict({section: values})


def test_every_numeric_field_has_a_tested_rule() -> None:
    tested = {f"{section}.{field}" for section, values, _ in REFUSED for field in values}
    numeric = {
        f"{section}.{field}"
        for section, values in Config().to_dict().items()
        for field, value in values.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    assert numeric <= tested


def test_wrong_choice_is_refused_with_the_choices() -> None:
    with pytest.raises(InputError, match=r"^training\.loss must be poisson or amplitude, got 'x'$"):
        TrainingConfig(loss="x")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^refine\.find_defocus must be true, false or auto, got 'no'$"):
        RefineConfig(find_defocus="no")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^execution\.precision must be '32', 'tf32', 'bf16' or '16', got 32$"):
        Config.from_dict({"execution": {"precision": 32}})


SECTIONS = [*vars(Config()).values(), RefineConfig()]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: type(section).__name__)
def test_every_choice_is_accepted_and_every_field_is_documented(section: Any) -> None:
    for field, choices in field_choices(type(section)).items():
        for choice in choices:
            assert getattr(dataclasses.replace(section, **{field: choice}), field) == choice
    assert list(field_docs(type(section))) == [field.name for field in dataclasses.fields(section)]
    assert all(field_docs(type(section)).values())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"trainer": {}}, "configuration has no 'trainer'; known are data, execution, inference, model, training"),
        (
            {"data": {"groupsize": 4}},
            "data has no 'groupsize'; known are group_size, largest_canvas, max_distance, min",
        ),
        (
            {"training": {"lr": 1, "epoch": 2}},
            "training has no 'epoch', 'lr'; known are accumulate, average, batch_size, epochs",
        ),
        ({"training": None}, "training must be a mapping of names to values, got None"),
        ([], "configuration must be a mapping"),
        ({"training": {"learning_rate": "1e-3"}}, "training.learning_rate must be a number or none, got '1e-3'"),
        ({"training": {"epochs": 2.5}}, "training.epochs must be a whole number, got 2.5"),
        ({"training": {"epochs": True}}, "training.epochs must be a whole number, got True"),
        ({"training": {"minutes": "ten"}}, "training.minutes must be a number or none, got 'ten'"),
        ({"model": {"learn_probe": 1}}, "model.learn_probe must be true or false, got 1"),
        ({"model": {"options": None}}, "model.options must be a mapping, got None"),
        ({"data": {"y_bounds": 0.5}}, "data.y_bounds must be a list, got 0.5"),
        ({"execution": {"devices": 1.5}}, "execution.devices must be a whole number or text, got 1.5"),
    ],
)
def test_unknown_name_is_refused_with_the_known_ones(values: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Config.from_dict(values)


@pytest.mark.parametrize("values", [{}, ACCEPTED, {"data": {"group_size": 4}}])
def test_round_trip_through_dictionary_json_and_yaml(values: dict[str, Any]) -> None:
    config = Config.from_dict(values)
    assert Config.from_dict(config.to_dict()) == config
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert Config.from_dict(yaml.safe_load(yaml.safe_dump(config.to_dict()))) == config
    for section, fields in values.items():
        for field, value in fields.items():
            assert config.to_dict()[section][field] == value
    assert Config.from_dict({}) == Config()


def test_sections_are_frozen_and_independent() -> None:
    config = Config()
    for section in (config.data, config.model, config.training, config.inference, config.execution):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(section, dataclasses.fields(section)[0].name, 1)
    config.to_dict()["model"]["options"]["steps"] = 6
    assert config.model.options == {} and Config().model.options is not config.model.options


@pytest.mark.parametrize("section", [DataConfig, ModelConfig, TrainingConfig, InferenceConfig, ExecutionConfig])
def test_docstring_explains_every_field(section: type) -> None:
    for field in dataclasses.fields(section):
        assert f"        {field.name}: " in (section.__doc__ or ""), field.name


def test_overrides_precede_the_file_and_the_file_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("training: {epochs: 7, seed: 3}\ndata: {y_bounds: [0.1, 0.9]}\n")
    config = Config.load(path, {"training.epochs": 5, "model": {"options": {"steps": 2}}})
    assert (config.training.epochs, config.training.seed, config.training.batch_size) == (5, 3, None)
    assert config.data.y_bounds == (0.1, 0.9) and config.model.options == {"steps": 2}
    assert Config.load(path) == Config.from_dict(yaml.safe_load(path.read_text()))
    assert Config.load() == Config()


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (None, {}, "no.yaml: not found"),
        ("a: [", {}, "no.yaml: expected YAML text: "),
        ("- 1", {}, "no.yaml: configuration must be a mapping"),
        ("training: {epoch: 1}", {}, "no.yaml: training has no 'epoch'"),
        ("training: {epochs: 0}", {}, "no.yaml: training.epochs must be at least 1"),
        ("", {"training.epoch": 1}, "training has no 'epoch'"),
        ("", {"trainer.epochs": 1}, "overrides has no 'trainer'"),
        ("", {"training.epochs": 0}, "training.epochs must be at least 1"),
        ("", {"training": 3}, "training must be a mapping of names to values, got 3"),
    ],
)
def test_error_in_a_file_or_an_override_is_named(
    tmp_path: Path, text: str | None, overrides: dict[str, Any], message: str
) -> None:
    path = tmp_path / "no.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=re.escape(message)):
        Config.load(path, overrides)
