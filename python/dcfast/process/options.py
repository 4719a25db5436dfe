"""Options of commands: fields of dataclasses, each written once.

A field that ``option`` makes holds its help, its bounds and how its text is read. The parser, the checks, files of
``--config`` and the tables of docs/options.md are made of these fields; a manifest lists them by name.
"""

from __future__ import annotations

import argparse
import copy
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, TypeVar

from dcfast.errors import did_you_mean

_KEY = "dcfast option"
_VALUES = "dcfast_values"  # of an action: not its choices, which argparse would check with words of its own
_LARGEST = str((1 << 63) - 1)  # of 64 bits; nobody knows it by its digits
T = TypeVar("T")


@dataclass(frozen=True)
class Option:
    """What a command line says of a field, beside its name, type and default.

    ``flags`` are its spellings; none: ``--`` and the name. Of a field that is True by default, the one that turns it
    off; the name itself where it is given by its place.
    """

    help: str  # what it is, without its default
    flags: tuple[str, ...] = ()
    metavar: str = ""  # stands for the value in the help
    usual: str = ""  # the default in words, where the field's own says nothing
    choices: tuple[str, ...] = ()  # all values there are
    least: float | None = None
    most: float | None = None  # of a number; it has least as well
    parse: Callable[[str], object] | None = None  # a word -> the value; by default what the field's type makes of it
    gather: Callable[..., object] | None = None  # of an option of several words: all of them -> the value
    may_be_bare: bool = False  # an option of several words may have none
    append: bool = False  # may be given several times; each adds a value to a list
    required: bool = False  # has to be given


def option(default: T, help: str | Option, **how: Any) -> T:  # Any: checked by Option
    """A dataclass field that is an option.

    Args:
        default: of the field; a list or dict is copied for each instance.
        help, how: an ``Option``, or the attributes of one.
    """
    metadata = {_KEY: help if isinstance(help, Option) else Option(help, **how)}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: copy.copy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class _Declared:
    """A field of a dataclass that is an option."""

    name: str
    kind: type
    may_be_none: bool
    default: object
    option: Option

    @property
    def flags(self) -> tuple[str, ...]:
        return self.option.flags or (f"--{self.name.replace('_', '-')}",)

    @property
    def spelling(self) -> str:
        """How messages of a command line name it."""
        return max(self.flags, key=len)

    @property
    def metavar(self) -> str:
        usual = {int: "N", float: "X"}.get(self.kind, "NAME") if self.spelling.startswith("-") else self.name
        return self.option.metavar or usual

    @property
    def help(self) -> str:
        usual, text = self.option.usual, self.option.help
        if not usual and self.default not in (None, [], {}, "") and not isinstance(self.default, bool):
            usual = f"{self.default}"
        if self.option.choices:
            text += f"{'; ' if text else ''}one of {', '.join(self.option.choices)}"
        return text + (" (required)" if self.option.required else f" (default {usual})" if usual else "")


def _declared(kind: type, names: Iterable[str] | None = None) -> Iterator[_Declared]:
    hints = typing.get_type_hints(kind)
    chosen = None if names is None else set(names)
    for f in fields(kind):
        if _KEY in f.metadata and (chosen is None or f.name in chosen):
            types = [part for part in typing.get_args(hints[f.name]) if part is not type(None)]
            may_be_none = type(None) in typing.get_args(hints[f.name])
            only = types[0] if may_be_none and len(types) == 1 else hints[f.name]
            default = None if f.default is MISSING else f.default
            if f.default_factory is not MISSING:
                default = f.default_factory()
            yield _Declared(f.name, only, may_be_none, default, f.metadata[_KEY])


def option_names(kind: type) -> list[str]:
    """The names of the fields of a dataclass that are options, in their order."""
    return [declared.name for declared in _declared(kind)]


def option_parsers(kind: type) -> dict[str, Callable[[str], object] | None]:
    """Option -> what makes its value of a word, for those of one word; None where the type does."""
    return {declared.name: declared.option.parse for declared in _declared(kind) if not declared.option.append}


def option_gathers(kind: type) -> dict[str, Callable[[list[str]], object]]:
    """Option -> what makes its value of all words, for those of several."""
    found = {declared.name: declared.option.gather for declared in _declared(kind)}
    return {name: gather for name, gather in found.items() if gather is not None}


def add_options(parser: argparse.ArgumentParser, kind: type, names: Iterable[str] | None = None) -> None:
    """Adds the options of a dataclass, or those of some names, to a parser.

    What is not given on the command line is not in the parsed arguments: ``given_options`` has the rest.
    """
    for declared in _declared(kind, names):
        what, text = declared.option, declared.help.replace("%", "%%")
        if declared.kind is bool:
            action = parser.add_argument(
                *declared.flags, action="store_const", const=not declared.default, default=argparse.SUPPRESS, help=text
            )
        else:
            action = parser.add_argument(
                *declared.flags,
                action="append" if what.append else "store",
                nargs=None if what.gather is None or what.append else "*" if what.may_be_bare else "+",
                type=what.parse or (declared.kind if declared.kind in (int, float) else str),
                metavar=declared.metavar,
                default=argparse.SUPPRESS,
                help=text,
            )
        action.dest = declared.name
        setattr(action, _VALUES, what.choices)
        if declared.kind is bool and (other := _opposite(declared)) is not None:
            # for a file of options that says otherwise: not in the help, where it would stand beside each
            action = parser.add_argument(
                other, action="store_const", const=declared.default, default=argparse.SUPPRESS, help=argparse.SUPPRESS
            )
            action.dest = declared.name


def values_of(action: argparse.Action) -> tuple[str, ...]:
    """All values of an option that ``add_options`` added, where there are a fixed few; for completion."""
    values: tuple[str, ...] = getattr(action, _VALUES, ())
    return values


def _opposite(declared: _Declared) -> str | None:
    """The spelling that says what a switch says by default; None for one of a spelling of its own."""
    name = declared.name.replace("_", "-")
    return {f"--{name}": f"--no-{name}", f"--no-{name}": f"--{name}"}.get(declared.spelling)


def given_options(arguments: argparse.Namespace, kind: type) -> dict[str, Any]:  # Any: of the fields' types
    """Field -> value of the options of a dataclass that a command line gave; ValueError where one makes no sense."""
    given = {}
    for declared in _declared(kind):
        if hasattr(arguments, declared.name):
            value, gather = getattr(arguments, declared.name), declared.option.gather
            given[declared.name] = value if gather is None else gather(value)
    _check(kind, given, lambda declared: declared.spelling)
    return given


def made_of(kind: type[T], values: Mapping[str, Any], **others: object) -> T:
    """An instance of a dataclass from those of some values that are its options; ``others`` are its other fields.

    Raises:
        ValueError: one that is required is not there, or a value is out of its bounds.
    """
    required = (declared for declared in _declared(kind) if declared.option.required)
    missing = [f"{o.spelling} {o.metavar}" for o in required if values.get(o.name) in (None, "", [])]
    if missing:
        raise ValueError(f"these have to be given: {', '.join(missing)}")
    made = kind(**{name: values[name] for name in option_names(kind) if name in values}, **others)
    check_options(made)
    return made


def check_options(values: object) -> None:
    """ValueError where an option of a dataclass instance is out of its bounds; names it, its bounds and its value."""
    kind = type(values)
    _check(kind, {name: getattr(values, name) for name in option_names(kind)}, lambda declared: declared.name)


def _check(kind: type, values: Mapping[str, Any], named: Callable[[_Declared], str]) -> None:
    for declared in _declared(kind, values):
        value, what = values[declared.name], declared.option
        if value is None:
            if not declared.may_be_none:
                raise ValueError(f"{named(declared)} must have a value; got None")
            continue
        if what.choices:
            one_of(named(declared), value, what.choices)
        least, most = what.least, what.most
        # a NaN is neither
        if (least is not None and not value >= least) or (most is not None and not value <= most):
            both = f"{least} to {most}"
            bound = f"at least {least}" if most is None else f"at most {most}" if least is None else both
            raise ValueError(f"{named(declared)} must be {bound.replace(_LARGEST, '2^63 - 1')}; got {value}")


def one_of(name: str, value: object, known: Sequence[str]) -> None:
    """ValueError where a value is none of those known; names the nearest."""
    if value not in known:
        if len(known) == 1:
            raise ValueError(f"{name} can only be {known[0]}; got {value}")
        raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}{did_you_mean(value, known)}")
