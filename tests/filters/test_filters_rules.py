"""Each baseline rule against a slow, obvious reference, on odd and real captions."""

from __future__ import annotations

import sys

import numpy as np
import pyarrow as pa
import pytest
from dcfast.filters import compile_filter, rules
from filter_reference import ODD_CAPTIONS, basic_filter, is_english, real_captions
from hypothesis import given, settings
from hypothesis import strategies as st

SPACES = " \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2003\u2028\u3000\u200b\0ab"
WORDY = st.text(st.one_of(st.sampled_from(SPACES), st.characters(codec="utf-8")), max_size=12)


def test_white_space_is_pythons() -> None:
    every = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    found = rules.enough_words(pa.array([f"a{character}b{character}c" for character in every]))
    assert [c for c, many in zip(every, found, strict=True) if many] == [c for c in every if c.isspace()]


@settings(deadline=None)
@given(st.lists(st.none() | WORDY))
def test_words_and_characters(captions: list[str | None]) -> None:
    text = pa.array(captions, pa.string())
    assert rules.enough_words(text).tolist() == [c is not None and len(c.split()) > 2 for c in captions]
    assert rules.enough_characters(text).tolist() == [c is not None and len(c) > 5 for c in captions]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str
)
def test_every_kind_of_text_column(kind: pa.DataType) -> None:
    captions = [*ODD_CAPTIONS[:20], None]
    text = rules.valid_text(pa.array(captions, pa.string()).cast(kind))
    assert text.to_pylist() == captions
    assert rules.enough_words(text[3:]).tolist() == [c is not None and len(c.split()) > 2 for c in captions[3:]]


def test_bytes_that_are_not_utf8_are_replaced() -> None:
    raw = [b"good caption here", b"lone \xed\xa0\x80 surrogate here", None, b"cut \xe6\x97", b"\xff"]
    column = pa.array(raw, pa.binary()).view(pa.string())
    text = rules.valid_text(column)
    assert text.to_pylist() == [None if b is None else b.decode("utf-8", "replace") for b in raw]
    assert rules.valid_text(pa.nulls(3)).to_pylist() == [None] * 3


def test_of_a_long_text_the_beginning_is_looked_at() -> None:
    most = rules.MAX_TEXT_BYTES
    texts = ["short", "a" * most, "b" * (most + 1), "c" + "\u00e9" * most, None]
    for kind in (pa.string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())):
        seen = rules.valid_text(pa.array(texts, pa.string()).cast(kind)).to_pylist()
        assert seen[:3] == ["short", "a" * most, "b" * most]
        assert seen[3] == "c" + "\u00e9" * (most // 2 - 1) + "\ufffd"  # a character that was cut
        assert seen[4] is None


SIDES = st.one_of(st.none(), st.integers(-5, 2000), st.sampled_from([0, 199, 200, 201, 600, 601, 2**31, 2**53 + 1]))


@settings(deadline=None)
@given(st.lists(st.tuples(SIDES, SIDES)))
def test_sizes(sides: list[tuple[int | None, int | None]]) -> None:
    columns = [rules.numbers(pa.array([pair[i] for pair in sides], pa.int64())) for i in (0, 1)]
    both = rules.large_enough(*columns) & rules.moderate_aspect(*columns)
    expected = [w is not None and h is not None and min(w, h) >= 200 and max(w, h) / min(w, h) <= 3.0 for w, h in sides]
    assert both.tolist() == expected


@pytest.mark.parametrize("kind", [pa.int32(), pa.uint16(), pa.uint64(), pa.float32(), pa.float64()], ids=str)
def test_sizes_of_other_types(kind: pa.DataType) -> None:
    convert = float if pa.types.is_floating(kind) else int
    width = rules.numbers(pa.array([convert(v) for v in (200, 199, 600, 601, 0)] + [None], kind))
    height = rules.numbers(pa.array([convert(200)] * 6, kind))
    assert (rules.large_enough(width, height) & rules.moderate_aspect(width, height)).tolist() == [
        True, False, True, False, False, False
    ]  # fmt: skip


def test_infinite_and_nan_sides_are_silent() -> None:
    width = np.array([np.inf, np.inf, np.nan, 300.0])
    height = np.array([np.inf, 300.0, 300.0, -1.0])
    assert rules.large_enough(width, height).tolist() == [True, True, False, False]
    assert rules.moderate_aspect(width, height).tolist() == [False] * 4


def test_a_written_threshold_is_rounded_as_numpy_does() -> None:
    scores = np.array([0.28, np.nextafter(np.float32(0.28), np.float32(0)), np.nan, 0.5], np.float32)
    written = rules.score_at_least(scores, 0.28, written=True)
    assert written.tolist() == (scores >= 0.28).tolist() == [True, False, False, True]
    assert rules.score_at_least(scores.astype(np.float64), 0.28, written=True).tolist() == [
        bool(float(s) >= 0.28) for s in scores
    ]
    assert rules.score_at_least(scores, float("nan")).tolist() == [False] * 4
    assert rules.score_at_least(scores, float("-inf")).tolist() == [True, True, False, True]
    assert rules.score_at_least(np.array([1.0], np.float16), 1e9, written=True).tolist() == [False]


def batch(captions: list[str | None], widths: list[int | None], heights: list[int | None]) -> pa.RecordBatch:
    return pa.record_batch(
        {
            "text": pa.array(captions, pa.string()),
            "original_width": pa.array(widths, pa.int64()),
            "original_height": pa.array(heights, pa.int64()),
        }
    )


def check_basic(captions: list[str | None], seed: int) -> None:
    rng = np.random.default_rng(seed)
    choices = [None, 0, 199, 200, 300, 400, 900, 901]
    widths = [choices[i] for i in rng.choice(8, len(captions), p=[0.04, 0.04, 0.04, 0.2, 0.24, 0.24, 0.1, 0.1])]
    heights = [choices[i] for i in rng.choice(8, len(captions), p=[0.04, 0.04, 0.04, 0.2, 0.24, 0.24, 0.1, 0.1])]
    compiled = compile_filter("basic_filter")
    codes = compiled.evaluate(batch(captions, widths, heights))
    for row, code in enumerate(codes):
        expected = basic_filter(captions[row], widths[row], heights[row]) or "kept"
        assert compiled.reasons[code] == expected, (captions[row], widths[row], heights[row])


@pytest.mark.parametrize("seed", range(5))
def test_basic_filter_on_odd_captions(seed: int) -> None:
    check_basic([*ODD_CAPTIONS, None] * 3, seed)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.none() | WORDY | st.sampled_from(ODD_CAPTIONS), max_size=10), st.integers(0, 2**32))
def test_basic_filter_on_any_captions(captions: list[str | None], seed: int) -> None:
    check_basic(captions, seed)


@pytest.mark.real_data
def test_basic_filter_on_real_captions() -> None:
    captions = real_captions()
    check_basic(captions, 0)
    compiled = compile_filter("basic_filter")
    rows = batch(captions, [512] * len(captions), [512] * len(captions))
    kept = [len(c.split()) > 2 and len(c) > 5 and is_english(c) for c in captions]
    assert (compiled.evaluate(rows) == 0).tolist() == kept
    assert 0.5 < np.mean(kept) < 0.95
