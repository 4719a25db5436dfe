"""Pools of loose pictures and of datasets: which shards are written, of what."""

from __future__ import annotations

import os

from dcfast.importing.datasets import has_pictures, plan_parts, write_part
from dcfast.importing.found import Found
from dcfast.importing.options import ImportReport
from dcfast.importing.pictures import LISTING, list_pictures, write_pictures
from dcfast.importing.samples import Written
from dcfast.importing.work import Work, finished, keep_only, pass_rest, some_of, total_of
from dcfast.storage.records import replaced


def with_pictures(found: Found, image_column: str) -> list[str]:
    return [name for name in found.parquet if has_pictures(os.path.join(found.root, name), image_column)]


def take_pictures(work: Work) -> ImportReport:
    options, found, out = work.options, work.found, work.out
    pass_rest(work, "pictures")
    rule = "json" if options.uid_from == "auto" else options.uid_from
    chunks = list_pictures(found, out, options.shard_size, options.image_column, options.text_column, work.account)
    names = [f"{number:08d}" for number in range(len(chunks))]
    stats = work.do(
        [
            write_pictures.piece("import/pictures", name, outputs=_outputs(name), weight=chunk.pairs)(
                number=number, root=found.root, chunk=chunk, uid_from=rule, text_column=options.text_column
            )
            for number, (name, chunk) in enumerate(zip(names, chunks, strict=True))
        ]
    )
    (out / LISTING).unlink(missing_ok=True)  # it is as large as all captions together
    return _written(work, "pictures", rule, names, stats)


def take_datasets(work: Work) -> ImportReport:
    options, found = work.options, work.found
    pass_rest(work, "datasets")
    images = with_pictures(found, options.image_column)
    others = [name for name in found.parquet if name not in set(images)]
    work.account.add("parquet files without a column of pictures", *some_of(others))
    rule = "json" if options.uid_from == "auto" else options.uid_from
    files = sorted([*found.arrow, *images])
    parts = plan_parts(found.root, files, options.image_column, options.text_column, options.shard_size, work.account)
    names = [f"{number:08d}" for number in range(len(parts))]
    stats = work.do(
        [
            write_part.piece(
                "import/datasets",
                name,
                inputs=[work.path(part.file)],
                outputs=_outputs(name),
                weight=part.end - part.begin,
            )(number=number, root=found.root, part=part, uid_from=rule)
            for number, (name, part) in enumerate(zip(names, parts, strict=True))
        ]
    )
    return _written(work, "datasets", rule, names, stats)


def _outputs(name: str) -> list[str]:
    return [f"shards/{name}.tar", f"metadata/{name}.parquet"]


def _written(work: Work, kind: str, rule: str, names: list[str], stats: list[Written]) -> ImportReport:
    keep_only(work.out, "shards", [f"{name}.tar" for name in names])
    keep_only(work.out, "metadata", [f"{name}.parquet" for name in names])
    report = total_of(work, kind, rule, stats)
    return finished(work, replaced(report, written=len(names), metadata_written=len(names)))
