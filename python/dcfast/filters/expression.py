"""The filter expression language: text to a tree of terms, and errors that point at the place.

    expression  = conjunction { "|" conjunction }
    conjunction = negation { "&" negation }
    negation    = "~" negation | "(" expression ")" | term
    term        = NAME [ "(" [ argument { "," argument } ] ")" ] [ comparison ] | STRING
    argument    = [ NAME "=" ] ( NAME | STRING | NUMBER | part )
    part        = [ NUMBER "*" ] NAME "(" [ argument { "," argument } ] ")"
    comparison  = ( ">=" | "<=" | "==" | "!=" | ">" | "<" ) ( STRING | NUMBER )

The parser is our own and small, not Python's: the same text gives the same tree and the same message under every
version of Python, nothing is ever evaluated, and its depth is bounded, so that no input overflows a stack.
What the names mean is in terms.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

from dcfast.errors import FilterError, did_you_mean
from dcfast.filters.tokens import Source, Token, tokens_of, unquoted

MAX_CHARACTERS = 65_536
MAX_DEPTH = 50  # nested parentheses, and parts within parts
COMPARISONS = (">=", "<=", "==", "!=", ">", "<")
_EXACT = 2.0**53  # floats below are whole numbers without a gap
_DIGITS = 400  # more than a float has; Python reads an integer of 4,300 at most
_PYTHON_WORDS = {"and": "&", "or": "|", "not": "~"}


class Argument(NamedTuple):
    """An argument of a call: a number is a float; a name, a string and a part are told apart by ``kind``.

    A part, ``0.5 * score("a.parquet")``, is a call itself and has a weight, 1 where none is written; its value is "".
    """

    keyword: str | None
    kind: str  # "name", "string", "number", "part"
    value: str | float
    begin: int
    end: int
    part: Call | None = None
    weight: float = 1.0


class Comparison(NamedTuple):
    """What stands behind a term: ``>= 5``. A whole number is an int, exact; another a float."""

    sign: str
    value: str | int | float


@dataclass(frozen=True)
class Call:
    """A name with its arguments, and what it is compared with, as written; a bare string is ``uids`` of it."""

    name: str
    arguments: tuple[Argument, ...]
    source: Source
    begin: int
    end: int  # of the name
    close: int  # of the whole call
    comparison: Comparison | None = None

    def with_parts(self) -> Iterator[Call]:
        """The call itself and the calls in its arguments, in written order."""
        yield self
        for argument in self.arguments:
            if argument.part is not None:
                yield from argument.part.with_parts()

    def error(self, message: str, argument: Argument | None = None) -> NoReturn:
        """FilterError that points at an argument, else at the whole call."""
        place = (self.begin, self.close) if argument is None else (argument.begin, argument.end)
        self.source.error(message, *place)

    def by_name(self, names: tuple[str, ...], positional: int, surplus: str) -> dict[str, Argument]:
        """The arguments by their names; FilterError for one that is given twice, or has no name of them.

        Args:
            positional: so many of the names need not be written.   surplus: what to say of others without a name.
        """
        given: dict[str, Argument] = {}
        for argument in self.arguments:
            name = argument.keyword or next((name for name in names[:positional] if name not in given), None)
            if name is None:
                self.error(f"{self.name}: {surplus}", argument)
            if name not in names:
                self.error(f"{self.name} has no argument {name!r}{nearest_name(name, names)}", argument)
            if name in given:
                self.error(f"{self.name}: {name} is given twice", argument)
            given[name] = argument
        return given

    def number(self, name: str, argument: Argument) -> float:
        """The value of an argument; FilterError where it is no number, or is a fraction of nothing or above 1."""
        if not isinstance(argument.value, float):
            self.error(f"{self.name}: {name} must be a number", argument)
        if name == "fraction" and not 0.0 < argument.value <= 1.0:
            self.error(f"{self.name}: fraction must be above 0 and at most 1; got {argument.value!r}", argument)
        return argument.value


@dataclass(frozen=True)
class Not:
    child: Expression

    def __str__(self) -> str:
        return f"~{_wrapped(self.child)}"


@dataclass(frozen=True)
class And:
    children: tuple[Expression, ...]

    def __str__(self) -> str:
        return " & ".join(_wrapped(child) for child in self.children)


@dataclass(frozen=True)
class Or:
    children: tuple[Expression, ...]

    def __str__(self) -> str:
        return " | ".join(f"({child})" if isinstance(child, Or) else str(child) for child in self.children)


# The leaves are whatever the term builder of ``parse`` returns: their str() must parse back to an equal leaf.
Expression = Not | And | Or | object


def _wrapped(child: Expression) -> str:
    return f"({child})" if isinstance(child, (And, Or)) else str(child)


class _Parser:
    def __init__(self, source: Source, build: Callable[[Call], Expression]) -> None:
        self.source = source
        self.build = build
        self.tokens = tokens_of(source)
        self.at = 0
        self.depth = 0

    @property
    def token(self) -> Token:
        return self.tokens[self.at]

    def peek(self, mark: str) -> bool:
        return self.token.kind == "mark" and self.token.text == mark

    def accept(self, mark: str) -> bool:
        """Whether this mark is next; it is taken then."""
        is_next = self.peek(mark)
        self.at += is_next
        return is_next

    def take(self) -> Token:
        token = self.token
        self.at += token.kind != "end"
        return token

    def unexpected(self, expected: str) -> NoReturn:
        token = self.token
        previous = self.tokens[self.at - 1] if self.at else token
        if token.kind == "end":
            self.source.error(f"the expression ends where {expected} should be", token.begin)
        if token.kind == "mark" and token.text in "&|" and previous.kind == "mark" and previous.text == token.text:
            self.source.error(f"write one {token.text}, not two", previous.begin, token.end)
        if token.kind == "name" and token.text in _PYTHON_WORDS:
            sign = _PYTHON_WORDS[token.text]
            self.source.error(f"write {sign} instead of {token.text!r}", token.begin, token.end)
        self.source.error(f"unexpected {token.text[:40]!r}; expected {expected}", token.begin, token.end)

    def whole(self) -> Expression:
        if self.tokens[0].kind == "end":
            self.source.error("the expression is empty; no_filter keeps everything", 0)
        result = self.disjunction()
        if self.token.kind != "end":
            self.unexpected("&, | or the end")
        return result

    def disjunction(self) -> Expression:
        return self.joined("|", Or, self.conjunction)

    def conjunction(self) -> Expression:
        return self.joined("&", And, self.negation)

    def joined(self, mark: str, kind: type[And] | type[Or], part: Callable[[], Expression]) -> Expression:
        parts = [part()]
        while self.accept(mark):
            parts.append(part())
        return parts[0] if len(parts) == 1 else kind(_flat(parts, kind))

    def negation(self) -> Expression:
        negate = False
        while self.accept("~"):  # a loop: a million of them nest nothing
            negate = not negate
        child = self.group() if self.peek("(") else self.term()
        if negate:
            return child.child if isinstance(child, Not) else Not(child)
        return child

    def group(self) -> Expression:
        opening = self.take()
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.source.error(f"parentheses nested deeper than {MAX_DEPTH}", opening.begin)
        inner = self.disjunction()
        self.depth -= 1
        if not self.accept(")"):
            if self.token.kind == "end":
                self.source.error("this parenthesis is never closed", opening.begin)
            self.unexpected("&, | or )")
        return inner

    def term(self) -> Expression:
        token = self.token
        if token.kind == "string":
            self.take()
            path = Argument(None, "string", unquoted(self.source, token), token.begin, token.end)
            return self.build(Call("uids", (path,), self.source, token.begin, token.end, token.end))
        if token.kind != "name" or token.text in _PYTHON_WORDS:
            self.unexpected("a filter's name, a quoted path, ~ or (")
        self.take()
        arguments = self.arguments()
        comparison = self.comparison()
        close = self.tokens[self.at - 1].end
        return self.build(Call(token.text, arguments, self.source, token.begin, token.end, close, comparison))

    def arguments(self) -> tuple[Argument, ...]:
        """Those in parentheses, where these are next."""
        arguments: list[Argument] = []
        if self.accept("("):
            while not self.accept(")"):
                arguments.append(self.argument())
                if not self.accept(",") and not self.peek(")"):
                    self.unexpected(", or )")
        return tuple(arguments)

    def comparison(self) -> Comparison | None:
        """A sign and what stands behind it, where a sign is next."""
        if self.peek("="):
            self.source.error("two things are compared by ==", self.token.begin)
        sign = next((sign for sign in COMPARISONS if self.accept(sign)), None)
        if sign is None:
            return None
        begin, negative = self.token.begin, self.accept("-")
        is_signed = negative or self.accept("+")
        token = self.take()
        if token.kind == "number":
            number = self.number(token)
            value: int | float = int(number) if number.is_integer() and number < _EXACT else number
            if number >= _EXACT and token.text.isdecimal() and len(token.text) <= _DIGITS:
                value = int(token.text)  # all of its digits
            return Comparison(sign, -value if negative else value)
        if token.kind != "string" or is_signed:
            self.at -= token.kind != "end"
            if token.kind == "name":
                self.source.error("text that is compared stands in quotes", begin, token.end)
            self.unexpected("a number or a quoted string")
        return Comparison(sign, unquoted(self.source, token))

    def number(self, token: Token) -> float:
        """The value of a number's token; FilterError where it is too large, or a name clings to it."""
        number = float(token.text)
        if not math.isfinite(number):
            self.source.error("this number is too large", token.begin, token.end)
        if self.token.kind in ("name", "number") and self.token.begin == token.end:
            self.source.error("not a number", token.begin, self.token.end)
        return number

    def argument(self) -> Argument:
        keyword, begin = None, self.token.begin
        after = self.tokens[min(self.at + 1, len(self.tokens) - 1)]
        if self.token.kind == "name" and after.text == "=" and after.kind == "mark":
            keyword = self.take().text
            self.take()
        sign = -1.0 if self.accept("-") else 1.0
        is_signed = sign < 0 or self.accept("+")
        token = self.take()
        if token.kind == "number":
            number = sign * self.number(token) + 0.0  # no negative zero
            if self.accept("*"):
                return self.part(keyword, number, begin, self.take())
            return Argument(keyword, "number", number, begin, token.end)
        if token.kind == "name" and self.peek("(") and not is_signed:
            return self.part(keyword, 1.0, begin, token)
        if token.kind not in ("name", "string") or is_signed:
            self.at -= token.kind != "end"
            self.unexpected("an argument: a name, a number or a quoted string")
        value = token.text if token.kind == "name" else unquoted(self.source, token)
        return Argument(keyword, token.kind, value, begin, token.end)

    def part(self, keyword: str | None, weight: float, begin: int, name: Token) -> Argument:
        """A call as an argument, whose name was taken."""
        if name.kind != "name" or not self.peek("("):
            self.at -= name.kind != "end"
            self.unexpected("a score with its parentheses: 0.5 * column(NAME)")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.source.error(f"parentheses nested deeper than {MAX_DEPTH}", name.begin)
        arguments = self.arguments()
        self.depth -= 1
        close = self.tokens[self.at - 1].end
        call = Call(name.text, arguments, self.source, name.begin, name.end, close)
        return Argument(keyword, "part", "", begin, close, call, weight)


def _flat(parts: Sequence[Expression], kind: type[And] | type[Or]) -> tuple[Expression, ...]:
    """Children with those of the same operator taken in: (a & b) & c is a & b & c."""
    flat: list[Expression] = []
    for part in parts:
        flat.extend(part.children if isinstance(part, kind) else (part,))
    return tuple(flat)


def nearest_name(name: str, known: tuple[str, ...]) -> str:
    return did_you_mean(name, known, cutoff=0.5) or f"; known: {', '.join(known)}"


def parse(text: str, build: Callable[[Call], Expression]) -> Expression:
    """The tree of an expression, whose leaves are what ``build`` makes of each term.

    Nested & and | of one kind are flattened and double ~ vanish, so that str() of the tree is canonical.

    Args:
        text: at most 65,536 characters, parentheses at most 50 deep.
        build: called with each Call in written order; raises through ``call.source.error``.
    Raises:
        TypeError: text is not a str.   FilterError: it cannot be read; the message points at the place.
    Cost: O(len(text)).
    """
    if not isinstance(text, str):
        raise TypeError(f"filter expression: expected str; got {type(text).__name__}")
    if len(text) > MAX_CHARACTERS:
        raise FilterError(
            f"filter expression: at most {MAX_CHARACTERS:,} characters; got {len(text):,}; "
            "put long lists of uids into one uid file"
        )
    return _Parser(Source(text), build).whole()
