"""What a pool is compared with, how near is near, and on what."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dcfast.dedup.thresholds import MAX_DISTANCE, MAX_DISTANCE_256
from dcfast.process.options import option
from dcfast.process.shared_options import DEVICE, UID_FROM
from dcfast.storage.paths import path_argument

METHODS = ("content", "perceptual", "perceptual256", "descriptor")


def _methods(words: list[str]) -> list[str]:
    unknown = [word for word in words if word not in METHODS]
    if unknown:
        raise ValueError(f"--methods takes some of {', '.join(METHODS)}; got {unknown[0]!r}: give some of these")
    return [method for method in METHODS if method in words]


def _scores(words: list[str]) -> dict[str, float]:
    """``["isc_ft_v107=0.6"]`` as name of a descriptor -> least score."""
    scores = {}
    for text in words:
        name, _, value = text.rpartition("=")
        try:
            score = float(value)
        except ValueError:
            score = math.nan
        if not name or not math.isfinite(score):
            raise ValueError(f"--min-score takes NAME=NUMBER, e.g. isc_ft_v107=0.604169; got {text!r}: give it so")
        scores[name] = score
    return scores


@dataclass(frozen=True)
class DecontaminateOptions:
    """A pool, the signature files that it is compared with, and how."""

    pool: str = option(
        "",
        "directory with shards/*.tar and metadata/*.parquet, with shards alone, or, where descriptors were published "
        "with it, with metadata alone",
        flags=("pool",),
        parse=path_argument,
        required=True,
    )
    against: list[str] = option(
        [],
        "signature files of evaluation sets (dcfast evalsets sign)",
        metavar="FILE",
        gather=lambda words: [path_argument(word) for word in words],
        required=True,
    )
    out: str = option(
        "",
        "directory of what is found; the same command goes on there",
        metavar="DIR",
        parse=path_argument,
        required=True,
    )
    methods: list[str] = option(
        list(METHODS),
        f"what is compared: some of {', '.join(METHODS)}",
        metavar="METHOD",
        usual="all, descriptors where both sides have them",
        gather=_methods,
    )
    max_distance: int = option(
        MAX_DISTANCE, "perceptual hashes of 64 bits this close are of one picture", metavar="BITS", least=0, most=64
    )
    max_distance_256: int = option(MAX_DISTANCE_256, "the same of 256 bits", metavar="BITS", least=0, most=255)
    turned: bool = option(False, "by 256 bits evaluation pictures are looked for turned and mirrored, too")
    min_score: dict[str, float] = option(
        {},
        "least inner product of descriptors, by the model's name",
        metavar="NAME=X",
        usual="isc_ft_v107=0.604169, DataComp's; sscd 0.75",
        gather=_scores,
    )
    descriptors: list[str] | None = option(
        None,
        "models that describe the pool's pictures: isc:FILE, sscd:FILE, NAME:TAG of a CLIP model, by which the sets "
        "were signed",
        metavar="MODEL",
        usual="none; what DataComp published with the pool is taken",
        gather=list,
    )
    run_torchscript: bool = option(False, "run the program that a file of SSCD is: you trust where it comes from")
    published: bool = option(
        True, "do not look for descriptors that were published with the pool", flags=("--no-published",)
    )
    uid_from: str = option("json", UID_FROM)
    device: str = option("auto", DEVICE)
    workers: int = option(1, "processes", least=1, most=4096)
