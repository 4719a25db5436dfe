"""``dcfast why``: a line a rule, with the sample's value and what it is compared with."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dcfast.inspection import why
from dcfast.run.workflow import run
from dcfast.rundir.settings import Settings
from pool_builder import plain_pool, uid_of

CAPTION = "a picture of coloured clouds in the evening sky"
FUNCTION = """
import numpy as np
import pyarrow.compute as pc

def is_long(batch, least=3):
    return np.asarray(pc.greater_equal(pc.utf8_length(batch.column("text")), least))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run by terms of every kind that has a value, and its function; sample 2 has a null and no score."""
    root = tmp_path_factory.mktemp("why")
    (root / "f.py").write_text(FUNCTION)

    def columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
        numbers = range(len(rows))
        return {
            "aesthetic": [None if n == 2 else 5.5 for n in numbers],
            "clip_l14_similarity_score": [0.25 + n for n in numbers],
        }

    plain_pool(root / "pool", 4, 1).write(columns)
    scores = {"uid": [uid_of(n) for n in (0, 1, 3)], "score": [0.5, 0.75, 1.0]}
    pq.write_table(pa.table(scores), root / "s.parquet")
    function = f'python("{root}/f.py:is_long", text, least=500)'
    text = (
        f'words >= 2 & column(aesthetic) >= 5 & score("{root}/s.parquet", threshold=0.6) & basic_filter & '
        f"clip_score(l14, fraction=0.25) & {function} & (characters < 3 | ~{function})"
    )
    run(root / "out", Settings(pool=str(root / "pool"), filter=text, train=False), last="filter")
    return root / "out", function


def rules_said(out: Path, number: int, capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """The lines of the rules, in one piece each."""
    assert why.main([uid_of(number), "--out", str(out), *words]) == 0
    block = re.search(r"^rule .*?(?=^[a-z])", capsys.readouterr().out + "z", re.MULTILINE | re.DOTALL)
    assert block is not None
    return [line[10:] for line in block[0].splitlines()]


def test_a_line_a_rule_with_its_value(
    made: tuple[Path, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(why, "width_of", lambda stream: 400)
    out, function = made
    score = f'score("{out.parent}/s.parquet", threshold=0.6)'
    words, characters = len(CAPTION.split()), len(CAPTION)
    assert rules_said(out, 1, capsys, "--run-code") == [
        f"words >= 2: passes (words {words})",
        "column(aesthetic) >= 5: passes (aesthetic 5.5)",
        f"{score}: passes (score 0.75)",
        f"basic_filter: words: passes (words {words}, kept from 3)",
        f"basic_filter: characters: passes (characters {characters}, kept from 6)",
        "basic_filter: size: passes (original_width 640, original_height 480, kept where both are 200 or more)",
        "basic_filter: aspect: passes (original_width 640, original_height 480, kept up to 3 to 1)",
        "basic_filter: language: passes",
        "clip_score(l14, fraction=0.25): drops it (clip_l14_similarity_score 1.25, kept from 2.25)",
        f"{function}: drops it (is_long() False)",
        f"characters < 3 | ~{function}: passes (characters {characters}, is_long() False)",
    ]
    assert rules_said(out, 0, capsys)[2] == f"{score}: drops it (score 0.5)"


def test_what_has_no_value_is_one_line_too(
    made: tuple[Path, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(why, "width_of", lambda stream: 400)
    out, function = made
    said = rules_said(out, 2, capsys)
    assert said[1] == "column(aesthetic) >= 5: drops it (aesthetic null)"
    assert said[2].endswith("threshold=0.6): drops it (score null)")
    assert said[-2].startswith(f"{function}: not asked: ")
    assert len(said) == 11


def test_the_values_as_json(made: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    out, function = made
    assert why.main([uid_of(2), "--out", str(out), "--json", "--run-code"]) == 0
    (sample,) = json.loads(capsys.readouterr().out)["samples"]
    values = {rule["rule"]: rule["values"] for rule in sample["rules"]}
    assert values["words >= 2"] == {"words": len(CAPTION.split())}
    assert values["column(aesthetic) >= 5: null"] == values["column(aesthetic) >= 5"] == {"aesthetic": None}
    assert values[function] == {"is_long()": False}
    assert [value for name, value in values.items() if name.endswith("threshold=0.6)")] == [{"score": None}]
