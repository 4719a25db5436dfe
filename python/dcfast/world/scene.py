"""Scenes: what is to be seen in a picture, drawn from a stream; no pixels here."""

from __future__ import annotations

from dataclasses import dataclass

from dcfast.world.streams import Stream
from dcfast.world.vocabulary import BACKGROUNDS, COLOURS, KINDS, LIGHTS, NUMBER_WORDS, RELATIONS, TEXTURES

_KINDS = tuple(KINDS)
_COLOURS = tuple(COLOURS)
_BACKGROUNDS = tuple(BACKGROUNDS)
_RELATIONS = tuple(RELATIONS)
_TEXTURES = (("plain", 0.40), *((name, 0.12) for name in TEXTURES if name != "plain"))
_COUNTS = tuple(zip(NUMBER_WORDS, (0.56, 0.14, 0.10, 0.10, 0.10), strict=True))
_LIGHTS = tuple(zip(LIGHTS, (0.44, 0.14, 0.16, 0.14, 0.12), strict=True))
# region of the main things and of the other thing: x0, y0, x1, y1 as shares of the picture
_HALVES = {
    "above": ((0.04, 0.04, 0.96, 0.54), (0.04, 0.56, 0.96, 0.96)),
    "below": ((0.04, 0.46, 0.96, 0.96), (0.04, 0.04, 0.96, 0.44)),
    "left": ((0.03, 0.04, 0.54, 0.96), (0.56, 0.04, 0.97, 0.96)),
    "right": ((0.46, 0.04, 0.97, 0.96), (0.03, 0.04, 0.44, 0.96)),
}


_Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Group:
    """One or several things of one kind, colour and texture.

    ``spots`` holds (x, y, size, angle) for each: centre as a share of width and height, diameter as a share of
    the picture's shorter side, turn in radians. ``tint`` shifts the colour, ``second`` is the texture's other
    colour, ``scale`` the texture's coarseness (0 to 2).
    """

    kind: str
    colour: str
    texture: str
    spots: tuple[_Box, ...]
    tint: tuple[int, int, int]
    second: tuple[int, int, int]
    scale: int

    @property
    def count(self) -> int:
        return len(self.spots)


@dataclass(frozen=True)
class Scene:
    """Everything that a picture shows; ``detail`` seeds the background's own details and the clutter."""

    main: Group
    other: Group | None
    relation: str
    background: str
    light: str
    noise: float
    detail: int

    def attributes(self) -> dict[str, str | int | dict[str, str]]:
        """The facts that a caption may tell, as JSON values."""
        main, other = self.main, self.other
        facts: dict[str, str | int | dict[str, str]] = {"kind": main.kind, "colour": main.colour}
        facts |= {"texture": main.texture, "count": main.count, "background": self.background, "light": self.light}
        if other is not None:
            facts["relation"] = self.relation
            facts["other"] = {"kind": other.kind, "colour": other.colour, "texture": other.texture}
        return facts


def _spots(stream: Stream, count: int, region: _Box, alone: bool) -> tuple[_Box, ...]:
    """Places for things in a region: the farthest of a few random candidates each, so that they rarely overlap."""
    x0, y0, x1, y1 = region
    room = min(x1 - x0, y1 - y0) if count == 1 else ((x1 - x0) * (y1 - y0) / count) ** 0.5
    size = room * (stream.uniform(0.62, 0.94) if alone else stream.uniform(0.80, 0.98))
    if count > 1:
        size = min(room * stream.uniform(0.70, 0.84), 0.5)
    half = size / 2
    spread_x, spread_y = max(x1 - x0 - size, 0.0), max(y1 - y0 - size, 0.0)
    placed: list[tuple[float, float]] = []
    for _ in range(count):
        best, best_distance = (0.0, 0.0), -1.0
        for _ in range(10 if count > 1 else 1):
            x = x0 + min(half, (x1 - x0) / 2) + spread_x * stream.random()
            y = y0 + min(half, (y1 - y0) / 2) + spread_y * stream.random()
            distance = min(((x - a) ** 2 + (y - b) ** 2 for a, b in placed), default=9.0)
            if distance > best_distance:
                best, best_distance = (x, y), distance
        placed.append(best)
    return tuple((x, y, size * stream.uniform(0.88, 1.08), stream.uniform(-0.26, 0.26)) for x, y in placed)


def _second_colour(stream: Stream, colour: str) -> tuple[int, int, int]:
    red, green, blue = COLOURS[colour]
    if colour in ("black", "white"):  # a black-and-white texture would not tell which is the main colour
        level = stream.integer(128, 168)
        return (level, level, level)
    brightness = 0.3 * red + 0.59 * green + 0.11 * blue
    if brightness > 150:
        level = stream.integer(30, 70)
        return (red * level // 160, green * level // 160, blue * level // 160) if stream.chance(0.5) else (level,) * 3
    level = stream.integer(225, 250)
    return (level, level, level)


def _group(stream: Stream, kind: str, colour: str, texture: str, count: int, region: _Box, alone: bool) -> Group:
    tint = (stream.integer(-14, 14), stream.integer(-14, 14), stream.integer(-14, 14))
    spots, second = _spots(stream, count, region, alone), _second_colour(stream, colour)
    return Group(kind, colour, texture, spots, tint, second, scale=stream.integer(0, 2))


def draw_scene(
    stream: Stream,
    *,
    kind: str | None = None,
    colour: str | None = None,
    texture: str | None = None,
    count: int | None = None,
    background: str | None = None,
    light: str | None = None,
    other: bool | None = None,
    noise: float | None = None,
) -> Scene:
    """A scene from the stream; what is given is kept, the rest is drawn."""
    kind = kind or stream.pick(_KINDS)
    colour = colour or stream.pick(_COLOURS)
    texture = texture or stream.weighted(_TEXTURES)
    drawn_count = stream.weighted(_COUNTS)
    count = count or drawn_count
    background = background or stream.pick(_BACKGROUNDS)
    light = light or stream.weighted(_LIGHTS)
    drawn_other = stream.chance(0.38 if count <= 3 else 0.15)
    has_other = drawn_other if other is None else other
    relation = stream.pick(_RELATIONS)
    second: Group | None = None
    region = (0.04, 0.04, 0.96, 0.96)
    if has_other:
        region, second_region = _HALVES[relation]
        kind_of_other = stream.pick([name for name in _KINDS if name != kind])
        colour_of_other = stream.pick([name for name in _COLOURS if name != colour])
        texture_of_other = stream.weighted(_TEXTURES)
        second = _group(stream, kind_of_other, colour_of_other, texture_of_other, 1, second_region, False)
    return Scene(
        main=_group(stream, kind, colour, texture, count, region, not has_other),
        other=second,
        relation=relation if has_other else "",
        background=background,
        light=light,
        noise=stream.uniform(0.0, 6.0) if noise is None else noise,
        detail=stream.integer(0, 2**62),
    )
