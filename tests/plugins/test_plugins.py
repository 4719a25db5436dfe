"""Plugins of an installed package: a filter, an evaluation task and a stage; broken ones, and names that are taken."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dcfast.cli import main
from dcfast.doctor import checks
from dcfast.errors import FilterError, PluginError
from dcfast.evaluate import find_tasks
from dcfast.evaluate.tasks import EvalTask
from dcfast.filters import compile_filter
from dcfast.plugins import EVALUATION_TASKS, FILTERS, STAGES, find_plugin, plugin_names
from dcfast.run.workflow import run
from dcfast.rundir.settings import Settings
from dcfast.stages.plugins import find_stage
from pool_builder import evalset, picture, plain_pool

EXAMPLE = Path(__file__).resolve().parents[1] / "helpers/example_plugin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The example, installed by pip into a folder on the path of this process."""
    pytest.importorskip("setuptools", reason="the example is built by setuptools, without a build environment")
    folder = tmp_path_factory.mktemp("plugin")
    source = folder / "source"
    for path in (EXAMPLE / "pyproject.toml", *(EXAMPLE / "dcfast_example").glob("*.py")):
        place = source / path.relative_to(EXAMPLE)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())  # a build leaves files beside its source
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*pip, "--target", str(folder / "site"), str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sys.path.insert(0, str(folder / "site"))
    importlib.invalidate_caches()
    yield folder / "site"
    sys.path.remove(str(folder / "site"))
    for name in [name for name in sys.modules if name.partition(".")[0] == "dcfast_example"]:
        del sys.modules[name]


def test_a_run_with_a_filter_and_a_stage_of_a_package(
    installed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool, out = plain_pool(tmp_path / "pool", 12, 3), tmp_path / "run"
    for number, sample in enumerate(s for shard in pool.shards for s in shard):
        sample.caption = "w" * 5 + " two three" * (number % 4)
    pool.write()
    settings = Settings(pool=str(tmp_path / "pool"), filter="no_filter & short_caption(most=20)", train=False)
    summary = run(out, settings, last="filter")["filter"]
    assert summary.fates["kept"] == 6  # 5 and 15 characters
    assert summary.reasons == {"short_caption(most=20)": 6}
    assert main(["count_words", "--out", str(out), "--quiet", "--workers", "1"]) == 0
    assert "stage count_words: done" in capsys.readouterr().out
    counted = json.loads((out / "state/plugin-count_words.json").read_text())
    assert counted["result"] == {"words": 3 * (1 + 3 + 5 + 7)}
    own = {"package": "dcfast-example", "version": "1.2.3"}
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["plugins"] == [
        {"group": "dcfast.filters", "name": "short_caption", **own},
        {"group": "dcfast.stages", "name": "count_words", **own},
    ]
    assert manifest["models"]["short_caption(most=20)"]["version"] == "1.2.3"
    # again: nothing is redone; of another filter it counts as not run
    before = (out / "plugins/count_words/00000.json").stat().st_mtime_ns
    assert main(["count_words", "--out", str(out), "--quiet", "--workers", "1"]) == 0
    assert (out / "plugins/count_words/00000.json").stat().st_mtime_ns == before
    run(out, Settings(pool=str(tmp_path / "pool"), filter="no_filter", train=False), last="filter", overwrite=True)
    assert not (out / "state/plugin-count_words.json").exists()
    assert "plugins" not in json.loads((out / "manifest.json").read_text())


def test_a_stage_needs_its_run(installed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["count_words", "--out", str(tmp_path / "nothing"), "--quiet"]) == 1
    assert "needs a run, and there is none" in capsys.readouterr().err
    plain_pool(tmp_path / "pool", 6, 2).write()
    run(tmp_path / "run", Settings(pool=str(tmp_path / "pool"), filter="no_filter", train=False), last="index")
    assert main(["count_words", "--out", str(tmp_path / "run"), "--quiet"]) == 1
    assert "stage filter has not been run yet" in capsys.readouterr().err
    assert main(["help"]) == 0
    assert "a stage of another package, on a run: count_words" in capsys.readouterr().out


def test_an_evaluation_set_as_a_package_describes_it(installed: Path, tmp_path: Path) -> None:
    evalset(tmp_path, "shapes", {"a": picture(1)})
    evalset(tmp_path, "others", {"a": picture(2)})
    (shapes, folder), (others, _) = sorted(find_tasks(tmp_path), key=lambda pair: pair[0].key)
    assert (shapes.key, shapes.main_metric, folder.name) == (
        "example/shapes",
        "mean_per_class_recall",
        "wds_shapes_test",
    )
    assert others == EvalTask("others", "others", "wds_others_test")


def test_a_filter_of_a_package_is_used_rightly_or_refused(installed: Path) -> None:
    for text, message in (
        ("short_captoin", "did you mean 'short_caption'"),
        ("short_caption(least=3)", "unexpected keyword argument 'least'"),
        ("short_caption(3)", "takes arguments by name=value"),
        ("short_caption >= 3", "is true or false, and not compared"),
    ):
        with pytest.raises(FilterError, match=message):
            compile_filter(text)


def planted(folder: Path, group: str, **entries: str) -> str:
    """A folder with the metadata of a package that has these entry points."""
    info = folder / "site/odd_package-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-package\nVersion: 0.1\n")
    lines = [f"{name} = {value}" for name, value in entries.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]))
    return str(folder / "site")


def test_broken_plugins_and_taken_names_stop_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(planted(tmp_path, FILTERS, broken="nowhere:f", words="math:floor"))
    assert str(compile_filter("no_filter & words >= 5")) == "no_filter & words >= 5"  # dcfast's own
    with pytest.raises(
        PluginError, match=r"cannot be loaded as a filter \(ModuleNotFoundError: No module named 'nowhere'"
    ):
        compile_filter("no_filter & broken")
    rows = {row.name: row for row in checks.plugins(deep=False) if "odd-package" in row.detail}
    assert {name: row.status for name, row in rows.items()} == {"broken": "ok", "words": "broken"}
    assert "has a name of dcfast's own, and is never used" in rows["words"].detail
    assert {row.name: row.status for row in checks.plugins(deep=True)}["broken"] == "broken"


def evaluated(name: str, folder: Path) -> None:
    for one in (name, "others"):  # a set of DataComp's own is never looked for among plugins
        evalset(folder / "sets", one, {"a": picture(1)})
    find_tasks(folder / "sets")
    find_plugin(EVALUATION_TASKS, name, {"cifar10"})


USES = {
    FILTERS: lambda name, folder: compile_filter(name),
    EVALUATION_TASKS: evaluated,
    STAGES: lambda name, folder: find_stage(name),
}


@pytest.mark.parametrize(
    ("group", "name", "value", "message"),
    [
        (FILTERS, "counted", "math:floor", "no function that dcfast.filters.filter_function"),
        (EVALUATION_TASKS, "cifar10", "math:pi", "name of dcfast's own"),
        (EVALUATION_TASKS, "odd", "math:pi", "expected an EvalTask of dcfast.evaluate; got a float"),
        (STAGES, "filter", "math:pi", "name of dcfast's own"),
        (STAGES, "odd", "math:pi", "expected a PluginStage of dcfast.stages; got a float"),
    ],
)
def test_what_is_no_plugin(
    group: str, name: str, value: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(planted(tmp_path, group, **{name: value}))
    assert name in plugin_names(group)
    with pytest.raises(PluginError, match=rf"plugin '{name}' of package odd-package 0\.1 .*{message}"):
        USES[group](name, tmp_path)
