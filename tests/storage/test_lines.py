"""Text lines: what ends one, and what stands within one."""

from __future__ import annotations

import ast
from pathlib import Path

import dcfast
import pytest
from dcfast.doctor.gpu import _in_a_process
from dcfast.errors import CorruptDataError, first_line, last_line
from dcfast.evaluate.evalset import class_names
from dcfast.storage.lines import iterate_lines, read_lines, split_lines

WITHIN = ["\r", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("\n", [""]),
        ("\r\n", [""]),
        ("\r", [""]),
        ("a", ["a"]),
        ("a\n", ["a"]),
        ("a\r\n", ["a"]),
        ("a\r\r\n", ["a\r"]),
        ("a\n\nb", ["a", "", "b"]),
        ("a\r\n\r\nb\r\n", ["a", "", "b"]),
        ("a\n\n", ["a", ""]),
        (" a \n\tb", [" a ", "\tb"]),
    ],
)
def test_lines_end_with_newline(text: str, lines: list[str], tmp_path: Path) -> None:
    assert split_lines(text) == lines
    assert split_lines(text.encode()) == [line.encode() for line in lines]
    (tmp_path / "a.txt").write_bytes(text.encode())
    assert read_lines(tmp_path / "a.txt") == lines


@pytest.mark.parametrize("character", WITHIN)
def test_other_separators_stand_within_a_line(character: str, tmp_path: Path) -> None:
    lines = [f"red{character}wine", f"{character}dog", f"car{character}x"]
    text = "\n".join(lines) + "\n"
    assert split_lines(text) == lines
    assert split_lines(text.encode()) == [line.encode() for line in lines]
    (tmp_path / "a.txt").write_bytes(text.encode())
    assert read_lines(str(tmp_path / "a.txt")) == lines


def test_other_encodings(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"good\nb\xffd\n")
    with pytest.raises(UnicodeDecodeError) as caught:
        read_lines(path)
    assert caught.value.start == 6
    assert read_lines(path, errors="replace") == ["good", "b\ufffdd"]
    with pytest.raises(UnicodeDecodeError):
        read_lines(path, "ascii")
    with pytest.raises(FileNotFoundError):
        read_lines(tmp_path / "nowhere")


@pytest.mark.parametrize("character", ["\n", "\r\n", *WITHIN])
def test_the_summary_of_an_error_is_one_line(character: str) -> None:
    assert first_line(ValueError(f"one{character}two{character}three")) == "one"
    assert first_line(ValueError(f"{character} one{character}two")) == "one"
    assert last_line(f"one{character}two{character}") == "two"


def test_errors_and_programs_that_say_nothing() -> None:
    assert first_line(ValueError()) == "ValueError"
    assert first_line(KeyboardInterrupt(" \n ")) == "KeyboardInterrupt"
    assert last_line("") == last_line(" \n\n") == ""
    assert _in_a_process("pass") == (True, "exit status 0")
    assert _in_a_process("print('a', 'b', sep='\\n')") == (True, "b")


@pytest.mark.parametrize("character", [c for c in WITHIN if c != "\r"])
def test_a_class_name_keeps_what_stands_within_it(character: str, tmp_path: Path) -> None:
    names = [f"red{character}wine", "dog", "car"]
    (tmp_path / "classnames.txt").write_bytes("\n".join(names).encode())
    (tmp_path / "zeroshot_classification_templates.txt").write_bytes(b"a {c}\r\n")
    assert class_names(tmp_path) == (names, ["a {c}"], [])


@pytest.mark.parametrize("text", ["", "a", "a\n", "a\r\n\r\nb", "a\x85b\u2028c\x0cd\re\n\nf\n"])
def test_line_by_line_gives_the_lines(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(text.encode())
    assert list(iterate_lines(tmp_path / "a.txt")) == read_lines(tmp_path / "a.txt") == split_lines(text)
    with pytest.raises(FileNotFoundError):
        list(iterate_lines(tmp_path / "none.txt"))


def test_some_of_the_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\ntwo\r\nthree\nfour")
    assert list(iterate_lines(tmp_path / "a.txt", begin=4, end=10)) == ["two", "three"]
    assert list(iterate_lines(tmp_path / "a.txt", begin=9)) == ["three", "four"]
    assert list(iterate_lines(tmp_path / "a.txt", begin=4, end=4)) == []


def test_short_lines_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcfast.storage.lines.MOST_LINES", 3)
    (tmp_path / "a.txt").write_bytes(b"a\n" * 3)
    assert read_lines(tmp_path / "a.txt") == ["a"] * 3
    (tmp_path / "a.txt").write_bytes(b"a\n" * 4)
    with pytest.raises(CorruptDataError, match=r"a\.txt: expected at most 3 lines"):
        read_lines(tmp_path / "a.txt")


@pytest.mark.lint
def test_nothing_else_splits_lines() -> None:
    package = Path(dcfast.__file__).parent
    found = [
        f"{path.relative_to(package)}:{node.lineno}"
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Attribute) and node.attr in ("splitlines", "readlines", "readline")
    ]
    assert [place for place in found if not place.startswith("storage/lines.py:")] == []
