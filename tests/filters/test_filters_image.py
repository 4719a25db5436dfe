"""The image_based filters as expressions: tokens, canonical text, reasons and errors; the workflow is tested apart."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from dcfast.errors import FilterError
from dcfast.filters import QuantileSearch, compile_filter, score_histogram
from dcfast.filters.image_terms import passes_captions
from dcfast.filters.rules import enough_tokens, valid_text
from filter_reference import ODD_CAPTIONS, is_english


def fasttext_tokens(text: str) -> int:
    """fastText's readWord, a byte at a time, over a whole text."""
    data, at, count = text.encode("utf-8", "replace"), 0, 0
    while at < len(data):
        word = 0
        while at < len(data):
            byte = data[at : at + 1]
            at += 1
            if byte in (b" ", b"\n", b"\r", b"\t", b"\v", b"\f", b"\0"):
                if word:
                    if byte == b"\n":
                        at -= 1  # the next word is the end of the sentence
                    break
                if byte == b"\n":
                    word = 4  # "</s>"
                    break
                continue
            word += 1
        if word:
            count += 1
    return count


CAPTIONS = [
    *ODD_CAPTIONS,
    "word\n",
    "\n\n",
    "\n",
    "\nword",
    " word ",
    "word\0word",
    "word\vword",
    "a\u00a0b",
    "\x1c\x1d",
    "a\x85b",
]


def test_tokens_are_fasttexts() -> None:
    column = valid_text(pa.array([*CAPTIONS, None]))
    assert enough_tokens(column).tolist() == [fasttext_tokens(text) > 1 for text in CAPTIONS] + [False]
    assert fasttext_tokens("word\n") == 2
    assert fasttext_tokens("a\x1cb") == 1  # Python's split() would see two


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("image_based", "image_based"),
        ("image_based()", "image_based"),
        ("image_based(target='t.npy')", 'image_based(target="t.npy")'),
        ("image_based(target='t', centroids='c')", 'image_based(centroids="c", target="t")'),
        ("image_based_intersect_clip_score", "image_based_intersect_clip_score(l14, fraction=0.3)"),
        (
            "image_based_intersect_clip_score(target='t', b32, threshold=.28)",
            'image_based_intersect_clip_score(b32, threshold=0.28, target="t")',
        ),
    ],
)
def test_canonical_text(text: str, canonical: str) -> None:
    compiled = compile_filter(text)
    assert str(compiled) == canonical
    again = compile_filter(canonical)
    assert again == compiled
    assert again.clusters == compiled.clusters
    assert str(again) == canonical


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image_based(l14)", "image_based takes centroids= and target=; got argument 'l14'"),
        ("image_based(fraction=0.3)", "image_based takes centroids= and target=; got argument 'fraction'"),
        ("image_based(target=here)", 'put the path of an .npy in quotes: target="my target.npy"'),
        ("image_based(centroids='')", "put the path of an .npy in quotes: centroids="),
        ("image_based(target='a', target='b')", "target is given twice"),
        ("image_based_intersect_clip_score(l15, fraction=.3)", "did you mean 'l14'?"),
        ("image_based_intersect_clip_score(l14)", "needs fraction=... or threshold=...; got neither"),
        ("image_basde", "did you mean 'image_based'?"),
    ],
)
def test_errors_point_at_the_place(text: str, message: str) -> None:
    with pytest.raises(FilterError) as caught:
        compile_filter(text)
    assert message in str(caught.value)
    assert "^" in str(caught.value)


def test_what_a_filter_needs() -> None:
    compiled = compile_filter(
        "image_based & image_based_intersect_clip_score(b32, fraction=0.5) & image_based(target='t')"
    )
    assert [c.key for c in compiled.clusters] == ["clusters()", 'clusters(target="t")']
    assert compiled.needs == ["language model"]
    assert compiled.column_names == ["clip_b32_similarity_score", "text"]
    assert len(compiled.quantiles) == 1
    assert compile_filter("basic_filter").clusters == []


ROWS = [
    # caption, l14 score, in a target's cluster
    ("a photograph of a dog running on a beach", 0.9, True),
    ("a photograph of a cat sleeping on a sofa", 0.2, True),
    ("a photograph of a cat sleeping on a sofa", 0.9, False),
    ("abc", 0.9, True),
    ("photograph", 0.9, True),
    ("ein Hund läuft am Strand entlang", 0.9, True),
    (None, 0.9, True),
    ("a photograph of a dog running on a beach", None, True),
]
CLUSTER = np.array([row[2] for row in ROWS])


def verdicts(text: str) -> list[str]:
    compiled = compile_filter(text)
    scores = [row[1] for row in ROWS]
    batch = pa.record_batch(
        {"text": pa.array([row[0] for row in ROWS]), "clip_l14_similarity_score": pa.array(scores, pa.float32())}
    )
    thresholds = {}
    for quantile in compiled.quantiles:
        search = QuantileSearch(quantile.fraction, "float32")
        values = np.array([np.nan if s is None else s for s in scores], np.float32)
        while not search.done:
            search.feed(score_histogram(values, search.prefix, dtype="float32"))
        thresholds[quantile.key] = search.threshold_text
    codes = compiled.evaluate(batch, thresholds, clusters={c.key: CLUSTER for c in compiled.clusters})
    return [compiled.reasons[code] for code in codes]


def test_reasons_are_the_first_rule_that_fails() -> None:
    assert verdicts("image_based") == [
        "kept",
        "kept",
        "image_based: cluster",
        "image_based: characters",
        "image_based: tokens",
        "image_based: language",
        "image_based: characters",
        "kept",
    ]


def test_both_keep_what_both_keep() -> None:
    together = verdicts("image_based_intersect_clip_score(l14, threshold=0.5)")
    apart = verdicts("clip_score(l14, threshold=0.5) & image_based")
    assert [v == "kept" for v in together] == [v == "kept" for v in apart]
    assert together[1] == together[7] == "image_based_intersect_clip_score: score"
    assert together[2] == "image_based_intersect_clip_score: cluster"
    assert [v == "kept" for v in verdicts("image_based_intersect_clip_score(l14, fraction=0.7)")] == [
        v == "kept" for v in verdicts("clip_score(l14, fraction=0.7) & image_based")
    ]


def test_rules_equal_a_slow_version() -> None:
    compiled = compile_filter("image_based")
    captions = [c for c in CAPTIONS if len(c) < 1000]
    inside = np.arange(len(captions)) % 5 != 0
    batch = pa.record_batch({"text": pa.array(captions)})
    codes = compiled.evaluate(batch, clusters={"clusters()": inside})
    expected = [
        len(text) > 5 and fasttext_tokens(text) > 1 and bool(near) and is_english(text)
        for text, near in zip(captions, inside, strict=True)
    ]
    assert (codes == 0).tolist() == expected


def test_clusters_are_asked_of_rows_that_pass_all_the_rest() -> None:
    batch = pa.record_batch(
        {
            "text": pa.array([row[0] for row in ROWS]),
            "clip_l14_similarity_score": pa.array([row[1] for row in ROWS], pa.float32()),
        }
    )
    asked: list[list[int]] = []

    def find(pending: np.ndarray) -> np.ndarray:
        asked.append(np.flatnonzero(pending).tolist())
        return CLUSTER | ~pending  # what is said of other rows is not read

    def codes(text: str) -> list[int]:
        asked.clear()
        compiled = compile_filter(text)
        assert len(compiled.clusters) == 1
        found = compiled.evaluate(batch, clusters={"clusters()": find})
        assert found.tolist() == compiled.evaluate(batch, clusters={"clusters()": CLUSTER}).tolist()
        return found.tolist()

    codes("image_based")
    assert asked == [[0, 1, 2, 7]]
    codes("image_based_intersect_clip_score(l14, threshold=0.5)")
    assert asked == [[0, 2]]
    codes("clip_score(l14, threshold=0.5) & image_based & no_filter")
    assert asked == [[0, 2]]
    codes("image_based & clip_score(l14, threshold=0.5)")  # as written: the first that fails gives the reason
    assert asked == [[0, 1, 2, 7]]
    codes("image_based | clip_score(l14, threshold=0.5)")  # the dear part last: rows without a score, or with a low one
    assert asked == [[1, 7]]
    codes("~(clip_score(l14, threshold=0.5) & image_based)")
    assert asked == [[0, 2]]
    assert passes_captions(batch).tolist() == [True, True, True, False, False, False, False, True]


def test_missing_or_short_cluster_rows_are_refused() -> None:
    compiled = compile_filter("image_based")
    batch = pa.record_batch({"text": pa.array(["a picture of a house"] * 3)})
    with pytest.raises(ValueError, match=r"clusters\['clusters\(\)'\] must be given"):
        compiled.evaluate(batch)
    with pytest.raises(ValueError, match=r"clusters\['clusters\(\)'\] must have 3 rows; got 2"):
        compiled.evaluate(batch, clusters={"clusters()": np.ones(2, bool)})
