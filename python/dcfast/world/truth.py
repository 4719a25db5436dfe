"""What each sample of the pool really is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dcfast.world.evalsets import eval_key
from dcfast.world.files import table_of
from dcfast.world.samples import row_caption, row_kinds, row_picture, row_uid
from dcfast.world.spec import WorldSpec
from dcfast.world.tasks import TASKS

if TYPE_CHECKING:
    import pyarrow as pa


def shard_numbers(spec: WorldSpec, shard: int) -> list[tuple[str, int]]:
    """(key, number) of everything attempted in a shard: its metadata rows, and unlisted samples between them."""
    begin = shard * spec.rows_per_shard
    numbers: list[int] = []
    for number in range(begin, min(spec.rows, begin + spec.rows_per_shard)):
        numbers += [number, spec.rows + number] if row_kinds(spec, number).unlisted else [number]
    return [(f"{shard:08d}{position:04d}", number) for position, number in enumerate(numbers)]


@dataclass(frozen=True)
class TruthRow:
    """A row of truth.parquet (docs/world.md)."""

    uid: str
    shard: int
    key: str
    row: int | None
    clean: bool
    mismatched: bool
    language: str
    boilerplate: bool
    small: bool
    extreme_aspect: bool
    flat: bool
    exact_duplicate_of: str
    near_duplicate_of: str
    leak: str
    leak_set: str
    leak_key: str
    broken: str
    odd: str
    missing: bool
    unlisted: bool
    repeated_uid: bool
    scene: str
    caption_scene: str


def _truth(spec: WorldSpec, shard: int, key: str, number: int) -> TruthRow:
    kinds, plan, caption = row_kinds(spec, number), row_picture(spec, number), row_caption(spec, number)
    uid, repeated = row_uid(spec, number)
    width, height = plan.original
    small, extreme = min(width, height) < 200, max(width, height) > 3 * min(width, height)
    copied = "" if plan.origin is None else row_uid(spec, plan.origin)[0]
    leak_task, leak_index = plan.leak or ("", 0)
    unlisted = number >= spec.rows
    shown = plan.scene.attributes() if plan.scene else {"flat": plan.flat}
    caption_faults = (caption.mismatched, caption.language, caption.boilerplate)
    sample_faults = (kinds.broken, kinds.odd, kinds.missing, unlisted, repeated)
    return TruthRow(
        uid=uid,
        shard=shard,
        key=key,
        row=None if unlisted else number,
        clean=not any((*caption_faults, small, extreme, plan.source != "own", *sample_faults)),
        mismatched=caption.mismatched,
        language=caption.language,
        boilerplate=caption.boilerplate,
        small=small,
        extreme_aspect=extreme,
        flat=bool(plan.flat),
        exact_duplicate_of=copied if plan.source == "exact_duplicate" else "",
        near_duplicate_of=copied if plan.source == "near_duplicate" else "",
        leak=plan.source.removeprefix("leak_") if plan.leak else "",
        leak_set=TASKS[leak_task].directory if plan.leak else "",
        leak_key=eval_key(leak_index) if plan.leak else "",
        broken=kinds.broken,
        odd=kinds.odd,
        missing=kinds.missing,
        unlisted=unlisted,
        repeated_uid=repeated,
        scene=json.dumps(shown, sort_keys=True),
        caption_scene=json.dumps(caption.scene.attributes(), sort_keys=True) if caption.scene else "",
    )


def truth_table(spec: WorldSpec) -> pa.Table:
    """A row for each metadata row and each unlisted sample, by shard and key.

    Computed from the seed alone, without painting. Two seconds and 30 MB for the default spec.
    """
    rows = [
        _truth(spec, shard, key, number)
        for shard in range(spec.num_shards)
        for key, number in shard_numbers(spec, shard)
    ]
    return table_of(TruthRow, rows)
