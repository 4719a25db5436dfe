"""Uids: text, sort, membership, look-up and set operations, against int(), numpy and set."""

from __future__ import annotations

import gc
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from dcfast.uids import sets as u
from dcfast.uids.sets import RECORD_DTYPE, UID_DTYPE
from hypothesis import given, settings
from hypothesis import strategies as st

SIZES = [0, 1, 2, 15, 16, 17, 1009, 8191, 8193, 70001]
MASK = (1 << 64) - 1


def to_array(values: list[int]) -> np.ndarray:
    return np.array([(v >> 64, v & MASK) for v in values], UID_DTYPE)


def to_ints(array: np.ndarray) -> list[int]:
    return [(hi << 64) | lo for hi, lo in array.tolist()]


def reference_sort(array: np.ndarray) -> np.ndarray:
    return array[np.lexsort((array["f1"], array["f0"]))]


def random_uids(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**64, (n, 2), dtype=np.uint64).view(UID_DTYPE).ravel()


def make(kind: str, n: int) -> np.ndarray:
    array = random_uids(n, n)
    if kind == "equal high halves":
        array["f0"] = 42
    elif kind == "equal low halves":
        array["f1"] = 42
    elif kind == "all equal":
        array[:] = (3, 4)
    elif kind == "few":
        array["f0"] %= 5
        array["f1"] %= 3
    elif kind == "small numbers":
        array["f0"] %= 3
        array["f1"] >>= 50
    elif kind in ("sorted", "reversed"):
        array = reference_sort(array)[:: 1 if kind == "sorted" else -1].copy()
    return array


KINDS = ["hashes", "equal high halves", "equal low halves", "all equal", "few", "small numbers", "sorted", "reversed"]

# near each other and far apart, so that equal halves, repeats and carries all occur
uid_ints = st.one_of(
    st.integers(0, (1 << 128) - 1),
    st.integers(0, 7),
    st.integers(0, 3).map(lambda v: v << 64),
    st.integers((1 << 64) - 2, (1 << 64) + 2),
    st.integers((1 << 128) - 3, (1 << 128) - 1),
)
uid_lists = st.lists(uid_ints, max_size=60)


# -- text -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 2, 1009, 70001])
@pytest.mark.parametrize("threads", [None, 1, 3])
def test_format_and_parse_agree_with_int(n: int, threads: int | None) -> None:
    array = random_uids(n)
    want = [f"{v:032x}" for v in to_ints(array)]
    text = u.uid_format(array, threads=threads)
    assert text.type == pa.string()
    text.validate(full=True)
    assert text.to_pylist() == want
    assert u.uid_format(array, as_list=True) == want
    for texts in (want, text, np.array(want, "S32"), np.array(want, object), [t.upper() for t in want]):
        parsed, valid = u.uid_parse(texts, threads=threads)
        assert parsed.dtype == UID_DTYPE
        assert valid.dtype == bool
        assert np.array_equal(parsed, array)
        assert valid.all()
        assert len(valid) == n


@given(st.lists(uid_ints, max_size=40))
def test_parse_matches_int_of_base_16(values: list[int]) -> None:
    parsed, _ = u.uid_parse([f"{v:032x}" for v in values])
    assert to_ints(parsed) == values


@given(st.lists(st.one_of(st.text(max_size=40), st.text("0123456789abcdefABCDEF", max_size=33)), max_size=20))
def test_only_1_to_32_hex_digits_are_valid(texts: list[str]) -> None:
    digits = set("0123456789abcdefABCDEF")
    want = [1 <= len(t) <= 32 and set(t) <= digits for t in texts]
    ints = [int(t, 16) if good else 0 for t, good in zip(texts, want, strict=True)]  # as if zeros stood on the left
    for form in (texts, pa.array(texts, pa.string()), pa.array(texts, pa.large_string())):
        parsed, valid = u.uid_parse(form, errors="mask")
        assert valid.tolist() == want
        assert to_ints(parsed) == ints


@pytest.mark.parametrize(
    "bad",
    ["", " " * 32, "0x" + "0" * 30, "0" * 33, "0" * 31 + "g", "/" * 32, ":" * 32, "@" + "0" * 31,
     "0" * 31 + "\n", "-" + "0" * 31, "_" * 32, "é" * 32, "٣" * 32, "\x10" * 32, "\x00" * 32, "0" * 16 + "\x00" * 16],
)  # fmt: skip
def test_bad_text_is_named(bad: str) -> None:
    good = "0123456789abcdef0123456789ABCDEF"
    with pytest.raises(
        ValueError, match=r"texts\[2\] is not a uid: expected 32 hexadecimal digits or a dashed UUID; got "
    ) as caught:
        u.uid_parse([good, good, bad, bad])
    assert repr(bad) in str(caught.value)
    assert "(2 of 4 are not;" in str(caught.value)
    parsed, valid = u.uid_parse([good, bad], errors="mask")
    assert valid.tolist() == [True, False]
    assert to_ints(parsed) == [int(good, 16), 0]
    parsed, valid = u.uid_parse(pa.array([good, bad]), errors="mask")
    assert valid.tolist() == [True, False]


@pytest.mark.parametrize("width", [1, 5, 32, 40])
def test_short_texts_of_fixed_width(width: int) -> None:
    texts = [t for t in ("", "7", "00a", "abCD5", "f" * 32, "g") if len(t) <= width]
    parsed, valid = u.uid_parse(np.array(texts, f"S{width}"), errors="mask")
    assert valid.tolist() == [t not in ("", "g") for t in texts]
    assert to_ints(parsed) == [int(t, 16) if t not in ("", "g") else 0 for t in texts]


def test_long_bad_text_is_shortened() -> None:
    with pytest.raises(ValueError, match=r"\.\.\."):
        u.uid_parse(["x" * 100_000])


def test_parse_bytes_none_and_wider_numpy_strings() -> None:
    text = "00112233445566778899aabbccddeeff"
    parsed, valid = u.uid_parse([text.encode(), None, text], errors="mask")
    assert valid.tolist() == [True, False, True]
    assert parsed[0] == parsed[2]
    for width, want in (
        ("S40", [True, False]),
        ("S33", [True, False]),
        ("S31", [True, True]),  # cut by NumPy
        ("U40", [True, False]),
    ):
        assert u.uid_parse(np.array([text, text + "0"], width), errors="mask")[1].tolist() == want
    assert u.uid_parse(np.array([b"", b""], "S0"), errors="mask")[1].tolist() == [False, False]
    every_other = np.array([text, "x", text, "x"], "S32")[::2]
    assert u.uid_parse(every_other)[1].all()
    with pytest.raises(ValueError, match=r"texts\[1\] is not a uid.*got None"):
        u.uid_parse([text, None])


@pytest.mark.parametrize("missing", [None, float("nan"), np.float32("nan"), "NA", "NaT"])
@pytest.mark.parametrize("form", [list, lambda texts: np.array(texts, object), "Series"])
def test_missing_values_are_no_uids(missing: object, form: Any) -> None:
    if form == "Series" or missing in ("NA", "NaT"):
        pandas = pytest.importorskip("pandas")
        missing = getattr(pandas, missing) if isinstance(missing, str) else missing
        form = (lambda texts: pandas.Series(texts, dtype=object)) if form == "Series" else form
    text = f"{7:032x}"
    parsed, valid = u.uid_parse(form([text, missing, text.encode(), missing]), errors="mask")
    assert valid.tolist() == [True, False, True, False]
    assert to_ints(parsed) == [7, 0, 7, 0]
    with pytest.raises(ValueError, match=r"texts\[1\] is not a uid: expected 32 hex.*; got .*2 of 4 are not"):
        u.uid_parse(form([text, missing, text, missing]))
    with pytest.raises(TypeError, match=r"texts must hold str, bytes, uuid\.UUID or None; got float at index 2"):
        u.uid_parse(form([text, missing, 1.5]), errors="mask")


@pytest.mark.parametrize("kind", ["string", "large_string", "binary", "large_binary", "string_view", "dictionary"])
def test_parse_arrow_types_slices_and_nulls(kind: str) -> None:
    values = random_uids(50)
    texts: list[str | None] = list(u.uid_format(values, as_list=True))
    texts[7] = None
    texts[9] = "short"
    if kind == "dictionary":
        array = pa.array(texts).dictionary_encode()
    elif kind.endswith("binary"):
        array = pa.array([t if t is None else t.encode() for t in texts], getattr(pa, kind)())
    else:
        array = pa.array(texts, getattr(pa, kind)())
    for begin, end in ((0, 50), (3, 47), (8, 9), (10, 50), (5, 5)):
        part = array.slice(begin, end - begin)
        parsed, valid = u.uid_parse(part, errors="mask")
        assert valid.tolist() == [i not in (7, 9) for i in range(begin, end)]
        assert np.array_equal(parsed[valid], values[begin:end][valid])
        assert not parsed[~valid].view(np.uint64).any()
    chunked = pa.chunked_array([array.slice(0, 5), array.slice(5, 0), array.slice(5)])
    parsed, valid = u.uid_parse(chunked, errors="mask")
    assert np.flatnonzero(~valid).tolist() == [7, 9]
    with pytest.raises(ValueError, match=r"texts\[7\] is not a uid.*got None"):
        u.uid_parse(chunked)


def test_a_null_slot_that_holds_a_uid_is_not_valid() -> None:
    text = pa.py_buffer(b"0" * 32 + b"f" * 32)
    offsets = pa.py_buffer(np.array([0, 32, 64], np.int32))
    array = pa.StringArray.from_buffers(2, offsets, text, pa.py_buffer(b"\x01"))
    parsed, valid = u.uid_parse(array, errors="mask")
    assert valid.tolist() == [True, False]
    assert to_ints(parsed) == [0, 0]


def test_empty_and_null_arrow() -> None:
    assert len(u.uid_parse(pa.chunked_array([], pa.string()))[0]) == 0
    assert len(u.uid_parse(pa.array([], pa.string()))[0]) == 0
    assert u.uid_parse(pa.nulls(3), errors="mask")[1].tolist() == [False] * 3


def test_arrow_offsets_outside_the_data_are_refused() -> None:
    for offsets in ([0, 96, 64], [0, -32, 64], [32, 0, 64]):
        array = pa.StringArray.from_buffers(2, pa.py_buffer(np.array(offsets, np.int32)), pa.py_buffer(b"0" * 64))
        with pytest.raises(ValueError, match="offsets must ascend inside the text buffer of 64 bytes"):
            u.uid_parse(array, errors="mask")


def test_other_sequences_and_iterators() -> None:
    texts = ["0" * 32, "f" * 32]
    for form in (tuple(texts), iter(texts), dict.fromkeys(texts)):
        assert to_ints(u.uid_parse(form)[0]) == [0, (1 << 128) - 1]
    with pytest.raises(ValueError, match=r"texts\[1\] is not a uid.*got 'x'"):
        u.uid_parse(iter(["0" * 32, "x"]))


def test_polars_series() -> None:
    pl = pytest.importorskip("polars")
    values = random_uids(9)
    parsed, _ = u.uid_parse(pl.Series(u.uid_format(values, as_list=True)))
    assert np.array_equal(parsed, values)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([1], "texts must hold str, bytes, uuid.UUID or None; got int at index 0"),
        (["0" * 32, 2.5], "got float at index 1"),
        ("0" * 32, r"texts must be a sequence of texts; got one str: pass \[text\]"),
        (np.zeros(3), "texts must hold text; got dtype float64"),
        (pa.array([1, 2]), "texts must hold strings, .* or arrow.uuid; got Int64Array of int64$"),
        (pa.table({"uid": ["0"]}), "got Table of struct<uid: string>: pass one of its columns"),
    ],
)
def test_parse_refuses_other_types(texts: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        u.uid_parse(texts)


def test_parse_refuses_other_errors_and_shapes() -> None:
    with pytest.raises(ValueError, match='errors must be "raise" or "mask"; got \'ignore\''):
        u.uid_parse([], errors="ignore")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"one-dimensional; got shape \(1, 1\)"):
        u.uid_parse(np.array([["0" * 32]], "S32"))


# -- sort ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_sort_unique_and_records(n: int, kind: str) -> None:
    array = make(kind, n)
    want = reference_sort(array)
    records = np.zeros(n, RECORD_DTYPE)
    records["f0"], records["f1"] = array["f0"], array["f1"]
    records["f2"] = np.random.default_rng(1).integers(0, 4, n)
    want_records = records[np.lexsort((records["f2"], records["f1"], records["f0"]))]
    before = array.copy()
    for threads in (None, 1, 3):
        assert u.uid_sort(array, threads=threads).tobytes() == want.tobytes()
        assert u.uid_unique(array, threads=threads).tobytes() == np.unique(array).tobytes()
        assert u.record_sort(records, threads=threads).tobytes() == want_records.tobytes()
    assert array.tobytes() == before.tobytes()


@given(uid_lists)
def test_sort_is_that_of_int(values: list[int]) -> None:
    assert to_ints(u.uid_sort(to_array(values))) == sorted(values)
    assert to_ints(u.uid_unique(to_array(values))) == sorted(set(values))


def test_sort_of_many_with_long_equal_prefixes() -> None:
    # each level of the radix splits off little: the comparing sort has to take over
    rng = np.random.default_rng(5)
    array = np.zeros(30_011, UID_DTYPE)
    array["f0"] = np.uint64(1) << rng.integers(0, 64, len(array)).astype(np.uint64)
    array["f1"] = np.uint64(1) << rng.integers(0, 64, len(array)).astype(np.uint64)
    assert u.uid_sort(array).tobytes() == reference_sort(array).tobytes()


def test_results_own_their_memory() -> None:
    array = random_uids(100)
    for result in (u.uid_sort(array), u.uid_unique(array), u.uid_union(array[:0], array[:1])):
        assert result.base is None
        assert result.flags.owndata
        assert result.flags.writeable
    references = sys.getrefcount(array)
    for _ in range(10):
        u.uid_sort(array)
        u.uid_parse(["0" * 32])
    gc.collect()
    assert sys.getrefcount(array) == references


# -- membership, look-up --------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 2, 1009, 40009])
@pytest.mark.parametrize("m", [0, 1, 31, 4097, *(pytest.param(m, marks=pytest.mark.long) for m in (4095, 20011))])
@pytest.mark.parametrize("kind", KINDS)
def test_isin_lookup_multiplicity(n: int, m: int, kind: str) -> None:
    hay = reference_sort(make(kind, n))
    rng = np.random.default_rng(m)
    queries = make(kind, m)
    if n and m:
        there = rng.random(m) < 0.5
        queries[there] = hay[rng.integers(0, n, int(there.sum()))]
        queries["f1"][rng.random(m) < 0.1] += np.uint64(1)
    positions: dict[int, list[int]] = {}
    for i, value in enumerate(to_ints(hay)):
        positions.setdefault(value, []).append(i)
    want_first = np.searchsorted(_as_int_keys(hay), _as_int_keys(queries))
    want_count = [len(positions.get(v, ())) for v in to_ints(queries)]
    records = np.zeros(n, RECORD_DTYPE)
    records["f0"], records["f1"], records["f2"] = hay["f0"], hay["f1"], np.arange(n)
    for threads in (1, 3):
        assert u.uid_isin(queries, hay, threads=threads).tolist() == [c > 0 for c in want_count]
        assert u.uid_multiplicity(queries, hay, threads=threads).tolist() == want_count
        for array in (hay, records):
            first, count = u.uid_lookup(array, queries, check=True, threads=threads)
            assert first.dtype == count.dtype == np.int64
            assert first.tolist() == want_first.tolist()
            assert count.tolist() == want_count
    ordered = reference_sort(queries)
    assert np.array_equal(u.uid_isin(ordered, hay), np.isin(_as_int_keys(ordered), _as_int_keys(hay)))


def _as_int_keys(array: np.ndarray) -> np.ndarray:
    """Big-endian bytes, which compare as the numbers do."""
    flat = np.empty((len(array), 2), ">u8")
    flat[:, 0], flat[:, 1] = array["f0"], array["f1"]
    # a leading and trailing byte, since NumPy strips NULs when it compares
    padded = np.full((len(array), 17), 1, np.uint8)
    padded[:, :16] = flat.view(np.uint8).reshape(len(array), 16)
    return padded.view("S17").ravel()


@given(uid_lists, uid_lists)
def test_isin_is_that_of_set(values: list[int], queries: list[int]) -> None:
    hay = to_array(sorted(values))
    queries = queries + values[::2]
    assert u.uid_isin(to_array(queries), hay).tolist() == [q in set(values) for q in queries]
    assert u.uid_multiplicity(to_array(queries), hay).tolist() == [values.count(q) for q in queries]


def test_many_queries_in_few_and_few_in_many() -> None:
    hay = u.uid_sort(random_uids(300_007, 1))
    queries = np.concatenate([hay[::100], random_uids(2503, 2)])
    np.random.default_rng(3).shuffle(queries)
    want = np.isin(queries, hay)
    assert np.array_equal(u.uid_isin(queries, hay), want)
    assert np.array_equal(u.uid_isin(u.uid_sort(queries), hay), np.isin(u.uid_sort(queries), hay))
    few = u.uid_sort(random_uids(11, 4))
    assert np.array_equal(u.uid_isin(hay, few), np.zeros(len(hay), bool))


# -- sets -----------------------------------------------------------------------------------------------------


@given(uid_lists, uid_lists)
def test_set_operations_are_those_of_set(left: list[int], right: list[int]) -> None:
    right = right + left[::3]
    a, b = to_array(sorted(left)), to_array(sorted(right))
    assert to_ints(u.uid_union(a, b)) == sorted(set(left) | set(right))
    assert to_ints(u.uid_intersect(a, b)) == sorted(set(left) & set(right))
    assert to_ints(u.uid_difference(a, b)) == sorted(set(left) - set(right))
    assert to_ints(u.uid_union(a, a)) == sorted(set(left))
    assert len(u.uid_difference(a, a)) == 0


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0, 1, 997, 70_001]), st.sampled_from([0, 1, 997, 70_001]))
def test_set_operations_on_large_and_uneven_arrays(seed: int, n: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    universe = random_uids(90_001, seed)
    universe["f0"] >>= np.uint64(rng.integers(0, 64))
    a = reference_sort(rng.choice(universe, n))
    b = reference_sort(rng.choice(universe, m))
    for threads in (1, 3):
        for got, want in (
            (u.uid_union(a, b, threads=threads), np.union1d(_as_int_keys(a), _as_int_keys(b))),
            (u.uid_intersect(a, b, threads=threads), np.intersect1d(_as_int_keys(a), _as_int_keys(b))),
            (u.uid_difference(a, b, threads=threads), np.setdiff1d(_as_int_keys(a), _as_int_keys(b))),
        ):
            assert np.array_equal(_as_int_keys(got), want)


# -- arguments ------------------------------------------------------------------------------------------------


def test_unsorted_input_is_refused() -> None:
    bad = to_array([1, 2, 5, 4, 3])
    good = to_array([1, 2])
    message = r"must be sorted; element 3 is below element 2: pass dcfast.uids.uid_sort\("
    for call in (
        lambda: u.uid_isin(good, bad),
        lambda: u.uid_multiplicity(good, bad),
        lambda: u.uid_lookup(bad, good, check=True),
        lambda: u.uid_union(good, bad),
        lambda: u.uid_intersect(bad, good),
        lambda: u.uid_difference(good, bad),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_the_first_unsorted_place_is_found_in_large_arrays() -> None:
    array = u.uid_sort(random_uids(1_000_003))
    for at in (999_999, 500_000, 262_145, 262_144, 1):
        array[[at - 1, at]] = array[[at, at - 1]]
        for threads in (1, 4):
            with pytest.raises(ValueError, match=f"element {at} is below element {at - 1}"):
                u.uid_union(array, array[:0], threads=threads)


@pytest.mark.parametrize(
    "array", [np.zeros(3, "u8"), np.zeros(3, ">u8,>u8"), np.zeros(3, "u8,i8"), np.zeros(3, RECORD_DTYPE)]
)
def test_other_dtypes_are_refused(array: np.ndarray) -> None:
    with pytest.raises(TypeError, match=r'uids must have dtype "u8,u8" \(high half, low half\); got'):
        u.uid_sort(array)


def test_other_shapes_and_types_are_refused() -> None:
    with pytest.raises(ValueError, match=r"uids must be one-dimensional; got shape \(2, 2\)"):
        u.uid_sort(np.zeros((2, 2), UID_DTYPE))
    with pytest.raises(TypeError, match="uids must be a NumPy array"):
        u.uid_sort([(1, 2)])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match='records must have dtype "u8,u8,u8"'):
        u.record_sort(np.zeros(2, UID_DTYPE))


def test_strided_read_only_and_unaligned_arrays() -> None:
    array = random_uids(2003)
    want = reference_sort(array[::2].copy())
    assert np.array_equal(u.uid_sort(array[::2]), want)
    raw = np.empty(16 * 1002 + 1, np.uint8)
    unaligned = raw[1 : 1 + 16 * 1002].view(UID_DTYPE)
    unaligned[:] = array[::2]
    unaligned.flags.writeable = False
    assert np.array_equal(u.uid_sort(unaligned), want)
    assert np.array_equal(u.uid_sort(array[::-1]), reference_sort(array))
