# SPDX-License-Identifier: BSD-3-Clause
"""A trained model as one file: a zip of a JSON manifest, the configuration and the weights in safetensors.

Nothing in a bundle is executed when it is read: no pickle, no code, only named members of bounded size are opened. The
default name is that of the predecessor's archives, so that scripts which look for it find it.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from ptycho_ext import __version__
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors


from ptychopinn.config import Config
from ptychopinn.data.atomic import atomic_path
from ptychopinn.errors import InputError
from ptychopinn.models import PtychoModel

#: Default file name inside a run's folder.
BUNDLE_NAME = "wts.h5.zip"
FORMAT = 1
_LARGEST = 4 << 30


def build_model(config: Config, patch_size: int, modes: int) -> PtychoModel:
    """An untrained model as the configuration describes it."""
    return PtychoModel(
        config.model.generator,
        config.model.options,
        patch_size,
        modes,
        learn_probe=config.model.learn_probe,
        learn_scale=config.model.learn_scale,
    )


def save_bundle(model: PtychoModel, config: Config, path: str | Path, info: dict[str, Any] | None = None) -> Path:
    """Write a trained model, whole or not at all.

    Args:
        model: the model.
        config: its resolved configuration.
        path: the file to write.
        info: JSON-able facts about the training, for the manifest.
    """
    path = Path(path)
    manifest = {
        "format": FORMAT,
        "backend": "pytorch",
        "version": __version__,
        "models": ["ptychopinn"],
        "patch_size": model.patch_size,
        "modes": model.modes,
        "info": info or {},
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        archive.writestr("manifest.json", json.dumps(manifest, indent=2))
        archive.writestr("config.json", json.dumps(config.to_dict(), indent=2))
        archive.writestr("weights.safetensors", save_tensors(tensors))
    return path


def load_bundle(path: str | Path) -> tuple[PtychoModel, Config]:
    """Read a bundle, given its file or the folder of the run that wrote it.

    Returns:
        The model, on the CPU and in evaluation mode, and its configuration.

    Raises:
        InputError: no such file, not a bundle, a missing or damaged member, or a newer format.
    """
    path = Path(path)
    if path.is_dir():
        path = path / BUNDLE_NAME
    if not path.exists():
        raise InputError(f"{path}: expected a trained model (a run's folder or its {BUNDLE_NAME}), found nothing there")
    try:
        with zipfile.ZipFile(path) as archive:
            manifest = json.loads(_member(archive, "manifest.json"))
            config = json.loads(_member(archive, "config.json"))
            weights = _member(archive, "weights.safetensors")
    except KeyError as error:
        raise InputError(f"{path}: expected a ptychopinn bundle, found none of its member {error.args[0]!r}") from None
    except (zipfile.BadZipFile, EOFError, ValueError) as error:
        raise InputError(f"{path}: expected a ptychopinn bundle (a zip archive), found a damaged file: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("backend") != "pytorch" or "format" not in manifest:
        raise InputError(f"{path}: manifest.json: expected the manifest of a ptychopinn bundle, found another one")
    if manifest["format"] > FORMAT:
        raise InputError(
            f"{path}: manifest.json: expected format {FORMAT} or older, found {manifest['format']}: update ptychopinn"
        )
    resolved = Config.from_dict(config)
    model = build_model(resolved, int(manifest["patch_size"]), int(manifest["modes"]))
    try:
        model.load_state_dict(load_tensors(weights))
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: weights.safetensors: expected the weights of this configuration, found: {reason}") from None
    return model.eval(), resolved


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).file_size > _LARGEST:
        raise ValueError(f"{name} claims {archive.getinfo(name).file_size} bytes")
    return archive.read(name)
