"""The line of progress that stands on a terminal: cut to it, taken away before anything else is said."""

from __future__ import annotations

import io
import logging
import sys
import threading
import time
from contextlib import redirect_stderr

import pytest
from dcfast.process import terminal
from dcfast.process.terminal import beginning, cut_to, has_colours, log_printably, say, show_line, show_page, width


class Screen(io.StringIO):
    """What a terminal of some columns shows: carriage returns write over."""

    def isatty(self) -> bool:
        return True

    def rows(self) -> list[str]:
        shown = []
        for line in self.getvalue().split("\n"):
            row = ""
            for part in line.split("\r"):
                row = part + row[len(part) :]
            shown.append(row.rstrip())
        return shown


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(terminal, "_standing", 0)
    return Screen()


def test_each_line_writes_over_the_one_before(screen: Screen) -> None:
    with redirect_stderr(screen):
        show_line("train: 10% (step 100 of 1,000), 3 min left and some more words")
        assert screen.rows() == ["train: 10% (step 100 of 1,000), 3 mi..."]
        show_line("train: 11%")
        assert screen.rows() == ["train: 11%"]
        show_line("a\x1b[31mb\rc")  # of strangers: nothing in it is obeyed
        assert screen.rows() == [r"ab\rc"]
        show_line("")
    assert screen.rows() == [""]


def test_what_is_said_takes_it_away(screen: Screen, capsys: pytest.CaptureFixture[str]) -> None:
    with redirect_stderr(screen):
        show_line("train: 10%, 3 min left")
        say("index ...", error=True)
        assert screen.rows() == ["index ...", ""]
        show_line("train: 20%, 3 min left")
        log_printably()
        assert logging.lastResort is not None
        logging.lastResort.handle(logging.makeLogRecord({"msg": "a warning", "levelno": logging.WARNING}))
        assert screen.rows() == ["index ...", "a warning", ""]
        show_line("train: 30%")
        say("result")
    assert capsys.readouterr().out == "result\n"
    assert screen.rows()[-1] == ""


def test_width() -> None:
    assert [width(text) for text in ("abc", "日本", "e\u0301", "")] == [3, 4, 1, 0]
    assert [cut_to("日本語 abc", most) for most in (10, 9, 8, 4, 3, 0)] == [
        "日本語 abc",
        "日本語...",
        "日本...",
        "...",
        "日",
        "",
    ]


def test_a_long_text_is_cut_at_once() -> None:
    began = time.monotonic()
    assert cut_to("日" * 500_000, 9) == "日日日..."
    assert beginning("e\u0301x", 1) == "e\u0301"
    assert time.monotonic() - began < 1


def test_a_page_in_any_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    show_page("日本 é")
    assert raw.getvalue() == b"\\u65e5\\u672c \\xe9\n"
    assert not has_colours()


@pytest.mark.parametrize(
    ("name", "value", "coloured"), [("NO_COLOR", "1", False), ("TERM", "dumb", False), ("TERM", "xterm", True)]
)
def test_colours(monkeypatch: pytest.MonkeyPatch, name: str, value: str, coloured: bool) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", Screen())
    assert has_colours() is coloured


def test_a_forked_process_waits_for_no_thread_of_its_parent() -> None:
    held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with terminal._door:
            held.set()
            let_go.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    terminal._after_fork()  # what a worker of a training begins with
    assert terminal._door.acquire(timeout=5)
    terminal._door.release()
    let_go.set()
    thread.join()
