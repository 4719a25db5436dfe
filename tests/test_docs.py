"""The documents match the tree: paths, links, commands, modules, extras and variables they name exist."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
IDS = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
FOLDERS = ("csrc", "cmake", "python", "kernels", "bench", "tests", "docs", ".ci")
SOURCES = ("csrc/**/*.*", "cmake/*", "python/**/*.py", "kernels/*.py", "bench/*.py", "tests/**/*.*", "CMakeLists.txt")

FENCE = re.compile(r"^[ \t]*(```|~~~).*?^[ \t]*\1", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
TOP_LEVEL = re.compile(r"[A-Z][A-Za-z]*\.(md|txt|json)|Makefile|LICENSE|pyproject\.toml")
LINK = re.compile(r"\]\(([^()\s]+)\)")


def prose(text: str) -> str:
    return FENCE.sub("", text)


def code(text: str) -> str:
    """All code of a document: fenced blocks and spans in backticks, one a line."""
    return "\n".join([*(match.group() for match in FENCE.finditer(text)), *SPAN.findall(prose(text))])


def slug(heading: str) -> str:
    """A heading's anchor, by the rule of the usual Markdown hosts."""
    return re.sub(r"[^\w\- ]", "", heading.replace("`", "").strip().lower()).replace(" ", "-")


def anchors(path: Path) -> set[str]:
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)}


def named_paths(text: str) -> Iterator[str]:
    """Spans that claim to be files of this repository."""
    for span in SPAN.findall(prose(text)):
        token = span.strip().rstrip("/")
        if re.search(r"[\s(){}=]", token):
            continue
        if ("/" in token and token.split("/")[0] in FOLDERS) or TOP_LEVEL.fullmatch(token):
            yield token


def make_targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return {name for line in re.findall(r"^\.PHONY:(.*)$", makefile, re.MULTILINE) for name in line.split()}


def each_document() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", DOCUMENTS, ids=IDS)


def test_the_documents_are_there() -> None:
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/architecture.md", "docs/formats.md"} <= set(IDS)
    assert (ROOT / "LICENSE").is_file()


@each_document()
def test_paths_exist(path: Path) -> None:
    missing = []
    for token in named_paths(path.read_text(encoding="utf-8")):
        name, _, anchor = token.partition("#")
        pattern = re.sub(r"<[^<>]*>", "*", name)
        places = list(ROOT.glob(pattern)) if "*" in pattern else [ROOT / pattern]
        if not any(place.exists() for place in places) or (anchor and anchor not in anchors(places[0])):
            missing.append(token)
    assert not missing, f"{path.name} names {missing}, which are not in the tree"


@each_document()
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    broken = []
    for target in LINK.findall(prose(text)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        place = path.parent / name if name else path
        if not place.exists() or (anchor and anchor not in anchors(place)):
            broken.append(target)
    assert not broken, f"{path.name} links to {broken}"


@each_document()
def test_make_targets_exist(path: Path) -> None:
    named = set(re.findall(r"^(?:\$ )?make ([a-z]+)\b", code(path.read_text(encoding="utf-8")), re.MULTILINE))
    assert named <= make_targets(), f"{path.name} names make targets that are not in the Makefile"


@each_document()
def test_subcommands_exist(path: Path) -> None:
    named = set(re.findall(r"^(?:\$ )?dcfast ([a-z][a-z-]*)\b", code(path.read_text(encoding="utf-8")), re.MULTILINE))
    for name in sorted(named):
        with contextlib.redirect_stdout(io.StringIO()), pytest.raises(SystemExit) as caught:
            importlib.import_module("dcfast.cli").main([name, "--help"])
        assert caught.value.code in (0, None), f"{path.name} names `dcfast {name}`"


@each_document()
def test_modules_exist(path: Path) -> None:
    text = code(path.read_text(encoding="utf-8"))
    for name in sorted(set(re.findall(r"\bpython3? -m (dcfast[\w.]*)", text))):
        assert importlib.util.find_spec(name) is not None, f"{path.name} names `python -m {name}`"
    for dotted in sorted(set(re.findall(r"(?<![\w./-])dcfast(?:\.[A-Za-z_]\w*)+", text))):
        parts = dotted.split(".")
        value = importlib.import_module("dcfast")
        for index, part in enumerate(parts[1:], start=2):
            if part in ("cpp", "py", "md", "toml", "_cuda", "evaluation_tasks"):  # the last is a group of plugins
                break
            if not hasattr(value, part):
                with contextlib.suppress(ModuleNotFoundError):
                    importlib.import_module(".".join(parts[:index]))
            assert hasattr(value, part), f"{path.name} names `{dotted}`: no {part!r}"
            value = getattr(value, part)


@each_document()
def test_extras_exist(path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = path.read_text(encoding="utf-8")
    named = {
        name.strip() for group in re.findall(r"(?:dcfast|\.)\[([a-z0-9, -]+)\]", text) for name in group.split(",")
    }
    assert named <= set(project["optional-dependencies"]), f"{path.name} names extras that are not in pyproject.toml"


@each_document()
def test_variables_are_read_somewhere(path: Path) -> None:
    named = set(re.findall(r"\bDCFAST_[A-Z0-9_]+\b", path.read_text(encoding="utf-8")))
    found = [file for pattern in SOURCES for file in ROOT.glob(pattern) if file.is_file()]
    files = [file for file in found if file.suffix not in (".so", ".xz", ".pyc")]
    sources = "\n".join(file.read_text(encoding="utf-8") for file in files if file != Path(__file__).resolve())
    unread = {name for name in named if name not in sources}
    assert not unread, f"{path.name} names {sorted(unread)}, which nothing reads"


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    explained = {name for names in re.findall(r"^([a-z ]+):.*## ", makefile, re.MULTILINE) for name in names.split()}
    assert explained == make_targets()


def test_slug() -> None:
    assert slug("The `.npy` file, twice: v1") == "the-npy-file-twice-v1"


def test_named_paths_takes_only_paths_of_the_tree() -> None:
    text = "See `csrc/core/error.hpp`, `tests/test_<domain>.py`, `runs/tiny/report.html`, `a/b`, `docs/`, `make x y`."
    assert list(named_paths(text)) == ["csrc/core/error.hpp", "tests/test_<domain>.py"]
