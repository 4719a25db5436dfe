"""The exceptions of dcfast: one base class, and a class for each thing a caller may want to handle.

Bad arguments are plain ``TypeError`` and ``ValueError``; failing system calls are Python's own ``OSError``
subclasses. What is wrong with data, filters or runs is one of these.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_SHOWN_AS_END = dict.fromkeys(map(ord, "\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"), "\n")
_ESCAPE_CODE = r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b\n]*(?:\x07|\x1b\\)|[@-Z\\^_])|\x9b[0-?]*[ -/]*[@-~]"
"""Codes that colour a terminal, move its cursor or name its window (ECMA-48). One that does not end takes nothing with
it: what follows is somebody else's text."""

_TURNING = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
"""Marks that turn the direction of a line: what follows would be shown in another order."""


class DcfastError(Exception):
    """Base of every error that dcfast raises about data, filters or runs.

    Example: ``load_subset("pool/metadata/00000000.parquet")`` raises one of them.
    """


class CorruptDataError(DcfastError, ValueError):
    """Bytes on disk are not what their format says.

    Attributes:
        path: the file, or an empty string.
        offset: where in it, in bytes, or None.
    Example: ``hash_members("subset.npy", [0], [10**6])`` raises it.
    """

    def __init__(self, message: str, *, path: str | os.PathLike[str] = "", offset: int | None = None) -> None:
        super().__init__(message)
        self.path: str = os.fspath(path)
        self.offset = offset


class PoolError(DcfastError, ValueError):
    """A pool is missing, empty, or its metadata lacks what was asked of it.

    Example: ``open_pool("no_index", "pool")`` raises it.
    """


class EvalsetError(DcfastError, ValueError):
    """An evaluation set lacks what its scoring needs, or contradicts itself.

    Example: ``dcfast.evaluate.find_tasks(Path("no_sets"))`` raises it.
    """


class SubsetError(DcfastError, ValueError):
    """A subset file is of another dtype, unsorted, or truncated.

    Example: ``load_subset("pool/metadata/00000000.parquet")`` raises it.
    """


class TooFewKeptError(SubsetError):
    """A filter kept too few samples for the training that follows: the message has the rule that dropped the most.

    Attributes:
        outcome: what the run would have said of its filter at its end, for the command to say.
    Example: ``dcfast.run.run("run", Settings(pool="pool", filter="random(0.2)", overrides={"global_batch": 4}))``
    raises it.
    """

    outcome: str = ""


class NothingKeptError(TooFewKeptError):
    """A filter kept no sample, so that a run cannot go on: the message has the commonest reason, and what to do.

    Example: ``dcfast.run.run("run", Settings(pool="pool", filter="words >= 99", overrides={"global_batch": 4}))``
    raises it.
    """


class FilterError(DcfastError, ValueError):
    """A filter expression cannot be read, or names what does not exist.

    Example: ``dcfast.filters.compile_filter("words >=")`` raises it.
    """


class UnknownFilterError(FilterError):
    """A filter expression has a term that there is none of.

    Attributes:
        name: as it is written.
    Example: ``dcfast.filters.compile_filter("clipscore(0.3)")`` raises it.
    """

    name: str = ""


class PluginError(DcfastError, RuntimeError):
    """A plugin cannot be loaded, is not what its entry point says, or has a name that is taken.

    Example: ``dcfast.filters.compile_filter("broken")`` raises it, where a plugin of that name is broken.
    """


class CheckpointError(DcfastError, ValueError):
    """A checkpoint is of another architecture or another training than the one asked for.

    Example: ``load_model("dcfast-tiny", "another.pt")`` raises it.
    """


class RunError(DcfastError, RuntimeError):
    """A run cannot go on: an output directory of another run, a worker that died, a full disk.

    Example: ``reshard("pool", "index", "subset.npy")`` raises it.
    """


class HubError(DcfastError, RuntimeError):
    """What was to be fetched from a hub or another server did not come, or is not what it was said to be.

    Example: ``fetch_repo("owner/nothing", Path("none"), patterns=["*"], lock=Path("none.lock.json"))`` raises it.
    """


class MissingDependencyError(DcfastError, ImportError):
    """An optional library or data file is not installed; the message says how to get it.

    Example: ``index_tars("oci://bucket/00000.tar")`` raises it, where ocifs is not installed.
    """


def nearest(name: object, known: Iterable[str], *, most: int = 1, cutoff: float = 0.6) -> list[str]:
    """Those of the known names that are nearest, at most so many, if any is near. Capitals make no difference.

    Example: ``nearest("basic_fliter", ["no_filter", "basic_filter"]) == ["basic_filter"]``
    """
    import difflib  # a short command has no need of it

    lower = {spelling.lower(): spelling for spelling in known}
    wanted = str(name).lower()
    if wanted == "gpu" and "cuda" in lower:
        wanted = "cuda"  # and not cpu, which is nearer by its letters
    return [lower[spelling] for spelling in difflib.get_close_matches(wanted, lower, n=most, cutoff=cutoff)]


def did_you_mean(name: object, known: Iterable[str], *, most: int = 1, cutoff: float = 0.6) -> str:
    """What the message of an unknown name ends with: the nearest of those there are; empty where none is near.

    Example: ``did_you_mean("smal", ["tiny", "small"]) == "; did you mean 'small'?"``
    """
    near = nearest(name, known, most=most, cutoff=cutoff)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def printable(text: str) -> str:
    """A text as a terminal may show it: without escape codes, and control characters but newline and tab as ``\\x07``.

    For what libraries say and what strangers named: a file's name can hold anything but NUL and a slash.
    Example: ``printable("\\x1b[31mred\\x1b[0m") == "red"``
    """
    if text.isprintable():
        return text
    import re  # a short command has no need of it

    plain = re.sub(_ESCAPE_CODE, "", text)
    return "".join(c if c in "\n\t" or not _is_control(c) else repr(c)[1:-1] for c in plain)


def _is_control(character: str) -> bool:
    # C0, DEL and C1; other ends of lines; and halves of a pair, which no terminal can be sent
    code = ord(character)
    is_half = 0xD800 <= code <= 0xDFFF
    return code < 32 or 127 <= code < 160 or code in (0x2028, 0x2029) or code in _TURNING or is_half


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, or its class's name where it has none: one line wherever it is shown.

    Example: ``first_line(ValueError("one\\ntwo")) == "one"``
    """
    text = (str(error).strip() or type(error).__name__).translate(_SHOWN_AS_END).split("\n", 1)[0]
    return printable(text)


def last_line(text: str) -> str:
    """The last line of a program's output as it was shown, progress bars included; empty where there is none.

    Example: ``last_line("10%\\r100%\\n") == "100%"``
    """
    return printable(text.strip().translate(_SHOWN_AS_END).rsplit("\n", 1)[-1])
