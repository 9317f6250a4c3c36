# SPDX-License-Identifier: BSD-3-Clause
"""The page of a live run: what its server refuses, what it sends and to whom, and the page itself in a browser."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import logging
import math
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import browser
import numpy as np
import pytest
from numpy.typing import NDArray

from ptychopinn.errors import InputError
from ptychopinn.streaming.page import board as boards
from ptychopinn.streaming.page import server as servers
from ptychopinn.streaming.page.board import Board, picture_message
from ptychopinn.streaming.page.server import CLIENTS, INCOMING, POSITIONS, Server, serve

for _library in ("uvicorn", "starlette", "websockets"):
    pytest.importorskip(_library)
TOKEN = "a-token-of-tests-0123"
UPGRADE = {
    "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}  # fmt: skip


@pytest.fixture
def board() -> Board:
    return Board("scan 7")


@pytest.fixture
def server(board: Board) -> Iterator[Server]:
    running = serve(board, token=TOKEN)
    yield running
    running.close()


def port_of(server: Server) -> int:
    return urlsplit(server.url).port or 0


def get(server: Server, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", port_of(server), timeout=10)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, {name.lower(): value for name, value in response.getheaders()}, text


def cookie_of(server: Server) -> str:
    return f"ptychopinn-live-{port_of(server)}={TOKEN}"


class Client:
    """A client of the websocket, which states what it has of which run."""

    def __init__(self, server: Server, first: str | bytes | None = "", origin: Any = None) -> None:
        from websockets.sync.client import connect

        options = {"additional_headers": {"Cookie": cookie_of(server)}, "origin": origin, "max_size": None}
        connection = connect(f"ws://127.0.0.1:{port_of(server)}/socket", proxy=None, **options)
        self._open = contextlib.ExitStack()
        self.socket = self._open.enter_context(connection)
        if first is not None:
            self.socket.send(first)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def read(self, kind: str, when: Callable[[dict[str, Any]], bool] = lambda message: True) -> list[dict[str, Any]]:
        """Messages up to the first one of this type that satisfies a condition; of a picture, the header."""
        read: list[dict[str, Any]] = []
        while not read or read[-1]["type"] != kind or not when(read[-1]):
            message = self.socket.recv(timeout=10)
            is_picture = isinstance(message, bytes)
            read.append({"type": "picture", **decoded(message)[0]} if is_picture else json.loads(message))
        return read


def decoded(message: bytes) -> tuple[dict[str, Any], NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Header, amplitude, phase and covered pixels of a picture's message, by its documentation."""
    (length,) = struct.unpack_from("<I", message)
    header = json.loads(message[4 : 4 + length])
    planes = np.frombuffer(message, "<u2", offset=4 + length).reshape(2, header["height"], header["width"])
    values = []
    for plane, name in zip(planes, ("amplitude", "phase"), strict=True):
        low, high = header[name]
        values.append(low + (plane.astype(float) - 1) / 65534 * (high - low))
    return header, values[0], values[1], planes[0] > 0


def an_object(height: int, width: int) -> tuple[NDArray[np.complex64], NDArray[np.bool_]]:
    random = np.random.default_rng(0)
    image = random.uniform(0.5, 1.5, (height, width)) * np.exp(1j * random.uniform(-3, 3, (height, width)))
    return image.astype(np.complex64), random.random((height, width)) < 0.8


@pytest.mark.parametrize("path", ["/", "/page.js", "/page.css", "/socket", "/none"])
def test_every_request_needs_the_token(server: Server, path: str) -> None:
    headers = UPGRADE if path == "/socket" else {}
    for target, cookie in (
        (path, ""), (f"{path}?token=", ""), (f"{path}?token={TOKEN[:-1]}", ""), (f"{path}?token=\u00e9", ""),
        (path, cookie_of(server)[:-1]), (path, f"ptychopinn-live-1={TOKEN}"), (f"{path}?token=x", cookie_of(server)),
    ):  # fmt: skip
        status, _, text = get(server, target.replace("\u00e9", "%C3%A9"), Cookie=cookie, **headers)
        assert status == 403 and text.count(".") == 1 and text.startswith("Expected the token of this run"), target
    if path != "/socket":
        expected = 404 if path == "/none" else 200
        assert get(server, f"{path}?token={TOKEN}")[0] == get(server, path, Cookie=cookie_of(server))[0] == expected


def test_headers_of_responses(server: Server) -> None:
    status, headers, text = get(server, urlsplit(server.url)._replace(scheme="", netloc="").geturl())
    assert status == 200 and 'src="page.js"' in text
    assert headers["set-cookie"] == f"{cookie_of(server)}; Path=/; HttpOnly; SameSite=Strict"
    for _, headers, _ in (get(server, "/"), get(server, "/page.js", Cookie=cookie_of(server))):
        assert "set-cookie" not in headers and "server" not in headers
        policy = [part.strip() for part in headers["content-security-policy"].split(";")]
        assert {"default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'"} < set(policy)
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
    assert headers["content-type"].startswith("text/javascript")


def test_host_and_origin(server: Server) -> None:
    from websockets.exceptions import InvalidStatus

    for host, origin, expected in (
        ("127.0.0.1", None, 200), ("localhost:9000", "http://localhost:9000", 200), ("[::1]:80", None, 200),
        ("evil.example", None, 403), ("127.0.0.1.evil.example:80", None, 403), ("10.0.0.1", None, 403),
        ("[", None, 403), ("localhost", "http://evil.example", 403), ("localhost", "null", 403),
        ("localhost:9000", "http://localhost:9001", 403),
    ):  # fmt: skip
        headers = {"Host": host, "Cookie": cookie_of(server)} | ({} if origin is None else {"Origin": origin})
        status, _, text = get(server, "/", **headers)
        assert status == expected, (host, origin)
        assert status == 200 or text.startswith("Expected the address that the run printed, found another host or")
    with Client(server, origin=f"http://127.0.0.1:{port_of(server)}") as client:
        assert client.read("run")[0]["title"] == "scan 7"
    with pytest.raises(InvalidStatus, match="403"):
        Client(server, origin="http://evil.example")


def test_names_of_a_server_for_others() -> None:
    is_known, shown = servers._names("0.0.0.0")
    assert shown == socket.gethostname()
    assert all(map(is_known, ("localhost", "10.1.2.3", "::1", socket.gethostname().lower())))
    assert not is_known("evil.example") and not is_known("")
    assert servers._names("::1")[1] == "[::1]" and servers._names("beamline.example")[0]("beamline.example")


def test_number_of_clients_and_size_of_messages_are_bounded(server: Server, board: Board) -> None:
    from websockets.exceptions import ConnectionClosed

    clients = [Client(server) for _ in range(CLIENTS)]
    for client in clients:
        client.read("run")
    with pytest.raises(ConnectionClosed, match=f"1013.*{CLIENTS} pages show this run"), Client(server) as refused:
        refused.read("none")
    clients[0].socket.send("x" * (INCOMING + 1))
    with pytest.raises(ConnectionClosed, match="1009"):
        clients[0].read("none")
    for client in clients[1:]:
        for text in ("", "{}", "[" * 4000, '{"want": {"run": 1}}', b"\xff"):
            client.socket.send(text)
    board.set_status({"received": 1})
    for client in clients[1:]:
        assert client.read("status")[-1]["status"] == {"received": 1}
        client.__exit__()


def test_any_first_message_is_taken(server: Server, board: Board) -> None:
    board.warn("dose", "The dose is another.")
    for first in ("", "[" * 4000, "[]", '{"want": {"status": "x"}}', '{"want": 1e999}', b"\xff"):
        with Client(server, first) as client:
            assert client.read("warnings")[-1]["warnings"] == {"dose": "The dose is another."}


@pytest.mark.parametrize("shape", [(1, 1), (37, 64), (1500, 40), (900, 2049)])
def test_picture_is_the_mean_of_blocks(shape: tuple[int, int]) -> None:
    image, covered = an_object(*shape)
    image[0, 0], covered[0, 0] = np.nan, True
    board = Board("scan")
    board.set_picture(image, covered, (3, -7), 2e-9)
    picture = board.snapshot().picture
    assert picture is not None and max(picture.image.shape) <= boards.LARGEST
    header, amplitude, phase, shown = decoded(picture_message(picture, 5))
    step = -(-max(shape) // 1024)
    assert (header["step"], header["origin"], header["version"], header["pixel_size"]) == (step, [3, -7], 5, 2e-9)
    assert amplitude.shape == (-(-shape[0] // step), -(-shape[1] // step))
    covered &= np.isfinite(image)
    padding = [(0, -side % step) for side in shape]
    blocks = [
        np.pad(values, padding).reshape(amplitude.shape[0], step, -1, step).sum(axis=(1, 3))
        for values in (covered, np.where(covered, image, 0).astype(complex))
    ]
    np.testing.assert_array_equal(shown, blocks[0] > 0)
    mean = blocks[1][shown] / blocks[0][shown]
    for found, expected, name in ((amplitude, np.abs(mean), "amplitude"), (phase, np.angle(mean), "phase")):
        assert np.abs(found[shown] - expected).max(initial=0) <= np.ptp(header[name]) / 65535 + 1e-6


def test_pictures_without_a_range(board: Board) -> None:
    for value, covered in ((0, np.eye(3, 4)), (2j, np.eye(3, 4)), (2j, np.zeros((3, 4)))):
        board.set_picture(np.full((3, 4), value, np.complex64), covered > 0, (0, 0), None)
        picture = board.snapshot().picture
        assert picture is not None
        _, amplitude, phase, shown = decoded(picture_message(picture, 1))
        np.testing.assert_array_equal(shown, covered > 0)
        np.testing.assert_array_equal(amplitude[shown], abs(value))
        np.testing.assert_allclose(phase[shown], np.angle(value), rtol=1e-6)


def test_status_is_json(board: Board) -> None:
    given = {"rate": np.float32("nan"), "received": np.int64(4), "lost": np.arange(2), "loss": [(0.5, math.inf)]}
    board.set_status({**given, "done": np.bool_(True), "result": Path("a") / "b", "expected": None})
    expected = {"rate": None, "received": 4, "lost": [0, 1], "loss": [[0.5, None]], "done": True, "result": "a/b"}
    assert json.loads(json.dumps(board.snapshot().status, allow_nan=False)) == {**expected, "expected": None}


def test_long_path_is_thinned_evenly(board: Board) -> None:
    n = 5 * boards.LONGEST // 2
    every = np.arange(2.0 * n).reshape(n, 2)
    for part in np.array_split(every, [1, 8, 9, 1000, boards.LONGEST - 1, boards.LONGEST + 4]):
        board.add_positions(part)
    board.add_positions(np.array([[np.nan, 1.0]]))
    path = board.snapshot().path
    np.testing.assert_array_equal(path.positions, every[::4])
    np.testing.assert_array_equal(path.latest, every[-boards.LATEST :])
    board.clear_positions()
    board.add_positions(np.ones((3, 2)))
    now = board.snapshot().path
    assert now.generation != path.generation and len(now.positions) == 3
    np.testing.assert_array_equal(path.positions, every[::4])  # a snapshot keeps what it had


def test_two_writers_and_a_reader(board: Board) -> None:
    image, covered = an_object(64, 64)
    snapshots = []

    def write(first: int) -> None:
        for k in range(100):
            board.set_status({"received": k})
            board.set_picture(image, covered, (first, k), None)
            board.add_positions(np.array([[first, k]], float))
            board.warn(f"{first}", f"{k}")

    writers = [threading.Thread(target=write, args=(k,)) for k in (0, 1)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        snapshots.append(board.snapshot())
    last = board.snapshot()
    assert last.versions == (200, 200, 200, 200) and last.warnings == {"0": "99", "1": "99"}
    for first in (0, 1):
        np.testing.assert_array_equal(last.path.positions[last.path.positions[:, 0] == first, 1], np.arange(100))
    for one, other in itertools.pairwise(snapshots):
        assert all(a <= b for a, b in zip(one.versions, other.versions, strict=True))
        assert len(one.path.positions) == one.versions.path


def test_client_gets_the_path_in_parts_and_then_what_is_new(server: Server, board: Board) -> None:
    positions = np.random.default_rng(0).uniform(-9, 9, (2 * POSITIONS + 5, 2)).round(2)
    board.add_positions(positions)
    with Client(server) as client:
        messages = client.read("path", lambda m: m["start"] + len(m["positions"]) // 2 == len(positions))
        parts = [message for message in messages if message["type"] == "path"]
        assert [part["start"] for part in parts] == [0, POSITIONS, 2 * POSITIONS]
        np.testing.assert_array_equal(np.concatenate([p["positions"] for p in parts]), positions.ravel())
        board.add_positions(np.array([[1.0, 2.0]]))
        new = client.read("path")[-1]
        assert new["start"] == len(positions) and new["positions"] == [1, 2]
        board.clear_positions()
        gone = client.read("path")[-1]
        assert gone["start"] == 0 and gone["positions"] == gone["latest"] == []


def test_client_that_returns_gets_what_it_lacks(server: Server, board: Board) -> None:
    board.set_status({"received": 1})
    board.set_picture(*an_object(8, 8), (0, 0), None)
    board.add_positions(np.zeros((4, 2)))
    versions = board.snapshot().versions
    want = {"run": board.identity, **versions._asdict(), "generation": board.snapshot().path.generation, "positions": 3}
    with Client(server, json.dumps({"want": want})) as client:
        board.set_status({"received": 2})
        messages = client.read("status")
        messages += [] if len(messages) == 3 else client.read("path")
    assert sorted(m["type"] for m in messages) == ["path", "run", "status"]
    assert next(m for m in messages if m["type"] == "path")["start"] == 3
    with Client(server, json.dumps({"want": {**want, "run": "another"}})) as client:
        types = {m["type"] for m in client.read("picture")}
    assert types == {"run", "status", "path", "picture"}


def test_slow_client_holds_up_nobody(server: Server, board: Board) -> None:
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.connect(("127.0.0.1", port_of(server)))
    headers = {**UPGRADE, "Host": "localhost", "Cookie": cookie_of(server)}
    lines = ["GET /socket HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    slow.sendall("\r\n".join(lines).encode())
    assert slow.recv(12) == b"HTTP/1.1 101"
    slow.sendall(bytes([0x81, 0x80, 0, 0, 0, 0]))  # an empty first message; nothing is read from now on
    image, covered = an_object(1024, 1024)
    with Client(server) as fast:
        seen = []
        for k in range(4):
            board.set_picture(image, covered, (k, 0), None)
            seen.append(fast.read("picture")[-1]["version"])
        for k in range(20):
            board.set_picture(image[:64, :64], covered[:64, :64], (k, 0), None)
        messages = fast.read("picture", lambda m: m["version"] == 24)
    assert seen == [1, 2, 3, 4] and len(messages) < 20  # versions are skipped
    server.close()
    assert not server._thread.is_alive()
    slow.close()


def test_silent_and_without_signals(board: Board, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    running = serve(board)
    assert get(running, "/")[0] == 403
    with contextlib.closing(serve(board, token=TOKEN)) as other, Client(other) as client:
        Client(other, first=None).__exit__()
        client.read("run")
    running.close()
    running.close()
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert {record.name for record in caplog.records} <= {"asyncio", "websockets.client"}  # of the test's own client
    with socket.create_server(("127.0.0.1", port_of(running))):  # the port is free
        pass
    assert len(urlsplit(running.url).query) > 40


def test_what_cannot_be_served(server: Server, board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    port = port_of(server)
    with pytest.raises(InputError, match=rf"^127.0.0.1:{port}: expected a port .* one that is taken; .*--port 0"):
        serve(board, port=port)
    with pytest.raises(InputError, match="expected a port from 0 to 65535, found 65536"):
        serve(board, port=65536)
    with pytest.raises(InputError, match=r"192.0.2.1:0: .* none of this machine .*--host 127.0.0.1"):
        serve(board, host="192.0.2.1")
    for token in ("", "short", "with a blank and more", "x" * 200):
        with pytest.raises(InputError, match="expected a token of 16 to 128 letters"):
            serve(board, token=token)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(InputError, match=r"the library uvicorn, found none; pip install 'ptychopinn\[live\]'"):
        serve(board)


@pytest.fixture(scope="module")
def chromium() -> Iterator[browser.Browser]:
    if browser.program() is None:
        pytest.skip("no Chromium")
    with browser.Browser() as started:
        yield started


COVERED, ORIGIN, PIXEL = np.ones((40, 60), bool), (100, 200), 1e-8
BLACK, WHITE = [0, 0, 0], [255, 255, 255]


def two_sides(left: float, right: float) -> NDArray[np.complex64]:
    image = np.full((40, 60), left, np.complex64)
    image[:, 30:] = right
    return image


@pytest.fixture
def page(chromium: browser.Browser, server: Server, board: Board) -> Iterator[browser.Page]:
    """A page that shows 1 on the left and 3 on the right."""
    board.set_status({"state": "receiving", "received": 30, "expected": 120, "lost": [3], "lost_count": 1})
    board.set_picture(two_sides(1, 3), COVERED, ORIGIN, PIXEL)
    with chromium.page() as opened:
        opened.open(server.url)
        opened.wait_text("#amplitude output.high", "3.00 (99.5\u00a0%)")
        yield opened


def colour(page: browser.Page, y: float, x: float, panel: str = "amplitude") -> list[int]:
    """Red, green and blue of a picture's canvas, at a fraction of its height and width, when it is drawn."""
    return page.pixel(f"#{panel} .image", y, x)[:3]


def test_page_shows_status_and_pictures_as_they_come(page: browser.Page, server: Server, board: Board) -> None:
    assert page.text("#state") == "Receiving" and page.text("#count") == "30 of 120 frames"
    assert page.text("title") == "25 % \u00b7 scan 7 \u00b7 ptychopinn live"
    assert colour(page, 0.5, 0.3) == BLACK and colour(page, 0.5, 0.7) == WHITE
    board.set_picture(two_sides(4, 2), COVERED, ORIGIN, PIXEL)
    page.wait_text("#amplitude output.high", "4.00 (99.5\u00a0%)")
    assert colour(page, 0.5, 0.3) == WHITE and colour(page, 0.5, 0.7) == BLACK
    assert page.text("#names") == "Lost frames3"
    board.set_status({"state": "finished", "received": 120, "expected": 120, "loss": [[0, 9], [1, 3], [2, 1.5]]})
    page.wait_text("#state", "Finished")
    page.wait("document.querySelector('#loss').ariaLabel === 'Deviance of the fit from 9.000 to 1.500'")
    assert page.text("#counters") == page.text("#names") == ""  # what is not stated is not shown
    assert {urlsplit(url).netloc for url in page.requests} - {""} == {urlsplit(server.url).netloc}  # "" of data:
    assert page.errors == []


def test_zoom_and_pan_are_linked(page: browser.Page) -> None:
    box = page.evaluate("document.querySelector('#amplitude .image').getBoundingClientRect().toJSON()")
    x, y = box["x"] + 0.75 * box["width"], box["y"] + 0.5 * box["height"]
    page.mouse("mouseMoved", x, y)
    page.wait("document.querySelector('#pointer').textContent.includes('amplitude 3.00  phase 0.00 rad')")
    pointed, zoom = page.text("#pointer"), page.text("#zoom")
    assert colour(page, 0.5, 0.005, "phase") == BLACK  # a margin
    for _ in range(4):
        page.mouse("mouseWheel", x, y, deltaX=0, deltaY=-120)
    page.wait(f"document.querySelector('#zoom').textContent !== '{zoom}' && !document.querySelector('#fit').disabled")
    assert colour(page, 0.5, 0.3) == WHITE and colour(page, 0.5, 0.05) == BLACK
    assert page.text("#pointer") == pointed  # the zoom is about the pointer
    assert colour(page, 0.5, 0.005, "phase") != BLACK
    page.mouse("mousePressed", x, y, button="left", clickCount=1)
    page.mouse("mouseMoved", x + 0.2 * box["width"], y, button="left", buttons=1)
    page.mouse("mouseReleased", x + 0.2 * box["width"], y, button="left", clickCount=1)
    assert colour(page, 0.5, 0.25) == BLACK and colour(page, 0.5, 0.35) == WHITE
    for count in (1, 2):
        page.mouse("mousePressed", x, y, button="left", clickCount=count)
        page.mouse("mouseReleased", x, y, button="left", clickCount=count)
    page.wait(f"document.querySelector('#zoom').textContent === '{zoom}' && document.querySelector('#fit').disabled")
    page.evaluate("document.querySelector('#phase .image').focus()")
    page.press("+")
    page.wait("!document.querySelector('#fit').disabled")
    assert page.errors == []


def test_text_of_the_run_is_shown_as_text(page: browser.Page, board: Board) -> None:
    sentence = "<img src=x onerror=alert(1)>"
    board.warn("dose", sentence)
    faults = [{"time": 1, "kind": "damaged", "sentence": sentence}]
    board.set_status({"state": sentence, "source": sentence, "faults": faults})
    for selector in ("#warnings p", "#state", "#names dd", "#faults li p:last-child"):
        page.wait_text(selector, sentence)
    assert page.evaluate("document.images.length") == 0 and page.errors == []
    board.unwarn("dose")
    page.wait("document.querySelector('#warnings').hidden")


def test_page_connects_again(page: browser.Page, server: Server, board: Board) -> None:
    server.close()
    page.wait("document.querySelector('#connection').dataset.state === 'closed'")
    assert colour(page, 0.5, 0.7) == WHITE and page.text("#state") == "Receiving"  # what was shown stays
    board.set_status({"state": "improving", "received": 121})
    with contextlib.closing(serve(board, port=port_of(server), token=TOKEN)):
        page.wait_text("#state", "Improving the fit")
        assert page.evaluate("document.querySelector('#connection').dataset.state") == "open"
        assert colour(page, 0.5, 0.7) == WHITE
    with contextlib.closing(serve(Board("scan 8"), port=port_of(server), token=TOKEN)):
        page.wait_text("#title", "scan 8")  # nothing of another run is shown under this title
        page.wait_text("#state", "")
        page.wait("!document.querySelector('#amplitude .empty').hidden")


def test_range_map_and_path(page: browser.Page, board: Board) -> None:
    ramp = np.broadcast_to(np.linspace(1, 2, 60), COVERED.shape).astype(np.complex64)
    board.set_picture(ramp, COVERED, ORIGIN, PIXEL)
    page.wait_text("#amplitude output.high", "2.00 (99.5\u00a0%)")
    middle = colour(page, 0.5, 0.5)
    assert middle[0] == middle[1] == middle[2] and 110 < middle[0] < 145
    page.change("#amplitude input.high", "0")
    page.change("#phase select", "cyclic")
    page.wait("document.querySelector('#amplitude output.high').textContent.endsWith('(50\\u00a0%)')")
    page.wait("document.querySelector('#phase input.low').disabled")
    assert colour(page, 0.5, 0.7) == WHITE
    board.add_positions(np.array([[119.5, 215.0], [119.5, 229.5]]))
    page.evaluate("document.querySelector('#show-path').click()")
    assert any((found := colour(page, 0.5, 0.5))[0] > found[2] + 60 for _ in range(300))  # the last position, in amber
    assert page.errors == []


def test_on_a_phone(page: browser.Page) -> None:
    page.resize(390, 844, 2, mobile=True)
    page.wait("document.documentElement.scrollWidth === 390")
    tops = page.evaluate("[...document.querySelectorAll('.panel')].map(panel => panel.getBoundingClientRect().top)")
    assert tops[1] > tops[0] + 300
    sizes = "[...document.querySelectorAll('body *')].map(element => parseFloat(getComputedStyle(element).fontSize))"
    assert min(page.evaluate(sizes)) >= 12
