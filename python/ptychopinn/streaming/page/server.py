# SPDX-License-Identifier: BSD-3-Clause
"""The server of the page: a thread of its own beside the run, which it never holds up.

Every request states the token, in the address that the run prints or in the cookie that this sets. The server looks at
the board four times a second for each client and sends what changed: that costs less than to be woken for each of
thousands of frames. What a client is too slow for is skipped, since only the latest of everything is sent.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import json
import logging
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from ptychopinn.errors import InputError
from ptychopinn.streaming.page.board import Board, Snapshot, picture_message

if TYPE_CHECKING:
    import uvicorn
    from starlette.requests import HTTPConnection
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from starlette.websockets import WebSocket

#: Clients at a time, bytes of a message from a client, and positions of a message to one, at most.
CLIENTS, INCOMING, POSITIONS = 16, 4096, 20_000
#: Seconds between looks at the board, and after which a client is told that there is nothing new.
_INTERVAL, _ALIVE = 0.25, 5.0
#: Seconds for a client's first message, and for a client to take a message before it is dropped.
_FIRST, _STUCK = 2.0, 60.0
_TOKEN = re.compile(r"[A-Za-z0-9_-]{16,128}")
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

_log = logging.getLogger(__name__)


class Server:
    """A running server; :func:`serve` makes it.

    Attributes:
        url: of the page, with the token.
    """

    def __init__(self, url: str, server: uvicorn.Server, listener: socket.socket) -> None:
        self.url = url
        self._server = server
        self._thread = threading.Thread(target=self._run, args=(listener,), name="page", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End all connections and release the port; a second call has no effect."""
        self._server.should_exit = True
        self._thread.join(10)

    def _run(self, listener: socket.socket) -> None:
        with listener:
            asyncio.run(self._served(listener))

    async def _served(self, listener: socket.socket) -> None:
        await self._server.serve(sockets=[listener])
        for connection in list(self._server.server_state.connections):  # of clients that do not take what was sent
            if connection.transport is not None:
                connection.transport.abort()


def serve(board: Board, host: str = "127.0.0.1", port: int = 0, token: str | None = None) -> Server:
    """Serve the page of a run until :meth:`Server.close`, on a thread of its own.

    Args:
        board: what is shown.
        host: name or address to listen at. Others than this machine reach it where it is none of the loopback.
        port: 0: one that the system chooses.
        token: 16 to 128 letters, digits, - and _, which every request must state; None: a random one.

    Raises:
        InputError: a library is missing, the token is none, or the host and port cannot be listened at.
    """
    try:
        import uvicorn
        import websockets  # noqa: F401 - uvicorn imports it
        from starlette.applications import Starlette
        from starlette.routing import Route, WebSocketRoute
    except ImportError as error:
        raise InputError(
            f"the live page: expected the library {error.name}, found none; pip install 'ptychopinn[live]'"
        ) from error
    token = secrets.token_urlsafe(32) if token is None else token
    if not _TOKEN.fullmatch(token):
        raise InputError(
            "the live page: expected a token of 16 to 128 letters, digits, - and _, found another; omit it for a "
            "random one"
        )
    listener = _listener(host, port)
    port = listener.getsockname()[1]
    names, shown = _names(host)
    files = {path.name: path.read_bytes() for path in Path(__file__).parent.iterdir() if path.suffix in _TYPES}
    clients = _Clients(board)
    routes = [Route("/", _file(files)), Route("/{name}", _file(files)), WebSocketRoute("/socket", clients.connected)]
    config = uvicorn.Config(
        _Guard(Starlette(routes=routes), token, f"ptychopinn-live-{port}", names),
        loop="asyncio", http="h11", ws="websockets-sansio", lifespan="off", log_config=None, log_level="critical",
        access_log=False, server_header=False, ws_max_size=INCOMING, ws_ping_timeout=_STUCK,
        ws_per_message_deflate=False, timeout_graceful_shutdown=1,
    )  # fmt: skip
    return Server(f"http://{shown}:{port}/?token={token}", uvicorn.Server(config), listener)


def _listener(host: str, port: int) -> socket.socket:
    """A socket that listens there."""
    address = f"{host}:{port}"
    if not 0 <= port < 1 << 16:
        raise InputError(f"{address}: expected a port from 0 to 65535, found {port}; state --port 0 for a free one")
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, UnicodeError) as error:
        number = getattr(error, "errno", None)
        if number == errno.EADDRINUSE:
            found, way_out = "one that is taken", "state --port 0 for a free one"
        elif number == errno.EACCES:
            found, way_out = "one that this user may not open", "state --port 0 for a free one"
        else:
            reason = getattr(error, "strerror", None) or error
            found, way_out = f"a host that is none of this machine ({reason})", "state --host 127.0.0.1"
        raise InputError(f"{address}: expected a port to serve the page at, found {found}; {way_out}") from error


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _names(host: str) -> tuple[Callable[[str], bool], str]:
    """Whether a request may state this name of the host, without the port; and the host of the address to print.

    A page of another site can reach this server under a name of that site, and then states it (DNS rebinding); it
    cannot under an address. The port is free, as that of a tunnel differs.
    """
    if _is_loopback(host):
        return _is_loopback, f"[{host}]" if ":" in host else host
    own = {host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}

    def is_known(name: str) -> bool:
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in own or _is_loopback(name)
        return True

    shown = socket.gethostname() if host in ("", "0.0.0.0", "::") else host  # noqa: S104 - as the caller states
    return is_known, f"[{shown}]" if ":" in shown else shown


class _Guard:
    """The application behind the checks of every request, with the headers of every response.

    Args:
        application: what is guarded.
        token: of this server.
        cookie: its name, with the port, since cookies of all ports of a host are common to them.
        is_known: whether this is a name of the host.
    """

    def __init__(self, application: ASGIApp, token: str, cookie: str, is_known: Callable[[str], bool]) -> None:
        self._application, self._token, self._cookie, self._is_known = application, token, cookie, is_known

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.datastructures import MutableHeaders
        from starlette.requests import HTTPConnection
        from starlette.responses import PlainTextResponse

        connection = HTTPConnection(scope)
        refusal = self._refusal(connection)

        async def send_with_headers(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                if not refusal and "token" in connection.query_params:
                    headers.append("Set-Cookie", f"{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Strict")
            await send(message)

        application = PlainTextResponse(refusal + "\n", 403) if refusal else self._application
        await application(scope, receive, send_with_headers)

    def _refusal(self, connection: HTTPConnection) -> str:
        """Why the request is refused; empty if it is not."""
        host, origin = connection.headers.get("host", ""), connection.headers.get("origin")
        try:
            known = self._is_known((urlsplit(f"//{host}").hostname or "").lower())
            same = origin is None or urlsplit(origin).netloc.lower() == host.lower()
        except ValueError:  # no host at all
            known = same = False
        if not known or not same:
            return "Expected the address that the run printed, found another host or origin; open that one."
        stated = connection.query_params.get("token", connection.cookies.get(self._cookie, ""))
        if not secrets.compare_digest(stated.encode(), self._token.encode()):
            return "Expected the token of this run, found none or another; open the address that the run printed."
        return ""


def _file(files: Mapping[str, bytes]) -> Callable[[Any], Any]:
    """The endpoint of the files of the page."""
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse, Response

    async def endpoint(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in files:
            return PlainTextResponse("Not found.\n", 404)
        return Response(files[name], media_type=_TYPES[Path(name).suffix])

    return endpoint


@dataclass
class _Known:
    """What a client has of a board."""

    status: int = 0
    warnings: int = 0
    picture: int = 0
    path: int = 0
    generation: int = 0
    positions: int = 0

    @classmethod
    def stated(cls, text: str, identity: str) -> _Known:
        """What a client states in its first message; nothing if that is of another board, or is no such message."""
        try:
            want = json.loads(text)["want"]
            known = {name: max(0, int(want[name])) for name in cls.__dataclass_fields__}
            return cls(**known) if want["run"] == identity else cls()
        except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
            return cls()


@dataclass
class _Clients:
    """The clients of a board, each with its connection."""

    board: Board
    count: int = 0
    _encoded: tuple[int, bytes] = (0, b"")
    _encoding: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def connected(self, client: WebSocket) -> None:
        """Send a client what it lacks until it leaves."""
        from starlette.websockets import WebSocketDisconnect

        await client.accept()
        if self.count >= CLIENTS:
            await client.close(1013, f"{CLIENTS} pages show this run already; close another one")
            return
        self.count += 1
        tasks: list[asyncio.Task[None]] = []
        try:
            first = await _first_message(client)
            sender = _Sender(client, self, _Known.stated(first, self.board.identity))
            tasks = [asyncio.create_task(sender.run()), asyncio.create_task(_ignore(client))]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except (WebSocketDisconnect, asyncio.TimeoutError):
            pass  # the page connects again
        except Exception as error:
            _log.warning("page: expected to send what the run states, found %r; the run is not affected", error)
        finally:
            self.count -= 1
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def encoded(self, snapshot: Snapshot) -> bytes:
        """The message of the snapshot's picture, which is encoded once for all clients, beside the event loop."""
        version, picture = snapshot.versions.picture, snapshot.picture
        assert picture is not None
        async with self._encoding:
            if self._encoded[0] != version:
                self._encoded = (version, await asyncio.to_thread(picture_message, picture, version))
            return self._encoded[1]


class _Sender:
    """What a client lacks, sent as it changes."""

    def __init__(self, client: WebSocket, clients: _Clients, known: _Known) -> None:
        self._client, self._clients, self._known = client, clients, known
        self._last = 0.0

    async def run(self) -> None:
        board, known = self._clients.board, self._known
        await self._send({"type": "run", "run": board.identity, "title": board.title})
        while True:
            shown = board.snapshot()
            versions = shown.versions
            if known.status != versions.status:
                known.status = versions.status
                await self._send({"type": "status", "version": known.status, "status": shown.status})
            if known.warnings != versions.warnings:
                known.warnings = versions.warnings
                await self._send({"type": "warnings", "version": known.warnings, "warnings": shown.warnings})
            if known.path != versions.path or known.positions != len(shown.path.positions):
                await self._send_path(shown)
            if known.picture != versions.picture:
                known.picture = versions.picture
                await self._send(await self._clients.encoded(shown))
            if time.monotonic() - self._last > _ALIVE:
                await self._send({"type": "alive"})
            await asyncio.sleep(_INTERVAL)

    async def _send_path(self, shown: Snapshot) -> None:
        """Positions after those that the client has, or all of them where those changed, in parts."""
        path, known = shown.path, self._known
        if known.generation != path.generation or known.positions > len(path.positions):
            known.generation, known.positions = path.generation, 0
        known.path = shown.versions.path
        while True:
            part = path.positions[known.positions : known.positions + POSITIONS]
            message = {"type": "path", "version": known.path, "generation": path.generation, "start": known.positions}
            await self._send({**message, "positions": _flat(part), "latest": _flat(path.latest)})
            known.positions += len(part)
            if known.positions == len(path.positions):
                return

    async def _send(self, message: bytes | dict[str, Any]) -> None:
        from starlette.websockets import WebSocketDisconnect

        if isinstance(message, bytes):
            sending = self._client.send_bytes(message)
        else:
            sending = self._client.send_text(json.dumps(message, allow_nan=False))
        try:
            await asyncio.wait_for(sending, _STUCK)
        except RuntimeError as error:  # closed while it was sent
            raise WebSocketDisconnect(1006) from error
        self._last = time.monotonic()


async def _first_message(client: WebSocket) -> str:
    """What a client sends at first; nothing if it does not send soon, or no text."""
    from starlette.websockets import WebSocketDisconnect

    try:
        message = await asyncio.wait_for(client.receive(), _FIRST)
    except asyncio.TimeoutError:
        return ""
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message["code"])
    return message.get("text") or ""


async def _ignore(client: WebSocket) -> None:
    """Read what a client sends until it leaves."""
    while (await client.receive())["type"] != "websocket.disconnect":
        pass


def _flat(positions: NDArray[np.float64]) -> list[float]:
    values: list[float] = np.round(positions, 2).ravel().tolist()
    return values
