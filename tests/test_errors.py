"""What of a library's words or a stranger's names may be shown."""

from __future__ import annotations

import pytest
from dcfast.errors import first_line, last_line, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, größer, 大きな犬 🐕", "plain, größer, 大きな犬 🐕"),
        ("\x1b[1;31mred\x1b[0m and \x1b[2Jcleared", "red and cleared"),
        ("\x1b]0;a title\x07text\x1b]8;;http://x\x1b\\link", "textlink"),
        ("\x9b31mred", "red"),
        ("lines\nand\ttabs\r\x07\x7f\x85\x00", "lines\nand\ttabs\\r\\x07\\x7f\\x85\\x00"),
        ("\x1bcut \x1b[", "\\x1bcut \\x1b["),
        ("shard a\x1b]0;b.tar: is damaged\nnext\x07", "shard a\\x1b]0;b.tar: is damaged\nnext\\x07"),
        ("half \udc80 and \u202eturned", "half \\udc80 and \\u202eturned"),
        ("", ""),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown


def test_lines_of_errors_are_printable() -> None:
    assert first_line(RuntimeError("one\x1b[1m bold\x1b[0m\x07\ntwo")) == "one bold\\x07"
    assert first_line(RuntimeError()) == "RuntimeError"
    assert last_line("progress 1\rprogress 2\x1b[K\r\nlast \x1b[31mwords\x1b[0m\n") == "last words"
