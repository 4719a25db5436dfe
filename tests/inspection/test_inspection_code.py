"""Code that a run directory names: ``why`` and ``inspect`` show what was recorded, and run none of it unasked."""

from __future__ import annotations

import json
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pyarrow as pa
import pytest
from dcfast.errors import FilterError
from dcfast.filters import compile_filter
from dcfast.filters.catalog import named_plugins
from dcfast.inspection import command, why
from dcfast.inspection.facts import RuleVerdict, SampleFacts
from dcfast.inspection.words import headline
from dcfast.plugins import FILTERS, PluginUse
from dcfast.run.workflow import main, run
from dcfast.rundir.settings import Settings
from dcfast.storage.records import replaced
from pool_builder import plain_pool, uid_of

TRAP = """
from pathlib import Path
import numpy as np

Path({!r}).write_text("imported")

def f(batch):
    return np.ones(batch.num_rows, bool)
"""


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run directory that names code in its settings and in what its filter recorded; and what that code writes."""
    root = tmp_path_factory.mktemp("stranger")
    plain_pool(root / "pool", 6, 3).write()
    run(root / "out", Settings(pool=str(root / "pool"), filter="words >= 1", train=False), last="filter")
    (root / "trap.py").write_text(TRAP.format(str(root / "ran")))
    code = f'python("{root}/trap.py:f", text)'
    for name in ("settings", "filter"):
        path = root / "out/state" / f"{name}.json"
        value = json.loads(path.read_text())
        path.write_text(json.dumps({**value, "filter": f"words >= 1 & {code} & (words >= 9 | ~{code})"}))
    return root / "out", root / "ran"


def said_of(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr()
    return " ".join((said.out + said.err).split())


def test_nothing_of_a_run_directory_is_run(
    stranger: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, ran = stranger
    page = tmp_path / "page.html"
    assert why.main([uid_of(1), "--out", str(out)]) == 0
    said = said_of(capsys)
    assert said.count("not asked: it is code that the run directory names; read it, then add --run-code") == 2
    assert "kept: the filter passes it" in said  # as it was recorded
    assert "words >= 1: passes" in said  # the others are asked
    assert command.main([str(out), "--sample", "2", "--html", str(page)]) == 0
    assert page.read_text("utf-8").count("add --run-code") == 4
    assert command.main([uid_of(1), "--out", str(out), "--html", str(page)]) == 0
    assert "add --run-code" in page.read_text("utf-8")
    assert command.main([str(out), "--filter", "words >= 1"]) == 0
    capsys.readouterr()
    assert why.main([uid_of(1), "--out", str(out), "--json"]) == 0
    (sample,) = json.loads(capsys.readouterr().out)["samples"]
    passes = [rule["passes"] for rule in sample["rules"]]
    assert passes == [*[True] * (len(passes) - 2), None, None]
    for words in (["--quiet"], ["--dry-run"]):
        assert main(["--out", str(out), *words], "report") == 1
        assert "read it, then add --run-code" in said_of(capsys)
    assert not ran.exists()
    assert why.main([uid_of(1), "--out", str(out), "--run-code"]) == 0
    assert "not asked" not in said_of(capsys)
    assert ran.exists()


def test_an_outcome_is_not_made_up_of_rules_that_were_not_asked() -> None:
    nothing = dict.fromkeys(SampleFacts.__annotations__)
    facts = SampleFacts(**{**nothing, "filter": "f", "rules": [RuleVerdict("r", "r", passes=None)]})  # type: ignore[arg-type]
    assert headline(facts).endswith("not every rule was asked of its metadata row")
    failed = replaced(facts, rules=[*facts.rules, RuleVerdict("s", "s", passes=False)])
    assert headline(failed).endswith("the filter drops its metadata row")


def test_a_plugin_is_not_imported_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dcfast_trap_plugin.py").write_text(TRAP.format(str(tmp_path / "ran")))
    monkeypatch.syspath_prepend(tmp_path)
    entry = EntryPoint("trap", "dcfast_trap_plugin:f", FILTERS)
    monkeypatch.setattr("dcfast.plugins.installed.entry_points", lambda group: [entry] if group == FILTERS else [])
    made = compile_filter("words >= 1 & trap( most = 3.0 )", run_code=False)
    assert made.unasked == ["trap(most=3)"]
    assert str(made) == "words >= 1 & trap(most=3)"
    assert named_plugins(str(made)) == [PluginUse(FILTERS, "trap", "", "")]
    made.check_needs()
    batch = pa.record_batch({"text": ["a b"]})
    with pytest.raises(FilterError, match=r"filter trap\(most=3\): it is Python code that is not to be run"):
        made.evaluate(batch)
    assert made.evaluate(pa.record_batch({"text": [""]})).all()  # dropped before it
    assert "dcfast_trap_plugin" not in sys.modules
    assert not (tmp_path / "ran").exists()
