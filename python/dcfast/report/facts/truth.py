"""How right the run was, where the truth is known: the built-in world's ``truth.parquet`` against the tables.

The world has some ten thousand samples, so that its tables are read whole; nothing here touches a given pool.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dcfast.dedup.duplicates import DUPLICATE_TABLE
from dcfast.report.facts.samples import FATE_COLUMNS, GalleryRow, in_turns, rank
from dcfast.report.facts.sampling import columns_of, num_rows, rows_of
from dcfast.rundir.tables import read_table
from dcfast.storage.records import Record, replaced, widened

MAX_TRUTH_ROWS = 2_000_000
MISTAKES = 6

KINDS = {
    # column of the truth (true, or text that is not empty, where a sample is of the kind) -> what to call it
    "clean": "clean: nothing wrong",
    "mismatched": "caption of another picture",
    "language": "caption not in English",
    "boilerplate": "boilerplate caption",
    "small": "picture too small",
    "extreme_aspect": "extreme aspect ratio",
    "flat": "flat picture",
    "exact_duplicate_of": "exact duplicate",
    "near_duplicate_of": "near duplicate",
    "leak": "evaluation picture",
    "broken": "broken file",
    "odd": "odd but legal file",
}


class Judgement(Record):
    """A set of samples against the right one; precision and recall are None where undefined."""

    found: int
    true: int
    correct: int
    precision: float | None
    recall: float | None


class LeakJudgement(Judgement):
    """``quarantined_unfound``: leaks that are in quarantine and were not found."""

    kinds: dict[str, Judgement]
    quarantined_unfound: int


class KindFates(Record):
    """What became of the samples of a kind."""

    kind: str
    label: str
    samples: int
    kept: int
    dropped: int
    quarantined: int
    unlisted: int


class WorldTruth(Record, omit_defaults=True):
    """How right a run was; a judgement is left out where the truth says nothing of it, or the stage has not run.

    ``copies``: the kept as often as they are written; left out where no copies were drawn.
    """

    samples: int
    kinds: list[KindFates]
    filter: Judgement | None = None
    contamination: LeakJudgement | None = None
    copies: Judgement | None = None
    duplicates: Judgement | None = None


class _Truth(NamedTuple):
    """``kinds`` that the truth has a column for; sample -> column -> value."""

    kinds: list[str]
    samples: dict[str, dict[str, bool | str | None]]

    def of_kind(self, kind: str, among: Iterable[str]) -> set[str]:
        return {name for name in among if self.samples.get(name, {}).get(kind)}


def share_of(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None


def _read_truth(out: Path, name: str) -> _Truth | None:
    """The truth of each sample by its ``name``, ``key`` or ``uid``; None where it or the fates are absent."""
    path, fates = out / "world" / "truth.parquet", out / "fates.parquet"
    columns = columns_of(path)
    if name not in columns or not columns_of(fates) or max(num_rows(path), num_rows(fates)) > MAX_TRUTH_ROWS:
        return None
    kinds = [kind for kind in KINDS if kind in columns]
    rows = read_table(path, [name, *kinds]).to_pylist()
    return _Truth(kinds, {row[name]: row for row in reversed(rows)})


def _judge(chosen: set[str], right: set[str]) -> Judgement:
    both = len(chosen & right)
    return Judgement(len(chosen), len(right), both, share_of(both, len(chosen)), share_of(both, len(right)))


def _judge_leaks(evidence: Path, truth: _Truth, fate: dict[str, str]) -> LeakJudgement:
    leaks = truth.of_kind("leak", fate)
    hits = set(read_table(evidence, ["key"])["key"].to_pylist())
    # a hit on a sample that is quarantined for another reason (no caption, say) is right all the same
    right = {key for key in leaks if fate[key] != "quarantined" or key in hits}
    by_kind: dict[str, set[str]] = {}
    for key in leaks:
        by_kind.setdefault(str(truth.samples[key]["leak"]), set()).add(key)
    kinds = {kind: _judge(hits & keys, right & keys) for kind, keys in sorted(by_kind.items())}
    return widened(_judge(hits, right), LeakJudgement, kinds=kinds, quarantined_unfound=len(leaks - right))


def _judge_copies(table: Path, clean: set[str]) -> Judgement | None:
    """Of all copies those of clean samples; recall is that of the samples."""
    if "copies" not in columns_of(table):
        return None
    rows = read_table(table, ["key", "copies"])
    copies = dict(zip(rows["key"].to_pylist(), rows["copies"].to_pylist(), strict=True))
    found, right = sum(copies.values()), [copies[key] for key in clean]
    drawn = sum(count > 0 for count in right)
    return Judgement(found, len(clean), sum(right), share_of(sum(right), found), share_of(drawn, len(clean)))


def _judge_duplicates(out: Path) -> Judgement | None:
    """Dropped duplicates against the copies of the truth: one is right where the kept one shows the same picture.

    Of each picture's samples that can be decoded all but one are to be found. None where nobody has looked.
    """
    evidence, truth = out / DUPLICATE_TABLE, _read_truth(out, "uid")
    of = ("exact_duplicate_of", "near_duplicate_of")
    if truth is None or not {"uid", "kept_uid"}.issubset(columns_of(evidence)) or not {*of}.issubset(truth.kinds):
        return None

    def origin(uid: str) -> str:
        # a copy is of one that is none
        marks = truth.samples.get(uid, {})
        return next((str(marks[kind]) for kind in of if marks.get(kind)), uid)

    fates = read_table(out / "fates.parquet", ["uid", "fate"])
    pairs = zip(fates["uid"].to_pylist(), fates["fate"].to_pylist(), strict=True)
    whole = {uid for uid, fate in pairs if uid is not None and fate in ("kept", "dropped", "unlisted")}
    right = len(whole) - len({origin(uid) for uid in whole})
    rows = read_table(evidence, ["uid", "kept_uid"]).to_pylist()
    found = [row for row in rows if row["uid"] in whole]
    correct = sum(origin(row["uid"]) == origin(str(row["kept_uid"])) for row in found)
    return Judgement(len(found), right, correct, share_of(correct, len(found)), share_of(correct, right))


def compare_with_truth(out: Path) -> WorldTruth | None:
    """Precision and recall of contamination and of the filter, and the fates of each kind of defect.

    Samples are joined by their key, which is unique in the world. Contamination is judged on the samples whose
    picture can be decoded; the filter on all samples of the shards, a kept sample being right where the truth calls
    it clean. None where the truth, its column ``key`` or the fates are absent.
    """
    truth = _read_truth(out, "key")
    if truth is None:
        return None
    table = read_table(out / "fates.parquet", ["key", "fate"])
    pairs = zip(table["key"].to_pylist(), table["fate"].to_pylist(), strict=True)
    fate: dict[str, str] = {key: name for key, name in pairs if key is not None}
    kinds = []
    for kind in truth.kinds:
        counts = Counter(fate[key] for key in truth.of_kind(kind, fate))
        of_fates = (counts[name] for name in ("kept", "dropped", "quarantined", "unlisted"))
        kinds.append(KindFates(kind, KINDS[kind], counts.total(), *of_fates))
    kept, clean = {key for key, value in fate.items() if value == "kept"}, truth.of_kind("clean", fate)
    evidence = out / "contamination.parquet"
    judges_leaks = "leak" in truth.kinds and "key" in columns_of(evidence)
    return WorldTruth(
        len(fate),
        kinds,
        _judge(kept, clean) if "clean" in truth.kinds else None,
        _judge_leaks(evidence, truth, fate) if judges_leaks else None,
        _judge_copies(out / "fates.parquet", clean) if "clean" in truth.kinds else None,
        _judge_duplicates(out),
    )


def mistakes(out: Path) -> dict[str, list[GalleryRow]]:
    """Samples that the filter got wrong, to look at: up to 6 kept ones with a defect and 6 dropped clean ones.

    Rows of the fates, each with ``defects`` (labels of KINDS) or, of the dropped, the reason; in turns by these.
    Empty where the truth or the fates are absent.
    """
    truth, table = _read_truth(out, "key"), out / "fates.parquet"
    if truth is None or "clean" not in truth.kinds or not columns_of(table).issuperset(FATE_COLUMNS):
        return {}
    faulty: dict[str, list[GalleryRow]] = {}
    clean: dict[str, list[GalleryRow]] = {}
    for row in sorted(rows_of(read_table(table, list(FATE_COLUMNS)), GalleryRow, table), key=rank):
        marks = truth.samples.get(str(row.key))
        if marks is None:
            continue
        if row.fate == "kept" and not marks["clean"]:
            defects = [KINDS[kind] for kind in truth.kinds if marks[kind] and kind not in ("clean", "odd")]
            faulty.setdefault(", ".join(defects), []).append(replaced(row, defects=defects))
        elif row.fate == "dropped" and marks["clean"]:
            clean.setdefault(str(row.reason), []).append(row)

    def chosen(groups: dict[str, list[GalleryRow]]) -> list[GalleryRow]:
        return in_turns(sorted(groups.values(), key=lambda group: -len(group)), MISTAKES)

    return {"kept_faulty": chosen(faulty), "dropped_clean": chosen(clean)}


def truth_masks(uids: list[str], out: Path) -> dict[str, npt.NDArray[np.bool_]]:
    """For some uids: kind -> (n,) bool by the truth, and ``judged``: in the shards, whole. Empty without a truth."""
    truth = _read_truth(out, "uid")
    if truth is None or not {"clean", "mismatched"}.issubset(truth.kinds):
        return {}
    fates = read_table(out / "fates.parquet", ["uid", "fate"])
    pairs = zip(fates["uid"].to_pylist(), fates["fate"].to_pylist(), strict=True)
    whole = {uid for uid, fate in pairs if fate in ("kept", "dropped") and uid in truth.samples}
    marked = {kind: truth.of_kind(kind, uids) for kind in truth.kinds} | {"judged": whole}
    return {name: np.array([uid in samples for uid in uids], np.bool_) for name, samples in marked.items()}
