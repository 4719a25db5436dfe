"""Part of stage ``dedup``: the samples of all pools numbered, older pools first, in the order of their shards.

Older pools are indexed and their pictures hashed below ``older/``, by the stages' own steps: what is done there is not
done again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from dcfast.dedup.options import DEFAULT_METHODS, check_methods
from dcfast.engine.piece import piece
from dcfast.index.pool import pool_uid_rule
from dcfast.index.segments import Segment
from dcfast.rundir.layout import OLDER, segment_path, signature_path
from dcfast.rundir.run_dir import Run
from dcfast.rundir.settings import Settings
from dcfast.stages import index, signatures
from dcfast.stages.runner import Do
from dcfast.storage.npz import save_array
from dcfast.storage.records import Count, Record

B = TypeVar("B")
BLOCK_ROWS = 1 << 21
"""Samples of a block, unless a single index segment has more."""


class PoolPart(Record):
    """A pool among those that are compared, as pieces know it.

    Attributes:
        name: the last part of its path; empty for the pool of the run itself.
        place: its folder below the run directory, ending in a slash; empty for the run's own.
        first: the number of its first sample.
        samples: of each of its index segments.
    """

    name: str
    place: str
    first: Count
    samples: list[Count]

    @property
    def begins(self) -> list[int]:
        """The number of the first sample of each segment."""
        return [self.first + int(count) for count in np.cumsum([0, *self.samples])[:-1]]

    @property
    def end(self) -> int:
        return self.first + sum(self.samples)

    def segment(self, number: int) -> str:
        return f"{self.place}{segment_path(number)}"

    def signatures(self, number: int) -> str:
        return f"{self.place}{signature_path(number)}"

    @property
    def shard_begins(self) -> str:
        """(shards + 1,) int64: the number, within the pool, of the first sample of each shard."""
        return f"state/dedup/begins/{self.place.replace('/', '-')}shards.npy"


class Block(Record):
    """Neighbouring segments of one pool: the number of the first sample of each, and its file of signatures."""

    begins: list[Count]
    files: list[str]
    is_old: bool


class Edged(Record):
    """The edges that a piece has left."""

    edges: Count


class Counted(Record):
    """Samples of each segment."""

    samples: list[Count]


@dataclass
class Found:
    """Files of edges; of the run's own pool the images that can be read, those flat by each hash, the embeddings, and
    those that match nothing."""

    files: list[str] = field(default_factory=list)
    readable: int = 0
    flat: int = 0
    flat256: int = 0
    embedded: int = 0
    invalid: int = 0


@dataclass(frozen=True)
class Pools:
    """All pools that are compared, the oldest first, that of the run last; ``runs`` are their run directories."""

    parts: list[PoolPart]
    runs: list[Run]

    @property
    def own(self) -> PoolPart:
        return self.parts[-1]

    @property
    def first_new(self) -> int:
        """The samples below are old."""
        return self.own.first

    def blocks(self) -> list[Block]:
        """All samples, cut into blocks."""
        blocks: list[Block] = []
        for part in self.parts:
            room = 0
            for number, (begin, count) in enumerate(zip(part.begins, part.samples, strict=True)):
                if room < count or number == 0:
                    blocks.append(Block([], [], is_old=part is not self.own))
                    room = BLOCK_ROWS
                blocks[-1].begins.append(begin)
                blocks[-1].files.append(part.signatures(number))
                room -= count
        return blocks

    def segment_files(self) -> list[str]:
        """The index segments of all pools."""
        return [part.segment(number) for part in self.parts for number in range(len(part.samples))]


@piece(native=True)
def count_samples(out: Path, segments: Sequence[str], output: str) -> Counted:
    """Piece: how many samples a pool has, by segment, and which is the first of each shard."""
    begins, samples = [np.zeros(1, np.int64)], []
    for name in segments:
        segment = Segment.open(out / name, verify=False)
        begins.append(np.asarray(segment.shard_sample_begin[1:]).astype(np.int64) + begins[-1][-1])
        samples.append(int(segment.num_samples))
    save_array(out / output, np.concatenate(begins))
    return Counted(samples)


def edge_path(method: str, name: str) -> str:
    """Where the edges of a piece lie."""
    return f"state/dedup/edges/{method}-{name}.npy"


def block_pairs(blocks: Sequence[B], old: Sequence[bool]) -> Iterator[tuple[str, B, B | None]]:
    """Each block with itself (None) and with each after it, by a name; but old ones with old ones."""
    for i, first in enumerate(blocks):
        for j in range(i, len(blocks)):
            if not (old[i] and old[j]):
                yield f"{i:05d}-{j:05d}", first, None if i == j else blocks[j]


def methods_of(settings: Settings) -> list[str]:
    """How duplicates are looked for. ValueError: a method that is none."""
    return check_methods(settings.dedup_methods or DEFAULT_METHODS)


def _older(run: Run, number: int, pool: str) -> Run:
    """The run directory, below that of the run, in which an older pool is indexed and hashed."""
    settings = Settings(
        scale=run.settings.scale, pool=pool, train=False, verify_images=True, uid_from=pool_uid_rule(pool), dedup=False
    )
    return replace(run, out=run.out / OLDER / f"{number:03d}", settings=settings, notes=[])


def number_pools(run: Run, do: Do) -> Pools:
    """The pools, their pictures hashed, their samples numbered."""
    runs = [_older(run, number, pool) for number, pool in enumerate(run.settings.dedup_against or ())]
    for older in runs:
        with do.within(older):
            index.steps(older, do)
            signatures.steps(older, do)
    runs.append(run)
    parts: list[PoolPart] = []
    for number, its in enumerate(runs):
        is_own = its is run
        place = "" if is_own else f"{OLDER}/{number:03d}/"
        part = PoolPart("" if is_own else its.pool_dir.name, place, parts[-1].end if parts else 0, [])
        segments = [part.segment(n) for n in range(len(its.pool.segments()))]
        count = count_samples.piece("dedup/count", f"{number:03d}", inputs=segments, outputs=[part.shard_begins])
        counted = do.one(count(segments=segments, output=part.shard_begins))
        parts.append(PoolPart(part.name, part.place, part.first, counted.samples))
    return Pools(parts, runs)
