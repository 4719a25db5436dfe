"""The pictures of the evaluation sets: what each shows, its bytes, and the association set's riddles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image

from dcfast.world.captions import english_caption
from dcfast.world.paint import encode_picture, flat_picture, paint_scene
from dcfast.world.scene import Scene, draw_scene
from dcfast.world.spec import WorldSpec
from dcfast.world.streams import Stream
from dcfast.world.tasks import PAIRS, PORTRAIT_COLOURS, PORTRAIT_KINDS, PORTRAIT_TEXTURES, RIDDLES, TASKS, task_size
from dcfast.world.vocabulary import BACKGROUNDS, COLOURS, KINDS, TEXTURES


@dataclass(frozen=True)
class EvalSample:
    """One picture of an evaluation set; ``flat`` names the colour of a picture without a scene."""

    key: str
    scene: Scene
    flat: str
    size: tuple[int, int]
    quality: int
    label: int
    metadata: tuple[int, ...]
    captions: tuple[str, ...]


_KINDS, _COLOURS, _BACKGROUNDS = tuple(KINDS), tuple(COLOURS), tuple(BACKGROUNDS)
_TEXTURES = tuple(name for name in TEXTURES if name != "plain")
# the region set: backgrounds and lights of each region
_FMOW_STYLE: dict[int, tuple[tuple[str, ...], tuple[str, ...]]] = {
    0: (("snow", "forest", "city"), ("overcast", "day")),
    1: (("beach", "grass", "water"), ("day", "dusk")),
    2: (("city", "bricks", "wood"), ("haze", "day")),
    3: (("grass", "sky", "studio"), ("day", "overcast")),
    4: (("night", "water", "beach"), ("lamp", "dusk")),
    5: (_BACKGROUNDS, ("haze",)),
}

_Drawing = tuple[Scene, int, tuple[int, ...]]


def _objects(s: Stream, i: int) -> _Drawing:
    label = i if i < 24 else s.weighted([(c, 1 / (1 + c / 4)) for c in range(24)])  # a long tail, no class empty
    return draw_scene(s, colour=PAIRS[label][0], kind=PAIRS[label][1], other=False), label, ()


def _camera_traps(s: Stream, i: int) -> _Drawing:
    label = i if i < 12 else s.weighted([(c, 1 / (1 + c / 3)) for c in range(12)])
    location = s.integer(0, 7)
    background = ("night", "forest", "snow", "grass")[location % 4]
    light, noise = s.pick(("lamp", "overcast")), 5.0 + location
    scene = draw_scene(
        s, colour=_COLOURS[label], kind="fish", background=background, light=light, noise=noise, other=False
    )
    when = (2013 + location % 3, s.integer(1, 12), s.integer(1, 28), s.integer(0, 23), s.integer(0, 59))
    return scene, label, (location, i // 3, *when, s.integer(0, 59), label)


def _slides(s: Stream, i: int) -> _Drawing:
    label, slide = i % 2, s.integer(0, 5)
    texture, light = ("dotted", "striped")[label], ("day", "overcast", "haze")[slide // 2]
    colour, count = s.pick(("pink", "purple")), s.integer(1, 2)
    scene = draw_scene(s, texture=texture, colour=colour, background="studio", light=light, count=count, other=False)
    return scene, label, (slide // 2, slide, label)


def _regions(s: Stream, i: int) -> _Drawing:
    region = s.weighted(((0, 0.28), (1, 0.24), (2, 0.20), (3, 0.16), (4, 0.09), (5, 0.03)))
    backgrounds, lights = _FMOW_STYLE[region]
    scene = draw_scene(
        s, colour=_COLOURS[i % 12], kind="house", background=s.pick(backgrounds), light=s.pick(lights), other=False
    )
    return scene, i % 12, (region, s.integer(0, 15), i % 12)


def _households(s: Stream, i: int) -> _Drawing:
    label, income = i % 24, s.integer(0, 3)
    light = s.pick((("lamp", "haze"), ("haze", "overcast"), ("overcast", "day"), ("day",))[income])
    scene = draw_scene(
        s, colour=PAIRS[label][0], kind=PAIRS[label][1], light=light, noise=15.0 - 4 * income, other=False
    )
    return scene, label, (income, 50 * 4**income + s.integer(0, 40), s.integer(0, 3))


def _places(s: Stream, i: int) -> _Drawing:
    region = s.integer(0, 3)
    places = (("beach", "water"), ("snow", "forest"), ("grass", "sky"), ("city", "bricks", "wood"))[region]
    label = i % 24
    scene = draw_scene(s, colour=PAIRS[label][0], kind=PAIRS[label][1], background=s.pick(places), other=False)
    return scene, label, (region, 5 * region + s.integer(0, 4))


def _portraits(s: Stream, i: int) -> _Drawing:
    race, gender, age = s.integer(0, 6), i % 2, s.integer(0, 5)
    colour, kind, texture = PORTRAIT_COLOURS[race], PORTRAIT_KINDS[gender], PORTRAIT_TEXTURES[age]
    scene = draw_scene(s, colour=colour, kind=kind, texture=texture, count=1, other=False)
    return scene, race, (age, gender, race, int(race == 1))


_DRAWERS: dict[str, Callable[[Stream, int], _Drawing]] = {
    "world/shapes": lambda s, i: (draw_scene(s, kind=_KINDS[i % 16], count=1, other=False), i % 16, ()),
    "world/colors": lambda s, i: (draw_scene(s, colour=_COLOURS[i % 12], other=False), i % 12, ()),
    "world/textures": lambda s, i: (draw_scene(s, texture=_TEXTURES[i % 5], count=1, other=False), i % 5, ()),
    "world/backgrounds": lambda s, i: (draw_scene(s, background=_BACKGROUNDS[i % 11]), i % 11, ()),
    "world/counts": lambda s, i: (draw_scene(s, count=i % 5 + 1, other=False), i % 5, ()),
    "world/objects": _objects,
    "world/camera_traps": _camera_traps,
    "world/slides": _slides,
    "world/regions": _regions,
    "world/households": _households,
    "world/places": _places,
    "world/portraits": _portraits,
    "world/retrieval": lambda s, i: (draw_scene(s), 0, ()),
    "world/associations": lambda s, i: (draw_scene(s), 0, ()),
}


def eval_key(index: int) -> str:
    """The key of a picture in its set's shards."""
    return f"s{index:07d}"


@lru_cache(maxsize=4096)
def eval_sample(spec: WorldSpec, task_key: str, index: int) -> EvalSample:
    """Picture number ``index`` of a set: a function of the seed, the set and the number alone."""
    task = TASKS[task_key]
    stream = Stream(spec.seed, "evalset", task_key, index)
    scene, label, metadata = _DRAWERS[task_key](stream, index)
    longer = stream.integer(spec.min_side, spec.max_side)
    shorter = round(longer / stream.pick((1.0, 1.0, 1.2, 4 / 3, 1.5)))
    size = (longer, shorter) if stream.chance(0.6) else (shorter, longer)
    captions = stream.integer(0, 2**62)
    return EvalSample(
        key=eval_key(index),
        scene=scene,
        flat=scene.main.colour if task_key == "world/colors" and index % 60 == 7 else "",
        size=size,
        quality=stream.integer(86, 94),
        label=label,
        metadata=metadata,
        captions=tuple(english_caption(scene, Stream(captions, j), whole=True) for j in range(5))
        if task.kind == "retrieval"
        else (),
    )


def eval_image(sample: EvalSample) -> Image.Image:
    """The picture before it is encoded."""
    return flat_picture(sample.flat, sample.size) if sample.flat else paint_scene(sample.scene, sample.size)


def eval_bytes(spec: WorldSpec, task_key: str, index: int) -> bytes:
    """The picture's file, as it stands in the set's shard."""
    sample = eval_sample(spec, task_key, index)
    return encode_picture(eval_image(sample), TASKS[task_key].extension, sample.quality)


@dataclass(frozen=True)
class Riddle:
    """A cue, 5, 6, 10 or 12 candidate keys, and those that the cue fits."""

    cue: str
    candidates: list[str]
    associations: list[str]


_CUES: tuple[tuple[str, Callable[[Scene], str], tuple[str, ...]], ...] = (
    ("colour", lambda scene: scene.main.colour, _COLOURS),
    ("kind", lambda scene: scene.main.kind, _KINDS),
    ("texture", lambda scene: scene.main.texture, _TEXTURES),
    ("background", lambda scene: scene.background, ("sky", "beach", "snow", "water", "city", "forest", "grass")),
)


def riddles(spec: WorldSpec) -> list[Riddle]:
    """The association set's riddles."""
    task = TASKS["world/associations"]
    samples = [eval_sample(spec, task.key, i) for i in range(task_size(spec, task))]
    count = max(24, round(RIDDLES * spec.eval_scale))
    drawn: list[Riddle] = []
    for number in range(60 * count):
        if len(drawn) == count:
            break
        stream = Stream(spec.seed, "riddle", number)
        _, value_of, values = stream.pick(_CUES)
        cue = stream.pick(values)
        fitting = [s.key for s in samples if value_of(s.scene) == cue]
        others = [s.key for s in samples if value_of(s.scene) != cue]
        candidates = stream.weighted(((5, 0.2), (6, 0.2), (10, 0.4), (12, 0.2)))
        associations = stream.integer(2, 3 if candidates < 10 else 5)
        if len(fitting) < associations or len(others) < candidates - associations:
            continue
        right = stream.shuffled(fitting)[:associations]
        keys = stream.shuffled([*right, *stream.shuffled(others)[: candidates - associations]])
        drawn.append(Riddle(cue=cue, candidates=keys, associations=sorted(right)))
    return drawn
