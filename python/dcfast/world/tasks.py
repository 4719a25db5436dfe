"""The table of the world's evaluation sets: one of every kind that the 38 have."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TypedDict

from dcfast.world.spec import WorldSpec
from dcfast.world.vocabulary import BACKGROUNDS, COLOURS, KINDS, TEXTURES

_KINDS, _COLOURS = tuple(KINDS), tuple(COLOURS)
_TEXTURES = tuple(name for name in TEXTURES if name != "plain")
_NOUNS = tuple(forms[0][0] for forms in KINDS.values())
# colour and kind together: no class name tells a class alone by one word
PAIRS = tuple((_COLOURS[(5 * i) % 12], _KINDS[(7 * i + i // 12) % 16]) for i in range(24))
PAIR_NAMES = tuple(f"{colour} {KINDS[kind][0][0]}" for colour, kind in PAIRS)
# species told apart by colour, as birds are; houses likewise
FISH_NAMES = tuple(f"{colour} {KINDS['fish'][0][0]}" for colour in _COLOURS)
HOUSE_NAMES = tuple(f"{colour} {KINDS['house'][0][0]}" for colour in _COLOURS)
RIDDLES = 240
PORTRAIT_COLOURS = ("black", "white", "red", "yellow", "green", "blue", "brown")
PORTRAIT_KINDS = ("house", "tree")
PORTRAIT_TEXTURES = ("plain", "striped", "dotted", "checkered", "zigzag", "swirled")

# {c} is the class
_THING = ("a photo of a {c}", "a {c}", "a picture of a {c}", "there is a {c}")
_ON_THINGS = tuple(f"a photo of a {{c}} {_NOUNS[i]}" for i in (0, 1, 3, 4, 10, 12, 13, 15))
_TEXTURED = ("a photo of a {c} red circle", "a {c} blue house", "a {c} green square", "a picture of a {c} pink heart")
_PLACES = tuple(phrases[0] for phrases in BACKGROUNDS.values())
_IN_PLACES = ("a photo of a red star {c}", "a blue house {c}", "a picture of two fish {c}", "a green circle {c}")
_NUMBERS = ("a single", "two", "three", "four", "five")
_NUMBERED = ("{c} fish", "a photo of {c} red fish", "{c} blue fish in the water", "an image of {c} yellow fish")
_IN_THE_WILD = ("a photo of a {c} at night", "a {c} in the forest", "a {c} in the snow")
_SLIDE = ("a photo of a {c} pink circle", "a {c} purple ring", "a {c} pink heart on a plain background")


_PORTRAIT_CLASSES = {
    "race": PORTRAIT_COLOURS,
    "gender": PORTRAIT_KINDS,
    "age": PORTRAIT_TEXTURES,
    "toxic": (
        *(f"{colour} {kind}" for colour in PORTRAIT_COLOURS for kind in PORTRAIT_KINDS),
        *("fish", "boat", "mushroom", "umbrella", "arrow", "cross", "crescent"),
    ),
}
_PORTRAIT_TEMPLATES = {
    "race": ("a photo of a {c} house", "a {c} tree"),
    "gender": ("a photo of a {c}", "a {c}"),
    "age": ("a {c} house", "a photo of a {c} tree"),
    "toxic": ("a photo of a {c}",),
}


def _prefixed(texts: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(f"{objective}:{text}" for objective, of_it in texts.items() for text in of_it)


@dataclass(frozen=True)
class Groups:
    """What the npy members of a set hold, and the column by which pictures are grouped."""

    columns: tuple[str, ...] = ()
    by: str = ""
    names: tuple[str, ...] = ()


_CAMERAS = Groups(
    ("location", "sequence", "year", "month", "day", "hour", "minute", "second", "y"),
    "location",
    tuple(f"location {i}" for i in range(8)),
)
_SLIDES = Groups(("hospital", "slide", "y"), "slide", tuple(f"slide {i}" for i in range(6)))
_REGIONS = Groups(("region", "year", "y"), "region", ("north", "south", "east", "west", "islands", "Other"))
_INCOMES = Groups(
    ("income_ds", "income_meta", "region"),
    "income_ds",
    ("lowest quarter", "second quarter", "third quarter", "highest quarter"),
)
_COASTS = Groups(("region", "country"), "region", ("coast", "mountains", "plains", "towns"))
_RACES = Groups(("age", "gender", "race", "race_binary"), "race_binary", ("other colours", "white"))


class TaskExtra(TypedDict, total=False):
    """What tasks.json says of some sets alone."""

    objectives: tuple[str, ...]
    stands_for: dict[str, str]
    toxic_nonhuman: tuple[int, int]
    toxic_crime: tuple[int, int]
    captions_per_image: int
    riddles: int


@dataclass(frozen=True)
class EvalTask:
    """One evaluation set: its name, how it is scored, and what its files say."""

    key: str
    size: int
    kind: str  # classification | retrieval | association | wilds | fairness | fairness_multilabel
    main_metric: str
    classes: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    extension: str = "jpg"
    groups: Groups = Groups()
    extra: TaskExtra = field(default_factory=TaskExtra)

    @property
    def directory(self) -> str:
        return f"wds_{self.key.replace('/', '-')}_test"


TASKS: dict[str, EvalTask] = {
    task.key: task
    for task in (
        EvalTask("world/shapes", 320, "classification", "acc1", _NOUNS, _THING),
        EvalTask("world/colors", 240, "classification", "acc1", _COLOURS, _ON_THINGS),
        EvalTask("world/textures", 240, "classification", "acc1", _TEXTURES, _TEXTURED, extension="png"),
        EvalTask("world/backgrounds", 242, "classification", "acc1", _PLACES, _IN_PLACES),
        EvalTask("world/counts", 240, "classification", "acc1", _NUMBERS, _NUMBERED),
        EvalTask("world/objects", 320, "classification", "mean_per_class_recall", PAIR_NAMES, _THING),
        EvalTask("world/camera_traps", 300, "wilds", "F1-macro_all", FISH_NAMES, _IN_THE_WILD, groups=_CAMERAS),
        EvalTask("world/slides", 200, "wilds", "acc1", ("dotted", "striped"), _SLIDE, "webp", _SLIDES),
        EvalTask("world/regions", 320, "wilds", "acc_worst_region", HOUSE_NAMES, _THING, groups=_REGIONS),
        EvalTask("world/households", 320, "fairness", "acc_top5_wg", PAIR_NAMES, _THING, groups=_INCOMES),
        EvalTask("world/places", 320, "fairness", "acc_wg", PAIR_NAMES, _THING, groups=_COASTS),
        EvalTask(
            "world/portraits",
            240,
            "fairness_multilabel",
            "",
            _prefixed(_PORTRAIT_CLASSES),
            _prefixed(_PORTRAIT_TEMPLATES),
            groups=_RACES,
            extra={
                "objectives": tuple(_PORTRAIT_CLASSES),
                "stands_for": {"race": "colour", "gender": "kind", "age": "texture", "toxic": "wrong kinds"},
                "toxic_nonhuman": (14, 18),
                "toxic_crime": (18, 21),
            },
        ),
        EvalTask("world/retrieval", 300, "retrieval", "mean_recall@1", extra={"captions_per_image": 5}),
        EvalTask("world/associations", 240, "association", "jaccard_score_10-12", extra={"riddles": RIDDLES}),
    )
}


def task_size(spec: WorldSpec, task: EvalTask) -> int:
    """Pictures of a set in this world: the table's number times eval_scale, at least 24."""
    return max(24, round(task.size * spec.eval_scale))


def task_table(spec: WorldSpec) -> str:
    """tasks.json: what each set is and how it is scored (docs/world.md says what each field means)."""
    entries = [
        {
            "key": task.key,
            "name": task.key.removeprefix("world/").replace("_", " ").capitalize(),
            "directory": task.directory,
            "kind": task.kind,
            "main_metric": task.main_metric,
            "size": task_size(spec, task),
            "num_classes": len(task.classes),
            "image_extension": task.extension,
            "metadata_fields": task.groups.columns,
            "group_field": task.groups.by,
            "group_names": task.groups.names,
            **task.extra,
        }
        for task in TASKS.values()
    ]
    return json.dumps(entries, indent=1) + "\n"
