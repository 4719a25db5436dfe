"""The table of the world's evaluation sets: one of every kind that the 38 have."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TypedDict

from dcfast.world.spec import WorldSpec
from dcfast.world.vocabulary import BACKGROUNDS, COLOURS, KINDS, TEXTURES

__all__ = ["PAIRS", "RIDDLES", "TASKS", "EvalTask", "task_size", "task_table"]

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

_THING = ("a photo of a {c}", "a {c}", "a picture of a {c}", "there is a {c}")


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
    metadata_fields: tuple[str, ...] = ()  # columns of the npy member
    group_field: str = ""
    group_names: tuple[str, ...] = ()
    extra: TaskExtra = field(default_factory=TaskExtra)

    @property
    def directory(self) -> str:
        return f"wds_{self.key.replace('/', '-')}_test"


_REGIONS = ("north", "south", "east", "west", "islands", "Other")
TASKS: dict[str, EvalTask] = {
    task.key: task
    for task in (
        EvalTask("world/shapes", 320, "classification", "acc1", _NOUNS, _THING),
        EvalTask(
            "world/colors",
            240,
            "classification",
            "acc1",
            _COLOURS,
            tuple(f"a photo of a {{c}} {_NOUNS[i]}" for i in (0, 1, 3, 4, 10, 12, 13, 15)),
        ),
        EvalTask(
            "world/textures",
            240,
            "classification",
            "acc1",
            _TEXTURES,
            ("a photo of a {c} red circle", "a {c} blue house", "a {c} green square", "a picture of a {c} pink heart"),
            extension="png",
        ),
        EvalTask(
            "world/backgrounds",
            242,
            "classification",
            "acc1",
            tuple(phrases[0] for phrases in BACKGROUNDS.values()),
            ("a photo of a red star {c}", "a blue house {c}", "a picture of two fish {c}", "a green circle {c}"),
        ),
        EvalTask(
            "world/counts",
            240,
            "classification",
            "acc1",
            ("a single", "two", "three", "four", "five"),
            ("{c} fish", "a photo of {c} red fish", "{c} blue fish in the water", "an image of {c} yellow fish"),
        ),
        EvalTask("world/objects", 320, "classification", "mean_per_class_recall", PAIR_NAMES, _THING),
        EvalTask(
            "world/camera_traps",
            300,
            "wilds",
            "F1-macro_all",
            FISH_NAMES,
            ("a photo of a {c} at night", "a {c} in the forest", "a {c} in the snow"),
            metadata_fields=("location", "sequence", "year", "month", "day", "hour", "minute", "second", "y"),
            group_field="location",
            group_names=tuple(f"location {i}" for i in range(8)),
        ),
        EvalTask(
            "world/slides",
            200,
            "wilds",
            "acc1",
            ("dotted", "striped"),
            ("a photo of a {c} pink circle", "a {c} purple ring", "a {c} pink heart on a plain background"),
            extension="webp",
            metadata_fields=("hospital", "slide", "y"),
            group_field="slide",
            group_names=tuple(f"slide {i}" for i in range(6)),
        ),
        EvalTask(
            "world/regions",
            320,
            "wilds",
            "acc_worst_region",
            HOUSE_NAMES,
            _THING,
            metadata_fields=("region", "year", "y"),
            group_field="region",
            group_names=_REGIONS,
        ),
        EvalTask(
            "world/households",
            320,
            "fairness",
            "acc_top5_wg",
            PAIR_NAMES,
            _THING,
            metadata_fields=("income_ds", "income_meta", "region"),
            group_field="income_ds",
            group_names=("lowest quarter", "second quarter", "third quarter", "highest quarter"),
        ),
        EvalTask(
            "world/places",
            320,
            "fairness",
            "acc_wg",
            PAIR_NAMES,
            _THING,
            metadata_fields=("region", "country"),
            group_field="region",
            group_names=("coast", "mountains", "plains", "towns"),
        ),
        EvalTask(
            "world/portraits",
            240,
            "fairness_multilabel",
            "",
            tuple(f"race:{colour}" for colour in PORTRAIT_COLOURS)
            + tuple(f"gender:{kind}" for kind in PORTRAIT_KINDS)
            + tuple(f"age:{texture}" for texture in PORTRAIT_TEXTURES)
            + tuple(f"toxic:{colour} {kind}" for colour in PORTRAIT_COLOURS for kind in PORTRAIT_KINDS)
            + tuple(f"toxic:{kind}" for kind in ("fish", "boat", "mushroom", "umbrella", "arrow", "cross", "crescent")),
            (
                "race:a photo of a {c} house",
                "race:a {c} tree",
                "gender:a photo of a {c}",
                "gender:a {c}",
                "age:a {c} house",
                "age:a photo of a {c} tree",
                "toxic:a photo of a {c}",
            ),
            metadata_fields=("age", "gender", "race", "race_binary"),
            group_field="race_binary",
            group_names=("other colours", "white"),
            extra={
                "objectives": ("race", "gender", "age", "toxic"),
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
            "metadata_fields": task.metadata_fields,
            "group_field": task.group_field,
            "group_names": task.group_names,
            **task.extra,
        }
        for task in TASKS.values()
    ]
    return json.dumps(entries, indent=1) + "\n"
