"""Options: written once, on a field; the parser, the docs, files of options and the manifest follow."""

from __future__ import annotations

import dataclasses
import json
import re
import runpy
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from dcfast.errors import CorruptDataError, RunError
from dcfast.process.options import add_options, check_options, given_options, made_of, option
from dcfast.process.parser import ArgumentParser
from dcfast.run.options import options_of, parser
from dcfast.run.workflow import main, run
from dcfast.rundir.settings import Settings
from dcfast.storage.config import config_values, read_config
from pool_builder import plain_pool

ROOT = Path(__file__).resolve().parents[2]
OPTION_TABLE = runpy.run_path(str(ROOT / "cmake/make_options.py"))["option_table"]


@dataclass(frozen=True)
class Made:
    """Options of a test."""

    speed: int = option(3, "how fast", least=1, most=9)
    colour: str = option("red", "of it", choices=("red", "blue"))
    names: list[str] | None = option(None, "of all", gather=list)
    sure: bool = option(True, "not so sure", flags=("--unsure",))


def parsed(*words: str) -> Made:
    p = ArgumentParser(prog="made")
    add_options(p, Made)
    return made_of(Made, given_options(p.parse_args(words), Made))


def test_a_field_is_an_option() -> None:
    assert parsed() == Made()
    assert parsed("--speed", "5", "--unsure", "--names", "a", "b") == Made(speed=5, sure=False, names=["a", "b"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--speed", "0"], "--speed must be 1 to 9; got 0"),
        (["--colour", "reed"], "--colour must be one of red, blue; got 'reed'; did you mean 'red'"),
    ],
)
def test_bounds_and_choices_are_those_of_the_field(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parsed(*words)


def test_bounds_hold_for_whoever_makes_one() -> None:
    with pytest.raises(ValueError, match="speed must be 1 to 9; got nan"):
        check_options(Made(speed=float("nan")))  # type: ignore[arg-type]


def test_the_table_shows_all_of_it() -> None:
    p = ArgumentParser(prog="made")
    add_options(p, Made)
    assert "| `--speed` | N | how fast (default 3) |" in OPTION_TABLE(p)
    assert "| `--colour` | NAME | of it; one of red, blue (default red) |" in OPTION_TABLE(p)
    assert "| `--names` | NAME ... | of all |" in OPTION_TABLE(p)


def test_a_made_up_setting_is_in_parser_docs_config_and_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = dataclasses.make_dataclass(
        "Settings", [("sharpness", int, option(7, "made up"))], bases=(Settings,), frozen=True
    )
    more.__module__ = __name__
    p = ArgumentParser(prog="more")
    add_options(p, more)
    assert given_options(p.parse_args(["--sharpness", "8"]), more) == {"sharpness": 8}
    assert "| `--sharpness` | N | made up (default 7) |" in OPTION_TABLE(p)
    (tmp_path / "config.json").write_text('{"sharpness": 9}')
    assert config_values(read_config(tmp_path / "config.json"), more) == {"sharpness": 9}
    settings = more(pool=str(plain_pool(tmp_path / "pool").write()), filter="no_filter", train=False, sharpness=8)
    run(tmp_path / "out", settings, last="filter")
    assert json.loads((tmp_path / "out/manifest.json").read_text())["settings"]["sharpness"] == 8


def test_the_command_lines_are_those_of_the_docs(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "cmake/make_options.py"), str(tmp_path / "options.md")]
    subprocess.run(command, check=True)
    written = (ROOT / "docs/options.md").read_text(encoding="utf-8")
    assert (tmp_path / "options.md").read_text(encoding="utf-8") == written, "make stubs writes docs/options.md anew"


# --- files of options -----------------------------------------------------------------------------------------------

FILES = {
    "a.json": '{"seed": 5, "filter": "no_filter", "world": {"rows": 400}}',
    "a.toml": 'seed = 5\nfilter = "no_filter"\n[world]\nrows = 400\n',
    "a.yaml": "seed: 5\nfilter: no_filter\nworld: {rows: 400}\n",
}


@pytest.mark.parametrize("name", list(FILES))
def test_the_command_line_wins_over_the_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(FILES[name])
    words = ["--config", str(tmp_path / name), "--seed", "6", "--workers", "1"]
    how, settings = options_of(parser().parse_args(words))
    assert (settings.seed, settings.filter, settings.world, how.workers) == (6, "no_filter", {"rows": 400}, 1)
    assert settings.world is not None
    assert isinstance(settings.world["rows"], int)


def test_a_switch_of_the_file_can_be_turned_back(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('{"strict": true, "train": false}')
    words = ["--config", str(tmp_path / "c.json")]
    assert [(s.strict, s.train) for _, s in [options_of(parser().parse_args(words))]] == [(True, False)]
    _, settings = options_of(parser().parse_args([*words, "--no-strict", "--train"]))
    assert (settings.strict, settings.train) == (False, True)
    assert "--no-strict" not in parser().format_help()


def test_paths_of_the_file_are_read_as_those_of_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "c.json").write_text('{"out": "~/x"}')
    how, _ = options_of(parser().parse_args(["--config", str(tmp_path / "c.json")]))
    assert how.out == str(tmp_path / "x")
    (tmp_path / "c.json").write_text('{"pool": ""}')
    with pytest.raises(ValueError, match=r"c\.json: pool: expected a path; got an empty text"):
        options_of(parser().parse_args(["--config", str(tmp_path / "c.json")]))


def test_what_no_command_line_has_is_named(tmp_path: Path) -> None:
    from dcfast.train.__main__ import parser as train_parser
    from dcfast.train.__main__ import settings_of

    (tmp_path / "c.json").write_text('{"block": 1, "shards": "a", "out": "o"}')
    with pytest.raises(ValueError, match="no option 'block'"):
        settings_of(train_parser().parse_args(["--config", str(tmp_path / "c.json")]))


def test_none_is_no_value_of_an_option_that_needs_one() -> None:
    with pytest.raises(ValueError, match="speed must have a value; got None"):
        check_options(Made(speed=None))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"sead": 5}', "no option 'sead'; did you mean 'seed'"),
        ('{"samples-seen": 5}', "no option 'samples-seen'; did you mean 'samples_seen'"),
        ('{"seed": "5"}', "seed: Expected `int`, got `str`; got '5'"),
        ('{"seed": true}', "seed: Expected `int`, got `bool`"),
        ('{"strict": 1}', "strict: Expected `bool`, got `int`"),
        ('{"features": {"l14": 5}}', "features: Expected `str`, got `int`"),
        ('{"seed": -1}', "seed must be 0 to"),
        ('{"versions": {"dcfast": "9.9"}, "settings": {"glow": 1}}', "the manifest is of dcfast 9.9; this is"),
    ],
)
def test_an_option_that_makes_no_sense_is_named_with_the_file(
    tmp_path: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.json").write_text(text)
    assert main(["--config", str(tmp_path / "c.json")]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "c.json" in said or "seed must" in said


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.json", "[1]", "expected options by name"),
        ("c.json", "{", "not json"),
        ("c.toml", "seed = ", "c.toml"),
        ("c.yaml", "seed: [1", "c.yaml"),
        ("c.yaml", "a: &x [1]\nb: *x\n", "aliases"),
        ("c.yaml", "!!python/object/apply:os.getcwd []", "c.yaml"),
        ("c.yaml", "1: 2", "expected options by name"),
    ],
)
def test_a_file_that_holds_no_options_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(CorruptDataError, match=message):
        read_config(tmp_path / name)


# --- a run again from its manifest ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on a pool, without training; the pool lies beside it."""
    folder = tmp_path_factory.mktemp("again")
    pool = plain_pool(folder / "pool").write()
    run(folder / "first", Settings(pool=str(pool), filter="random(fraction=0.5)", seed=3, train=False))
    return folder


def again(done: Path, *words: str, manifest: Path | None = None) -> int:
    given = ["--config", str(manifest or done / "first/manifest.json"), "--workers", "1", "--quiet", *words]
    return main(given)


def test_a_run_is_done_again_from_its_manifest_with_one_command(done: Path) -> None:
    assert again(done, "--out", str(done / "second")) == 0
    for name in ("subset.npy", "manifest.json", "state/settings.json"):
        assert (done / "second" / name).read_bytes() == (done / "first" / name).read_bytes(), name


def test_a_published_manifest_needs_the_places(done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = tmp_path / "manifest.json"
    moved.write_bytes((done / "first/manifest.json").read_bytes())
    assert again(done, "--out", str(tmp_path / "out"), manifest=moved) == 2
    assert "names 'pool' for --pool without its place" in capsys.readouterr().err
    assert again(done, "--out", str(tmp_path / "out"), "--pool", str(done / "pool"), manifest=moved) == 0
    assert (tmp_path / "out/subset.npy").read_bytes() == (done / "first/subset.npy").read_bytes()


def test_a_manifest_whose_pool_has_changed_is_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = plain_pool(tmp_path / "pool").write()
    run(tmp_path / "first", Settings(pool=str(pool), filter="no_filter", train=False), last="filter")
    shard = next((tmp_path / "pool/shards").glob("*.tar"))
    shard.write_bytes(shard.read_bytes() + b"\0" * 512)
    assert again(tmp_path, "--out", str(tmp_path / "second")) == 1
    assert "has other files than in the run of manifest" in capsys.readouterr().err
    assert not (tmp_path / "second").exists()
    words = ["--out", str(tmp_path / "second"), "--pool", str(pool), "--to", "filter"]
    assert again(tmp_path, *words) == 0


def test_a_manifest_whose_uid_file_has_changed_is_refused(tmp_path: Path) -> None:
    pool = plain_pool(tmp_path / "pool").write()
    uids = tmp_path / "some.npy"
    np.save(uids, np.zeros(1, "u8,u8"))
    run(tmp_path / "first", Settings(pool=str(pool), filter=f'uids("{uids}")', train=False), last="filter")
    np.save(uids, np.ones(1, "u8,u8"))
    args = parser().parse_args(["--config", str(tmp_path / "first/manifest.json"), "--out", str(tmp_path / "second")])
    with pytest.raises(RunError, match=r"uid file .*some.npy holds other uids"):
        options_of(args)


def test_what_a_manifest_says_wins_over_the_settings_beside_it(done: Path, tmp_path: Path) -> None:
    shutil.copytree(done / "first/state", tmp_path / "state")
    manifest = json.loads((done / "first/manifest.json").read_text())
    manifest["settings"]["seed"] = 9
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    _, settings = options_of(parser().parse_args(["--config", str(tmp_path / "manifest.json")]))
    assert (settings.seed, settings.pool) == (9, str(done / "pool"))


def test_uid_files_of_one_name_are_told_apart_by_what_they_hold(tmp_path: Path) -> None:
    pool = plain_pool(tmp_path / "pool").write()
    files = []
    for number, folder in enumerate("ab"):
        (tmp_path / folder).mkdir()
        files.append(tmp_path / folder / "x.npy")
        np.save(files[-1], np.full(1, number, "u8,u8"))
    text = " | ".join(f'uids("{file}")' for file in files)
    run(tmp_path / "first", Settings(pool=str(pool), filter=text, train=False), last="filter")
    _, again = options_of(parser().parse_args(["--config", str(tmp_path / "first/manifest.json")]))
    assert again.filter == text


def test_weights_of_a_published_manifest_need_their_place(done: Path, tmp_path: Path) -> None:
    manifest = json.loads((done / "first/manifest.json").read_text())
    manifest["settings"]["features"] = {"l14": "dcfast-tiny:w.pt"}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    words = ["--config", str(tmp_path / "manifest.json"), "--pool", str(done / "pool")]
    with pytest.raises(ValueError, match=r"names 'dcfast-tiny:w\.pt' for --features without its place"):
        options_of(parser().parse_args(words))
