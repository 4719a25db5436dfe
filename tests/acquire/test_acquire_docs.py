"""What docs/acquire.md says of causes and options is what the code has."""

from __future__ import annotations

import re
from pathlib import Path

from dcfast.acquire.causes import CAUSES
from dcfast.acquire.options import AcquireOptions, ImageOptions, WebOptions
from dcfast.process.options import option_names
from dcfast.report.page.page import environment


def _rows(text: str, head: str) -> list[list[str]]:
    lines = text[text.index(head) :].splitlines()[2:]
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_the_table_of_causes_is_that_of_the_code(repo_root: Path) -> None:
    text = (repo_root / "docs/acquire.md").read_text(encoding="utf-8")
    again = {(True, True): "at once, and by `--retry`", (False, True): "by `--retry`", (False, False): "no"}
    expected = [[f"`{name}`", cause.words, again[cause.again, cause.later]] for name, cause in CAUSES.items()]
    assert _rows(text, "| cause | what it is |") == expected


def test_the_options_beside_theirs_exist(repo_root: Path) -> None:
    text = (repo_root / "docs/acquire.md").read_text(encoding="utf-8")
    ours = {flag for row in _rows(text, "| theirs | ours |") for flag in re.findall(r"--[a-z][\w-]*", row[1])}
    kinds = (AcquireOptions, ImageOptions, WebOptions)
    known = {f"--{name.replace('_', '-')}" for kind in kinds for name in option_names(kind)}
    known |= {"--no-images", "--no-blur", "--no-verify-tls", "--no-robots"}
    assert len(ours) > 15
    assert ours <= known


def test_a_cause_has_words_without_html() -> None:
    assert all(not re.search(r"[<>&]", cause.words) for cause in CAUSES.values())
    assert environment().get_template("acquired.html.j2") is not None
