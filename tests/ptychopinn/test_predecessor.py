# SPDX-License-Identifier: BSD-3-Clause
"""Archives of PtychoPINN: refused in place of a bundle, and converted without running untrusted code."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ptychopinn.cli import main
from ptychopinn.errors import InputError
from ptychopinn.persistence.bundle import load_bundle
from ptychopinn.persistence.predecessor import read_predecessor


class CreatesFile:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def archive(path: Path, **members: bytes) -> Path:
    """Write an archive in the layout of PtychoPINN's PyTorch backend, with members replaced or added by name."""
    weights = io.BytesIO()
    torch.save({"encoder.weight": torch.arange(6.0).reshape(2, 3).T, "scale": torch.ones(1)}, weights)
    contents = {
        "manifest.dill": pickle.dumps({"models": ["diffraction_to_obj"], "version": "2.0-pytorch"}),
        "diffraction_to_obj/model.pth": weights.getvalue(),
        "diffraction_to_obj/params.dill": pickle.dumps({"N": 64, "gridsize": 2, "shape": (1, 2), "data": Path("x")}),
        "autoencoder/model.pth": b"",
    } | members
    with zipfile.ZipFile(path, "w") as file:
        for name, content in contents.items():
            file.writestr(name, content)
    return path


def test_an_archive_in_place_of_a_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="found an archive of PtychoPINN's PyTorch backend, whose network is different"
    ):
        load_bundle(archive(tmp_path / "wts.h5.zip"))
    with zipfile.ZipFile(tmp_path / "tf.zip", "w") as file:
        file.writestr("manifest.dill", b"")
        file.writestr("diffraction_to_obj/saved_model.pb", b"")
    with pytest.raises(
        InputError, match="found an archive of PtychoPINN's TensorFlow backend; ptychopinn uses PyTorch"
    ):
        load_bundle(tmp_path / "tf.zip")
    with pytest.raises(InputError, match="TensorFlow backend"):
        read_predecessor(tmp_path / "tf.zip", trust=True)


@pytest.mark.parametrize("member", ["manifest.dill", "diffraction_to_obj/params.dill", "diffraction_to_obj/model.pth"])
def test_no_code_runs_without_trust(tmp_path: Path, member: str) -> None:
    created = tmp_path / "created"
    path = archive(tmp_path / "old.zip", **{member: pickle.dumps(CreatesFile(created))})
    for read in (load_bundle, read_predecessor):
        with pytest.raises(InputError, match="if the file is trusted"):
            read(path)
    assert main(["unpack", str(path), "--out", str(tmp_path / "out")]) == 2
    assert not created.exists() and not (tmp_path / "out").exists()
    if member.endswith(".pth"):  # weights are tensors, trusted or not
        with pytest.raises(InputError, match="expected an intact archive"):
            read_predecessor(path, trust=True)
        assert not created.exists()


def test_a_trusted_archive_is_written_as_plain_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = archive(tmp_path / "old.zip"), tmp_path / "out"
    assert main(["unpack", str(path), "--out", str(out), "--trust"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"wrote {out / name}" for name in ("weights.safetensors", "settings.json", "manifest.json")
    ]
    weights = load_file(out / "weights.safetensors")
    assert torch.equal(weights["encoder.weight"], torch.arange(6.0).reshape(2, 3).T)
    assert json.loads((out / "settings.json").read_text()) == {"N": 64, "gridsize": 2, "shape": [1, 2], "data": "x"}
    assert json.loads((out / "manifest.json").read_text())["version"] == "2.0-pytorch"
    assert main(["unpack", str(path), "--out", str(out), "--trust"]) == 2
    assert "expected a new file, found an earlier one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"diffraction_to_obj/params.dill": b"no pickle"}, "expected an intact archive, found: "),
        ({"diffraction_to_obj/params.dill": pickle.dumps([1])}, "expected settings and a manifest by name"),
        ({"diffraction_to_obj/model.pth": b"PK"}, "expected an intact archive, found: "),
    ],
)
def test_errors_of_damaged_archives(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_predecessor(archive(tmp_path / "old.zip", **members), trust=True)


def test_errors_of_other_files(tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("text")
    with pytest.raises(InputError, match="found another or damaged file"):
        read_predecessor(tmp_path / "text.zip", trust=True)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("a", b"")
    with pytest.raises(InputError, match=r"expected an archive of PtychoPINN with manifest.dill, found none"):
        read_predecessor(tmp_path / "other.zip", trust=True)
