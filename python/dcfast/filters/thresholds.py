"""The score that keeps the top fraction of a pool, exactly, without ever holding the column.

DataComp's threshold is the value at index ``int(n * fraction)`` of all n scores sorted downwards; a sample is
kept where ``score >= threshold``. Floats are mapped to unsigned integers of the same order, and the wanted one
is found 16 bits at a time: a pass counts the next 16 bits among the scores that share the bits found so far.
float16 takes one pass, float32 two, float64 four; each pass is a sum of histograms of 65,536 bins, so that the
pieces may be counted anywhere, in any order. Ties, infinities and both zeros are exact; nulls and NaN count in
n and sort last.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from dcfast.errors import PoolError
from dcfast.storage.records import as_record, plain

if TYPE_CHECKING:
    import pyarrow as pa

NUM_BINS = 65_536
_DIGIT_BITS = 16
_CHUNK = 1 << 20  # rows whose keys are held at once
_UNSIGNED: dict[str, type[np.unsignedinteger]] = {"float16": np.uint16, "float32": np.uint32, "float64": np.uint64}


class Quantile(NamedTuple):
    """A threshold to be found: the top ``fraction`` of ``column``.

    Example: ``compile_filter("clip_score(l14, fraction=0.3)").quantiles[0].fraction == 0.3``
    """

    column: str
    fraction: float

    @property
    def key(self) -> str:
        """Its name in the ``thresholds`` that a filter is evaluated with (JSON keys are strings)."""
        return f"{self.column}:{self.fraction!r}"


def score_dtype(types: Iterable[pa.DataType]) -> str:
    """The narrowest of float16, float32, float64 that holds a column of these types exactly (files may differ).

    Example: ``score_dtype([pa.float16(), pa.float32()]) == "float32"``
    """
    import pyarrow as pa

    widths = [2]
    for kind in types:
        if pa.types.is_float16(kind) or pa.types.is_null(kind):
            continue
        widths.append(4 if pa.types.is_float32(kind) else 8)
    return f"float{8 * max(widths)}"


def order_keys(values: npt.NDArray[np.floating]) -> npt.NDArray[np.unsignedinteger]:
    """Unsigned integers ordered as the floats are; NaN is 0, below -inf, and -0.0 equals +0.0."""
    unsigned = _UNSIGNED[values.dtype.name]
    bits = 8 * values.dtype.itemsize
    with np.errstate(invalid="ignore"):
        raw = (values + values.dtype.type(0)).view(unsigned)  # adding +0 turns -0.0 into +0.0
    top = unsigned(1 << (bits - 1))
    keys: npt.NDArray[np.unsignedinteger] = np.where(raw & top, ~raw, raw | top)
    keys[np.isnan(values)] = 0
    return keys


def key_values(keys: npt.NDArray[np.unsignedinteger], dtype: str) -> npt.NDArray[np.floating]:
    """The floats whose order keys these are."""
    unsigned = _UNSIGNED[dtype]
    top = unsigned(1 << (8 * np.dtype(unsigned).itemsize - 1))
    values = np.where(keys & top, keys ^ top, ~keys).view(dtype)
    values[keys == 0] = np.nan
    return values


def score_histogram(
    values: npt.NDArray[np.number], prefix: Sequence[int] = (), *, dtype: str | None = None
) -> npt.NDArray[np.uint64]:
    """Counts of the next 16 bits among the scores whose order keys begin with ``prefix``.

    Args:
        values: (n,) float16, float32, float64 (or integers, with dtype), NaN for null.
        prefix: the bins chosen in the passes before, most significant first (``QuantileSearch.prefix``).
        dtype: count as this dtype; at least as wide as values (``QuantileSearch.dtype``).
    Returns:
        (65536,) uint64; histograms of parts of a column add up to that of the whole.
    Raises:
        TypeError: values are not 1-D numbers.   ValueError: the prefix leaves no bits to count.
    Memory: O(65536 + a million rows).   Cost: O(n).
    Example: ``score_histogram(scores).sum() == len(scores)``
    """
    values = np.asarray(values)
    if values.ndim != 1 or values.dtype.kind not in "fiu":
        raise TypeError(f"score_histogram: values must be a 1-D array of numbers; got {values.dtype} {values.shape}")
    name = dtype or values.dtype.name
    if name not in _UNSIGNED:
        raise TypeError(f"score_histogram: dtype must be one of {', '.join(_UNSIGNED)}; got {name}")
    bits = 8 * np.dtype(name).itemsize
    shift = bits - _DIGIT_BITS * (len(prefix) + 1)
    if shift < 0:
        raise ValueError(f"score_histogram: prefix must be shorter than {bits // _DIGIT_BITS} bins; got {len(prefix)}")
    unsigned, first_bits = _UNSIGNED[name], _joined(prefix)
    counts = np.zeros(NUM_BINS, np.uint64)
    for begin in range(0, len(values), _CHUNK):
        with np.errstate(invalid="ignore", over="ignore"):
            chunk = values[begin : begin + _CHUNK].astype(name, copy=False)
        keys = order_keys(chunk)
        if prefix:
            keys = keys[keys >> unsigned(shift + _DIGIT_BITS) == first_bits]
        digits = (keys >> unsigned(shift)) & unsigned(NUM_BINS - 1)
        counts += np.bincount(digits.astype(np.int64), minlength=NUM_BINS).astype(np.uint64)
    return counts


def _joined(digits: Sequence[int]) -> int:
    """The number whose digits of 16 bits these are."""
    number = 0
    for digit in digits:
        number = number << _DIGIT_BITS | int(digit)
    return number


def rows_of_fraction(rows: int, fraction: float) -> int:
    """How many of ``rows`` a threshold of the top fraction keeps, where all have scores and none are equal.

    The score at index int(n * fraction) is kept itself, so 0.29 of 100 rows are 29, as 100 * 0.29 is 28.999...
    """
    return min(rows, int(rows * fraction) + 1)


def parse_threshold(value: float | str) -> float:
    """A threshold as it travels in JSON: a number, or the text that ``QuantileSearch.threshold_text`` gives.

    Raises ValueError: a text that ``float.fromhex`` does not read.
    Example: ``parse_threshold("-inf")``.
    """
    return float.fromhex(value) if isinstance(value, str) else float(value)


@dataclass
class QuantileSearch:
    """The search for one threshold: count a pass with ``prefix``, ``feed`` the sum, until ``done``.

    A plain state of JSON values (``to_json``, ``from_json``), so that a search survives its process.

    Attributes:
        fraction: in (0, 1].
        dtype: what scores are counted as ("float16", "float32", "float64").
        prefix: bins found so far; the argument of the next pass's ``score_histogram``.
        num_rows: all metadata rows, known after the first pass; -1 before.
        rank: of the wanted score, from the top, among those that share the prefix; ``expected`` of them there are.

    Raises ValueError: another dtype, a fraction outside of (0, 1].   Memory: 0.5 MiB a histogram.
    Cost: ``num_passes`` over the column, 1, 2 or 4.

    Example::

        search = QuantileSearch(0.3, "float32")
        while not search.done:
            search.feed(score_histogram(scores, search.prefix, dtype=search.dtype))
        search.threshold
    """

    fraction: float
    dtype: str
    prefix: list[int] = field(default_factory=list)
    num_rows: int = -1
    keeps_all: bool = False
    rank: int = 0
    expected: int = -1

    def __post_init__(self) -> None:
        if self.dtype not in _UNSIGNED:
            raise ValueError(f"QuantileSearch: dtype must be one of {', '.join(_UNSIGNED)}; got {self.dtype!r}")
        if not 0.0 < self.fraction <= 1.0:
            raise ValueError(f"QuantileSearch: fraction must be in (0, 1]; got {self.fraction!r}")

    @property
    def num_passes(self) -> int:
        """Passes over the column in all: 1, 2 or 4."""
        return np.dtype(self.dtype).itemsize // 2

    @property
    def done(self) -> bool:
        return self.keeps_all or len(self.prefix) == self.num_passes

    def feed(self, counts: npt.NDArray[np.integer]) -> None:
        """Takes the summed histogram of one pass over all rows of the pool.

        Args:
            counts: (65536,) integers: the sum of ``score_histogram(values, self.prefix)`` over the pool.
        Raises:
            ValueError: the search is done, or counts has another shape.
            PoolError: the counts do not add up to those of the pass before: the metadata changed in between.
        """
        if self.done:
            raise ValueError("QuantileSearch: it is done already; feed it no more")
        counts = np.asarray(counts)
        if counts.shape != (NUM_BINS,):
            raise ValueError(f"QuantileSearch: counts must have shape ({NUM_BINS},); got {counts.shape}")
        total = int(counts.sum())
        if self.num_rows < 0:
            self.num_rows = total
            self.rank = int(total * self.fraction)  # DataComp's own arithmetic
            if self.rank >= total:
                self.keeps_all = True
                return
        elif total != self.expected:
            raise PoolError(
                f"score threshold: a pass counted {total} scores where the pass before had {self.expected}; "
                "the metadata changed while it was read; run the stage again"
            )
        above = np.cumsum(counts[::-1].astype(np.int64))  # above[i]: scores in the i + 1 highest bins
        place = int(np.searchsorted(above, self.rank, side="right"))
        self.rank -= int(above[place - 1]) if place else 0
        chosen = NUM_BINS - 1 - place
        self.expected = int(counts[chosen])
        self.prefix.append(chosen)

    @property
    def threshold(self) -> float:
        """The score at index int(n * fraction) from the top, as a float64 of exactly that value.

        -inf where int(n * fraction) >= n: every row that has a score is kept. NaN where the row at that index
        has no score: as in DataComp, nothing is >= NaN and nothing is kept (``missing_scores`` says so).
        """
        if not self.done:
            raise ValueError("QuantileSearch: not done; feed it the next pass")
        if self.keeps_all:
            return float("-inf")
        return float(key_values(np.array([_joined(self.prefix)], _UNSIGNED[self.dtype]), self.dtype)[0])

    @property
    def threshold_text(self) -> str:
        """The threshold exactly, as text that ``parse_threshold`` reads (JSON has no -inf or NaN)."""
        return self.threshold.hex()

    @property
    def missing_scores(self) -> bool:
        """Fewer rows have a score than the fraction asks for, so that nothing will be kept."""
        return self.done and not self.keeps_all and self.threshold != self.threshold

    def to_json(self) -> object:
        """The state as values of JSON."""
        return plain(self)

    @classmethod
    def from_json(cls, state: object) -> QuantileSearch:
        """The search that ``to_json`` described."""
        return as_record(state, cls, "threshold search")
