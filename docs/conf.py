"""How Sphinx builds the site; ``cmake/make_site.py`` collects its pages and calls it."""

import re
from pathlib import Path

from pygments.lexers.special import TextLexer

_PACKAGE = Path(__file__).resolve().parent.parent / "python/dcfast/__init__.py"
project = "dcfast"
author = "the dcfast authors"
release = version = re.findall(r'^__version__ = "(.+)"$', _PACKAGE.read_text(encoding="utf-8"), re.MULTILINE)[0]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
myst_heading_anchors = 4
autodoc_typehints = "signature"
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_use_rtype = False
python_maximum_signature_line_length = 88
highlight_language = "none"

html_theme = "furo"
html_title = f"dcfast {release}"
html_static_path = [str(Path(__file__).with_name("site.css"))]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = False
html_show_sphinx = False
copybutton_prompt_text = "$ "

_ENTRY = re.compile(r"(?:^|\s{2,})(?=[A-Z]\w+(?: \([^)]*\)| or \w+)*: )")


def _split_raises(app, what, name, obj, options, lines):
    """``Raises:`` names several errors in a line, three blanks apart; napoleon wants a line for each."""
    if "Raises:" not in lines:
        return
    first = lines.index("Raises:") + 1
    last = next((i for i in range(first, len(lines)) if not lines[i].startswith("    ")), len(lines))
    text = ""
    for line in lines[first:last]:
        text += ("   " if _ENTRY.match(line.strip()) else " ") + line.strip()
    lines[first:last] = [f"    {entry.strip()}" for entry in _ENTRY.split(text) if entry.strip()]


def setup(app):
    app.connect("autodoc-process-docstring", _split_raises, priority=400)  # before napoleon's
    for language in ("filter", "hex"):
        app.add_lexer(language, TextLexer)
