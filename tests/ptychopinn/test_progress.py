# SPDX-License-Identifier: BSD-3-Clause
"""Progress bars: on a terminal, after a while, one at a time."""

from __future__ import annotations

import io
import time
from contextlib import redirect_stderr

import pytest

from ptychopinn.runtime import progress as module
from ptychopinn.runtime.progress import progress, quiet


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal() -> redirect_stderr[Terminal]:
    """Make standard error a terminal; in the test itself, since pytest sets it again after fixtures."""
    return redirect_stderr(Terminal())


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DELAY", 0.0)


def run(label: str = "load", total: int = 100) -> None:
    with progress(label, total) as advance:
        for _ in range(10):
            advance(total // 10)
            time.sleep(0.02)


@pytest.mark.usefixtures("at_once")
def test_a_bar_has_label_rate_and_time_left() -> None:
    with terminal() as stream, progress("load", 100) as advance:
        advance(10)
        time.sleep(0.2)
        advance(40)
    shown = stream.getvalue()
    assert "load:" in shown and "50.0/100" in shown and "patterns/s" in shown and "<00:0" in shown


def test_what_is_done_soon_has_no_bar() -> None:
    with terminal() as stream:
        run()
    assert stream.getvalue() == ""


@pytest.mark.usefixtures("at_once")
def test_a_step_that_ends_the_work_makes_no_bar() -> None:
    with terminal() as stream, progress("load", 100) as advance:
        advance(100)
    assert stream.getvalue() == ""


@pytest.mark.usefixtures("at_once")
def test_no_bar_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    with redirect_stderr(io.StringIO()) as stream:
        run()
    assert stream.getvalue() == ""
    monkeypatch.setattr("sys.stderr", None)  # a program without a console
    run()


@pytest.mark.usefixtures("at_once")
def test_no_bar_in_other_processes_of_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with terminal() as stream:
        run()
    assert stream.getvalue() == ""


@pytest.mark.usefixtures("at_once")
def test_a_bar_inside_another_one_is_not_shown() -> None:
    with terminal() as stream, progress("outer", 10) as advance:
        advance(1)
        run("inner")
    assert "outer" in stream.getvalue() and "inner" not in stream.getvalue()


@pytest.mark.usefixtures("at_once")
def test_quiet_shows_none_and_ends_with_its_block() -> None:
    with terminal() as stream:
        with quiet():
            run()
        with quiet(False):
            run("loud")
    assert "load" not in stream.getvalue() and "loud" in stream.getvalue()


@pytest.mark.usefixtures("at_once")
def test_an_error_removes_the_bar() -> None:
    with terminal() as stream:
        with pytest.raises(ValueError, match="wrong"), progress("load", 10) as advance:
            advance(1)
            raise ValueError("wrong")
        run("next")
    assert "next" in stream.getvalue()
