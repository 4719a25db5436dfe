"""The rules of DataComp's baseline filters: arrays in, one boolean a row out.

Each function says which rows pass; a null never passes. Text columns are pyarrow string arrays of valid UTF-8
(see :func:`valid_text`), numbers are NumPy arrays with NaN for null (see :func:`numbers`).
Source: the baselines of mlfoundations/datacomp, and the paper (arXiv 2304.14108, appendix on filtering).
"""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pyarrow as pa

Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.number]
"""A column of integers or floats of any width."""

CHARACTERS_ABOVE = 5  # basic_filter, image_based: more than this many characters (code points)
TOKENS_ABOVE = 1  # image_based: more than this many fastText tokens
BASIC_MIN_SIDE = 200  # basic_filter: the smaller side, in pixels, is at least this
MAX_TEXT_BYTES = 1 << 17
"""Of a caption in the metadata that the filter looks at."""
BASIC_MAX_ASPECT = 3.0  # basic_filter: larger side / smaller side is at most this
LAION2B_MIN_SCORE = 0.28  # laion2b: CLIP B/32 score is at least this
MAX_SEED = 2**53 - 1
"""Numbers of the filter language are floats: larger seeds would not be told apart."""

# What Python's str.split() splits at: Unicode's white space and the four ASCII separators 0x1c to 0x1f, which
# the \s of regular expression libraries leaves out. Written for RE2.
_SPACE = r"\t-\r\x1c-\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}"
# three words, without counting the rest: linear, and a caption of 100 kB is left at its third word
_MORE_THAN_TWO_WORDS = rf"[^{_SPACE}][{_SPACE}]+[^{_SPACE}]+[{_SPACE}]+[^{_SPACE}]"
# fastText's tokens: what stands between blank, \t \n \v \f \r and NUL; and each \n is one (its end of sentence).
_WORD = rf"[^{_SPACE}]+"
_FASTTEXT_PIECE = r"[^\x00\t-\r ]+|\n"


def valid_text(column: pa.Array) -> pa.Array:
    """A text column as a plain string array whose every value is valid UTF-8.

    Parquet writers do not check what they write: bytes that are not UTF-8 (a lone surrogate, a cut sequence)
    become U+FFFD, so that one bad row never stops a file. Valid columns are returned without a copy. Of a text of more
    than MAX_TEXT_BYTES the rest is cut off: the models of languages and the parsers take seconds for a megabyte.

    Args:
        column: (n,) pyarrow strings, bytes, their large and view forms, dictionary of these, or null.
    Memory: O(1) when valid, else a copy.   Cost: one pass at memory speed.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_null(column.type):
        return pa.nulls(len(column), pa.string())
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        # bytes are looked at below, like all the others
        column = column.cast(options=pc.CastOptions(pa.large_string(), allow_invalid_utf8=True))
    if (pc.max(pc.binary_length(column)).as_py() or 0) > MAX_TEXT_BYTES:
        cut = pc.binary_slice(column.cast(pa.large_binary()), 0, MAX_TEXT_BYTES)
        column = cut.cast(options=pc.CastOptions(pa.large_string(), allow_invalid_utf8=True))
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        raw = column.cast(pa.large_binary()).to_pylist()
        repaired = [None if value is None else value.decode("utf-8", "replace") for value in raw]
        return pa.array(repaired, pa.large_string())
    return column


def numbers(column: pa.Array) -> Numbers:
    """A numeric column as NumPy, null as NaN; (n,), the column's own dtype unless an integer column has nulls.

    A column of type null becomes float32 NaN.
    Cost: O(n); a copy where there are nulls.
    Example: ``numbers(pa.array([1, None]))``.
    """
    import pyarrow as pa

    if pa.types.is_null(column.type):
        return np.full(len(column), np.nan, np.float32)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    values: Numbers = column.to_numpy(zero_copy_only=False)
    if values.dtype.hasobject:  # float16 with nulls, in some versions of pyarrow
        target = np.float16 if pa.types.is_float16(column.type) else np.float64
        return np.array([np.nan if value is None else value for value in column.to_pylist()], target)
    return values


def _filled(mask: pa.BooleanArray) -> Mask:
    """A pyarrow boolean array as NumPy, null as False."""
    import pyarrow.compute as pc

    return np.asarray(pc.fill_null(mask, False), np.bool_)


def enough_words(text: pa.Array) -> Mask:
    """More than 2 words, as Python's ``str.split()`` cuts them; (n,) bool, null False.

    Cost: O(bytes up to the third word).   Source: DataComp basic_filter.
    """
    import pyarrow.compute as pc

    return _filled(pc.match_substring_regex(text, _MORE_THAN_TWO_WORDS))


def enough_characters(text: pa.Array) -> Mask:
    """More than 5 code points; (n,) bool, null False.   Source: DataComp basic_filter."""
    import pyarrow.compute as pc

    return _filled(pc.greater(pc.utf8_length(text), CHARACTERS_ABOVE))


def enough_tokens(text: pa.Array) -> Mask:
    """More than 1 token as ``fasttext.tokenize`` cuts a caption; (n,) bool, null False.

    A newline is a token of its own (fastText's end of a sentence).   Cost: O(bytes).   Source: DataComp image_based.
    """
    import pyarrow.compute as pc

    return _filled(pc.greater(pc.count_substring_regex(text, _FASTTEXT_PIECE), TOKENS_ABOVE))


def count_words(text: pa.Array) -> pa.Array:
    """How many words each text has, as Python's ``str.split()`` cuts them; null of null.   Cost: O(bytes)."""
    import pyarrow.compute as pc

    return pc.count_substring_regex(text, _WORD)


def count_characters(text: pa.Array) -> pa.Array:
    """How many code points each text has; null of null."""
    import pyarrow.compute as pc

    return pc.utf8_length(text)


def matches(text: pa.Array, pattern: str) -> Mask:
    """Where a pattern of RE2 is found anywhere in a text; (n,) bool, null False.

    ValueError: it is no pattern; RE2's own words.   Cost: O(bytes), whatever the pattern: RE2 does not go back.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        return _filled(pc.match_substring_regex(text, pattern))
    except pa.ArrowInvalid as error:
        raise ValueError(str(error).strip()) from None


def is_known(column: pa.Array) -> Mask:
    """Where a column has a value: neither null nor NaN; (n,) bool."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_floating(column.type):
        return ~np.isnan(numbers(column))
    return np.asarray(column.is_valid(), np.bool_)


_OPERATORS = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
_ARROW_NAMES = {
    sign: name
    for name, sign in (
        ("greater_equal", ">="),
        ("less_equal", "<="),
        ("equal", "=="),
        ("not_equal", "!="),
        ("greater", ">"),
        ("less", "<"),
    )
}


def compared(column: pa.Array, sign: str, value: str | int | float) -> Mask:
    """Where a column's value stands so to another; (n,) bool, null and NaN False, of ``!=`` as well.

    Integers are compared exactly. A number is rounded to the type of a column of floats, as NumPy and pandas do. Texts
    are ordered by code points, without a locale.

    Args:
        column: (n,) texts or numbers, as ``value`` is; a dictionary of them; or nulls alone.
        sign: ``>=  <=  ==  !=  >  <``.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_null(column.type):
        return np.zeros(len(column), np.bool_)
    if isinstance(value, str):
        texts = valid_text(column)
        return _filled(getattr(pc, _ARROW_NAMES[sign])(texts, pa.scalar(value, texts.type)))
    known = is_known(column)
    if pa.types.is_integer(column.type):
        return known & _whole_compared(column.fill_null(0).to_numpy(zero_copy_only=False), sign, value)
    values = numbers(column)
    with np.errstate(invalid="ignore", over="ignore"):
        holds: Mask = known & _OPERATORS[sign](values, np.float64(value).astype(values.dtype))
    return holds


def _whole_compared(values: npt.NDArray[np.integer], sign: str, value: int | float) -> Mask:
    """The same of integers: without a float in between, which would not tell large ones apart."""
    limit = math.floor(value)
    if limit != value:
        if sign in ("==", "!="):
            return np.full(len(values), sign == "!=")
        sign = ">" if sign.startswith(">") else "<="  # nothing stands between it and the whole number below it
    bounds = np.iinfo(values.dtype.type)
    if not bounds.min <= limit <= bounds.max:
        below = limit > bounds.max
        return np.full(len(values), sign == "!=" or (sign.startswith("<") if below else sign.startswith(">")))
    return np.asarray(_OPERATORS[sign](values, values.dtype.type(limit)), np.bool_)


def large_enough(width: Numbers, height: Numbers) -> Mask:
    """The smaller side is at least 200 pixels; (n,) bool, NaN, zero and negative False.   Source: basic_filter."""
    with np.errstate(invalid="ignore"):
        return np.greater_equal(np.minimum(width, height), BASIC_MIN_SIDE)


def moderate_aspect(width: Numbers, height: Numbers) -> Mask:
    """Larger side / smaller side is at most 3.0 in float64; (n,) bool, False where a side is not positive.

    Source: DataComp basic_filter.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        small, large = np.minimum(width, height), np.maximum(width, height)
        result: Mask = (np.true_divide(large, small) <= BASIC_MAX_ASPECT) & (small > 0)
    return result


def score_at_least(scores: Numbers, threshold: float, *, written: bool = False) -> Mask:
    """Scores at or above a threshold; (n,) bool, NaN False. A NaN threshold passes nothing.

    It is compared exactly, in float64. One that someone has written is rounded to the scores' dtype first, as NumPy and
    pandas do: 0.28 against a float32 column means float32(0.28).
    """
    with np.errstate(invalid="ignore", over="ignore"):
        if written and scores.dtype.kind == "f":
            return np.greater_equal(scores, np.float64(threshold).astype(scores.dtype))
        return np.greater_equal(scores.astype(np.float64), threshold)


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    # the finaliser of SplitMix64 (Steele, Lea and Flood 2014): every input bit moves every output bit
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def drawn(uids: npt.NDArray[np.void], fraction: float, seed: int = 0) -> npt.NDArray[np.bool_]:
    """Which uids are among a share drawn by chance; larger shares of one seed hold the smaller ones.

    Args:
        uids: (n,) "u8,u8". Equal uids have equal answers, in any order and any number of files.
        fraction: expected share, 0..1.
        seed: 0..MAX_SEED; others draw independently.
    Returns:
        (n,) bool.   Memory: 40 n bytes.   Cost: O(n).
    """
    golden = 0x9E3779B97F4A7C15
    start = np.uint64((seed * golden + golden) % 2**64)
    with np.errstate(over="ignore"):
        mixed = _mix(_mix(np.asarray(uids["f0"], np.uint64) + start) ^ np.asarray(uids["f1"], np.uint64))
    return np.asarray((mixed >> np.uint64(11)) < round(fraction * 2**53))
