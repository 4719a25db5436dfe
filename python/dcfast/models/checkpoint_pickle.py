"""What the pickle of a checkpoint would make, told from its instructions before torch follows them.

Torch's ``weights_only`` runs no foreign code, but calls what makes anything of a few bytes: tensors of another type
from one that repeats a number, sets and counters of what a tensor gives, arrays again and again from one string. A
tuple that holds another twice, and so on, takes hours where it is a key. Here the same instructions are followed, and
nothing is made; calls are refused that no ``torch.save`` of weights, numbers, texts and arrays writes.
"""

from __future__ import annotations

import math
import pickletools
from typing import IO

MAX_COPIED, MAX_COPIED_RATIO = 64 << 20, 64
"""Bytes that calls and keys are given, where what stands in several places counts as often; or so many times those of
the pickle. Each value counts as 64, texts by their length."""
MAX_REPEATED = 1 << 20
"""Numbers of a tensor that are more than its storage has: a stride of zero repeats them."""
_DIMENSIONS = 64
_VALUE = 64
_MOST = 1 << 60  # numbers stay small, however often a tuple is doubled

_TENSORS = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_qtensor")
_REBUILT = (
    *_TENSORS,
    *("_rebuild_parameter", "_rebuild_parameter_with_state", "_rebuild_sparse_tensor"),
    *("_rebuild_meta_tensor_no_storage", "_rebuild_nested_tensor"),
)
_ARRAYS = [f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")]
_FROM_TYPE = "torch._tensor._rebuild_from_type_v2"
_CALLED = frozenset(
    (
        *(f"torch._utils.{name}" for name in _REBUILT),
        *(_FROM_TYPE, "torch.Size", "torch.device", "torch.serialization._get_layout"),
        *("collections.OrderedDict", "collections.Counter", "_codecs.encode", "numpy.dtype", *_ARRAYS),
        *(f"{module}.{name}" for module in ("__builtin__", "builtins") for name in ("set", "complex")),
    )
)
_MODULES = ("torch", "numpy", "collections", "_codecs", "builtins", "__builtin__")
"""Of which torch calls anything; another that is named it refuses by itself, and says so."""
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Name(str):
    """A class or function that the pickle names."""


class _Held:
    """What has other values in it, or is made of them.

    Attributes:
        weight: bytes, see MAX_COPIED.   kind: of lists and dictionaries, and of tuples.
        items: of a tuple.
    """

    def __init__(self, kind: str, values: list[object]) -> None:
        self.kind = kind
        self.weight = min(_VALUE + sum(map(_weight, values)), _MOST)
        self.items = values if kind == "tuple" else []


def _weight(value: object) -> int:
    if isinstance(value, _Held):
        return value.weight
    return _VALUE + len(value) if isinstance(value, (str, bytes)) else _VALUE


class _Follower:
    """Follows instructions; ``copied`` is what they gave to calls, and took for keys."""

    def __init__(self, also: frozenset[str]) -> None:
        self.copied = 0
        self._also = also
        self._stacks: list[list[object]] = [[]]
        self._memo: dict[object, object] = {}

    def follow(self, code: str, argument: object) -> None:
        """One instruction. ValueError: a call that is refused; IndexError and others: no pickle."""
        stack = self._stacks[-1]
        if code in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif code in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif code == "MARK":
            self._stacks.append([])
        elif code == "GLOBAL":
            stack.append(_Name(str(argument).replace(" ", ".", 1)))
        elif code == "TUPLE":
            values = self._stacks.pop()
            self._stacks[-1].append(_Held("tuple", values))
        elif code in _TUPLES:
            count = _TUPLES[code]
            stack[-count:] = [_Held("tuple", stack[-count:])]
        elif code in ("APPEND", "SETITEM"):
            self._fill(stack, [stack.pop() for _ in range(1 if code == "APPEND" else 2)][::-1], code)
        elif code in ("APPENDS", "SETITEMS"):
            values = self._stacks.pop()
            self._fill(self._stacks[-1], values, code)
        elif code in ("REDUCE", "NEWOBJ"):
            given, name = stack.pop(), stack.pop()
            self.copied += _weight(given)
            if type(name) is not _Name or name not in self._also or _items(given):
                _check_call(name, given)
            stack.append(_Held("made", [given] if name == "_codecs.encode" else []))
        elif code == "BUILD":
            self.copied += _weight(stack.pop())
        elif code == "BINPERSID":
            self.copied += _weight(stack[-1])
        elif code in ("EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT"):
            stack.append(_Held(code[6:].lower(), []))
        elif code not in ("PROTO", "STOP"):
            stack.append(argument)

    def _fill(self, stack: list[object], values: list[object], code: str) -> None:
        if isinstance(container := stack[-1], _Held):
            container.weight = min(container.weight + _VALUE * len(values), _MOST)
        if code in ("SETITEM", "SETITEMS"):
            self.copied += sum(map(_weight, values[::2]))


def check_pickle(file: IO[bytes], also: frozenset[str] = frozenset()) -> None:
    """Follows the pickle that begins where a file stands, to its end, or to where it is none.

    Args:
        also: names of classes that it may make beside, without arguments.
    Raises:
        ValueError: it would make what no checkpoint has; says what.
    Time: 3 us an instruction.   Memory: some times that of the pickle.
    """
    follower = _Follower(also)
    instructions = pickletools.genops(file)
    while True:
        try:
            code, argument, place = next(instructions)
        except (StopIteration, ValueError):  # no pickle: torch says what it is instead
            return
        if code.name == "GLOBAL" and not _is_known(str(argument), also):
            return
        try:
            follower.follow(code.name, argument)
        except (IndexError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError("its pickle is damaged, or of another kind") from error
        if follower.copied > MAX_COPIED + MAX_COPIED_RATIO * (place or 0):
            raise ValueError(f"its pickle would make {follower.copied:,} bytes of {place or 0:,}")


def _is_known(named: str, also: frozenset[str]) -> bool:
    """Whether a pickle names something of a module of which torch calls anything, or one of the classes."""
    return named.partition(".")[0].partition(" ")[0] in _MODULES or named.replace(" ", ".", 1) in also


def _items(value: object) -> list[object]:
    if not isinstance(value, _Held):
        raise TypeError
    return value.items


def _whole(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError
    return int(value)


def _size(shape: object) -> int:
    """Numbers of a tensor of a shape."""
    lengths = _items(shape)
    if len(lengths) > _DIMENSIONS:
        raise ValueError(f"it has a shape of {len(lengths):,} dimensions")
    return math.prod(map(_whole, lengths))


def _check_call(name: object, given: object) -> None:
    """ValueError for a call that no checkpoint has, or of what would make more than there is."""
    if type(name) is not _Name or name not in _CALLED:
        called = str(name)[:80] if type(name) is _Name else "what it has made"
        raise ValueError(f"it calls {called}, which dcfast never loads")
    values, short = _items(given), name.rpartition(".")[2]
    if name == _FROM_TYPE:
        _check_call(values[0], values[2])
    elif short in _TENSORS:
        stored, count = _whole(_items(values[0])[4]), _size(values[2])
        if count > max(stored, MAX_REPEATED):
            raise ValueError(f"it has a tensor of {count:,} numbers, of which {stored:,} are there")
    elif short == "_reconstruct" and (count := _size(values[1])):
        raise ValueError(f"it names an array of {count:,} numbers that are not there")
    elif short in ("OrderedDict", "Counter", "set", "Size") and not all(
        isinstance(value, _Held) and value.kind == {"Counter": "dict", "set": "list", "Size": "tuple"}.get(short)
        for value in values
    ):
        raise ValueError(f"it calls {name} of what it has made")
