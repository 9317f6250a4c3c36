# SPDX-License-Identifier: BSD-3-Clause
"""The calls that ptychodus 1.7.0 makes, one after the other as it makes them, without ptychodus."""

from __future__ import annotations

import importlib.util
import logging
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest

pytest.importorskip("ptycho_torch", reason="not installed: pip install --no-deps ./integrations/ptychodus")

from ptycho_torch.api.base_api import (
    ConfigManager,
    DataloaderFormats,
    InferenceEngine,
    PtychoDataLoader,
    PtychoModel,
    Trainer,
    object_shape,
)
from ptycho_torch.config_params import DataConfig, DatagenConfig, InferenceConfig, ModelConfig, TrainingConfig
from ptycho_torch.lightning_utils import find_best_checkpoint
from ptycho_torch.mapping import to_config
from ptycho_torch.model import PtychoPINN_Lightning
from ptychopinn.config import Config
from ptychopinn.errors import InputError
from ptychopinn.metrics.align import align
from ptychopinn.physics.simulate import simulate
from ptychopinn.scan import Scan
from ptychopinn.training.workflow import train as train_alone

SIZE = 32
#: (y, x) from the object array's pixel (0, 0) to the scan's: ptychodus' array is larger than what the patches touch.
MARGIN = (7, 3)


@pytest.fixture(scope="module")
def scan() -> Scan:
    return simulate("dead_leaves", patterns=100, size=SIZE, step=(6, 5), photons=1e6, seed=3, modes=2)


def centres(scan: Scan) -> np.ndarray:
    """Of the probe, in pixels of the object array, as ptychodus has them."""
    return scan.positions + (SIZE - 1) / 2 + MARGIN


def shape_of(scan: Scan) -> tuple[int, int]:
    """Of an object array with the middle of the scanned area in its middle."""
    points = centres(scan)
    height, width = np.rint(points.min(0) + points.max(0)).astype(int) + 1
    return int(height), int(width)


def export(scan: Scan, path: Path) -> Path:
    """The training file that ptychodus writes of a scan."""
    y, x = centres(scan).T
    np.savez(
        path, xcoords=x, ycoords=y, xcoords_start=x, ycoords_start=y, diff3d=scan.counts,
        bad_pixels=np.zeros((SIZE, SIZE), np.bool_), probeGuess=scan.probe, objectGuess=np.ones((90, 90), np.complex64),
        scan_index=np.arange(scan.n),
    )  # fmt: skip
    return path


def manager(epochs: int = 2, **data: Any) -> ConfigManager:
    return ConfigManager(
        data_config=DataConfig(
            **{"N": SIZE, "C": 4, "n_subsample": 1, "x_bounds": (0.0, 1.0), "y_bounds": (0.0, 1.0), **data}
        ),
        model_config=ModelConfig(),
        training_config=TrainingConfig(epochs=epochs, batch_size=2, device="cpu", num_workers=0),
        inference_config=InferenceConfig(),
        datagen_config=DatagenConfig(),
    )


class Losses(L.Callback):
    """As ptychodus collects them."""

    def __init__(self, names: tuple[str, str]) -> None:
        self.names, self.training, self.validation = names, list[float](), list[float]()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.training.append(float(trainer.callback_metrics[self.names[0]]))

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.validation.append(float(trainer.callback_metrics[self.names[1]]))


def trained(folder: Path, scan: Scan, settings: ConfigManager) -> tuple[PtychoDataLoader, Losses]:
    (folder / "in").mkdir(parents=True)
    export(scan, folder / "in" / "train_data.npz")
    loader = PtychoDataLoader(
        data_dir=folder / "in",
        config_manager=settings,
        data_format=DataloaderFormats("lightning_only_module"),
        output_dir=folder / "out",
    )
    model = PtychoModel._new_model(model=PtychoPINN_Lightning, config_manager=settings)
    trainer = Trainer._from_lightning(
        model=model, dataloader=loader, orchestration="lightning", config_manager=settings
    )
    losses = Losses((model.model.loss_name, model.model.val_loss_name))
    trainer._trainer.callbacks.append(losses)
    trainer.train(orchestration="lightning", experiment_name="")
    return loader, losses


def loaded(path: Path) -> tuple[PtychoModel, ConfigManager]:
    configs = PtychoModel._extract_configs_from_checkpoint(str(path))
    assert all(part is not None for part in configs)
    named = dict(zip(("data_config", "model_config", "training_config", "inference_config"), configs, strict=True))
    model = PtychoModel(**named)
    model.model = PtychoPINN_Lightning.load_from_checkpoint(path, **named)
    settings = ConfigManager.from_loaded_model(model)
    settings.validate_arch_compatibility(model)
    return model, settings


def reconstructed(path: Path, scan: Scan, **arrays: Any) -> np.ndarray:
    model, settings = loaded(path)
    given = {"diff_patterns": scan.counts, "probe": scan.probe, "positions": centres(scan), **arrays}
    loader = PtychoDataLoader.from_np(**given, config_manager=settings)
    return np.asarray(InferenceEngine(config_manager=settings, ptycho_model=model).predict_and_stitch(loader))


@pytest.fixture(scope="module")
def run(scan: Scan, tmp_path_factory: pytest.TempPathFactory) -> tuple[PtychoDataLoader, Losses]:
    return trained(tmp_path_factory.mktemp("ptychodus"), scan, manager(epochs=6))


def test_a_training_leaves_checkpoints_and_losses(run: tuple[PtychoDataLoader, Losses]) -> None:
    loader, losses = run
    best = find_best_checkpoint(Path(loader.output_dir))
    assert best is not None and best.name == "model.ckpt"
    assert len(losses.training) == len(losses.validation) == 6 and losses.training[-1] < losses.training[0]
    assert not list(Path(loader.output_dir).rglob("*.npz"))  # the interface takes any of them for training data


def test_the_object_comes_back_in_the_frame_of_the_object_array(
    run: tuple[PtychoDataLoader, Losses], scan: Scan
) -> None:
    path = find_best_checkpoint(run[0].output_dir)
    assert path is not None and scan.truth is not None
    found = reconstructed(path, scan)
    assert found.shape == shape_of(scan) and found.dtype == np.complex64 and np.isfinite(found).all()
    # The truth's pixel (0, 0) is the scan's. Half a pixel of the frame would show as a shift.
    part = found[MARGIN[0] :, MARGIN[1] :]
    height, width = (min(a, b) for a, b in zip(part.shape, scan.truth.shape, strict=True))
    inside = np.s_[SIZE // 2 : height - SIZE // 2, SIZE // 2 : width - SIZE // 2]
    aligned = align(part[inside], scan.truth[inside])
    assert np.abs(aligned.shift).max() < 0.25
    phases = (np.angle(image).ravel() for image in (aligned.image, aligned.truth))
    assert np.corrcoef(*phases)[0, 1] > 0.7


@pytest.mark.parametrize("name", ["model.ckpt", "checkpoints/best.ckpt", "checkpoints/last.ckpt"])
def test_every_checkpoint_can_be_loaded_with_the_settings_of_the_training(
    run: tuple[PtychoDataLoader, Losses], name: str
) -> None:
    _, settings = loaded(Path(run[0].output_dir) / name)
    assert settings.data_config == manager().data_config and settings.training_config.epochs == 6
    assert settings.model_config.mode == "Unsupervised"


def test_integers_floats_and_a_single_mode_are_taken(run: tuple[PtychoDataLoader, Losses], scan: Scan) -> None:
    path = find_best_checkpoint(run[0].output_dir)
    assert path is not None
    alone = reconstructed(path, scan)
    for counts in (scan.counts.astype(np.int32), scan.counts.astype(np.float64)):
        np.testing.assert_allclose(reconstructed(path, scan, diff_patterns=counts), alone, atol=1e-5)
    one = reconstructed(path, scan, probe=scan.probe[:1])
    assert one.shape == alone.shape


def test_a_checkpoint_that_ptychodus_had_no_part_in_is_taken(tmp_path: Path, scan: Scan) -> None:
    few = Config.load(overrides={"data.group_size": 4, "training.epochs": 1, "execution.accelerator": "cpu"})
    run = train_alone(scan, tmp_path / "run", few)
    _, settings = loaded(run.folder / "checkpoints" / "last.ckpt")
    assert settings.data_config.N == SIZE and settings.data_config.C == 4


@pytest.mark.parametrize(
    ("positions", "shape"),
    [
        ([[20.0, 15.5], [39.0, 60.5]], (60, 77)),  # in the middle
        ([[40.0, 40.0], [41.0, 60.0]], (82, 101)),
        ([[8.0, 8.0], [90.0, 8.0]], (99, 17)),
        ([[2.0, 30.0], [90.0, 30.0]], (98, 61)),  # the middle is elsewhere: what the patches need
    ],
)
def test_the_shape_of_the_object_array_follows_from_the_positions(
    positions: list[list[float]], shape: tuple[int, int]
) -> None:
    assert object_shape(np.array(positions), 16) == shape


def test_settings_that_mean_nothing_here_are_named_once(scan: Scan, tmp_path: Path, caplog: Any) -> None:
    settings = manager(epochs=1)
    settings.model_config.cbam_decoder, settings.data_config.probe_scale = True, 7.0
    with caplog.at_level(logging.WARNING, "ptycho_torch"):
        trained(tmp_path, scan, settings)
    messages = [record.message for record in caplog.records if record.name == "ptycho_torch"]
    assert messages == ["without effect in ptychopinn: probe_scale = 7.0, cbam_decoder = True"]


def test_settings_do_what_their_names_tell() -> None:
    settings = manager()
    settings.data_config = DataConfig(
        N=SIZE, C=5, K_quadrant=12, n_subsample=3, neighbor_function="4_quadrant", min_neighbor_distance=1.0,
        max_neighbor_distance=40.0, x_bounds=(0.2, 0.7),
    )  # fmt: skip
    training = TrainingConfig(
        epochs=8, batch_size=6, learning_rate=3e-4, accum_steps=2, scheduler="Exponential", warmup_epochs=2,
        gradient_clip_val=0.5, device="cuda",
    )  # fmt: skip
    model = ModelConfig(loss_function="MAE", mode="Supervised", intensity_scale_trainable=True)
    config = to_config(settings.data_config, model, training, InferenceConfig(patch_weighting="uniform"), 100)
    data = config.data
    assert (data.group_size, data.pool, data.oversampling, data.neighbours) == (5, 12, 3, "quadrants")
    assert (data.min_distance, data.max_distance, data.x_bounds, data.y_bounds) == (1.0, 40.0, (0.2, 0.7), (0.1, 0.9))
    assert (config.training.loss, config.training.supervised, config.model.learn_scale) == ("amplitude", True, True)
    assert (config.training.epochs, config.training.batch_size, config.training.accumulate) == (8, 6, 2)
    assert (config.training.schedule, config.training.warmup) == ("exponential", 0.25)
    assert config.training.gradient_clip == 0.5
    assert config.inference.weighting == "uniform" and config.execution.accelerator == "auto"
    assert to_config(DataConfig(C=1), ModelConfig(), TrainingConfig(), InferenceConfig(), 9).data.pool is None


def test_what_does_not_fit_is_one_sentence(scan: Scan, tmp_path: Path, run: tuple[PtychoDataLoader, Losses]) -> None:
    with pytest.raises(InputError, match=r"expected a folder with training data of ptychodus \(\*.npz\), found none"):
        PtychoDataLoader(tmp_path, manager())
    export(scan, tmp_path / "train_data.npz")
    with pytest.raises(InputError, match=r"expected patterns of 64 px, the model size in the settings, found 32 px"):
        PtychoDataLoader(tmp_path, manager(N=64))
    with pytest.raises(InputError, match=r"none\.ckpt: not found"):
        loaded(tmp_path / "none.ckpt")
    (tmp_path / "other.ckpt").write_bytes(pickle.dumps({"state_dict": {}}))
    with pytest.raises(InputError, match="expected a checkpoint of ptychopinn, found another or damaged file"):
        loaded(tmp_path / "other.ckpt")
    path = find_best_checkpoint(run[0].output_dir)
    assert path is not None
    with pytest.raises(InputError, match="patterns must be 32 x 32 pixels as in the model's training, got 16 x 16"):
        reconstructed(path, scan, diff_patterns=scan.counts[:, 8:24, 8:24], probe=scan.probe[:, 8:24, 8:24])
    assert find_best_checkpoint(tmp_path) is None


def test_settings_load_neither_torch_nor_lightning_and_can_be_pickled() -> None:
    code = "import sys, ptycho_torch.config_params as c; print({'torch', 'lightning'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    for kind in (DataConfig, ModelConfig, TrainingConfig, InferenceConfig, DatagenConfig):
        assert pickle.loads(pickle.dumps(kind())) == kind()


def test_no_package_is_there_that_makes_ptychodus_list_the_algorithms_on_tensorflow() -> None:
    assert importlib.util.find_spec("ptycho") is None


def test_importing_everything_touches_nothing_of_ptychodus(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, ptychopinn.pipeline, ptychopinn.cli.train, ptychopinn_ptychodus\n"
        "import ptycho_torch.api.base_api, ptycho_torch.model, ptycho_torch.config_params\n"
        "print(sorted(name for name in sys.modules if name.split('.')[0] in ('ptychodus', 'ptycho')))"
    )
    # Not in the root of the repository, whose folder ptycho_ext holds no library.
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_ptychodus_that_cannot_list_us_starts_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    path = Path(__file__).parents[2] / "integrations" / "ptychodus" / "plugins" / "ptychopinn.py"
    spec = importlib.util.spec_from_file_location("a_plugin", path)
    assert spec is not None and spec.loader is not None
    plugin = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plugin)
    with pytest.MonkeyPatch.context() as patch:  # of another version, which has no such module
        patch.setitem(sys.modules, "ptychodus.model.core", None)
        patch.delitem(sys.modules, "ptychopinn_ptychodus.plugin", raising=False)
        plugin.register_plugins(object())
    assert "this ptychodus cannot list ptychopinn's reconstructors" in caplog.text
