"""The site of the documents (``make docs`` builds it), and the papers that others read by machine."""

from __future__ import annotations

import json
import runpy
import tomllib
from pathlib import Path
from typing import Any

import dcfast
import pytest

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def site() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "cmake/make_site.py"))


def test_every_page_has_a_place_in_the_contents(site: dict[str, Any]) -> None:
    names = {Path(name).stem for name in site["pages"]()}
    assert {"index", "pool_index", "first_pool", "cluster", "coming_from", "CONTRIBUTING"} <= names
    # one that is not named would stand among the papers of the house
    assert names - {"index"} <= {name for group in site["CONTENTS"].values() for name in group}
    text = site["contents"](names | {"api", "a_page_of_tomorrow"})
    listed = [line for line in text.splitlines() if line and line[0] not in ":`"]
    assert sorted(listed) == sorted(names - {"index"} | {"api", "a_page_of_tomorrow"})


def test_links_of_every_page_lead_to_pages(site: dict[str, Any]) -> None:
    found = site["pages"]()
    names = {path.resolve(): name for name, path in found.items()}
    names |= {path.resolve(): path.name for path in (ROOT / "docs").glob("*.svg")}
    for path in found.values():
        if path.suffix == ".md":
            site["with_site_links"](path.read_text(encoding="utf-8"), path, names)
    linked = site["with_site_links"]
    page, inner = ROOT / "README.md", ROOT / "docs/index.md"
    assert linked("[x](docs/index.md#other-tools)", page, names) == "[x](pool_index.md#other-tools)"
    assert linked("[docs/index.md](docs/index.md)", page, names) == "[The index of a pool](pool_index.md)"
    assert linked("[x](../README.md)\n```\n[x](nothing.md)\n```\n", inner, names).startswith(
        "[x](index.md)\n```\n[x](n"
    )
    with pytest.raises(LookupError, match=r"the link to nothing\.md leads to no page"):
        linked("[x](nothing.md)", page, names)


def test_a_page_that_loads_from_another_host_is_found(tmp_path: Path, site: dict[str, Any]) -> None:
    (tmp_path / "a.html").write_text(
        '<a href="https://b.org">b</a><img src="c.png"><link rel="next" href="https://b.org">'
    )
    (tmp_path / "a.css").write_text("@import 'b.css'; p { background: url(c.png) }")
    assert site["foreign_loads"](tmp_path) == []
    (tmp_path / "b.html").write_text(
        '<script src="https://b.org/a.js"></script><p style="background: url(//b.org/c.png)">'
        '<style>@import "http://b.org/d.css";</style><link rel="stylesheet" href="https://b.org/e.css">'
    )
    (tmp_path / "b.css").write_text('@font-face { src: url("https://b.org/f.woff2") }')
    found = [line.rpartition("/")[2] for line in site["foreign_loads"](tmp_path)]
    assert sorted(found) == ["a.js", "c.png", "d.css", "e.css", "f.woff2"]


def test_the_notebook_is_without_outputs_and_compiles() -> None:
    cells = json.loads((ROOT / "docs/first_pool.ipynb").read_text(encoding="utf-8"))["cells"]
    programs = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(programs) > 5
    assert not any(cell["outputs"] or cell["execution_count"] for cell in programs)
    for cell in programs:
        compile("".join(cell["source"]), cell["id"], "exec")


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["version"] == project["version"] == dcfast.__version__
    assert citation["license"] == project["license"]
    assert {"cff-version", "message", "title", "authors"} <= set(citation)


def test_hooks_before_a_commit_fetch_nothing() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    hooks = config["repos"][0]["hooks"]
    assert {hook["language"] for hook in hooks} == {"system"}
    named = {word for hook in hooks for word in hook["entry"].split() if "/" in word and not word.startswith(".venv")}
    assert all((ROOT / name).exists() for name in named)
