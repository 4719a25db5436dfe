"""An opened evaluation set: what its readers (of shards, of the hub's caches) give, and its scorer takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dcfast.errors import EvalsetError
from dcfast.evaluate.pictures import Ints, Pictures
from dcfast.evaluate.tasks import EvalTask

MAX_GROUP = 1_000_000
NAMED = 20
"""Bad samples that a message or a note names."""


def named_keys(keys: list[str]) -> str:
    """The first keys of some, for a message."""
    return ", ".join(keys[:NAMED]) + (", ..." if len(keys) > NAMED else "")


@dataclass(frozen=True)
class Riddle:
    """A cue, candidate pictures and those that the cue fits, as rows of the set."""

    cue: str
    candidates: tuple[int, ...]
    associations: frozenset[int]


@dataclass
class EvalSet:
    """An opened set.

    Attributes:
        task: with kind and main metric settled.
        pictures: where they lie.
        rows: (n,) numbers of the pictures that can be scored, ascending; what follows is by row of these.
        labels: (n,) classes, or empty.   metadata: (n, fields), or None.
        captions: of each row, or empty.   riddles: of an association set.
        left_out: reason -> keys of samples that cannot be scored.
        notes: damage of its files, in words.   remarks: what else is odd about it; the set is whole all the same.
    """

    task: EvalTask
    folder: Path
    pictures: Pictures
    rows: Ints
    classes: list[str] = field(default_factory=list)
    templates: list[str] = field(default_factory=list)
    labels: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    metadata: npt.NDArray[np.generic] | None = None
    captions: list[list[str]] = field(default_factory=list)
    riddles: list[Riddle] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    fingerprint: str = ""

    def key(self, row: int) -> str:
        return self.pictures.key(int(self.rows[row]))

    def text_count(self) -> int:
        """How many texts its score takes: captions, cues or prompts. No option makes the prompts fewer."""
        if self.task.kind == "retrieval":
            return sum(map(len, self.captions))
        if self.task.kind == "association":
            return len(self.riddles)
        starts = [f"{name}:" for name in self.task.objectives] if self.task.kind == "fairness_multilabel" else [""]
        count = 0
        for start in starts:
            templates = sum(line.startswith(start) for line in self.templates)
            count += templates * sum(line.startswith(start) for line in self.classes)
        return count

    def said_left_out(self) -> list[str]:
        """What was left out, and why, a sentence for each reason."""
        return [f"{len(keys)} samples {why} were left out: {named_keys(keys)}" for why, keys in self.left_out.items()]

    def keep(self, chosen: npt.NDArray[np.bool_], reason: str) -> None:
        """Leaves out the rows that are not chosen, with their labels, and remembers why."""
        if not chosen.all():
            self.left_out[reason] = [self.pictures.key(number) for number in self.rows[~chosen].tolist()]
        self.rows = self.rows[chosen]
        self.labels = self.labels[chosen] if len(self.labels) else self.labels

    def limit_to(self, most: int) -> bool:
        """Keeps ``most`` pictures, spread evenly over the set, or of an association set riddles with their pictures;
        whether any were left out."""
        riddles = self.task.kind == "association"
        count = len(self.riddles) if riddles else len(self.rows)
        if count <= most:
            return False
        chosen = np.arange(most) * count // most
        if riddles:
            kept = [self.riddles[number] for number in chosen.tolist()]
            chosen = np.unique([row for riddle in kept for row in riddle.candidates])
            place = {row: number for number, row in enumerate(chosen.tolist())}
            self.riddles = [
                Riddle(r.cue, tuple(place[c] for c in r.candidates), frozenset(place[a] for a in r.associations))
                for r in kept
            ]
        self.captions = [self.captions[row] for row in chosen.tolist()] if self.captions else []
        self.labels = self.labels[chosen] if len(self.labels) else self.labels
        self.metadata = None if self.metadata is None else self.metadata[chosen]
        self.rows = self.rows[chosen]
        return True

    def check_not_empty(self) -> None:
        if len(self.rows) == 0:
            reasons = "; ".join(f"{len(keys)} {reason}" for reason, keys in self.left_out.items())
            raise EvalsetError(
                f"{self.folder}: nothing in it can be scored as {self.task.kind} ({reasons or 'its tars are empty'})"
            )

    def column(self, name: str) -> Ints:
        """A column of the metadata that holds groups: whole numbers from 0; EvalsetError otherwise."""
        if self.metadata is None:
            raise EvalsetError(f"{self.folder}: its samples have no npy member; {name} is read from it")
        values = self.metadata[:, self.task.metadata_fields.index(name)]
        with np.errstate(invalid="ignore"):
            whole = values.astype(np.int64)
        bad = np.flatnonzero((whole != values) | (whole < 0) | (whole > MAX_GROUP))
        if len(bad):
            raise EvalsetError(
                f"{self.folder}: {name} of sample {self.key(int(bad[0]))} must be a whole number from 0; "
                f"got {values[bad[0]]}"
            )
        return whole
