# SPDX-License-Identifier: BSD-3-Clause
"""`ptychopinn replay` and `ptychopinn live`, side by side as a user runs them."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ptychopinn as pp
from ptychopinn import Reconstruction, Scan
from ptychopinn.cli import main
from ptychopinn.streaming.sources.addresses import open_source

SCAN = pp.simulate("photos", "defocused", patterns=64, size=32, seed=6)


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scan") / "scan.npz"
    SCAN.save(path)
    return path


def test_a_replayed_file_is_reconstructed(tmp_path: Path, scan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    incoming, out = tmp_path / "incoming.h5", tmp_path / "live.h5"
    assert main(["replay", str(scan), "--to", str(incoming), "--rate", "5000", "--faults", "drop=0.1,repeat"]) == 0
    sent = capsys.readouterr().out
    count = int(re.search(r"sent (\d+) of 64 frames", sent)[1])  # type: ignore[index]
    assert 48 <= count < 64 and "lost on purpose: " in sent
    assert main(["live", str(incoming), "--like", str(scan), "--out", str(out), "--no-page"]) == 0
    printed = capsys.readouterr().out
    assert f"of {count} frames" in printed and f"lost {64 - count} frames: " in printed and "live.frames" in printed
    kept = Scan.load(tmp_path / "live.frames")
    want = pp.reconstruct(None, SCAN.subset(kept.frame_indexes), accept="all")
    np.testing.assert_array_equal(Reconstruction.load(out).object, want.object)
    assert main(["live", str(incoming), "--like", str(scan), "--out", str(out), "--no-page"]) == 2
    assert "expected a new file, found an earlier one" in capsys.readouterr().err
    assert main(["live", str(incoming), "--like", str(scan), "--out", str(out), "--no-page", "--resume"]) == 0
    np.testing.assert_array_equal(Reconstruction.load(out).object, want.object)


def test_a_stream_side_by_side_with_a_page(tmp_path: Path, scan: Path) -> None:
    """Two processes; Ctrl-C in the receiver ends it with the image so far."""
    for library in ("zmq", "cbor2", "dectris.compression", "starlette", "uvicorn", "websockets"):
        pytest.importorskip(library)
    address = f"zmq://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "ptychopinn.cli"]
    receiver = subprocess.Popen(
        [*command, "live", address, "--like", str(scan), "--out", str(tmp_path / "live.h5")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert receiver.stdout is not None
        assert re.match(r"the page: http://127\.0\.0\.1:\d+/\?token=\S{16,}$", receiver.stdout.readline())
        sent = subprocess.run(
            [*command, "replay", str(scan), "--to", address, "--rate", "200", "--faults", "reorder=0.2,damage=0.05"],
            capture_output=True, text=True, timeout=90, check=True,
        )  # fmt: skip
        assert "sent " in sent.stdout
        out, _ = receiver.communicate(timeout=120)
    finally:
        receiver.kill()
    assert receiver.returncode == 0 and "reordered" in out and "damaged" in out
    stored = Scan.load(tmp_path / "live.frames")
    np.testing.assert_array_equal(stored.counts, SCAN.counts[stored.frame_indexes])


def test_ctrl_c_saves_the_image(tmp_path: Path, scan: Path) -> None:
    incoming, out = tmp_path / "incoming", tmp_path / "live.h5"
    incoming.mkdir()
    for k in range(20):
        np.save(incoming / f"frame_{k:04d}.npy", SCAN.counts[k])
    table = "\n".join(["index,y,x", *(f"{k},{y!r},{x!r}" for k, (y, x) in enumerate(SCAN.positions.tolist()))])
    (tmp_path / "table.csv").write_text(table + "\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "ptychopinn.cli", "live", str(incoming), "--like", str(scan), "--out", str(out),
         "--positions", str(tmp_path / "table.csv"), "--position-unit", "px", "--no-page",
         "--live.save_seconds", "0.2"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        for _ in range(1200):
            if out.exists() or process.poll() is not None:
                break
            try:
                process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and "--resume continues" in error, error
    assert Reconstruction.load(out).metadata["live"]["state"] == "interrupted"
    assert Scan.load(tmp_path / "live.frames").n == 20


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["nowhere://x"],
            "nowhere://x: expected zmq://HOST:PORT of a DECTRIS stream (or HOST:PORT/CHANNEL), pva://CHANNEL",
        ),
        (["missing_folder"], "missing_folder: expected zmq://HOST:PORT"),
        (["a.h5", "--model", "run", "--no-network"], "--no-network and --model exclude each other"),
        (["a.h5", "--centre", "1"], "--centre must be Y,X in detector pixels, got '1'"),
        (["a.h5", "--positions", "tcp://x"], "tcp://x: expected a table of positions"),
        (["a.h5", "--live.batch_size", "0"], "live.batch_size must be at least 1"),
    ],
)
def test_options_that_do_not_fit(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["live", *words, "--out", "out.h5", "--no-page"]) == 2
    error = capsys.readouterr().err
    assert sentence in error and len(error.splitlines()) == 1


def test_the_channel_of_an_address() -> None:
    for library in ("zmq", "cbor2", "dectris.compression"):
        pytest.importorskip(library)
    source = open_source("zmq://127.0.0.1:9/threshold_2")
    assert source.address == "zmq://127.0.0.1:9" and source._messages._wanted == "threshold_2"
    source.close()


def free_port() -> int:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
