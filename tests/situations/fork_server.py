# SPDX-License-Identifier: BSD-3-Clause
"""A process that has imported everything, and runs each command in a fork of itself: hundreds of runs a minute.

A run can have its k-th write fail (failing_writes.c, loaded before the C library), or be killed after a time.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SOURCE = Path(__file__).with_name("failing_writes.c")
#: Seconds after which a run counts as stuck.
_STUCK = 120.0


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        code: exit code; -9 for a process that was killed.
        output: what it printed.
        calls: number of calls that write under its folder.
        failed: name of the call that failed first.
        seconds: of the run.
    """

    code: int
    output: str
    calls: int
    failed: str
    seconds: float


class ForkServer:
    """Runs commands of ``ptychopinn`` in forks of a process that is warm.

    Args:
        folder: for the library of failing writes.
        faults: whether writes may fail, which needs a C compiler.
    """

    def __init__(self, folder: Path, faults: bool = False) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self._library = ""
        if faults:
            self._library = str(compile_faults(folder))
            environment["LD_PRELOAD"] = self._library
        self._process = subprocess.Popen(
            [sys.executable, "-B", __file__, self._library],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._receive()

    def close(self) -> None:
        """End the server."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def run(
        self,
        command: list[str],
        folder: Path,
        *,
        fail: int = 0,
        error: int = 0,
        for_ever: bool = False,
        kill_after: float | None = None,
    ) -> Run:
        """Run a command.

        Args:
            command: arguments of ``ptychopinn``.
            folder: where it runs, and under which writes are counted.
            fail: the number of the call that fails, from 1; 0: none.
            error: its errno.
            for_ever: whether all later calls fail too.
            kill_after: seconds after which it is killed.
        """
        request = {"command": command, "folder": str(folder), "fail": fail, "error": error, "for_ever": for_ever}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({**request, "kill_after": kill_after}) + "\n")
        self._process.stdin.flush()
        return Run(**self._receive())

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the server of runs has ended"
        found: dict[str, Any] = json.loads(line)
        return found


@contextlib.contextmanager
def fork_server(folder: Path, faults: bool = False) -> Iterator[ForkServer]:
    """Context manager of a server."""
    server = ForkServer(folder, faults)
    try:
        yield server
    finally:
        server.close()


def prepare(server: ForkServer, commands: Iterable[str], folder: Path) -> None:
    """Run commands that must succeed, in order."""
    for command in commands:
        done = server.run(command.split(), folder)
        assert done.code == 0, f"{command}: {done.output}"


def compiler() -> str | None:
    """A C compiler, None without one."""
    return shutil.which("gcc") or shutil.which("cc")


def compile_faults(folder: Path) -> Path:
    """Compile the library of failing writes."""
    library = folder / "failing_writes.so"
    command = [str(compiler()), "-shared", "-fPIC", "-O1", "-o", str(library), str(_SOURCE), "-ldl"]
    subprocess.run(command, check=True)
    return library


def _child(request: dict[str, Any], output: int, result: int, library: Any) -> None:
    """Run a command in this fork, and end the process."""
    import ptychopinn.cli.app  # imported by the parent

    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(request["folder"])
    if library is not None:
        library.arm(request["folder"].encode(), request["fail"], request["error"], int(request["for_ever"]))
    code = 99
    try:
        code = ptychopinn.cli.app.run(request["command"])
    except SystemExit as ended:
        code = int(ended.code or 0) if not isinstance(ended.code, str) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    calls, failed = 0, ""
    if library is not None:
        calls, failed = library.count_calls(), library.failed_name().decode()
        library.arm(b"", 0, 0, 0)
    os.write(result, json.dumps({"calls": calls, "failed": failed}).encode())
    os._exit(code)


def _serve(library: Any, answers: int) -> None:
    for line in sys.stdin:
        request = json.loads(line)
        readable, writable = os.pipe()
        output = os.memfd_create("output")
        begin = time.monotonic()
        pid = os.fork()
        if pid == 0:
            os.close(readable)
            _child(request, output, writable, library)
        os.close(writable)
        limit = request["kill_after"]
        ready, _, _ = select.select([readable], [], [], _STUCK if limit is None else limit)
        if not ready:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        data = os.read(readable, 4096) if ready else b""
        os.close(readable)
        os.lseek(output, 0, os.SEEK_SET)
        text = os.fdopen(output, "rb").read().decode(errors="replace")
        values = json.loads(data) if data else {"calls": 0, "failed": ""}
        code = os.waitstatus_to_exitcode(status)
        answer = {"code": code, "output": text, **values, "seconds": time.monotonic() - begin}
        os.write(answers, (json.dumps(answer) + "\n").encode())


def _warm() -> None:
    """Import what commands import, so that a fork need not."""
    from importlib import import_module

    import torch

    torch.set_num_threads(1)
    for name in (
        "cli.app", "cli.simulate", "cli.inspect", "cli.convert", "cli.subset", "cli.train", "cli.reconstruct",
        "cli.refine", "cli.evaluate", "cli.plot", "cli.unpack", "inspection", "inspection.picture", "training.workflow",
        "inference.predict", "inference.large", "refinement.files", "metrics.evaluate", "plotting", "plotting.training",
        "plotting.reconstructions", "plotting.refinement", "plotting.scans", "io.scans", "io.reconstructions",
        "io.subset", "persistence.predecessor",
    ):  # fmt: skip
        import_module(f"ptychopinn.{name}")
    for name in ("h5py", "matplotlib.backends.backend_agg", "matplotlib.figure", "mpl_toolkits.axes_grid1",
                 "skimage.metrics", "scipy.optimize", "scipy.sparse.linalg", "scipy.ndimage"):  # fmt: skip
        import_module(name)


def main() -> None:
    """Serve requests, a JSON object a line, until the input ends."""
    answers = os.dup(1)
    os.dup2(2, 1)  # what is printed must not mix with the answers
    library = None
    if sys.argv[1]:
        library = ctypes.CDLL(sys.argv[1])
        library.count_calls.restype, library.failed_name.restype = ctypes.c_long, ctypes.c_char_p
        library.arm.argtypes = [ctypes.c_char_p, ctypes.c_long, ctypes.c_int, ctypes.c_int]
    _warm()
    ready = {"code": 0, "output": "ready", "calls": 0, "failed": "", "seconds": 0.0}
    os.write(answers, (json.dumps(ready) + "\n").encode())
    _serve(library, answers)


if __name__ == "__main__":
    main()
