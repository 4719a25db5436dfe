"""Words, marks, numbers and strings of the filter language, and errors that point into it."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

from dcfast.errors import FilterError

_SHOWN = 100  # characters of a long expression that an error shows

_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)
      | (?P<string>r?"(?:[^"\\]|\\.)*"|r?'(?:[^'\\]|\\.)*')
      | (?P<name>[^\W\d]\w*)
      | (?P<mark>>=|<=|==|!=|[&|~(),=+<>*-])""",
    re.VERBOSE | re.DOTALL,
)
_NAME = re.compile(r"[^\W\d]\w*")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED = {"\\": "\\", '"': '"', "'": "'", "n": "\n", "t": "\t"}


class Token(NamedTuple):
    kind: str  # "number", "name", "string", "mark", "end"
    text: str
    begin: int
    end: int


@dataclass(frozen=True)
class Source:
    """The text of an expression, to point into."""

    text: str

    def error(self, message: str, begin: int, end: int | None = None) -> NoReturn:
        """Raises FilterError with the expression and a caret under ``begin`` to ``end`` (default: one place)."""
        end = max(begin + 1, begin + 1 if end is None else end)
        low = max(0, begin - _SHOWN // 2)
        high = min(len(self.text), low + _SHOWN)
        before, after = ("..." if low else ""), ("..." if high < len(self.text) else "")
        shown = "".join(c if c.isprintable() else " " for c in self.text[low:high])
        margin = " " * (2 + len(before) + _columns(shown[: begin - low]))
        carets = "^" * max(1, _columns(shown[begin - low : end - low]))
        raise FilterError(f"filter expression: {message}\n  {before}{shown}{after}\n{margin}{carets}")


def _columns(text: str) -> int:
    """Terminal columns that a text takes: two for wide characters, none for combining marks."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def spelled(name: str) -> str:
    """A name as an argument: in quotes where it is none of the language."""
    return name if _NAME.fullmatch(name) and name not in ("and", "or", "not") else quoted(name)


def quoted(text: str) -> str:
    """A string of the language with this value, on one line."""
    for plain, escape in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\t", "\\t")):
        text = text.replace(plain, escape)
    return f'"{text}"'


def tokens_of(source: Source) -> list[Token]:
    text = source.text
    tokens: list[Token] = []
    place = 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            _unreadable(source, place)
        kind = str(match.lastgroup)
        if kind != "space":
            tokens.append(Token(kind, match.group(), place, match.end()))
        place = match.end()
    tokens.append(Token("end", "", len(text), len(text)))
    return tokens


def _unreadable(source: Source, place: int) -> NoReturn:
    character = source.text[place]
    if character in "\"'":
        source.error(f"this string has no closing {character}", place)
    hint = "the operators are & | ~ and parentheses"
    if character in "./\\":
        hint = 'put file paths in quotes: "my uids.npy"'
    elif character == "!":
        hint = "not is written ~"
    elif character == "%":
        hint = "write a fraction, like 0.3"
    source.error(f"unexpected character {character!r}; {hint}", place)


def unquoted(source: Source, token: Token) -> str:
    """The value of a string token, as it stands where it is r"raw"; FilterError at an unknown escape or a NUL."""
    if token.text.startswith("r"):
        value = token.text[2:-1]
    else:
        body = token.text[1:-1]
        for match in _ESCAPE.finditer(body):
            if match.group(1) not in _ESCAPED:
                place, advice = token.begin + 1 + match.start(), 'a backslash is written \\\\, or the string r"..."'
                source.error(f"unknown escape {match.group()!r}; {advice}", place, place + 2)
        value = _ESCAPE.sub(lambda match: _ESCAPED[match.group(1)], body)
    if "\0" in value:
        source.error("a string cannot hold a NUL character", token.begin, token.end)
    return value
