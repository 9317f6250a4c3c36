# SPDX-License-Identifier: BSD-3-Clause
"""Bundles: the same predictions after a reload in another process, and an error for every kind of damage."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ptychopinn.config import Config
from ptychopinn.errors import InputError
from ptychopinn.inference.predict import predict
from ptychopinn.models import PtychoModel
from ptychopinn.persistence.bundle import BUNDLE_NAME, build_model, load_bundle, save_bundle
from ptychopinn.physics.simulate import simulate
from ptychopinn.scan import Scan

CONFIG = Config.from_dict({"data": {"group_size": 4}, "model": {"options": {"steps": 2, "width": 8, "state": 2}}})
MEMBERS = ["manifest.json", "config.json", "weights.safetensors"]


@pytest.fixture(scope="module")
def model() -> PtychoModel:
    """Return a model whose parameters all differ from their initial values."""
    torch.manual_seed(5)
    model = build_model(CONFIG, 32, 1)
    with torch.no_grad():
        for parameter in model.generator.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model.eval()


@pytest.fixture(scope="module")
def intact(model: PtychoModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bundle(model, CONFIG, tmp_path_factory.mktemp("run") / BUNDLE_NAME, {"scan": "a", "epochs": 3})


def rewrite(source: Path, target: Path, changes: dict[str, bytes | None]) -> Path:
    """Copy a bundle with members replaced, added, or (None) removed."""
    with zipfile.ZipFile(source) as archive:
        members: dict[str, bytes | None] = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in (members | changes).items():
            if data is not None:
                archive.writestr(name, data)
    return target


def manifest_with(source: Path, **changes: object) -> dict[str, bytes | None]:
    with zipfile.ZipFile(source) as archive:
        return {"manifest.json": json.dumps(json.loads(archive.read("manifest.json")) | changes).encode()}


def test_predictions_of_another_process_are_bitwise_equal(model: PtychoModel, intact: Path, tmp_path: Path) -> None:
    path = tmp_path / "scan.npz"
    simulate("dead_leaves", patterns=16, size=32, photons=1e5, seed=2).save(path)
    code = (
        "import hashlib, sys, torch; torch.set_num_threads(1)\n"
        "from ptychopinn import Scan, load_bundle\n"
        "from ptychopinn.inference.predict import predict\n"
        "model, config = load_bundle(sys.argv[1])\n"
        "print(hashlib.sha256(predict(model, Scan.load(sys.argv[2]), config).canvases.numpy().tobytes()).hexdigest())"
    )
    other = subprocess.run(
        [sys.executable, "-c", code, str(intact), str(path)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    expected = hashlib.sha256(predict(model, Scan.load(path), CONFIG).canvases.numpy().tobytes()).hexdigest()
    assert other.stdout.strip() == expected


def test_bundle_is_loaded_by_file_or_folder(intact: Path) -> None:
    (a, config), (b, _) = load_bundle(intact), load_bundle(str(intact.parent))
    assert config == CONFIG and not a.training
    assert all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items())


def test_bundle_has_the_documented_members_and_manifest(intact: Path) -> None:
    with zipfile.ZipFile(intact) as archive:
        assert archive.namelist() == MEMBERS
        manifest = json.loads(archive.read("manifest.json"))
        assert Config.from_dict(json.loads(archive.read("config.json"))) == CONFIG
    assert manifest["format"] == 1 and manifest["backend"] == "pytorch"
    assert manifest["patch_size"] == 32 and manifest["modes"] == 1
    assert manifest["info"] == {"scan": "a", "epochs": 3}


def test_bundle_is_saved_atomically(model: PtychoModel, tmp_path: Path) -> None:
    path = save_bundle(model, CONFIG, tmp_path / "new" / "model.zip")
    before = path.read_bytes()
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_bundle(model, CONFIG, path, {"scan": object()})
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def _pickled() -> bytes:
    class Attack:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return os.system, ("touch attacked",)

    return pickle.dumps(Attack())


def _torch_saved() -> bytes:
    buffer = io.BytesIO()
    torch.save({"weight": torch.ones(2)}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("member", MEMBERS)
def test_missing_member_is_reported(intact: Path, tmp_path: Path, member: str) -> None:
    path = rewrite(intact, tmp_path / "b.zip", {member: None})
    with pytest.raises(InputError, match=rf"b\.zip: {member}: expected a bundle with this member, found only "):
        load_bundle(path)


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize(
    "data", [b"", b"\x00\xff\xfe", _pickled(), _torch_saved()], ids=["empty", "bytes", "pickle", "torch"]
)
def test_invalid_member_is_reported(
    intact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, member: str, data: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    path = rewrite(intact, tmp_path / "b.zip", {member: data})
    with pytest.raises(InputError, match=rf"b\.zip: {member}: expected "):
        load_bundle(path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "expected format 1 or older, found 2; update ptychopinn"),
        ({"format": "1"}, "expected the manifest of a ptychopinn bundle, found another one"),
        ({"backend": "tensorflow"}, "expected the manifest of a ptychopinn bundle, found another one"),
        ({"patch_size": None}, "expected an integer from 1 under 'patch_size', found None"),
        ({"modes": -1}, "expected an integer from 1 under 'modes', found -1"),
    ],
)
def test_wrong_manifest_is_reported(intact: Path, tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = rewrite(intact, tmp_path / "b.zip", manifest_with(intact, **changes))
    with pytest.raises(InputError, match=rf"b\.zip: manifest\.json: {message}"):
        load_bundle(path)


@pytest.mark.parametrize("changes", [{"patch_size": 64}, {"modes": 2}])
def test_weights_of_another_size_are_refused(intact: Path, tmp_path: Path, changes: dict[str, object]) -> None:
    path = rewrite(intact, tmp_path / "b.zip", manifest_with(intact, **changes))
    with pytest.raises(InputError, match=r"weights\.safetensors: expected the weights of this .*, found size mismatch"):
        load_bundle(path)


@pytest.mark.parametrize(
    ("settings", "member", "message"),
    [
        ({"generator": "unet"}, "weights.safetensors", "Missing key"),
        ({"options": {"steps": 2, "width": 16}}, "weights.safetensors", "size mismatch for generator"),
        (
            {"generator": "mystery"},
            "config.json",
            "model.generator: must be one of cnn, ffno, sru_net, unet, unrolled, got 'mystery'",
        ),
        ({"options": {"width": "x"}}, "config.json", "model.options: 'unrolled' cannot be built"),
        ({"colour": 1}, "config.json", "model has no 'colour'"),
    ],
)
def test_wrong_configuration_is_reported(
    intact: Path, tmp_path: Path, settings: dict[str, object], member: str, message: str
) -> None:
    path = rewrite(intact, tmp_path / "b.zip", {"config.json": json.dumps({"model": settings}).encode()})
    with pytest.raises(InputError, match=rf"b\.zip: {member}: .*{message}"):
        load_bundle(path)


def test_unsupported_patch_size_is_reported_with_the_file(intact: Path, tmp_path: Path) -> None:
    path = rewrite(intact, tmp_path / "b.zip", manifest_with(intact, patch_size=40))
    with pytest.raises(InputError, match=r"b\.zip: .*patterns of 32 to 256 pixels in multiples of .*, got 40"):
        load_bundle(path)


@pytest.mark.parametrize("damage", ["empty", "text", "half", "flipped"])
def test_damaged_file_is_reported(intact: Path, tmp_path: Path, damage: str) -> None:
    data = intact.read_bytes()
    middle = len(data) // 2
    damaged = {
        "empty": b"",
        "text": b"not a bundle\n",
        "half": data[:middle],
        "flipped": data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :],
    }[damage]
    path = tmp_path / "b.zip"
    path.write_bytes(damaged)
    where = "weights.safetensors: expected an intact member" if damage == "flipped" else "expected a ptychopinn bundle"
    with pytest.raises(InputError, match=rf"b\.zip: {where}"):
        load_bundle(path)


def test_missing_bundle_is_reported(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError, match=r"expected a trained model \(a run's folder or its wts\.h5\.zip\)"):
            load_bundle(path)


def test_unknown_members_are_never_unpacked(intact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    monkeypatch.chdir(inner)
    tricks: dict[str, bytes | None] = {"../escaped": b"x", "/../escaped": b"x", "config.json/../../escaped": b"x"}
    path = rewrite(intact, inner / "b.zip", tricks)
    assert load_bundle(path)[1] == CONFIG
    assert list(inner.iterdir()) == [path] and list(tmp_path.iterdir()) == [inner]


def test_oversized_member_is_refused(intact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptychopinn.persistence.archive._MAX_BYTES", 1800)
    with pytest.raises(InputError, match=r"weights\.safetensors: expected at most 1800 bytes, found \d+"):
        load_bundle(intact)
