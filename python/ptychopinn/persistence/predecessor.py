# SPDX-License-Identifier: BSD-3-Clause
"""Archives of PtychoPINN, which have the file name of bundles: recognised, and read only if they are trusted.

Their configuration is pickled, and unpickling can execute code: they are refused unless the caller states that the file
is trusted. Weights of the PyTorch backend are read as tensors, without unpickling objects.
"""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_tensors
from torch import Tensor

from ptychopinn._one_line import one_line
from ptychopinn.errors import InputError, not_found
from ptychopinn.persistence.archive import read_member
from ptychopinn.storage.atomic import write_bytes

_MODEL = "diffraction_to_obj"
#: Files that :func:`write_plain` writes.
PLAIN = ("weights.safetensors", "settings.json", "manifest.json")


@dataclass(frozen=True)
class Predecessor:
    """Contents of an archive of PtychoPINN's PyTorch backend.

    Attributes:
        weights: parameters and buffers of its network, by its names.
        settings: its configuration, without sections.
        manifest: its models and version.
    """

    weights: dict[str, Tensor]
    settings: dict[str, Any]
    manifest: dict[str, Any]

    __repr__ = one_line


def kind_of(names: list[str]) -> str | None:
    """The backend of PtychoPINN that wrote an archive with these members: "pytorch", "tensorflow", or None.

    Example:
        >>> kind_of(["manifest.dill", "diffraction_to_obj/model.pth"])
        'pytorch'
        >>> kind_of(["manifest.dill", "autoencoder/saved_model.pb"])
        'tensorflow'
    """
    if "manifest.dill" not in names:
        return None
    return "pytorch" if f"{_MODEL}/model.pth" in names else "tensorflow"


def refusal(path: Path, kind: str) -> InputError:
    """The error for an archive of PtychoPINN in place of a bundle."""
    if kind == "tensorflow":
        return InputError(
            f"{path}: expected a ptychopinn bundle, found an archive of PtychoPINN's TensorFlow backend; ptychopinn "
            "uses PyTorch and cannot run it: train again with 'ptychopinn train', which takes minutes"
        )
    return InputError(
        f"{path}: expected a ptychopinn bundle, found an archive of PtychoPINN's PyTorch backend, whose network is "
        "different: train again with 'ptychopinn train'. Its settings are pickled, which can execute code: if the file "
        "is trusted, 'ptychopinn unpack --trust' writes weights and settings as plain files"
    )


def read_predecessor(path: str | Path, trust: bool = False) -> Predecessor:
    """Read weights and configuration of an archive of PtychoPINN's PyTorch backend.

    Args:
        path: the archive, usually named wts.h5.zip.
        trust: whether the file is trusted: its configuration is unpickled, which can execute code.

    Raises:
        InputError: the file is not trusted, not such an archive, or damaged.
    """
    path = Path(path)
    if not path.exists():
        raise not_found(path)
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(
            f"{path}: expected an archive of PtychoPINN, found another or damaged file: {error}; "
            "copy it again, or train again"
        ) from None
    with archive:
        kind = kind_of(archive.namelist())
        if kind is None:
            raise InputError(
                f"{path}: expected an archive of PtychoPINN with manifest.dill, found none; "
                "copy it again, or train again"
            )
        if kind == "tensorflow" or not trust:
            raise refusal(path, kind)
        try:
            weights = torch.load(
                io.BytesIO(read_member(archive, path, f"{_MODEL}/model.pth")), "cpu", weights_only=True
            )
            settings = _unpickle(read_member(archive, path, f"{_MODEL}/params.dill"))
            manifest = _unpickle(read_member(archive, path, "manifest.dill"))
        except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError, ImportError, ValueError) as error:
            raise InputError(
                f"{path}: expected an intact archive, found: {' '.join(str(error).split())}; copy it again"
            ) from None
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise InputError(f"{path}: {_MODEL}/model.pth: expected tensors by name, found something else; train again")
    if not isinstance(settings, dict) or not isinstance(manifest, dict):
        raise InputError(f"{path}: expected settings and a manifest by name, found something else; train again")
    return Predecessor(weights, settings, manifest)


def write_plain(archive: Predecessor, folder: Path) -> list[Path]:
    """Write weights.safetensors, settings.json and manifest.json, which can be read without executing code.

    Values without a JSON type, such as arrays, are written as text.

    Returns:
        The paths written.
    """
    paths = [folder / name for name in PLAIN]
    weights = {name: tensor.contiguous().clone() for name, tensor in archive.weights.items()}
    texts = (json.dumps(values, indent=2, default=str) for values in (archive.settings, archive.manifest))
    for path, content in zip(paths, (save_tensors(weights), *(text.encode() for text in texts)), strict=True):
        write_bytes(path, content)
    return paths


def _unpickle(data: bytes) -> Any:
    """Unpickle the data of a trusted file."""
    return pickle.loads(data)
