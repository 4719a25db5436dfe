"""The documentation as a site that is read without a network: ``make docs``.

    python cmake/make_site.py [OUT] [--quick]    # build/site where none is given; its first page is OUT/index.html

The pages are README.md, docs/*.md and the papers beside them, as they are. To them come the API, of the docstrings, and
the notebook docs/first_pool.ipynb, which is executed (not with --quick). A link that leads nowhere ends the build, and
so does a page that loads anything from another host. Cost: two minutes.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import nbformat

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = "docs/first_pool.ipynb"

# page of the site -> file of the tree, where the two have other names: the first page of a site is index.html
RENAMED = {"index.md": "README.md", "pool_index.md": "docs/index.md", "first_pool.md": NOTEBOOK}
PAPERS = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")

# Captions and pages, in order. A page that is not named here stands under the last; one that is not there is left out.
CONTENTS = {
    "Begin": ("first_pool", "install", "coming_from", "acquire", "import", "assets", "pipeline", "cluster"),
    "The workflow": (
        "filters",
        "dedup",
        "decontaminate",
        "features",
        "training",
        "evaluation",
        "study",
        "report",
        "world",
    ),
    "Look inside": ("status", "inspect", "pool_index", "calibration"),
    "Reference": (
        "options",
        "errors",
        "formats",
        "limits",
        "similarity",
        "loss",
        "kernels",
        "plugins",
        "api",
        "versions",
    ),
    "The house": ("architecture", "CONTRIBUTING", "SECURITY", "CHANGELOG"),
}
API = {
    "dcfast": "What `import dcfast` gives: arrays in, arrays out",
    "dcfast.run": "The workflow",
    "dcfast.train": "Training",
    "dcfast.evaluate": "Evaluation",
    "dcfast.models": "CLIP models",
    "dcfast.loss": "Losses",
    "dcfast.filters": "Filters",
    "dcfast.access": "Samples by uid",
    "dcfast.index": "The index",
    "dcfast.interop": "Index files of other tools",
    "dcfast.world": "The built-in world",
    "dcfast.acquire": "A pool from the net",
    "dcfast.hub": "Files of Hugging Face's hub",
    "dcfast.errors": "Errors",
}
LINK = re.compile(r"\[([^\[\]]*)\]\(([^()\s]+)\)")
FENCE = re.compile(r"(^[ \t]*(?:```|~~~).*?^[ \t]*(?:```|~~~)[ \t]*$)", re.MULTILINE | re.DOTALL)


def pages() -> dict[str, Path]:
    """Page of the site -> file of the tree."""
    found = {name: ROOT / name for name in PAPERS}
    found |= {path.name: path for path in sorted((ROOT / "docs").glob("*.md")) if path.name != "index.md"}
    return found | {name: ROOT / source for name, source in RENAMED.items() if (ROOT / source).exists()}


def with_site_links(text: str, source: Path, names: dict[Path, str]) -> str:
    """A page's text, its links leading to pages of the site; LookupError names one that leads to none."""

    def moved(match: re.Match[str]) -> str:
        text, (place, hash, anchor) = match[1], match[2].partition("#")
        if not place or re.match(r"[a-z]+:", place):
            return match[0]
        target = (source.parent / place).resolve()
        if target not in names:
            raise LookupError(f"{source}: the link to {match[2]} leads to no page of the site")
        if text.endswith(target.name) and target.suffix == ".md":  # it is called by its file's name
            text = target.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        return f"[{text}]({names[target]}{hash}{anchor})"

    parts = FENCE.split(text)
    parts[::2] = [LINK.sub(moved, part) for part in parts[::2]]
    return "".join(parts)


def contents(names: set[str]) -> str:
    """The tables of contents, which stand unseen on the first page."""
    listed = {name for group in CONTENTS.values() for name in group}
    rest = tuple(sorted(names - listed - {"index"}))
    groups = {**CONTENTS, list(CONTENTS)[-1]: CONTENTS[list(CONTENTS)[-1]] + rest}
    trees = []
    for caption, group in groups.items():
        there = "\n".join(name for name in group if name in names)
        trees.append(f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{there}\n```\n")
    return "\n" + "\n".join(trees)


def is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)


def write_api(folder: Path) -> None:
    """A page for each face of the package: what stands in its ``__all__``, by its docstrings."""
    import importlib

    rows, home = [], dict[int, str]()
    for module, title in API.items():
        face = importlib.import_module(module)
        own = [name for name, value in vars(face).items() if getattr(value, "__module__", "") == module]
        page, also = (
            [f"# {module}", "", f"{title}.", "", "```{eval-rst}", f".. automodule:: {module}", "   :no-members:", ""],
            [],
        )
        listed = getattr(face, "__all__", own)
        for name in sorted(listed, key=lambda name: (is_error(getattr(face, name)), name.lower())):
            value = getattr(face, name)
            if id(value) in home:
                also.append(f"[{name}](#{home[id(value)]}.{name})")
            elif not name.startswith("_") and callable(value):
                home[id(value)] = module
                page += [f".. autoclass:: {module}.{name}", "   :members:", ""] if isinstance(value, type) else []
                page += [] if isinstance(value, type) else [f".. autofunction:: {module}.{name}", ""]
        page += ["```", "", *([f"Also here: {', '.join(also)}."] if also else []), ""]
        (folder / f"api_{module}.md").write_text("\n".join(page), encoding="utf-8")
        rows.append(f"| [{module}](api_{module}.md) | {title} |")
    tree = "\n".join(f"api_{module}" for module in API)
    text = "\n".join(["# Python API", "", "| module | what it is |", "|---|---|", *rows, ""])
    text += f"\n```{{toctree}}\n:hidden:\n\n{tree}\n```\n"
    (folder / "api.md").write_text(text, encoding="utf-8")


def execute(notebook: nbformat.NotebookNode) -> None:
    """Runs all cells in an empty folder; the first that fails is an error."""
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    with tempfile.TemporaryDirectory(prefix="dcfast-notebook-") as folder:
        # sockets in the folder: nothing listens on a port
        kernel = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=f"{folder}/kernel")
        NotebookClient(notebook, km=kernel, timeout=600, resources={"metadata": {"path": folder}}).execute()


def notebook_page(path: Path, folder: Path, run: bool) -> tuple[str, list[str]]:
    """A notebook as a page, with the outputs of its cells below them, and the pictures that were written for it."""
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    if run:
        execute(notebook)
    parts, pictures = [], []
    for number, cell in enumerate(notebook.cells):
        parts.append(cell.source if cell.cell_type == "markdown" else f"```python\n{cell.source}\n```")
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":  # warnings of libraries, with paths of this machine
                continue
            data = output.get("data", {})
            if "image/png" in data:
                pictures.append(f"first_pool_{number}_{len(pictures)}.png")
                (folder / pictures[-1]).write_bytes(base64.b64decode(data["image/png"]))
                parts.append(f"![what the cell above shows]({pictures[-1]})")
            elif text := (output.get("text") or data.get("text/plain") or ""):
                parts.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts) + "\n", pictures


def stage(folder: Path, run: bool) -> None:
    """Writes what Sphinx reads: the pages with links that hold there, pictures, the API, the notebook."""
    found = pages()
    names = {path.resolve(): name for name, path in found.items()}
    for picture in (ROOT / "docs").glob("*.svg"):
        shutil.copy(picture, folder)
        names[picture.resolve()] = picture.name
    for name, path in found.items():
        if path.suffix == ".ipynb":
            text, pictures = notebook_page(path, folder, run)
            names |= {(path.parent / picture).resolve(): picture for picture in pictures}
        else:
            text = path.read_text(encoding="utf-8")
        (folder / name).write_text(with_site_links(text, path, names), encoding="utf-8")
    write_api(folder)
    with open(folder / "index.md", "a", encoding="utf-8") as file:
        file.write(contents({Path(name).stem for name in found} | {"api"}))


class _Loads(HTMLParser):
    """What a page loads by itself when it is opened: not where its links lead."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        loading = tag in ("script", "img", "iframe", "source", "video", "audio", "embed", "object", "use")
        is_sheet = tag == "link" and values.get("rel", "") not in ("canonical", "author", "license", "next", "prev")
        names = ("src", "data", "srcset", "href") if loading else ("href",) if is_sheet else ()
        self.found += [values[name] for name in names if name in values]
        self.found += _of_style(values.get("style", ""))


def _of_style(text: str) -> Iterator[str]:
    yield from re.findall(r"url\(\s*['\"]?([^'\")]+)", text)
    yield from re.findall(r"@import\s+['\"]([^'\"]+)", text)


def foreign_loads(site: Path) -> list[str]:
    """``page: address`` of all that pages and styles of a site load from another host."""
    bad = []
    for path in sorted(site.rglob("*")):
        if path.suffix not in (".html", ".css"):
            continue
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".css":
            loads = list(_of_style(text))
        else:
            parser = _Loads()
            parser.feed(text)
            loads = [
                *parser.found,
                *(load for style in re.findall(r"<style.*?</style>", text, re.S) for load in _of_style(style)),
            ]
        bad += [f"{path.relative_to(site)}: {load}" for load in loads if re.match(r"\s*(https?:)?//", load)]
    return bad


def main() -> int:
    """Builds the site; returns an exit status."""
    from sphinx.cmd.build import main as sphinx

    words = [word for word in sys.argv[1:] if word != "--quick"]
    out = Path(words[0] if words else "build/site")
    with tempfile.TemporaryDirectory(prefix="dcfast-site-") as folder:
        source = Path(folder)
        stage(source, run="--quick" not in sys.argv)
        jobs = str(os.cpu_count() or 1)
        status = sphinx(
            ["-W", "--keep-going", "-q", "-E", "-j", jobs, "-b", "html", "-c", str(ROOT / "docs"), folder, str(out)]
        )
    if status != 0:
        return int(status)
    shutil.rmtree(out / ".doctrees", ignore_errors=True)
    if bad := foreign_loads(out):
        print("these pages load from other hosts:", *bad, sep="\n", file=sys.stderr)
        return 1
    print(f"{out}/index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
