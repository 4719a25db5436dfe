"""What an import is asked for, and what it did."""

from __future__ import annotations

import os
from dataclasses import dataclass

from dcfast.importing.account import PassedOver
from dcfast.process.options import option
from dcfast.process.shared_options import UID_FROM
from dcfast.storage.paths import path_argument
from dcfast.storage.records import Count, Record

KINDS = ("auto", "shards", "pictures", "datasets")


@dataclass(frozen=True)
class ImportOptions:
    """What is imported, and how."""

    directory: str = option(
        "", "what you have", metavar="DIR", flags=("directory",), parse=path_argument, required=True
    )
    out: str = option("", "the pool that is made", metavar="POOL", parse=path_argument, required=True)
    kind: str = option(
        "auto",
        "what is taken of DIR: shards (tars), pictures with captions beside them or in tables, or datasets of Hugging "
        "Face (Arrow of save_to_disk, parquet with pictures); auto: the first of shards, datasets, pictures there is",
        choices=KINDS,
    )
    uid_from: str = option(
        "auto",
        "rule of the uids (docs/formats.md); auto: those of the samples' json where nearly all have one, else key",
        metavar="RULE",
        choices=("auto", *UID_FROM.choices),
    )
    text_column: str = option("", "column or key of the captions", usual="the first of the usual names that is there")
    image_column: str = option(
        "", "column of the pictures, or of their file names", usual="the first of the usual names that is there"
    )
    shard_size: int = option(10_000, "samples in a shard that is written", least=1)
    workers: int = option(os.cpu_count() or 1, "pieces at work at once", least=1, usual="the number of cores")
    copy: bool = option(False, "copy shards that could be linked")
    overwrite: bool = option(False, "redo in a pool that was imported otherwise")
    quiet: bool = option(False, "no progress")


class ImportReport(Record):
    """What an import did.

    Attributes:
        samples: that a run will find.   linked, rewritten, copied, written: shards.
        metadata_linked, metadata_written: files.
        passed: what was passed over, and why.   notes: what a run will say of the pool, in words.
    """

    kind: str
    uid_from: str
    samples: Count
    linked: Count = 0
    rewritten: Count = 0
    copied: Count = 0
    written: Count = 0
    metadata_linked: Count = 0
    metadata_written: Count = 0
    passed: PassedOver = PassedOver()
    notes: list[str] = []
