"""What each sample of the pool really is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from dcfast.world.samples import row_caption, row_kinds, row_picture, row_uid
from dcfast.world.spec import WorldSpec
from dcfast.world.tasks import TASKS

__all__ = ["shard_numbers", "truth_table"]


def shard_numbers(spec: WorldSpec, shard: int) -> Iterator[tuple[str, int]]:
    """(key, number) of everything attempted in a shard: its metadata rows, and unlisted samples between them."""
    position = 0
    begin = shard * spec.rows_per_shard
    for number in range(begin, min(spec.rows, begin + spec.rows_per_shard)):
        yield f"{shard:08d}{position:04d}", number
        position += 1
        if row_kinds(spec, number).unlisted:
            yield f"{shard:08d}{position:04d}", spec.rows + number
            position += 1


def _truth(spec: WorldSpec, shard: int, key: str, number: int) -> dict[str, Any]:
    kinds, plan, caption = row_kinds(spec, number), row_picture(spec, number), row_caption(spec, number)
    uid, repeated = row_uid(spec, number)
    width, height = plan.original
    small, extreme = min(width, height) < 200, max(width, height) > 3 * min(width, height)
    copied = "" if plan.origin is None else row_uid(spec, plan.origin)[0]
    leak = plan.source.removeprefix("leak_") if plan.leak else ""
    unlisted = number >= spec.rows
    described = caption.scene.attributes() if caption.scene else None
    seen = plan.scene.attributes() if plan.scene else {"flat": plan.flat}
    faulty = (
        caption.mismatched
        or caption.language != ""
        or caption.boilerplate
        or small
        or extreme
        or plan.source != "own"
        or kinds.broken != ""
        or kinds.odd != ""
        or kinds.missing
        or unlisted
        or repeated
    )
    return {
        "uid": uid,
        "shard": shard,
        "key": key,
        "row": None if unlisted else number,
        "clean": not faulty,
        "mismatched": caption.mismatched,
        "language": caption.language,
        "boilerplate": caption.boilerplate,
        "small": small,
        "extreme_aspect": extreme,
        "flat": bool(plan.flat),
        "exact_duplicate_of": copied if plan.source == "exact_duplicate" else "",
        "near_duplicate_of": copied if plan.source == "near_duplicate" else "",
        "leak": leak,
        "leak_set": TASKS[plan.leak[0]].directory if plan.leak else "",
        "leak_key": f"s{plan.leak[1]:07d}" if plan.leak else "",
        "broken": kinds.broken,
        "odd": kinds.odd,
        "missing": kinds.missing,
        "unlisted": unlisted,
        "repeated_uid": repeated,
        "scene": json.dumps(seen, sort_keys=True),
        "caption_scene": json.dumps(described, sort_keys=True) if described else "",
    }


def truth_table(spec: WorldSpec) -> Any:
    """A pyarrow table with a row for each metadata row and each unlisted sample, by shard and key.

    Computed from the seed alone, without painting. Two seconds and 30 MB for the default spec.
    """
    import pyarrow as pa

    flags = ("clean", "mismatched", "boilerplate", "small", "extreme_aspect", "flat", "missing", "unlisted")
    rows = [
        _truth(spec, shard, key, number)
        for shard in range(spec.num_shards)
        for key, number in shard_numbers(spec, shard)
    ]
    fields = []
    for name in rows[0]:
        kind = pa.int64() if name in ("shard", "row") else pa.string()
        fields.append((name, pa.bool_() if name in (*flags, "repeated_uid") else kind))
    return pa.Table.from_pylist(rows, schema=pa.schema(fields))
