"""The pool's rows: what each is, its defects, its caption and its picture; every row a function of seed and number.

Row numbers 0 to rows - 1 are metadata rows. Number rows + n, where it exists, is the unlisted sample that follows
row n in its shard: an image whose metadata row is missing.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from functools import lru_cache

from PIL import Image

from dcfast.world.captions import boilerplate, english_caption, flat_caption
from dcfast.world.evalsets import eval_bytes, eval_image, eval_sample
from dcfast.world.languages import LANGUAGES, foreign_caption
from dcfast.world.paint import encode_picture, flat_picture, paint_scene
from dcfast.world.scene import Scene, draw_scene
from dcfast.world.spec import BREAKAGES, PICTURE_SOURCES, WorldSpec
from dcfast.world.streams import Stream, hex_id
from dcfast.world.tasks import TASKS, task_size
from dcfast.world.vocabulary import COLOURS

_ODD = ("cmyk", "turned")
_ASPECTS = (1.0, 1.0, 1.25, 4 / 3, 4 / 3, 1.5, 1.78)
_LANGUAGES = tuple(LANGUAGES)
_JPEG_TASKS = tuple(task for task in TASKS.values() if task.extension == "jpg")


@dataclass(frozen=True)
class Kinds:
    """What was drawn for a row, before anything is looked up."""

    source: str  # own | flat | exact_duplicate | near_duplicate | leak_exact | leak_near
    mismatched: bool
    language: str  # "" is English
    boilerplate: bool
    small: bool
    extreme_aspect: bool
    fault: str  # "", or one of BREAKAGES
    missing: bool
    unlisted: bool  # an unlisted sample follows this row
    repeated_uid: bool
    face_box: bool

    @property
    def broken(self) -> str:
        """What is wrong with the sample: "", or one of BREAKAGES but the odd ones."""
        return "" if self.fault in _ODD else self.fault

    @property
    def odd(self) -> str:
        """Of a picture that is legal: "", cmyk or turned."""
        return self.fault if self.fault in _ODD and self.source == "own" else ""


@lru_cache(maxsize=65536)
def row_kinds(spec: WorldSpec, number: int) -> Kinds:
    """The defects that a row was dealt; independent draws in a fixed order."""
    stream = Stream(spec.seed, "kinds", number)
    source = stream.first_of(spec.rates(PICTURE_SOURCES), "own")
    mismatched = stream.chance(spec.mismatched)
    foreign, language = stream.chance(spec.language), stream.pick(_LANGUAGES)
    kinds = Kinds(
        source=source,
        mismatched=mismatched,
        language=language if foreign else "",
        boilerplate=stream.chance(spec.boilerplate),
        small=stream.chance(spec.small_picture),
        extreme_aspect=stream.chance(spec.extreme_aspect),
        fault=stream.first_of(spec.rates(BREAKAGES), ""),
        missing=stream.chance(spec.missing),
        unlisted=stream.chance(spec.unlisted),
        repeated_uid=stream.chance(spec.repeated_uid),
        face_box=stream.chance(spec.face_box),
    )
    if number < spec.rows:
        return kinds
    return replace(kinds, source="own", fault="", missing=False, unlisted=False, repeated_uid=False)


def _partner(spec: WorldSpec, number: int, purpose: str) -> int | None:
    """Another row that is present, whole, with a picture and a uid of its own; None where 64 draws find none."""
    stream = Stream(spec.seed, purpose, number)
    for _ in range(64):
        other = stream.integer(0, spec.rows - 1)
        kinds = row_kinds(spec, other)
        usable = kinds.source == "own" and not (kinds.missing or kinds.broken or kinds.odd or kinds.repeated_uid)
        if other != number and usable:
            return other
    return None


def row_uid(spec: WorldSpec, number: int) -> tuple[str, bool]:
    """(uid, whether it repeats another row's)."""
    if row_kinds(spec, number).repeated_uid:
        other = _partner(spec, number, "repeated uid")
        if other is not None:
            return hex_id(spec.seed, "uid", other), True
    return hex_id(spec.seed, "uid", number), False


@dataclass(frozen=True)
class PicturePlan:
    """How a row's picture comes about. ``source`` is the source after look-ups; the size pairs are (width, height)."""

    number: int
    source: str
    scene: Scene | None  # what is to be seen; None for flat pictures
    flat: str  # the colour of a flat picture
    original: tuple[int, int]
    stored: tuple[int, int]
    quality: int
    origin: int | None = None  # the row that this one copies
    leak: tuple[str, int] | None = None  # (task key, index) of the leaked evaluation picture


def _fit(size: tuple[float, float], longest: int) -> tuple[int, int]:
    """Size scaled down to the longest side, never up, at least 16 pixels a side."""
    scale = min(1.0, longest / max(size))
    return max(16, round(size[0] * scale)), max(16, round(size[1] * scale))


def _original_size(stream: Stream, kinds: Kinds) -> tuple[int, int]:
    aspect = stream.uniform(3.3, 6.0) if kinds.extreme_aspect else stream.pick(_ASPECTS) * stream.uniform(0.96, 1.04)
    shorter = stream.integer(56, 190) if kinds.small else round(200 * 6 ** stream.random())
    longer = max(shorter, round(shorter * aspect))
    return (longer, shorter) if stream.chance(0.66) else (shorter, longer)


@lru_cache(maxsize=4096)
def row_picture(spec: WorldSpec, number: int) -> PicturePlan:
    """The plan of a row's picture; copies are resolved to what they copy."""
    kinds = row_kinds(spec, number)
    stream = Stream(spec.seed, "picture", number)
    original = _original_size(stream, kinds)
    longest = spec.max_side if kinds.extreme_aspect else stream.integer(spec.min_side, spec.max_side)
    quality, poor_quality = stream.integer(76, 95), stream.integer(38, 82)
    stretch, factor = stream.uniform(0.92, 1.09), stream.uniform(0.5, 1.6)
    source = kinds.source
    if source in ("exact_duplicate", "near_duplicate"):
        origin = _partner(spec, number, "duplicate")
        if origin is not None:
            base = row_picture(spec, origin)
            if source == "exact_duplicate":
                return replace(base, number=number, source=source, origin=origin)
            size = (base.original[0] * factor * stretch, base.original[1] * factor)
            rounded = (max(16, round(size[0])), max(16, round(size[1])))
            return PicturePlan(number, source, base.scene, "", rounded, _fit(size, longest), poor_quality, origin)
        source = "own"
    if source in ("leak_exact", "leak_near"):
        tasks = _JPEG_TASKS if source == "leak_exact" else tuple(TASKS.values())
        task = stream.weighted([(task, task_size(spec, task)) for task in tasks])
        leak = (task.key, stream.integer(0, task_size(spec, task) - 1))
        sample = eval_sample(spec, *leak)
        stored, grown = sample.size, min(original) / min(sample.size)
        size = (sample.size[0] * grown, sample.size[1] * grown)
        quality = sample.quality
        if source == "leak_near":
            size = (size[0] * max(stretch, 1.0), size[1] / min(stretch, 1.0))
            stored, quality = _fit(size, longest), poor_quality
        shown = None if sample.flat else sample.scene
        rounded = (round(size[0]), round(size[1]))
        return PicturePlan(number, source, shown, sample.flat, rounded, stored, quality, leak=leak)
    flat = stream.pick(tuple(COLOURS)) if source == "flat" else ""
    scene = None if flat else draw_scene(Stream(spec.seed, "scene", number))
    return PicturePlan(number, source, scene, flat, original, _fit(original, longest), quality)


def _copy(picture: Image.Image, plan: PicturePlan) -> bytes:
    return encode_picture(picture.resize(plan.stored, Image.Resampling.BICUBIC), "jpg", plan.quality)


def picture_bytes(spec: WorldSpec, plan: PicturePlan) -> bytes:
    """The whole, undamaged JPEG of a plan."""
    if plan.origin is not None:
        base = row_picture(spec, plan.origin)
        if plan.source == "exact_duplicate":
            return picture_bytes(spec, base)
        assert base.scene is not None  # copies are made of rows with scenes
        return _copy(paint_scene(base.scene, base.stored), plan)
    if plan.leak is not None:
        if plan.source == "leak_exact":
            return eval_bytes(spec, *plan.leak)
        return _copy(eval_image(eval_sample(spec, *plan.leak)), plan)
    if plan.scene is None:
        return encode_picture(flat_picture(plan.flat, plan.stored), "jpg", plan.quality)
    picture = paint_scene(plan.scene, plan.stored)
    odd = row_kinds(spec, plan.number).odd
    if odd == "cmyk":
        picture = picture.convert("CMYK")
    return encode_picture(picture, "jpg", plan.quality, turned=odd == "turned")


def damaged(spec: WorldSpec, number: int, data: bytes) -> bytes:
    """The bytes as the row's breakage leaves them."""
    broken = row_kinds(spec, number).broken
    stream = Stream(spec.seed, "damage", number)
    if broken == "truncated":
        return data[: int(len(data) * stream.uniform(0.35, 0.8))]
    if broken == "empty":
        return b""
    if broken == "garbage":
        junk = io.BytesIO()
        while junk.tell() < 700:
            junk.write(bytes.fromhex(hex_id(spec.seed, "junk", number, junk.tell())))
        return b"<html>" + junk.getvalue()  # what a web server sends instead of a picture
    return data


@dataclass(frozen=True)
class Caption:
    """A caption and the truth about it; ``scene`` is what it describes (None: flat picture or boilerplate)."""

    text: str
    scene: Scene | None
    mismatched: bool
    language: str
    boilerplate: bool


def _other_scene(spec: WorldSpec, number: int, seen: Scene | None, flat: str) -> Scene:
    """A scene that differs from what is seen in kind and colour."""
    for attempt in range(100):
        scene = draw_scene(Stream(spec.seed, "other picture", number, attempt))
        if seen is None and scene.main.colour != flat:
            return scene
        if seen is not None and scene.main.kind != seen.main.kind and scene.main.colour != seen.main.colour:
            return scene
    raise AssertionError("100 scenes in a row looked alike")


def row_caption(spec: WorldSpec, number: int) -> Caption:
    """The row's caption."""
    kinds, plan = row_kinds(spec, number), row_picture(spec, number)
    stream = Stream(spec.seed, "caption", number)
    scene, flat = plan.scene, plan.flat
    if kinds.mismatched:
        scene, flat = _other_scene(spec, number, scene, flat), ""
    language = kinds.language
    if kinds.boilerplate:
        scene, text = None, boilerplate(stream, language or "en")
    elif scene is None:  # pictures of one colour are named in English only
        language, text = "", flat_caption(flat, stream)
    else:
        text = foreign_caption(scene, stream, language) if language else english_caption(scene, stream)
    return Caption(text, scene, kinds.mismatched, language, kinds.boilerplate)
