"""``dcfast why`` and ``dcfast inspect``: every outcome in words, terminals of all kinds, pages that stand alone."""

from __future__ import annotations

import io
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from dcfast.filters import compile_filter
from dcfast.inspection import command, why
from dcfast.inspection.facts import RuleVerdict
from dcfast.inspection.picture import BLOCKS, ITERM2, KITTY, NONE, drawn, kind_here
from dcfast.inspection.words import why as why_words
from dcfast.run.workflow import run
from dcfast.rundir.run_dir import Run
from dcfast.rundir.settings import Settings
from dcfast.stages.report import make_report
from pool_builder import PoolBuilder, Sample, evalset, picture, uid_of
from strict_page import Page

NASTY = "<script>alert('x')</script> a\x1b[31mred\x1b]0;title\x07 \u202egnp. \x9b1m \x00z & \"q\"\nsecond line"
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
FILTER = 'clip_score(l14, fraction=0.9) & ~contaminated & (clip_score(l14, threshold=0.2) | uids("{}"))'
L14 = "clip_l14_similarity_score"
LOW, LEAK, BROKEN, TEXTLESS, UNLISTED, MISSING, TWIN = 3, 5, 101, 102, 200, 7_001, 9


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Settings]:
    """A run with every outcome, a copy of an evaluation picture, a uid that stands twice, and a nasty caption."""
    root = tmp_path_factory.mktemp("a run to inspect")
    shards = [[Sample(100 * s + i) for i in range(12)] for s in range(3)]
    shards[0][0] = Sample(0, caption=NASTY)
    shards[0][LEAK] = Sample(LEAK, jpg=picture(901))
    shards[0][TWIN + 1] = Sample(TWIN + 1, jpg=picture(TWIN))
    shards[1][1] = Sample(BROKEN, jpg=picture(BROKEN)[:700])
    shards[1][2] = Sample(TEXTLESS, without=("txt",))
    shards[2][0] = Sample(UNLISTED, listed=False)
    shards[2][5] = Sample(4)

    def columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
        return {L14: [0.1 if row["uid"] == uid_of(LOW) else 0.3125 for row in rows]}

    PoolBuilder(root / "pool", shards, missing=[MISSING]).write(columns)
    evalset(root / "sets", "first", {"s0": picture(901), "s1": picture(950)})
    settings = Settings(
        pool=str(root / "pool"),
        evalsets=str(root / "sets"),
        filter="clip_score(l14, fraction=0.9) & ~contaminated",
        train=False,
    )
    run(root / "out", settings)
    return root / "out", settings


def asked(main: Any, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    status = main(list(words))
    said = capsys.readouterr()
    assert not RAW.search(said.out + said.err), "an escape code reached the terminal"
    return status, said.out + said.err


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (
            1,
            [
                "kept: the filter passes it, and it is in subset.npy",
                "00000000.tar/000000001",
                f"{L14} 0.3125, kept from",
            ],
        ),
        (
            LOW,
            [
                "dropped by the filter: clip_score(l14, fraction=0.9)",
                f"the score is below the threshold, 0.3125: {L14} is 0.1",
                "clip_score(l14, fraction=0.9): drops it",
                "~contaminated: passes",
                "00000000.parquet, row 3",
            ],
        ),
        (
            LEAK,
            [
                "dropped by the filter: contaminated",
                "the picture is a copy of a picture of an evaluation set",
                "evaluation set first, 0.tar/s0: identical bytes",
            ],
        ),
        (BROKEN, ["quarantined: it cannot be trained on: picture: ", "not decoded: "]),
        (
            TEXTLESS,
            ["quarantined: it cannot be trained on: no caption", "amiss     no caption", "its caption there: a"],
        ),
        (UNLISTED, ["unlisted: it stands in the shards, and no metadata row has its uid"]),
        (MISSING, ["missing: a metadata row has this uid, and no sample of the shards", "a link that has rotted away"]),
        (TWIN, ["00000000.tar/000000010: identical bytes (kept)", "1 within 8 bits among the 36 samples of the pool"]),
        (4, ["same uid  00000002.tar/000020005", "same uid  00000000.tar/000000004"]),
    ],
)
def test_why(number: int, expected: list[str], made: tuple[Path, Settings], capsys: pytest.CaptureFixture[str]) -> None:
    status, said = asked(why.main, capsys, uid_of(number).upper(), "--out", str(made[0]))
    assert status == 0
    flat = " ".join(said.split())
    for words in expected:
        assert " ".join(words.split()) in flat
    assert uid_of(number) in said


def test_a_sample_by_its_shard_and_key_as_json(made: tuple[Path, Settings], capsys: pytest.CaptureFixture[str]) -> None:
    out = str(made[0])
    status, said = asked(why.main, capsys, "some/where/00000000.tar/000000003", "--out", out, "--json")
    (sample,) = json.loads(said)["samples"]
    assert (status, sample["uid"], sample["fate"]) == (0, uid_of(LOW), "dropped")
    assert [rule["passes"] for rule in sample["rules"]] == [False, True]
    assert sample["rules"][0]["values"] == {L14: 0.1}
    assert json.loads(asked(why.main, capsys, uid_of(LOW), "--out", out, "--json")[1])["samples"] == [sample]


@pytest.mark.parametrize(
    ("main", "words", "status", "message"),
    [
        (why.main, ["f" * 32], 1, "knows no sample and no metadata row with uid ffff"),
        (why.main, ["x.tar/k"], 1, "the pool has no shard 'x.tar'"),
        (
            why.main,
            ["00000001.tar/k"],
            1,
            "has no sample with key 'k'; it has 12 samples, the first of them '000010000'",
        ),
        (why.main, ["00000001.tar"], 2, "expected a uid, or SHARD.tar/KEY"),
        (why.main, ["\x1b[31mred"], 2, "expected a uid of 32 hex digits, SHARD.tar, SHARD.tar/KEY or a run"),
        (command.main, ["x.tar"], 1, "the pool has no shard 'x.tar'"),
        (command.main, ["OUT", "--html", "page.txt"], 2, "--html must name a file that ends in .html"),
        (command.main, ["OUT", "--outcome", "keept"], 2, "did you mean 'kept'"),
        (command.main, ["OUT", "--filter", "clip_score(l15, fraction=0.3)"], 1, "did you mean"),
        (command.main, [uid_of(1), "--reason", "x"], 2, "chooses among the samples of a run or a shard"),
        (command.main, ["00000000.tar", "--filter", "no_filter"], 2, "--filter looks at the metadata of the whole run"),
        (command.main, ["OUT", "--filter", "image_based"], 1, "not computed for a look"),
    ],
)
def test_what_cannot_be_found_is_said(
    main: Any,
    words: list[str],
    status: int,
    message: str,
    made: tuple[Path, Settings],
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [str(made[0]) if word == "OUT" else word for word in words]
    got, said = asked(main, capsys, *given, "--out", str(made[0]))
    assert message in " ".join(said.split())
    assert got == status


def test_no_run_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, said = asked(why.main, capsys, "f" * 32, "--out", str(tmp_path))
    assert (status, "is no run directory" in said) == (1, True)


# the terminal


class Terminal(io.TextIOWrapper):
    """Standard output that is a terminal, of an encoding."""

    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__(io.BytesIO(), encoding=encoding, errors="backslashreplace", newline="")

    def isatty(self) -> bool:
        return True

    @property
    def said(self) -> str:
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)  # type: ignore[attr-defined]


COLOURS = re.compile(r"\x1b\[[\d;]*m")


@pytest.mark.parametrize("columns", [20, 40, 200])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_picture_in_blocks_fits_the_terminal(columns: int, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", Terminal(encoding))
    monkeypatch.setenv("COLORTERM", "truecolor")
    lines = drawn(picture(1), BLOCKS, columns).splitlines()
    plain = [COLOURS.sub("", line) for line in lines]
    assert {len(line) for line in plain} == {min(columns, 48)}
    assert set("".join(plain)) == ({"\u2580"} if encoding == "utf-8" else {" "})
    assert len(lines) < 30
    monkeypatch.delenv("COLORTERM")
    assert "38;5;" in drawn(picture(1), BLOCKS, columns) or encoding == "ascii"


@pytest.mark.parametrize(
    ("environ", "kind"),
    [
        ({"TERM": "xterm-256color"}, BLOCKS),
        ({"TERM": "xterm", "COLORTERM": "truecolor"}, BLOCKS),
        ({"TERM": "xterm"}, NONE),
        ({"TERM": "xterm-kitty"}, KITTY),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, ITERM2),
        ({"TERM": "tmux-256color", "KITTY_WINDOW_ID": "1", "TMUX": "x"}, BLOCKS),
        ({"TERM": "xterm-kitty", "NO_COLOR": "1"}, NONE),
        ({"TERM": "dumb", "COLORTERM": "truecolor"}, NONE),
    ],
)
def test_terminals(environ: dict[str, str], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
        if name in environ:
            monkeypatch.setenv(name, environ[name])
    monkeypatch.setattr("sys.stdout", Terminal())
    assert kind_here(environ) == kind
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert kind_here(environ) == NONE


def test_protocols_wrap_a_png_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    kitty, iterm2 = drawn(picture(1, (600, 500)), KITTY, 40), drawn(picture(1), ITERM2, 40)
    assert re.fullmatch(r"(\x1b_G[^\x1b]*\x1b\\)+\n", kitty)
    assert "a=T,f=100,c=40,m=1;" in kitty
    assert max(map(len, kitty.split("\x1b\\"))) < 4200
    assert re.fullmatch(r"\x1b\]1337;File=inline=1;width=40;preserveAspectRatio=1:[\w+/=]+\x07\n", iterm2)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_forty_columns_and_no_stranger_s_codes(
    encoding: str, made: tuple[Path, Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("COLUMNS", "40"), ("TERM", "xterm-256color"), ("COLORTERM", "")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr("sys.stdout", terminal := Terminal(encoding))
    assert command.main([uid_of(0), "--out", str(made[0])]) == 0
    said = terminal.said
    words = COLOURS.sub("", said)
    assert said != words  # the picture's colours, and nothing else
    assert not RAW.search(words.replace("\u2580", ""))
    long = [line for line in words.splitlines() if len(line) > 40 and "\\u" not in line]
    assert all(" " not in line.strip() for line in long), long  # a name that is one word may be longer
    assert "red" in words
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("sys.stdout", terminal := Terminal(encoding))
    assert command.main([uid_of(0), "--out", str(made[0])]) == 0
    assert "\x1b" not in terminal.said


def test_a_run_and_a_shard_in_the_terminal(made: tuple[Path, Settings], capsys: pytest.CaptureFixture[str]) -> None:
    out = str(made[0])
    status, said = asked(command.main, capsys, out, "--sample", "40")
    flat = " ".join(said.split())
    assert status == 0
    for words in ("quarantined 2 (", "missing 1 (", "unlisted 1 (", "37 shown of all 37 rows of fates.parquet."):
        assert words in flat
    assert said.count("\nkept") == sum("kept" in line[:5] for line in said.splitlines())
    status, said = asked(command.main, capsys, "00000001.tar", "--out", out, "--outcome", "quarantined")
    assert "2 shown of 2 that are as asked, among all 12 samples of the shard." in " ".join(said.split())
    status, said = asked(command.main, capsys, out, "--json", "--sample", "0", "--outcome", "kept")
    assert json.loads(said)["rows"] == []


# the page


def test_of_a_page_the_terminal_has_counts_and_path_alone(
    made: tuple[Path, Settings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, page = str(made[0]), str(tmp_path / "page.html")
    status, said = asked(command.main, capsys, out, "--html", page, "--sample", "9")
    assert status == 0
    assert said.endswith(f"page: {page}\n")
    assert "9 shown of " in " ".join(said.split())
    assert re.search(r"outcomes +kept", said)
    assert "uid " not in said
    assert "uid " in asked(command.main, capsys, out, "--sample", "9")[1]
    assert Path(page).read_text("utf-8").count("data:image/jpeg") >= 5


def test_pages_stand_alone(made: tuple[Path, Settings], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, page = str(made[0]), tmp_path / "page.html"
    for words in (
        [out, "--sample", "9"],
        [out, "--filter", "clip_score(l14, threshold=0.2)", "--outcome", "dropped"],
        [out, "--outcome", "missing"],
        ["00000000.tar"],
        [uid_of(0)],
        [uid_of(LEAK)],
        [uid_of(TWIN)],
        [uid_of(BROKEN)],
        [uid_of(MISSING)],
    ):
        assert asked(command.main, capsys, *words, "--out", out, "--html", str(page))[0] == 0
        text = page.read_text("utf-8")
        read = Page(text)
        assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f]", text)
        assert not read.all("script")
        assert not [a for a in read.all("a") if not str(a["href"]).startswith("#")]
        assert all(str(image["src"]).startswith("data:image/jpeg;base64,") for image in read.all("img"))
        assert all(image["alt"] for image in read.all("img"))
        levels = [int(tag[1]) for tag, _ in read.tags if re.fullmatch("h[1-6]", tag)]
        assert levels[:1] == [1]
        assert all(after - before <= 1 for before, after in pairwise(levels))
        assert len(read.ids) == len(set(read.ids))
        assert str(made[0].parent) not in text
        if words == [uid_of(LEAK)]:
            assert "Pictures of evaluation sets that it matches: 1" in read.text
            assert len(read.all("img")) == 2
        if words == [uid_of(TWIN)]:
            assert "Near copies in the pool: 1" in read.text
        if "--filter" in words:
            assert "1 shown; 35 pass the expression, of all 36 metadata rows." in read.text
            assert "Dropped, contaminated: 1" in read.text


def test_a_report_with_a_gallery_by_expression(made: tuple[Path, Settings]) -> None:
    out, settings = made
    before = {name: (out / name).read_bytes() for name in ("report.json", "report.html")}
    try:
        make_report(Run(out, settings), "clip_score(l14, threshold=0.2) & contaminated")
        report = json.loads((out / "report.json").read_bytes())
        assert [row["uid"] for row in report["gallery"]["asked"]] == [uid_of(LEAK)]
        assert report["draw"]["asked"]["matching"] == 1
        text = Page((out / "report.html").read_text("utf-8")).text
        assert "1 that pass clip_score(l14, threshold=0.2) & contaminated" in text
        assert "1 of 36 metadata rows pass it." in text
        assert "Drawn from all 37 rows of fates.parquet" in text
        make_report(Run(out, settings), "laion2b")
        problem = json.loads((out / "report.json").read_bytes())["draw"]["asked"]["problem"]
        assert "clip_b32_similarity_score" in problem or "gcld3" in problem
    finally:
        for name, data in before.items():
            (out / name).write_bytes(data)


def test_every_built_in_rule_has_words() -> None:
    everything = "basic_filter & text_based & laion2b & image_based & clip_score(l14, threshold=0.3) & ~contaminated"
    reasons = compile_filter(everything).reasons[1:]
    assert len(reasons) >= 14
    for reason in reasons:
        assert why_words(RuleVerdict(reason, reason, passes=False)), reason
