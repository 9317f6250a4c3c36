# SPDX-License-Identifier: BSD-3-Clause
"""Bundle: a trained model as one zip file of a JSON manifest, the configuration and the weights in safetensors.

Reading a bundle executes nothing: no pickle, no code; only named members of bounded size are read. The default file
name is that of PtychoPINN's archives, for scripts that expect it.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from ptycho_ext import __version__
from ptychopinn.config import Config
from ptychopinn.errors import InputError, not_found
from ptychopinn.models import PtychoModel
from ptychopinn.persistence.archive import fail, read_member
from ptychopinn.persistence.predecessor import kind_of, refusal
from ptychopinn.storage.atomic import atomic_path
from ptychopinn.storage.checksums import check_names

#: Default file name inside a run's folder.
BUNDLE_NAME = "wts.h5.zip"
FORMAT = 1


def build_model(config: Config, patch_size: int, modes: int, patterns: int = 0) -> PtychoModel:
    """Build an untrained model from a configuration.

    In supervised training only the network has parameters: probe, scale and positions need the patterns.

    Args:
        config: the configuration.
        patch_size: N.
        modes: number of probe modes.
        patterns: number of patterns of the scan, if positions are learned.

    Raises:
        InputError: the generator does not exist, or cannot be built with these options for this patch size.
    """
    try:
        return PtychoModel(
            config.model.generator,
            config.model.options,
            patch_size,
            modes,
            learn_probe=config.model.learn_probe and not config.training.supervised,
            learn_scale=config.model.learn_scale and not config.training.supervised,
            group_size=config.data.group_size,
            patterns=patterns if config.model.learn_positions and not config.training.supervised else 0,
        )
    except InputError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"model.options: {config.model.generator!r} cannot be built from them: {error}") from error


def save_bundle(model: PtychoModel, config: Config, path: str | Path, info: dict[str, Any] | None = None) -> Path:
    """Write a trained model as a bundle, atomically.

    Args:
        model: the model.
        config: its resolved configuration.
        path: the file to write.
        info: facts about the training as JSON types, for the manifest.

    Returns:
        The path written.
    """
    path = Path(path)
    manifest = {
        "format": FORMAT,
        "backend": "pytorch",
        "version": __version__,
        "models": ["ptychopinn"],
        "patch_size": model.patch_size,
        "modes": model.modes,
        "patterns": model.patterns,
        "info": info or {},
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        archive.writestr("manifest.json", json.dumps(manifest, indent=2))
        archive.writestr("config.json", json.dumps(config.to_dict(), indent=2))
        archive.writestr("weights.safetensors", save_tensors(tensors))
    return path


def is_bundle(path: str | Path) -> bool:
    """Whether a file is a bundle or an archive of PtychoPINN, rather than a checkpoint."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return "manifest.json" in names or kind_of(names) is not None


def load_bundle(path: str | Path) -> tuple[PtychoModel, Config]:
    """Read a bundle.

    Args:
        path: the file, or the folder of the run that wrote it.

    Returns:
        The model, on the CPU and in evaluation mode, and its configuration.

    Raises:
        InputError: the file is not found, is not a bundle (archives of PtychoPINN, which have the same name, are
            recognised), has a missing or damaged member, or a newer format.
    """
    path = Path(path)
    if path.is_dir():
        path = path / BUNDLE_NAME
    if not path.exists():
        raise not_found(path, f"a trained model (a run's folder or its {BUNDLE_NAME})")
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(
            f"{path}: expected a ptychopinn bundle (a zip archive), found another or damaged file: {error}; "
            "name the folder of a run, or its wts.h5.zip"
        ) from None
    with archive:
        _check_names(archive, path)
        other = kind_of(archive.namelist())
        if other is not None:
            raise refusal(path, other)
        manifest = _read_json(archive, path, "manifest.json")
        config = _read_json(archive, path, "config.json")
        weights = read_member(archive, path, "weights.safetensors")
    if manifest.get("backend") != "pytorch" or not isinstance(manifest.get("format"), int):
        fail(path, "manifest.json", "the manifest of a ptychopinn bundle", "another one")
    if manifest["format"] > FORMAT:
        fail(path, "manifest.json", f"format {FORMAT} or older", f"{manifest['format']}", "update ptychopinn")
    manifest.setdefault("patterns", 0)
    for key, smallest in (("patch_size", 1), ("modes", 1), ("patterns", 0)):
        if not isinstance(manifest.get(key), int) or manifest[key] < smallest:
            fail(path, "manifest.json", f"an integer from {smallest} under {key!r}", repr(manifest.get(key)))
    try:
        resolved = Config.from_dict(config)
        with torch.random.fork_rng([]):  # weights are drawn before those of the file replace them
            model = build_model(resolved, manifest["patch_size"], manifest["modes"], manifest["patterns"])
    except InputError as error:
        raise InputError(f"{path}: config.json: {error}") from None
    try:
        model.load_state_dict(load_tensors(weights))
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[:2][-1].strip()  # the first line is a title
        fail(path, "weights.safetensors", "the weights of this configuration", reason)
    return model.eval(), resolved


def bundle_info(path: str | Path) -> dict[str, Any]:
    """Facts about the training that wrote a bundle: scan, orientation, epochs, losses; empty for another file."""
    path = Path(path)
    try:
        with zipfile.ZipFile(path / BUNDLE_NAME if path.is_dir() else path) as archive:
            info = _read_json(archive, path, "manifest.json").get("info")
    except (zipfile.BadZipFile, OSError):
        return {}  # load_bundle reports the fault
    return info if isinstance(info, dict) else {}


def _check_names(archive: zipfile.ZipFile, path: Path) -> None:
    try:
        check_names(archive)
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError) as error:
        raise InputError(
            f"{path}: expected a ptychopinn bundle (a zip archive), found another or damaged file: {error}; "
            "name the folder of a run, or its wts.h5.zip"
        ) from None


def _read_json(archive: zipfile.ZipFile, path: Path, name: str) -> dict[str, Any]:
    try:
        value = json.loads(read_member(archive, path, name))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        fail(path, name, "JSON text", f"something else: {error}")
    if not isinstance(value, dict):
        fail(path, name, "a JSON object", type(value).__name__)
    return value
