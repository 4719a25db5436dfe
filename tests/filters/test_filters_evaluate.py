"""Whole filters: boolean algebra against Python sets, reasons, nulls, uid sets, missing columns, defaults."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from dcfast.errors import MissingDependencyError, PoolError
from dcfast.filters import (
    DEFAULT_FILTER,
    Quantile,
    QuantileSearch,
    compile_filter,
    default_filter,
    language,
    score_histogram,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

UID = np.dtype("u8,u8")


@pytest.fixture(autouse=True)
def _uids_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """dcfast.uids where it is built, else a slow stand-in."""
    try:
        import dcfast.uids.sets  # noqa: F401
    except ImportError:

        def uid_isin(uids: np.ndarray, sorted_uids: np.ndarray, *, check: bool, threads: int) -> np.ndarray:
            hay = set(sorted_uids.tolist())
            return np.array([uid in hay for uid in uids.tolist()], np.bool_)

        monkeypatch.setitem(sys.modules, "dcfast.uids", SimpleNamespace(uid_isin=uid_isin))


def uids_of(rows: list[int]) -> np.ndarray:
    return np.array([(row // 7, row) for row in sorted(rows)], UID)


NUM_ROWS = 23
UIDS = uids_of(list(range(NUM_ROWS)))
SCORES = [
    None if row % 6 == 5 else float("nan") if row % 11 == 3 else round(row / NUM_ROWS, 3) for row in range(NUM_ROWS)
]
SETS = {name: set(range(begin, NUM_ROWS, step)) for name, begin, step in (("a", 0, 2), ("b", 1, 3), ("c c", 4, 5))}
SETS["empty"] = set()
LEAF_ROWS = {
    **{f'uids("{name}")': rows for name, rows in SETS.items()},
    "contaminated": {2, 3, 19},
    "no_filter": set(range(NUM_ROWS)),
    "clip_score(l14, threshold=0.4)": {row for row, s in enumerate(SCORES) if s is not None and s >= 0.4},
    "clip_score(l14, fraction=0.25)": {row for row, s in enumerate(SCORES) if s is not None and s >= 0.7},
}
BATCH = pa.record_batch({"clip_l14_similarity_score": pa.array(SCORES, pa.float64())})
UID_SETS = {**{name: uids_of(list(rows)) for name, rows in SETS.items()}, "contaminated": uids_of([2, 3, 19])}
THRESHOLDS = {Quantile("clip_l14_similarity_score", 0.25).key: 0.7}

TREES = st.recursive(
    st.sampled_from(sorted(LEAF_ROWS)),
    lambda inner: st.one_of(
        st.tuples(st.just("~"), inner), st.tuples(st.just("&"), inner, inner), st.tuples(st.just("|"), inner, inner)
    ),
    max_leaves=10,
)


def as_text(tree: str | tuple) -> str:
    if isinstance(tree, str):
        return tree
    sign, *children = tree
    return f"~({as_text(children[0])})" if sign == "~" else f"({as_text(children[0])}) {sign} ({as_text(children[1])})"


def as_rows(tree: str | tuple) -> set[int]:
    if isinstance(tree, str):
        return LEAF_ROWS[tree]
    sign, *children = tree
    sets = [as_rows(child) for child in children]
    if sign == "~":
        return set(range(NUM_ROWS)) - sets[0]
    return sets[0] & sets[1] if sign == "&" else sets[0] | sets[1]


def clauses(tree: str | tuple) -> list[str | tuple]:
    """The top-level conjunction in written order; double negations vanish."""
    if isinstance(tree, tuple) and tree[0] == "&":
        return clauses(tree[1]) + clauses(tree[2])
    if isinstance(tree, tuple) and tree[0] == "~" and isinstance(tree[1], tuple) and tree[1][0] == "~":
        return clauses(tree[1][1])
    return [tree]


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TREES)
def test_algebra_is_that_of_sets(tree: str | tuple) -> None:
    compiled = compile_filter(as_text(tree))
    codes = compiled.evaluate(BATCH, THRESHOLDS, UID_SETS, UIDS)
    assert codes.dtype == np.uint16
    assert set(np.flatnonzero(codes == 0).tolist()) == as_rows(tree)
    # each dropped row bears the first written clause that it fails
    parts = clauses(tree)
    for row, code in enumerate(codes):
        failing = next((part for part in parts if row not in as_rows(part)), None)
        if failing is None:
            assert code == 0
        else:
            (reason,) = compile_filter(as_text(failing)).reasons[1:]
            assert compiled.reasons[code] == reason


def captions_batch(num_rows: int = 6) -> pa.RecordBatch:
    texts = ["a dog runs on a beach", "ein Hund am Strand im Sommer", "two words", None, "a dog runs on the beach", ""]
    widths = [640, 640, 640, 640, 100, 640]
    heights = [480, 480, 480, 480, 480, None]
    return pa.record_batch(
        {
            "text": pa.array(texts[:num_rows], pa.string()),
            "original_width": pa.array(widths[:num_rows], pa.int64()),
            "original_height": pa.array(heights[:num_rows], pa.int64()),
        }
    )


def names(text: str, batch: pa.RecordBatch, **given: object) -> list[str]:
    compiled = compile_filter(text)
    return [compiled.reasons[code] for code in compiled.evaluate(batch, **given)]  # type: ignore[arg-type]


def test_reasons_of_a_baseline() -> None:
    assert names("basic_filter", captions_batch()) == [
        "kept",
        "basic_filter: language",
        "basic_filter: words",
        "basic_filter: words",
        "basic_filter: size",
        "basic_filter: words",
    ]
    assert names("~basic_filter", captions_batch(2)) == ["~basic_filter", "kept"]
    assert names("no_filter", captions_batch(0)) == []


def test_language_is_asked_only_about_rows_that_still_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = language.is_english

    def is_english(captions: pa.Array) -> np.ndarray:
        asked.extend(captions.to_pylist())
        return real(captions)

    monkeypatch.setattr(language, "is_english", is_english)
    uids = uids_of(list(range(6)))
    drop_first = {"contaminated": uids[:1]}
    text = "~contaminated & basic_filter & ~(basic_filter & contaminated)"
    kept = names(text, captions_batch(), uid_sets=drop_first, uids=uids)
    assert kept[:2] == ["contaminated", "basic_filter: language"]
    assert asked == ["ein Hund am Strand im Sommer"]
    asked.clear()
    names("basic_filter | contaminated", captions_batch(), uid_sets=drop_first, uids=uids)
    assert asked == ["ein Hund am Strand im Sommer"]
    asked.clear()
    # written the other way round the same rows are kept, and both clauses see the model's answers once
    names("basic_filter & basic_filter & ~contaminated", captions_batch(), uid_sets=drop_first, uids=uids)
    assert asked == ["a dog runs on a beach", "ein Hund am Strand im Sommer"]


def test_batches_do_not_change_the_answer() -> None:
    compiled = compile_filter("basic_filter")
    whole = compiled.evaluate(captions_batch())
    parts = [compiled.evaluate(captions_batch().slice(begin, 2)) for begin in (0, 2, 4)]
    assert np.concatenate(parts).tolist() == whole.tolist()
    (many,) = pa.Table.from_batches([captions_batch()] * 3000).combine_chunks().to_batches()
    assert compiled.evaluate(many).tolist() == whole.tolist() * 3000


@pytest.mark.parametrize("dtype", [pa.float16(), pa.float32(), pa.float64()], ids=str)
def test_fraction_keeps_what_datacomp_keeps(dtype: pa.DataType) -> None:
    rng = np.random.default_rng(3)
    scores = rng.normal(0.2, 0.05, 1009).astype(dtype.to_pandas_dtype())
    column = pa.array([None if i % 97 == 0 else s for i, s in enumerate(scores)], dtype)
    compiled = compile_filter("clip_score(b32, fraction=0.3)")
    (quantile,) = compiled.quantiles
    state = QuantileSearch(quantile.fraction, str(scores.dtype))
    with_nan = np.where(np.arange(1009) % 97 == 0, np.nan, scores).astype(scores.dtype)
    while not state.done:
        state.feed(score_histogram(with_nan, state.prefix))
    batch = pa.record_batch({"clip_b32_similarity_score": column})
    expected = with_nan >= -np.sort(-with_nan)[int(1009 * 0.3)]
    for value in (state.threshold, state.threshold_text):
        assert (compiled.evaluate(batch, {quantile.key: value}) == 0).tolist() == expected.tolist()
    assert (compiled.evaluate(batch, {quantile.key: "nan"}) == 1).all()
    assert (compiled.evaluate(batch, {quantile.key: "-inf"}) == 0).tolist() == (~np.isnan(with_nan)).tolist()


def test_laion2b(monkeypatch: pytest.MonkeyPatch) -> None:
    def english(captions: list[str]) -> np.ndarray:
        return np.array([caption.startswith("a") for caption in captions], np.bool_)

    monkeypatch.setattr(language, "is_english_gcld3", english)
    scores = pa.array([0.28, 0.2799999, None, 0.5, 0.5], pa.float32())
    batch = pa.record_batch({"text": ["a", "a", "a", "b", None], "clip_b32_similarity_score": scores})
    expected = ["kept", "laion2b: score", "laion2b: score", "laion2b: language", "laion2b: language"]
    assert names("laion2b", batch) == expected


def test_a_column_that_is_all_null() -> None:
    batch = pa.record_batch({"text": pa.nulls(2), "original_width": pa.nulls(2), "original_height": pa.nulls(2)})
    compile_filter("basic_filter").check_columns(batch.schema, "x.parquet")
    assert names("basic_filter", batch) == ["basic_filter: words"] * 2
    score = pa.record_batch({"clip_l14_similarity_score": pa.nulls(2)})
    assert names("~clip_score(l14, threshold=0)", score) == ["kept"] * 2


def test_missing_columns_name_filter_column_and_file() -> None:
    schema = pa.schema({"uid": pa.string(), "text": pa.string()})
    with pytest.raises(
        PoolError,
        match=r"filter clip_score\(l14, fraction=0.3\) needs the column 'clip_l14_similarity_score': "
        r"my pool/00.parquet has uid, text; ",
    ):
        compile_filter("text_based & clip_score(l14, fraction=0.3)").check_columns(schema, "my pool/00.parquet")
    with pytest.raises(PoolError, match=r"filter text_based needs the column 'text': f has no columns"):
        compile_filter("text_based").check_columns(pa.schema({}), "f")
    with pytest.raises(PoolError, match=r"filter text_based needs strings in the column 'text': f has int64"):
        compile_filter("text_based").check_columns(pa.schema({"text": pa.int64()}), "f")
    wrong = pa.schema({"clip_b32_similarity_score": pa.string()})
    with pytest.raises(PoolError, match=r"needs numbers in the column 'clip_b32_similarity_score': f has string"):
        compile_filter("clip_score(b32, threshold=0)").check_columns(wrong, "f")
    twice = pa.schema([("text", pa.string()), ("text", pa.string())])
    with pytest.raises(PoolError, match=r"more than once the column 'text'"):
        compile_filter("text_based").check_columns(twice, "f")
    compile_filter("no_filter & 'x.npy'").check_columns(pa.schema({}), "f")


def test_missing_arguments() -> None:
    with pytest.raises(ValueError, match=r"thresholds\['clip_l14_similarity_score:0.25'\] must be given"):
        compile_filter("clip_score(l14, fraction=0.25)").evaluate(BATCH)
    with pytest.raises(ValueError, match=r"uid_sets\['a'\] must be given"):
        compile_filter("'a'").evaluate(BATCH, {}, {}, UIDS)
    with pytest.raises(ValueError, match="uids must be given"):
        compile_filter("'a'").evaluate(BATCH, {}, UID_SETS)
    with pytest.raises(ValueError, match="uids must have 23 rows, as batch; got 22"):
        compile_filter("'a'").evaluate(BATCH, {}, UID_SETS, UIDS[1:])


def test_fingerprint_says_what_verdicts_depend_on() -> None:
    assert compile_filter("no_filter & 'a'").fingerprint() == {"expression": 'no_filter & uids("a")'}
    assert compile_filter("basic_filter").fingerprint()["language_model"]["name"].startswith("lid.176")


FULL = {"uid", "text", "original_width", "original_height", "clip_l14_similarity_score"}


@pytest.mark.parametrize(
    ("columns", "contaminated", "expected", "left_out"),
    [
        (FULL, True, DEFAULT_FILTER, []),
        (FULL, False, "basic_filter & clip_score(l14, fraction=0.3)", ["no evaluation sets"]),
        (FULL - {"clip_l14_similarity_score"}, True, "basic_filter & ~contaminated", ["clip_l14_similarity_score"]),
        (
            FULL - {"text", "original_width"},
            True,
            "clip_score(l14, fraction=0.3) & ~contaminated",
            ["original_width, text"],
        ),
        ({"uid"}, False, "no_filter", ["basic_filter", "clip_score", "contaminated"]),
    ],
)
def test_default_filter(columns: set[str], contaminated: bool, expected: str, left_out: list[str]) -> None:
    text, notes = default_filter(columns, contaminated)
    assert text == expected
    assert str(compile_filter(text)) == text
    assert len(notes) == len(left_out)
    for note, part in zip(notes, left_out, strict=True):
        assert part in note


def test_check_needs_is_silent_where_all_is_there() -> None:
    compile_filter("no_filter & 'absent.npy'").check_needs()
    try:
        compile_filter(DEFAULT_FILTER).check_needs()
    except MissingDependencyError as error:
        pytest.skip(str(error))


def test_the_examples_of_the_docs_compile() -> None:
    docs = (Path(__file__).resolve().parents[2] / "docs" / "filters.md").read_text(encoding="utf-8")
    lines = "".join(re.findall(r"```filter\n(.*?)```", docs, re.DOTALL)).splitlines()
    assert len(lines) > 12
    for line in lines:
        assert compile_filter(str(compile_filter(line))) == compile_filter(line)
    for reason in compile_filter("basic_filter & text_based & laion2b").reasons[1:]:
        assert reason.split(": ")[1] in docs
