"""Terms of one's own: columns compared, words counted, patterns, functions; against plain Python, row by row."""

from __future__ import annotations

import operator
import pickle
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from dcfast.errors import FilterError, PoolError
from dcfast.filters import compile_filter
from dcfast.filters import functions as functions_module
from dcfast.filters.files import move_files, named_files, uid_files
from hypothesis import given
from hypothesis import strategies as st

OPERATORS = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
NUMBERS = st.one_of(
    st.integers(-(2**63), 2**63), st.floats(-1e9, 1e9), st.sampled_from([0, -0.5, 2**53 + 1, 2**63, 2**64, 0.28, 1e300])
)


def kept(expression: str, /, **columns: Any) -> list[bool]:
    return (compile_filter(expression).evaluate(pa.record_batch(columns)) == 0).tolist()


@given(
    st.sampled_from(sorted(OPERATORS)),
    NUMBERS,
    st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), max_size=9),
    st.sampled_from(["int64", "uint64", "int8"]),
)
def test_integers_are_compared_exactly(sign: str, value: float, rows: list[int | None], kind: str) -> None:
    info = np.iinfo(kind)
    rows = [row if row is None else max(info.min, min(info.max, row)) for row in [*rows, info.min, info.max, None]]
    answer = kept(f"column(x) {sign} {value!r}", x=pa.array(rows, kind))
    assert answer == [row is not None and OPERATORS[sign](row, value) for row in rows]


@given(st.sampled_from(sorted(OPERATORS)), NUMBERS, st.sampled_from(["float16", "float32", "float64"]))
def test_floats_are_compared_as_numpy_compares_a_written_number(sign: str, value: float, kind: str) -> None:
    with np.errstate(over="ignore"):
        limit = np.float64(value).astype(kind)
        rows = np.array([limit, np.nextafter(limit, np.array(0, kind)), 0.28, -1, np.inf, np.nan], kind)
    answer = kept(f"column(x) {sign} {value!r}", x=pa.array([*rows, None], pa.from_numpy_dtype(kind)))
    assert answer == [bool(OPERATORS[sign](row, limit)) and not np.isnan(row) for row in rows] + [False]


@given(
    st.sampled_from(sorted(OPERATORS)), st.text("ab\u00e9\U0001f415 ", max_size=3), st.sampled_from(["plain", "codes"])
)
def test_texts_are_compared_by_code_points(sign: str, value: str, coded: object) -> None:
    rows = ["", "a", "ab", "b", "\u00e9", "\U0001f415", None]
    column = pa.array(rows).dictionary_encode() if coded else pa.array(rows)
    answer = kept(f'column("s s") {sign} "{value}"', **{"s s": column})
    assert answer == [row is not None and OPERATORS[sign](row, value) for row in rows]


@given(st.lists(st.none() | st.text(" \t\n\x1c\u3000ab.", max_size=12)))
def test_words_characters_and_patterns(captions: list[str | None]) -> None:
    text = pa.array(captions, pa.string())
    assert kept("words == 2", text=text) == [c is not None and len(c.split()) == 2 for c in captions]
    assert kept("characters < 5.5", text=text) == [c is not None and len(c) < 5.5 for c in captions]
    assert kept(r'matches(r"a+\.")', text=text) == [c is not None and bool(re.search(r"a+\.", c)) for c in captions]
    assert kept('~matches("b", column=text)', text=text) == [c is None or "b" not in c for c in captions]


def test_a_pattern_takes_linear_time() -> None:
    # of an engine that goes back this takes hours
    assert kept('matches("^(a|a)*(a|aa)+$")', text=pa.array(["a" * 50_000 + "b"])) == [False]


def test_nulls_are_a_reason_of_their_own() -> None:
    whole = compile_filter("column(x) >= 3 & words >= 2")
    batch = pa.record_batch({"x": [1.0, None, 3.0, 3.0, 3.0], "text": ["a b", "a b", None, "a", "a b"]})
    assert [whole.reasons[code] for code in whole.evaluate(batch)] == [
        "column(x) >= 3",
        "column(x) >= 3: null",
        "words >= 2: null",
        "words >= 2",
        "kept",
    ]
    assert kept("~(column(x) >= 3) | words > 2", x=[1.0, None, 3.0], text=["a", "a", "a"]) == [True, True, False]


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("column( 'x' )>=5.0", "column(x) >= 5"),
        ("column('and') == 'a\"b'", 'column("and") == "a\\"b"'),
        ("~ words<3", "~words < 3"),
        ("~(words<3)&characters!= -2.50", "~words < 3 & characters != -2.5"),
        (r'matches(r"\d+")', r'matches("\\d+")'),
        (r"matches(r'\'', column=text)", r'matches("\\' + "'" + '")'),
        ("matches('a', column=url)", 'matches("a", column=url)'),
        ("score('s.parquet', fraction=.3, column='score')", 'score("s.parquet", fraction=0.3)'),
        ("score('s.parquet', threshold=1, column=other)", 'score("s.parquet", column=other, threshold=1.0)'),
        ("python('f.py:g', url, z=1.0, a=x)", 'python("f.py:g", url, a="x", z=1)'),
    ],
)
def test_canonical_text(text: str, canonical: str) -> None:
    compiled = compile_filter(text)
    assert str(compiled) == canonical
    assert compile_filter(canonical) == compiled
    assert pickle.loads(pickle.dumps(compiled)) == compiled


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("words", "words needs a comparison (>= <= == != > <): words >= 5"),
        ("words = 5", "two things are compared by =="),
        ("words >= five", "text that is compared stands in quotes"),
        ("words >= 'five'", "words is a number; got text"),
        ("words >=", "the expression ends where a number or a quoted string should be"),
        ("words(text) >= 5", "words takes no arguments"),
        ("5 <= words", "unexpected '5'; expected a filter's name"),
        ("1 < words < 5", "unexpected '1'"),
        ("words > 1 < 5", "unexpected '<'; expected &, | or the end"),
        ("basic_filter >= 5", "basic_filter is true or false, and not compared"),
        ("colum(x) >= 5", "unknown filter 'colum'; did you mean 'column'?"),
        ("column() >= 5", "column needs the name of a column"),
        ("column(5) >= 5", "name must be a name, or text in quotes"),
        ("matches(text)", "matches needs a pattern in quotes"),
        ("matches('(')", "matches: Invalid regular expression: missing ): ("),
        ("matches('a', colunm=url)", "matches has no argument 'colunm'; did you mean 'column'?"),
        (r"matches('\d')", 'a backslash is written \\\\, or the string r"..."'),
        ("matches('a{1000}{1000}')", "matches: Invalid regular expression"),
        ("score(x, fraction=0.3)", "score needs a parquet, npz or npy file in quotes"),
        ("score('x')", "score needs fraction=... or threshold=...; got neither"),
        ("score('x', fraction=0)", "fraction must be above 0 and at most 1"),
        ("score('x', fraction=1, column=uid)", "column must be that of the scores, not uid"),
        ("python('f')", 'expected "module:function" or "FILE.py:function"'),
        ("python('f.py:g')", "name the columns of the metadata that g is given"),
        ("python('f.py:g', text, 3)", "the columns are names"),
    ],
)
def test_errors_say_what_to_write(text: str, message: str) -> None:
    with pytest.raises(FilterError, match=re.escape(message)):
        compile_filter(text)


PARTS = ["words", "column(x)", "column('a b')", "matches(", "score('s', ", "python('f.py:g', text", "fraction=0.3", ")"]
PARTS += [">=", "==", "!=", "<", "=", "~", "&", "|", "(", ",", "-", "5", "1e400", "2.50", "9" * 30, "0" * 5000 + "7"]
PARTS += ["'a'", 'r"\\d"', "r'", '"(', "column=x", "no_filter", "'\udc80'", "r'[\udc80'"]


@given(st.lists(st.sampled_from(PARTS), max_size=9).map(" ".join))
def test_what_compiles_means_what_its_text_means(text: str) -> None:
    try:
        made = compile_filter(text)
    except FilterError:
        return
    assert compile_filter(str(made)) == made


def test_columns_are_checked_by_what_they_are_compared_with() -> None:
    schema = pa.schema([("x", pa.int8()), ("url", pa.string()), ("boxes", pa.list_(pa.int8()))])
    for good in ("column(x) > 1", "column(url) > 'a'", "matches('a', column=url)", "python('f.py:g', boxes)"):
        compile_filter(good).check_columns(schema, "m.parquet")
    for bad, message in (
        ("column(x) > 'a'", "needs strings in the column 'x': m.parquet has int8"),
        ("column(url) > 1", "needs numbers in the column 'url': m.parquet has string"),
        ("column(boxes) > 1", "needs numbers in the column 'boxes'"),
        ("column(y) > 1", "needs the column 'y': m.parquet has x, url, boxes"),
        (
            "column(boxs) > 1",
            "needs the column 'boxs': m.parquet has x, url, boxes; leave the filter out, or give metadata with this "
            "column; did you mean 'boxes'?",
        ),
        ("python('f.py:g', y)", "needs the column 'y'"),
    ):
        with pytest.raises(PoolError, match=re.escape(message)):
            compile_filter(bad).check_columns(schema, "m.parquet")


def test_the_files_of_an_expression() -> None:
    text = "'u.npy' & score('s.parquet', fraction=0.3) | score(fraction=1, path='t') & ~python('f.py:g', text, a='b')"
    assert named_files(text) == ["u.npy", "s.parquet", "t", "f.py"]
    assert uid_files(text) == ["u.npy"]
    moved = move_files(text, lambda path: f"/p/{path}")
    assert named_files(moved) == ["/p/u.npy", "/p/s.parquet", "/p/t", "/p/f.py"]
    assert 'python("/p/f.py:g", text, a=' in moved
    assert named_files("python('package.module:g', text)") == []


# --- functions ------------------------------------------------------------------------------------------------------

BATCH = pa.record_batch({"text": ["a", "bb", None, "dddd"] * 5, "x": range(20)})
FUNCTIONS = {
    "good": "return np.array([t is not None and len(t) >= least for t in batch.column('text').to_pylist()])",
    "arrow": "import pyarrow.compute as pc; return pc.greater_equal(pc.utf8_length(batch.column('text')), least)",
    "counts": "seen.append(1); return np.full(batch.num_rows, len(seen) % 2 == 0)",
    "compares": "x = batch.column('x').to_numpy(); return x > x.mean()",
    "looks_back": "x = batch.column('x').to_numpy(); return np.append(False, x[1:] > x[:-1])",
    "fails": "raise KeyError('no such word')",
    "short": "return np.ones(3, bool)",
    "words": "return batch.column('text')",
    "numbers": "return np.ones(batch.num_rows)",
}


@pytest.fixture(scope="module")
def functions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("functions") / "mine.py"
    bodies = "".join(f"\ndef {name}(batch, least=2):\n    {body}\n" for name, body in FUNCTIONS.items())
    path.write_text(f"import numpy as np\n\nseen = []\nno_function = 3\n{bodies}")
    return path


@pytest.mark.parametrize("name", ["good", "arrow"])
def test_a_function_of_a_file(functions: Path, name: str) -> None:
    whole = compile_filter(f'column(x) < 10 & python("{functions}:{name}", text, x, least=3)')
    whole.check_needs()
    whole.check_functions(BATCH)
    assert not whole.is_native
    assert (whole.evaluate(BATCH) == 0).tolist() == [x < 10 and x % 4 == 3 for x in range(20)]
    assert whole.reasons[-1] == f'python("{functions}:{name}", text, x, least=3)'


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("counts", "it is not pure: of 20 rows it said one thing, and of row 0 another when it was asked again"),
        ("compares", "another when it was asked about a part of them"),
        ("looks_back", "another when it was asked about a part of them"),
        ("fails", r"it failed on 20 rows \(KeyError: 'no such word'\), line 22 of mine.py"),
        ("short", r"expected a boolean array of 20 rows; got bool of shape \(3,\)"),
        ("words", r"expected a boolean array of 20 rows; got StringArray of 20 \(string\)"),
        ("numbers", r"expected a boolean array of 20 rows; got float64 of shape \(20,\)"),
        ("no_function", "is no function, but a int"),
        ("nothing", "cannot be imported"),
    ],
)
def test_functions_that_are_refused(functions: Path, name: str, message: str) -> None:
    whole = compile_filter(f'python("{functions}:{name}", text, x)')  # which imports nothing
    with pytest.raises(FilterError, match=rf"filter python\(.*mine.py:{name}.*{message}"):
        whole.check_functions(BATCH)


def test_what_does_not_fit_or_is_not_there(functions: Path) -> None:
    for place, message in (
        (f"{functions}:good", "does not take a batch and these arguments"),
        ("no_such_module:good", "ModuleNotFoundError: No module named 'no_such_module'"),
        (f"{functions.parent}/none.py:good", "FileNotFoundError"),
        ("math:floor", "does not take"),
    ):
        with pytest.raises(FilterError, match=message):
            compile_filter(f'python("{place}", text, most=1)').check_needs()
    with pytest.raises(FilterError, match="no source file in Python"):
        compile_filter('python("math:floor", text)').check_needs()


def test_another_source_is_another_fingerprint(functions: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def f(batch):\n    return batch.column('x').is_valid()\n")
    whole = compile_filter(f'python("{path}:f", x)')
    before = whole.fingerprint()
    assert kept(str(whole), x=[1, 2]) == [True, True]
    path.write_text("def f(batch):\n    return batch.column('x').is_null() \n")
    assert whole.fingerprint() != before
    assert kept(str(whole), x=[1, 2]) == [False, False]


MADE_OF = """
class Asks:
    def __init__(self, least):
        self.least = least

    def __call__(self, batch):
        return batch.column("x").is_valid()

    def asked(self, batch):
        return batch.column("x").is_valid()

def make(least):
    def ask(batch):
        return batch.column("x").to_numpy() >= least
    return ask

def ask(batch, least):
    return batch.column("x").is_valid()

def decorated(function):
    @functools.wraps(function)
    def inner(batch):
        return function(batch)
    return inner
"""
MINE = """
import functools
from dcfast_made_of import *
from dcfast_made_of_constants import LEAST

@decorated
def own(batch):
    return batch.column("x").is_valid()

@functools.lru_cache
def kept(batch):
    return batch.column("x").is_valid()

closure, partial, instance = make(LEAST), functools.partial(ask, least=LEAST), Asks(LEAST)
method = instance.asked
"""


def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in another process: what was imported is imported again."""
    for name in ("dcfast_made_of", "dcfast_made_of_constants"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    functions_module._module.cache_clear()
    functions_module._made.cache_clear()


@pytest.mark.parametrize("name", ["closure", "partial", "instance", "method", "own", "kept"])
def test_every_file_that_a_function_is_made_of_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # compiled files are told apart by their seconds
    files = {"dcfast_made_of.py": f"import functools\n{MADE_OF}", "dcfast_made_of_constants.py": "LEAST = 3\n"}
    files["mine.py"] = MINE
    for file, text in files.items():
        (tmp_path / file).write_text(text)
    fresh(monkeypatch)
    whole = compile_filter(f'python("{tmp_path}/mine.py:{name}", x)')
    seen = [before := whole.fingerprint()]
    assert (whole.fingerprint(), str(tmp_path) in str(whole.fingerprint()[str(whole)])) == (before, False)
    expected = {"mine.py": True, "dcfast_made_of.py": name != "kept"}
    expected["dcfast_made_of_constants.py"] = name not in ("own", "kept")
    for file, text in files.items():
        (tmp_path / file).write_text(text.replace("LEAST = 3", "LEAST = 30000") + "\n# another text\n")
        fresh(monkeypatch)
        assert (whole.fingerprint() not in seen) == expected[file], file
        seen.append(whole.fingerprint())


def test_a_step_without_a_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import functools\nnative = functools.partial(len)\n")
    with pytest.raises(FilterError, match=r"no source file in Python \(len\)"):
        compile_filter(f'python("{tmp_path}/mine.py:native", x)').check_needs()
