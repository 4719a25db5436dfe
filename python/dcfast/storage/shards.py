"""Which shards somebody means: a tar, a folder, a pool, a pattern with braces or stars, or several of these.

Importing this module imports nothing but ``listing``, see there.
"""

from __future__ import annotations

import os

from dcfast.errors import PoolError
from dcfast.storage.listing import PassedOver, is_shard_name, list_pool_tars

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import TypeAlias

    StrPath: TypeAlias = str | os.PathLike[str]
    Shards: TypeAlias = StrPath | Sequence[StrPath]

MOST_EXPANDED = 1 << 20
"""Names that the braces of a pattern stand for."""
MOST_BRACES = 100


def is_pattern(path: StrPath) -> bool:
    """Whether a path is none itself and stands for others, by braces or as a shell reads ``*``, ``?`` and ``[``."""
    text = os.fspath(path)
    return any(c in text for c in "*?[{") and not os.path.lexists(text)


def expand_braces(pattern: str) -> Iterator[str]:
    """The names that ``{00000..00012}`` and ``{a,b}`` stand for, in the order written, as a shell has it; other braces
    stay as they are."""
    begin = pattern.find("{")
    end = _closing(pattern, begin) if begin >= 0 else -1
    if end < 0:
        yield pattern
        return
    before, inner, after = pattern[:begin], pattern[begin + 1 : end], pattern[end + 1 :]
    choices = _choices(inner)
    middles = (
        (f"{{{name}}}" for name in expand_braces(inner))
        if choices is None
        else (name for choice in choices for name in expand_braces(choice))
    )
    for middle in middles:
        for rest in expand_braces(after):
            yield before + middle + rest


def _closing(pattern: str, begin: int) -> int:
    """Where the brace that opens at ``begin`` is closed; -1 for nowhere."""
    depth = 0
    for at in range(begin, len(pattern)):
        depth += (pattern[at] == "{") - (pattern[at] == "}")
        if depth == 0:
            return at
    return -1


def _choices(inner: str) -> Iterable[str] | None:
    """What stands between braces; None where that is neither a range nor a list."""
    first, dots, last = inner.partition("..")
    if dots and first.isdecimal() and last.isdecimal() and inner.isascii():
        width = max(len(first), len(last)) if first.startswith("0") or last.startswith("0") else 0
        low, high = int(first), int(last)
        if abs(high - low) >= MOST_EXPANDED:
            raise ValueError(f"{{{inner}}} stands for more than {MOST_EXPANDED:,} shards: give their folder, or a star")
        step = 1 if low <= high else -1
        return (f"{n:0{width}}" for n in range(low, high + step, step))
    parts, depth = [""], 0
    for c in inner:
        depth += (c == "{") - (c == "}")
        if c == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += c
    return parts if len(parts) > 1 else None


def find_shards(given: Shards) -> tuple[list[str], list[PassedOver]]:
    """The paths of the shards that are meant, and what in folders was passed over.

    Args:
        given: a tar; a folder of tars, or a pool with ``shards`` in it, whose tars come by name; a pattern
            (``shards/{00000..00012}.tar``, ``shards/*.tar``), whose matches come by name, too, of braces in the order
            written; or a sequence of these, one after the other. A URL of a tar may have braces.
    Returns:
        Paths; of what is neither there nor a pattern the path itself: to open it says what is wrong.
    Raises:
        PoolError: a folder without tars, a pattern without a match.   TypeError: not paths.
        ValueError: braces that stand for more than a million names.   OSError: a folder cannot be read.
    Cost: a listing of each folder.
    """
    if isinstance(given, bytes):
        raise TypeError("shards must be a path or a sequence of paths; got bytes: pass text")
    paths: list[str] = []
    passed_over: list[PassedOver] = []
    for item in [given] if isinstance(given, (str, os.PathLike)) else given:
        text = os.fspath(item)
        for path in _matches(text) if is_pattern(text) else [text]:
            if "://" in path or not os.path.isdir(path):
                paths.append(path)
                continue
            listing = list_pool_tars(path)
            if not listing.names:
                if is_shard_name(os.path.basename(path)):
                    paths.append(path)  # a directory that is called as a shard: opening it says so
                    continue
                raise PoolError(
                    f"no .tar files in directory {path!r}{listing.hint}; give the directory that holds shards such as "
                    "00000000.tar"
                )
            listing.check()
            passed_over += listing.passed_over
            paths += [os.path.join(listing.directory, name) for name in listing.names]
    return paths, passed_over


def _matches(pattern: str) -> list[str]:
    """The paths that a pattern stands for."""
    import glob

    if pattern.count("{") > MOST_BRACES:
        raise ValueError(f"{pattern[:100]!r} has more than {MOST_BRACES} braces: give the shards' folder, or a star")
    found: list[str] = []
    for number, path in enumerate(expand_braces(pattern)):
        if number >= MOST_EXPANDED:
            raise ValueError(f"{pattern} stands for more than {MOST_EXPANDED:,} shards: give their folder, or a star")
        if "://" in path or os.path.lexists(path) or not glob.has_magic(path):
            found.append(path)
        else:
            found += sorted(p for p in glob.glob(path) if is_shard_name(os.path.basename(p)) or os.path.isdir(p))
    if not found:
        raise PoolError(f"no shard matches {pattern!r}; give a pattern of names that end in .tar, or their directory")
    return found


def relative_shards(paths: Sequence[str]) -> tuple[str, list[str]]:
    """The folder that holds all of these paths, and the paths from there.

    PoolError: one is given twice.
    """
    # "link/.." is not what it looks like: such a path has to be resolved before it is made relative
    whole = [os.path.realpath(p) if ".." in p.split("/") else os.path.abspath(p) for p in paths]
    if len(set(whole)) < len(whole):
        twice = next(path for path in whole if whole.count(path) > 1)
        raise PoolError(f"shard {twice} is given twice: each of its samples would be there twice; name it once")
    base = os.path.dirname(whole[0]) if len(whole) == 1 else os.path.commonpath(whole)
    return base, [os.path.relpath(path, base) for path in whole]
