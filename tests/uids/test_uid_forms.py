"""Uids of every form that tables have, against ``uuid.UUID``: all forms read alike, and what is written reads back."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from dcfast.uids import UID_DTYPE, uid_format, uid_parse, uid_sort, uid_to_arrow
from hypothesis import given
from hypothesis import strategies as st

UUIDS = [uuid.UUID(int=value) for value in (0, 1, (1 << 128) - 1, 1 << 64, 0x00112233445566778899AABBCCDDEEFF)]
EXPECTED = np.array([(one.int >> 64, one.int & ((1 << 64) - 1)) for one in UUIDS], UID_DTYPE)


def raw(kind: pa.DataType | None = None) -> pa.Array:
    return pa.array([one.bytes for one in UUIDS] + [None], kind or pa.binary(16))


def text(form: Callable[[uuid.UUID], str], kind: pa.DataType) -> pa.Array:
    return pa.array([form(one) for one in UUIDS] + [None], pa.string()).cast(kind)


FORMS: dict[str, Any] = {
    **{str(kind): text(lambda one: one.hex, kind) for kind in (pa.string(), pa.large_string(), pa.string_view())},
    **{f"dashed {kind}": text(str, kind) for kind in (pa.string(), pa.large_string(), pa.string_view())},
    **{f"text as {kind}": text(str, kind) for kind in (pa.binary(), pa.large_binary(), pa.binary_view())},
    "fixed_size_binary": raw(),
    "arrow.uuid": raw().cast(pa.uuid()),
    "dictionary of text": text(str, pa.string()).dictionary_encode(),
    "dictionary of views": pa.DictionaryArray.from_arrays(
        pa.array([0, 1, 2, 3, 4, None]), text(str, pa.string_view()).slice(0, 5)
    ),
    "dictionary of bytes": raw().dictionary_encode(),
    "dictionary of arrow.uuid": pa.DictionaryArray.from_arrays(
        pa.array([0, 1, 2, 3, 4, 5], pa.uint8()), raw().cast(pa.uuid())
    ),
}


def check(form: Any, rows: slice = slice(None), threads: int | None = None) -> None:
    expected = np.append(EXPECTED, np.zeros(1, UID_DTYPE))[rows]
    uids, valid = uid_parse(form, errors="mask", threads=threads)
    assert uids.dtype == UID_DTYPE
    assert uids.tolist() == expected.tolist()
    assert valid.tolist() == [True, True, True, True, True, False][rows]


@pytest.mark.parametrize("name", FORMS)
def test_columns_of_each_form_their_parts_and_their_chunks(name: str) -> None:
    column = FORMS[name]
    for threads in (None, 1, 3):
        check(column, threads=threads)
    for first, last in ((0, 0), (2, 6), (5, 6), (4, 5), (1, 4)):
        check(column[first:last], slice(first, last))
    check(pa.record_batch({"uid": column}).column("uid"))
    check(pa.chunked_array([column[:2], column[2:2], column[2:]]))
    with pytest.raises(ValueError, match=r"texts\[5\] is not a uid: .*; got None \(1 of 6 are not"):
        uid_parse(column)


@pytest.mark.parametrize("name", FORMS)
def test_columns_come_by_the_c_interface(name: str) -> None:
    class Array:
        def __init__(self, column: pa.Array) -> None:
            self.column = column

        def __arrow_c_array__(self, requested_schema: object = None) -> object:
            return self.column.__arrow_c_array__(requested_schema)

    class Stream(Array):
        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            return pa.chunked_array([self.column[:1], self.column[1:]]).__arrow_c_stream__(requested_schema)

        __arrow_c_array__ = property()  # type: ignore[assignment]  # it has none

    check(Array(FORMS[name]))
    check(Stream(FORMS[name]))


@pytest.mark.parametrize("dtype", [object, "string[pyarrow]", "string[python]", "str"])
@pytest.mark.parametrize("form", [str, lambda one: one.hex])
def test_pandas_series(dtype: Any, form: Callable[[uuid.UUID], str]) -> None:
    pandas = pytest.importorskip("pandas")
    series = pandas.Series([*map(form, UUIDS), None], dtype=dtype)
    check(series)
    check(series[3:], slice(3, None))  # its labels begin at 3
    with pytest.raises(ValueError, match=r"texts\[2\] is not a uid: .* \(1 of 3 are not"):
        uid_parse(series[3:])


def test_polars_series() -> None:
    pl = pytest.importorskip("polars")
    series = pl.Series([*map(str, UUIDS), None])
    check(series)
    check(series[2:], slice(2, None))
    check(pl.concat([series[:3], series[3:]], rechunk=False))
    check(series.cast(pl.Categorical))
    check(series.cast(pl.Enum([*map(str, UUIDS)])))
    # a frame has rows of several columns
    with pytest.raises(TypeError, match=r"got DataFrame of struct<.*: pass one of its columns"):
        uid_parse(series.to_frame())
    # polars keeps bytes of a fixed size as binary, which holds text
    with pytest.raises(ValueError, match=r"texts\[0\] .*: bytes of a uid are taken of fixed_size_binary\(16\), cast"):
        uid_parse(pl.Series(raw()))
    check(pl.Series(raw()).to_arrow().cast(pa.binary(16)))


@pytest.mark.parametrize("form", [list, tuple, iter, lambda uids: np.array(uids, object)])
def test_lists_of_uuid_and_of_mixed_forms(form: Callable[[list[Any]], Any]) -> None:
    check(form([*UUIDS, None]))
    short = UUIDS[4].hex.lstrip("0")
    check(form([UUIDS[0], UUIDS[1].hex, str(UUIDS[2]).upper(), str(UUIDS[3]).encode(), short, None]))
    with pytest.raises(ValueError, match=r"texts\[1\] is not a uid: .*; got 'no' \(1 of 2 are not"):
        uid_parse(form([UUIDS[0], "no"]))
    with pytest.raises(TypeError, match=r"texts must hold str, bytes, uuid\.UUID or None; got int at index 1"):
        uid_parse(form([UUIDS[0], 5]))


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_rows_of_mixed_text_are_judged_each_by_itself(kind: pa.DataType) -> None:
    good = str(UUIDS[4])
    texts = [
        *(good, good.upper(), UUIDS[4].hex, "7", f"{{{good}}}", good[:-1], f"{good}0", good.replace("-", "_"), ""),
        *(good.replace("-", ""), f"-{good[:8]}{good[9:]}", None, f"urn:uuid:{good}", f"0{good[:7]}-{good[9:]}"),
    ]
    uids, valid = uid_parse(pa.array(texts, kind), errors="mask")
    assert valid.tolist() == [True] * 4 + [False] * 5 + [True] + [False] * 3 + [True]
    assert uids[[0, 1, 2, 9]].tolist() == [EXPECTED[4].item()] * 4
    assert not uids[~valid].view("u8").any()
    assert uids.tolist() == uid_parse(texts, errors="mask")[0].tolist()


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
@pytest.mark.parametrize("form", [str, lambda one: one.hex])
def test_a_dictionary_of_even_texts_in_random_order(kind: pa.DataType, form: Callable[[uuid.UUID], str]) -> None:
    rng = np.random.default_rng(2)
    count = 3000
    known = [uuid.UUID(bytes=rng.bytes(16)) for _ in range(count + 7)]
    of = rng.permutation(count)
    nulls = rng.random(count) < 0.1
    entries = pa.array([None, *map(form, known)], kind)[1:][3:-4]  # begins inside its buffers
    column = pa.DictionaryArray.from_arrays(pa.array(of, pa.int32(), mask=nulls), entries)
    expected = uid_parse([None if null else known[3 + k] for k, null in zip(of, nulls, strict=True)], errors="mask")
    pieces = pa.chunked_array([column[:1000], column[1000:]])
    # a letter that is no digit, an entry that is null, one of another size
    texts = entries.to_pylist()
    others = [(7, f"{texts[7][:-1]}g"), (8, None), (9, texts[9][1:])]
    for threads, chunks in itertools.product((1, 3), (column, pieces)):
        uids, valid = uid_parse(chunks, errors="mask", threads=threads)
        assert uids.tobytes() == expected[0].tobytes()
        assert valid.tolist() == expected[1].tolist() == (~nulls).tolist()
    for place, other in others:
        changed = pa.array([*texts[:place], other, *texts[place + 1 :]], kind)
        uids, valid = uid_parse(pa.DictionaryArray.from_arrays(column.indices, changed), errors="mask")
        is_uid = other is not None and len(other) == 31  # fewer digits are the last ones
        right = ~nulls & ((of != place) | is_uid)
        assert valid.tolist() == right.tolist()
        assert uids[of != place].tobytes() == expected[0][of != place].tobytes()


@given(st.lists(st.uuids()))
def test_what_is_written_reads_back(uuids: list[uuid.UUID]) -> None:
    uids, _ = uid_parse(uuids)
    as_bytes, as_text = uid_to_arrow(uids), uid_to_arrow(uids, form="text")
    assert as_bytes.type == pa.binary(16)
    assert as_bytes.to_pylist() == [one.bytes for one in uuids]
    assert as_text.equals(uid_format(uids))
    assert as_bytes.cast(pa.uuid()).to_pylist() == uuids
    for column in (as_bytes, as_text):
        column.validate(full=True)
        assert uid_parse(column)[0].tobytes() == uids.tobytes()
    assert uid_to_arrow(uid_sort(uids)).to_pylist() == sorted(one.bytes for one in uuids)


def test_written_uids_of_a_strided_array() -> None:
    assert uid_to_arrow(EXPECTED[::2]).to_pylist() == [one.bytes for one in UUIDS[::2]]


def test_what_is_no_array_of_uids_is_not_written() -> None:
    with pytest.raises(TypeError, match='uids must have dtype "u8,u8"'):
        uid_to_arrow(np.zeros(3))
    with pytest.raises(ValueError, match='form must be "binary" or "text"; got \'hex\''):
        uid_to_arrow(EXPECTED, form="hex")  # type: ignore[call-overload]


def test_a_null_whose_place_holds_a_uid_or_nonsense_is_not_valid() -> None:
    bits = pa.py_buffer(b"\x01")
    fixed = pa.Array.from_buffers(pa.binary(16), 2, [bits, pa.py_buffer(UUIDS[2].bytes * 2)])
    views = np.array([[2, 0x6666, 0, 0], [1 << 30, 0, 9, -1]], np.int32)
    view = pa.Array.from_buffers(pa.string_view(), 2, [bits, pa.py_buffer(views)])
    for column, first in ((fixed, EXPECTED[2].item()), (view, (0, 255))):
        uids, valid = uid_parse(column, errors="mask")
        assert valid.tolist() == [True, False]
        assert uids.tolist() == [first, (0, 0)]


def test_views_that_point_elsewhere_are_refused() -> None:
    view = pa.Array.from_buffers(pa.string_view(), 1, [None, pa.py_buffer(np.array([32, 0, 0, 1], np.int32)),
                                                       pa.py_buffer(b"0" * 32)])  # fmt: skip
    with pytest.raises(ValueError, match="views must point inside their buffers; got buffer 0 of 1, offset 1"):
        uid_parse(view, errors="mask")


def test_other_bytes_and_types_are_refused() -> None:
    for column in (pa.array([b"0" * 15], pa.binary(15)), pa.array([[1]]), pa.array([1]).dictionary_encode()):
        with pytest.raises(TypeError, match=r"texts must hold strings, fixed_size_binary\(16\) or arrow.uuid; got "):
            uid_parse(column)


def test_texts_of_numpy_and_masked_arrays() -> None:
    texts = np.array([f"{k:032x}" for k in (1, 2, 3)])
    wanted = uid_parse(texts)[0]
    for kept in (list(texts), np.array(list(texts), object)):  # numpy.str_, a subclass of str
        uids, valid = uid_parse(kept, errors="mask")
        assert valid.all()
        assert np.array_equal(uids, wanted)
    assert list(uid_parse(np.ma.array(texts, mask=[0, 1, 0]), errors="mask")[1]) == [True, False, True]


@pytest.mark.parametrize("at", [-1, 2, 99, 2**31, 2**32, 2**40])
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), pa.binary(16)])
def test_dictionaries_with_rows_that_point_outside(at: int, kind: pa.DataType) -> None:
    texts = pa.array(["1" * 16, "2" * 16]).cast(kind)
    for width in (pa.int8(), pa.uint8(), pa.int32(), pa.uint32(), pa.int64(), pa.uint64()):
        try:
            rows = pa.array([0, at], width)
        except (OverflowError, pa.ArrowInvalid):
            continue
        column = pa.DictionaryArray.from_arrays(rows, texts, safe=False)
        with pytest.raises(
            ValueError, match=f"a dictionary of 2 entries, and row 1 points outside, at {at}: repair it"
        ):
            uid_parse(column, errors="mask")


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), pa.binary(16), pa.uuid()])
@pytest.mark.parametrize("entries", [5_000, 70_000, 300_000])
def test_dictionaries_of_rows_in_any_order(kind: pa.DataType, entries: int) -> None:
    """Fewer entries than rows, as many, and many more; entries that are null, and no uids; rows that are null."""
    rng = np.random.Generator(np.random.PCG64(entries))
    uids = rng.integers(0, 2**64, (entries, 2), np.uint64, endpoint=False).view(UID_DTYPE)[:, 0]
    whole = uid_to_arrow(uids, form="binary" if kind in (pa.binary(16), pa.uuid()) else "text")
    for holed in (False, True):
        bad = rng.random(entries) < 0.1 if holed else np.zeros(entries, bool)
        column = pc.if_else(pa.array(~bad), whole, None).cast(kind)
        for order in (rng.integers(0, entries, 80_000), np.arange(80_000) % entries, rng.permutation(entries)[:80_000]):
            null = rng.random(len(order)) < (0.1 if holed else 0)
            rows = pa.array(order, pa.int32(), mask=null)
            halves = pa.chunked_array(
                [pa.DictionaryArray.from_arrays(part, column) for part in (rows[:7], rows[7:50_000], rows[50_000:])]
            )
            wanted = uids[order]
            wanted[null | bad[order]] = 0
            for threads in (1, 3):
                found, valid = uid_parse(halves, errors="mask", threads=threads)
                assert np.array_equal(valid, ~(null | bad[order]))
                assert np.array_equal(found, wanted)


def test_a_column_of_many_chunks() -> None:
    rng = np.random.Generator(np.random.PCG64(1))
    uids = rng.integers(0, 2**64, (100_003, 2), np.uint64, endpoint=False).view(UID_DTYPE)[:, 0]
    cuts = [0, *np.sort(rng.integers(0, len(uids), 999)).tolist(), len(uids)]
    for form in (uid_format(uids), uid_format(uids).cast(pa.string_view()), uid_to_arrow(uids)):
        column = pa.chunked_array([form[a:b] for a, b in itertools.pairwise(cuts)])
        for threads in (1, 2, 5):
            found, valid = uid_parse(column, threads=threads)
            assert valid.all()
            assert np.array_equal(found, uids)


def test_lists_longer_than_a_look_for_ctrl_c_and_objects_that_need_python() -> None:
    class Own(uuid.UUID):
        pass

    count = (1 << 20) + 5
    texts: list[Any] = ["00112233445566778899aabbccddeeff"] * count
    places = {0: UUIDS[1], 1: Own(int=7), 1 << 20: Own(int=9), count - 1: None, count - 2: "no", count - 3: b"ff"}
    for place, one in places.items():
        texts[place] = one
    for threads in (1, 2):
        uids, valid = uid_parse(texts, errors="mask", threads=threads)
        assert np.flatnonzero(~valid).tolist() == [count - 2, count - 1]
        assert [uids[place].item() for place in places] == [(0, 1), (0, 7), (0, 9), (0, 0), (0, 0), (0, 255)]
        assert int((uids == EXPECTED[4]).sum()) == count - len(places)


@pytest.mark.parametrize("number", [-1, 1 << 128, "5", 1.0])
def test_uuids_whose_number_was_meddled_with(number: Any) -> None:
    one = uuid.UUID(int=3)
    object.__setattr__(one, "int", number)
    with pytest.raises(ValueError, match=r"texts holds a UUID whose int is .*: expected 0 to 2\*\*128 - 1"):
        uid_parse([UUIDS[2], one])


def test_every_number_of_a_uuid() -> None:
    numbers = [(1 << shift) + more for shift in range(128) for more in (-1, 0) if (1 << shift) + more >= 0]
    uids = uid_parse([uuid.UUID(int=number) for number in numbers])[0]
    assert [(int(uid["f0"]) << 64) | int(uid["f1"]) for uid in uids] == numbers


def test_dictionaries_without_entries() -> None:
    for kind in (pa.string(), pa.string_view()):
        column = pa.DictionaryArray.from_arrays(pa.array([None, None], pa.int32()), pa.array([], kind))
        assert list(uid_parse(column, errors="mask")[1]) == [False, False]
