"""The page of ``dcfast inspect``: samples in groups, or one sample with what is known of it. As the report's, it is one
file without a script, and asks for nothing from anywhere.
"""

from __future__ import annotations

from typing import NamedTuple

from dcfast import __version__
from dcfast.report.page.page import Card, environment


class Group(NamedTuple):
    """Samples under a heading; ``fate`` colours it."""

    title: str
    fate: str
    entries: list[Card]
    note: str = ""


class Gallery(NamedTuple):
    """A page.

    Attributes:
        run: the name of the run directory.   filter: of the run.
        lead: sentences under the title: of how many these are.
        subject: the one sample that the page is of.
    """

    title: str
    run: str
    filter: str | None
    lead: list[str]
    groups: list[Group]
    subject: Card | None = None


def render_gallery(page: Gallery) -> str:
    """The page as text. The same gallery gives the same bytes."""
    text = environment().get_template("gallery.html.j2").render(page=page, version=__version__)
    return text.encode("utf-8", "replace").decode("utf-8")
