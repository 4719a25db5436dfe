"""Sets of uids: sort, membership and parsing beside NumPy, polars and the way DataComp's README shows."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from bench import floors, harness
from bench.bars import README_WAY, TRAFFIC_FLOOR, Value
from bench.floors import Floors
from bench.harness import Absent, Side, require_equal

UID = np.dtype("u8,u8")
Uids = npt.NDArray[Any]

SCATTER_FLOOR = "floor: count and scatter"
MERGE_FLOOR = "floor: merge of sorted"


def some_uids(count: int, seed: int) -> Uids:
    """Random uids in random order, one in a hundred of them twice."""
    rng = np.random.Generator(np.random.PCG64(seed))
    uids = np.frombuffer(rng.bytes(16 * count), UID).copy()
    twice = rng.integers(0, count, count // 100)
    uids[twice] = uids[rng.integers(0, count, len(twice))]
    return uids


def equal_to(provider: str, what: str, expected: Any) -> Callable[[Any], None]:
    return partial(require_equal, provider, what, expected=expected)


def ours(run: Callable[[int], Any], what: str, expected: Any, threads: int) -> list[Side | Absent]:
    """dcfast with several threads, and with one."""

    def side(provider: str, count: int) -> Side:
        return Side(provider, partial(run, count), equal_to(provider, what, expected), threads=count)

    return [side("dcfast", threads), side("dcfast, 1 thread", 1)]


def _polars() -> Any:
    import polars

    return polars


def _frame(uids: Uids) -> Any:
    return _polars().DataFrame({"f0": np.ascontiguousarray(uids["f0"]), "f1": np.ascontiguousarray(uids["f1"])})


def _polars_side(run: Callable[[], Any], check: Callable[[Any], None]) -> Side | Absent:
    versions = harness.version_of("polars")
    return Side("polars", run, check, threads=2, versions=versions) if versions else Absent("polars", "not installed")


def time_sort(bench: harness.Bench, uids: Uids, expected: Uids, compiled: Floors | str) -> None:
    import dcfast

    threads = bench.options.threads
    has_polars = bool(harness.version_of("polars"))
    frame = _frame(uids) if has_polars else None

    def check_polars(got: Any) -> None:
        require_equal("polars", "order of high halves", got["f0"].to_numpy(), np.ascontiguousarray(expected["f0"]))
        require_equal("polars", "order of low halves", got["f1"].to_numpy(), np.ascontiguousarray(expected["f1"]))

    sides = [
        *ours(lambda count: dcfast.uid_sort(uids, threads=count), "order", expected, threads),
        _scatter_floor(uids, expected, compiled),
        _polars_side(lambda: frame.sort("f0", "f1"), check_polars),
        Side("np.sort", lambda: np.sort(uids), equal_to("np.sort", "order", expected)),
    ]
    bench.compare(
        "uid_sort", sides, shape=f"{len(uids)} uids", dtype="u8,u8", size_bytes=uids.nbytes, rounds=3, touched=[uids]
    )


def _scatter_floor(uids: Uids, expected: Uids, compiled: Floors | str) -> Side | Absent:
    if isinstance(compiled, str):
        return Absent(SCATTER_FLOOR, compiled)
    out = np.empty_like(uids)

    def check(got: Uids) -> None:
        require_equal(SCATTER_FLOOR, "order of buckets", got["f0"] >> np.uint64(52), expected["f0"] >> np.uint64(52))

    return Side(SCATTER_FLOOR, lambda: compiled.count_and_scatter(uids, out), check)


def time_membership(bench: harness.Bench, hay: Uids, needles: Uids, compiled: Floors | str) -> None:
    """needles in random order, half of them in the sorted hay."""
    import dcfast

    threads = bench.options.threads
    ordered = np.sort(needles)

    def by_search() -> npt.NDArray[np.bool_]:
        at = np.searchsorted(hay, needles)
        return hay[np.minimum(at, len(hay) - 1)] == needles

    expected = by_search()

    def merge_floor() -> Side | Absent:
        if isinstance(compiled, str):
            return Absent(MERGE_FLOOR, compiled)
        check = equal_to(MERGE_FLOOR, "number found", int(expected.sum()))
        return Side(MERGE_FLOOR, lambda: compiled.merge_sorted(hay, ordered), check, note="needles sorted beforehand")

    has_polars = bool(harness.version_of("polars"))
    hay_frame = _frame(hay) if has_polars else None
    needle_frame = _frame(needles).with_row_index("row") if has_polars else None

    def semi_join() -> Any:
        return needle_frame.join(hay_frame, on=["f0", "f1"], how="semi")["row"]

    def check_polars(rows: Any) -> None:
        require_equal("polars", "members", np.sort(rows.to_numpy()), np.flatnonzero(expected).astype(np.uint32))

    sides = [
        *ours(lambda count: dcfast.uid_isin(needles, hay, threads=count), "members", expected, threads),
        Side(
            "dcfast, unchecked",
            lambda: dcfast.uid_isin(needles, hay, check=False, threads=threads),
            equal_to("dcfast, unchecked", "members", expected),
            threads=threads,
            note="without a look whether the hay is sorted",
        ),
        merge_floor(),
        _polars_side(semi_join, check_polars),
        Side("np.searchsorted", by_search, equal_to("np.searchsorted", "members", expected)),
        Side("np.isin", lambda: np.isin(needles, hay), equal_to("np.isin", "members", expected)),
    ]
    bench.compare(
        "uid_isin", sides, shape=f"{len(needles)} in {len(hay)} uids", dtype="u8,u8", rounds=3, touched=[needles, hay]
    )


def datacomp_way(texts: list[str]) -> Uids:
    """As the README of DataComp tells its users to make a subset."""
    return np.array([(int(text[:16], 16), int(text[16:32], 16)) for text in texts], UID)


def time_parsing(bench: harness.Bench, uids: Uids, compiled: Floors | str) -> None:
    import dcfast
    import pyarrow as pa

    texts = [f"{int(hi):016x}{int(lo):016x}" for hi, lo in uids]
    column = pa.array(texts)
    flat = np.frombuffer("".join(texts).encode(), np.uint8)
    out = np.empty(2 * len(texts), np.uint64)
    threads = bench.options.threads

    def parsed(provider: str) -> Callable[[Any], None]:
        def check(got: tuple[Uids, npt.NDArray[np.bool_]]) -> None:
            require_equal(provider, "uids", got[0], uids)
            require_equal(provider, "mask", bool(got[1].all()), True)

        return check

    def traffic_floor() -> Side | Absent:
        if isinstance(compiled, str):
            return Absent(TRAFFIC_FLOOR, compiled)
        words = flat.view(np.uint64)
        check = equal_to(TRAFFIC_FLOOR, "words", words[::2] ^ words[1::2])
        return Side(TRAFFIC_FLOOR, lambda: compiled.fold_text(flat, out), check)

    peer = Side(README_WAY, lambda: datacomp_way(texts), equal_to(README_WAY, "uids", uids))
    shape = f"{len(texts)} texts of 32 digits"
    size = flat.nbytes
    from_list = [Side("dcfast", lambda: dcfast.uid_parse(texts), parsed("dcfast")), traffic_floor(), peer]
    bench.compare("uid_parse_list", from_list, shape=shape, dtype="list of str", size_bytes=size, touched=[flat])
    from_arrow = [
        Side("dcfast", lambda: dcfast.uid_parse(column, threads=threads), parsed("dcfast"), threads=threads),
        Side("dcfast, 1 thread", lambda: dcfast.uid_parse(column, threads=1), parsed("dcfast, 1 thread")),
        traffic_floor(),
        peer,
    ]
    bench.compare("uid_parse_arrow", from_arrow, shape=shape, dtype="arrow string", size_bytes=size, touched=[flat])


def text_forms(uids: Uids) -> dict[str, Any]:
    """The same uids as columns of each form, Arrow's string first."""
    import dcfast
    import pyarrow as pa

    column, raw = dcfast.uid_format(uids), dcfast.uid_to_arrow(uids)
    digits = np.frombuffer(column.buffers()[2], np.uint8).reshape(-1, 32)
    dashed = np.full((len(uids), 36), ord("-"), np.uint8)
    for first, last, to in ((0, 8, 0), (8, 12, 9), (12, 16, 14), (16, 20, 19), (20, 32, 24)):
        dashed[:, to : to + last - first] = digits[:, first:last]
    offsets = np.arange(0, dashed.size + 1, 36, dtype=np.int32)
    step, few = len(uids) // 10 + 1, len(uids) // 1000 + 1
    forms: dict[str, Any] = {
        "Arrow string": column,
        "large_string": column.cast(pa.large_string()),
        "string_view": column.cast(pa.string_view()),
        "binary": column.cast(pa.binary()),
        "dashed string": pa.StringArray.from_buffers(len(uids), pa.py_buffer(offsets), pa.py_buffer(dashed)),
        "fixed_size_binary(16)": raw,
        "arrow.uuid": raw.cast(pa.uuid()),
        "chunked string": pa.chunked_array([column[at : at + step] for at in range(0, len(uids), step)]),
        "string of 1,000 chunks": pa.chunked_array([column[at : at + few] for at in range(0, len(uids), few)]),
        "dictionary": pa.DictionaryArray.from_arrays(np.arange(len(uids), dtype=np.int32), column),
        "dictionary, rows in random order": _in_random_order(uids),
    }
    if harness.version_of("polars"):
        forms["polars string"] = _polars().Series(column)
    if harness.version_of("pandas"):
        import pandas as pd

        forms["pandas string[pyarrow]"] = pd.Series(column, dtype="string[pyarrow]")
    return forms


def _in_random_order(uids: Uids) -> Any:
    """The same uids by a dictionary that has them in another order."""
    import dcfast
    import pyarrow as pa

    order = np.random.Generator(np.random.PCG64(4)).permutation(len(uids))
    rows = np.empty(len(uids), np.int32)
    rows[order] = np.arange(len(uids), dtype=np.int32)
    return pa.DictionaryArray.from_arrays(rows, dcfast.uid_format(uids[order]))


def time_forms(bench: harness.Bench, op: str, uids: Uids, forms: dict[str, Any]) -> None:
    """Each form of some uids, parsed, beside the first of them."""
    import dcfast

    threads = bench.options.threads

    def side(name: str, form: Any) -> Side:
        def check(got: tuple[Uids, npt.NDArray[np.bool_]]) -> None:
            require_equal(name, "uids", got[0], uids)
            require_equal(name, "mask", bool(got[1].all()), True)

        return Side(name, lambda: dcfast.uid_parse(form, threads=threads), check, threads=threads)

    sides = [side(name, form) for name, form in forms.items()]
    bench.compare(op, sides, shape=f"{len(uids)} uids", dtype="each form", size_bytes=uids.nbytes, rounds=3)


def main(argv: Sequence[str] | None = None) -> dict[str, Value]:
    import dcfast

    options = harness.parse_options("bench_uid_set", argv, __doc__)
    bench = harness.Bench("bench_uid_set", options)
    scale = 500 if options.quick else 1
    uids = some_uids(10_000_000 // scale, seed=1)
    ordered = np.sort(uids)
    with harness.WorkDir(options) as work:
        compiled = floors.load(work)
        time_sort(bench, uids, ordered, compiled)
        count = 1_000_000 // scale
        needles = np.concatenate([uids[: count // 2], some_uids(count - count // 2, seed=2)])
        needles = needles[np.random.Generator(np.random.PCG64(3)).permutation(count)]
        time_membership(bench, ordered, needles, compiled)
        time_parsing(bench, uids[:count].copy(), compiled)
        time_forms(bench, "uid_parse_forms", uids, text_forms(uids))
        few = uids[:count].copy()
        column = dcfast.uid_format(few)
        objects = {"Arrow string": column, "list of str": column.to_pylist()}
        objects["list of UUID"] = [uuid.UUID(text) for text in objects["list of str"]]
        time_forms(bench, "uid_parse_objects", few, objects)
    return bench.finish()


if __name__ == "__main__":
    main()
    sys.exit(0)
