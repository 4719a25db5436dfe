"""Captions in other languages, of the words and patterns in ``languages.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path

from dcfast.storage.records import Record, as_record
from dcfast.world.scene import Scene
from dcfast.world.streams import Stream
from dcfast.world.vocabulary import BACKGROUNDS, COLOURS, KINDS, TEXTURES

_FILE = Path(__file__).with_suffix(".toml")


class _Language(Record):
    """A language's words in the vocabulary's order, and its patterns."""

    one: list[str]
    many: list[str]
    colours: list[str]
    textures: list[str]
    backgrounds: list[str]
    numbers: list[str]
    single: list[str]
    several: list[str]
    textured: str
    second: str


LANGUAGES = as_record(tomllib.loads(_FILE.read_text(encoding="utf-8")), dict[str, _Language], _FILE.name)


def _word(words: list[str], vocabulary: Iterable[str], name: str) -> str:
    """The word for a name of the vocabulary."""
    return dict(zip(vocabulary, words, strict=True))[name]


def foreign_caption(scene: Scene, stream: Stream, language: str) -> str:
    """A caption of the scene in one of LANGUAGES; it tells what an English one would."""
    table, group, other = LANGUAGES[language], scene.main, scene.other
    colour = _word(table.colours, COLOURS, group.colour)
    if group.texture != "plain":
        colour = table.textured.format(c=colour, t=_word(table.textures, TEXTURES, group.texture))
    alone = group.count == 1
    text = stream.pick(table.single if alone else table.several).format(
        n="" if alone else table.numbers[group.count - 2],
        k=_word(table.one if alone else table.many, KINDS, group.kind),
        c=colour,
        b=_word(table.backgrounds, BACKGROUNDS, scene.background),
    )
    tell_other = stream.chance(0.7)
    if other is not None and tell_other:
        kind, colour = _word(table.one, KINDS, other.kind), _word(table.colours, COLOURS, other.colour)
        text += table.second.format(k=kind, c=colour)
    return text[0].upper() + text[1:]
