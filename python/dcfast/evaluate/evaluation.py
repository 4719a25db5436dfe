"""``evaluate_model``: one checkpoint on every evaluation set of a directory, resumable set by set."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dcfast.errors import CorruptDataError, EvalsetError, PoolError
from dcfast.evaluate.embed import Embedder
from dcfast.evaluate.evalset import check_evalset, open_evalset, set_fingerprint
from dcfast.evaluate.opened import EvalSet, named_keys
from dcfast.evaluate.results import RESULTS, EvaluationSummary, Result, aggregate, read_results, write_results
from dcfast.evaluate.score import Score, score_evalset
from dcfast.evaluate.tasks import EvalTask, chosen_tasks, find_tasks, own_tasks
from dcfast.models.devices import whole_matmuls
from dcfast.process.advance import tell_advance
from dcfast.process.compute import thread_count
from dcfast.process.renamed import Renamed, takes_old_names
from dcfast.storage.atomic import write_json
from dcfast.storage.lock import locked
from dcfast.storage.paths import LOCK_NAME, make_directory, not_left_empty
from dcfast.storage.published import without_places
from dcfast.storage.records import plain, replaced, widened

if TYPE_CHECKING:
    from dcfast.models.clip import ClipModel


VERSION = 3
"""Raised when a score changes for the same model and data: results of another version are scored again. 2: 16-bit grey
is its upper 8 bits; archives joined by cat are read on. 3: FMoW's worst region counts "Other"; blank class names."""
BAD_SET = (EvalsetError, CorruptDataError, PoolError, OSError)
"""What is wrong with one set, and no reason not to score the others."""

StrPath = str | os.PathLike[str]


def results_dir(out: StrPath, content_hash: str, limit: int | None = None) -> Path:
    """Where the results of the checkpoint with that hash lie: those of a part of each set apart from whole ones.

    Example: ``results_dir("scores", clip.content_hash) == Path("scores/evaluate") / clip.content_hash[:16]``
    """
    return Path(out) / "evaluate" / (content_hash[:16] + (f"-limit-{limit}" if limit is not None else ""))


def check_evalsets(evalsets: StrPath, sets: Sequence[str] | None = None) -> dict[str, str]:
    """Keys of the sets of a directory, or of those that are named, that cannot be scored, and why, by all that can be
    told without reading a shard; cheap enough to be asked first.

    Raises:
        EvalsetError: no such directory, a bad ``tasks.json``, no set of a name; or no set of it can be scored.
    Example: ``check_evalsets("evalsets") == {}``: all of them can be scored.
    """
    tasks = chosen_tasks(Path(evalsets), sets)
    failed: dict[str, str] = {}
    for task, folder in tasks:
        try:
            check_evalset(task, folder)
        except BAD_SET as error:
            failed[task.key] = str(error)
    _refuse_none(evalsets, len(tasks), failed)
    return failed


def _refuse_none(evalsets: StrPath, tasks: int, failed: dict[str, str]) -> None:
    if len(failed) == tasks:
        many = "" if tasks == 1 else f"none of the {tasks} evaluation sets in {evalsets} can be scored: "
        raise EvalsetError(f"{many}{next(iter(failed.values()))}")


@takes_old_names(Renamed("workers", "threads", {0: None}))
def evaluate_model(
    clip: ClipModel,
    evalsets: StrPath,
    out: StrPath,
    *,
    batch_size: int = 64,
    threads: int | None = None,
    strict: bool = False,
    amp: bool | None = None,
    sets: Sequence[str] | None = None,
    limit: int | None = None,
    non_standard: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> EvaluationSummary:
    """Scores a model on the ``wds_*_test`` directories of a directory.

    Writes ``OUT/evaluate/HASH16/eval_results.jsonl``, a line a task in DataComp's form, after every set; at the end
    ``OUT/eval_results.jsonl``, its lines of the sets that were asked for, and ``OUT/evaluate/summary.json`` of the
    same: so what is published depends on the question alone, not on what was scored before. Sets that have a result of
    the same checkpoint, the same files and the same precision are skipped. All sets are opened and checked before the
    first is scored; one that cannot be scored is named with its reason (``failed``), and the others are. How far it is,
    is told (``dcfast.process.advance``).

    Args:
        clip: of ``dcfast.models.load_model``; embeddings are computed in its dtype, scores in float32.
        amp: the autocast that DataComp's own evaluation has on a GPU; None: of float32 weights on a GPU.
        evalsets: the directory; a ``tasks.json`` in it describes sets that are not DataComp's.
        out: where the results go.
        batch_size: pictures a forward pass; the scores do not depend on it but for rounding.
        threads: that decode; None means one per core.
        strict: a set with a damaged shard cannot be scored; otherwise that is a note.
        sets: keys or directories of the sets that are asked for, None for all. What others scored before stays in
            ``HASH16`` and is part of nothing else.
        limit: pictures of each set, spread over it (riddles of an association set). Such results say so, lie apart
            from those of whole sets and are part of no average.
        non_standard: what of the training's recipe is not its scale's own; every result says it.
        say: is given a line a set.
    Returns:
        what ``summary.json`` holds, and which sets were ``scored`` now, not skipped.
    Raises:
        EvalsetError: no such directory, a bad ``tasks.json``; or no set of it can be scored.
        RunError: the model's embeddings are not finite; another evaluation is at work in ``out``.
    Memory: about 150 bytes a picture of all sets, a few decoded batches, and the embeddings of one retrieval set.
    Example: ``evaluate_model(clip, "evalsets", "scores").tasks[0].metrics["acc1"]``
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}")
    count = thread_count(threads)
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 picture of each set; got {limit}")
    root, home = Path(out), Path(evalsets)
    check_evalsets(home, sets)
    embedder = Embedder(clip, batch_size=batch_size, threads=count or len(os.sched_getaffinity(0)), amp=amp)
    busy = f"out {root}: another evaluation is at work there; wait for it, or choose another out"
    folder = root / "evaluate"
    with not_left_empty(folder), locked(make_directory(folder, "out") / LOCK_NAME, busy), whole_matmuls():
        evaluation = _Evaluation(embedder, home, results_dir(root, clip.content_hash, limit) / RESULTS, limit, say)
        evaluation.open_sets(sets, strict)
        scored = evaluation.score_sets()
        return _summarise(evaluation, root, scored, non_standard)


class _Evaluation:
    """The sets of a directory on their way to results.

    Attributes:
        path: of the results file, written anew after every set.
        tasks: all of the directory, with their folders.
        results: by key.   waiting: opened sets.   failed: key -> why.
        left_out: keys of the sets that were not asked for.
    """

    def __init__(
        self, embedder: Embedder, home: Path, path: Path, limit: int | None, say: Callable[[str], None]
    ) -> None:
        self.embedder, self.home, self.path, self.limit, self.say = embedder, home, path, limit, say
        self.tasks = find_tasks(home)
        self.results: dict[str, Result] = {}
        self.waiting: dict[str, EvalSet] = {}
        self.failed: dict[str, str] = {}
        self.left_out: list[str] = []

    def open_sets(self, sets: Sequence[str] | None, strict: bool) -> None:
        """Takes over results that still hold, and opens the sets that are to be scored."""
        asked = {task.key for task, _ in chosen_tasks(self.home, sets)}
        before = read_results(self.path, self.embedder.clip.content_hash)
        for number, (task, folder) in enumerate(self.tasks):
            tell_advance(number, len(self.tasks), "sets", f"opening {task.name}")
            if task.key not in asked:
                self.left_out.append(task.key)
            try:
                old = before.get(task.key)
                if old is not None and old.state in self._states(set_fingerprint(task, folder)):
                    self.results[task.key] = old
                elif task.key in asked:
                    self.waiting[task.key] = self._opened(task, folder, strict)
            except BAD_SET as error:
                if task.key in asked:
                    self._fail(task, folder, error)

    def _states(self, fingerprint: str) -> tuple[str, ...]:
        """Of results that hold: whole ones, and beside them, with a limit, those of so many pictures."""
        whole = _state(fingerprint, self.embedder)
        return (whole,) if self.limit is None else (whole, _limited(whole, self.limit))

    def _opened(self, task: EvalTask, folder: Path, strict: bool) -> EvalSet:
        evalset = open_evalset(task, folder, threads=self.embedder.threads)
        if strict and evalset.notes:
            raise CorruptDataError(f"evaluation set {task.key}: {evalset.notes[0]} (--strict)", path=str(folder))
        return evalset

    def _fail(self, task: EvalTask, folder: Path, error: Exception) -> None:
        self.failed[task.key] = str(error)
        reason = str(without_places(str(error), [folder, folder.parent], all_texts=False))
        # without a state, so that the set is tried again
        self.results[task.key] = replaced(
            _without_score(task, self.embedder), notes=[f"could not be scored: {reason}"], error=reason
        )
        self.say(f"{task.name}: could not be scored: {error}")

    def score_sets(self) -> list[str]:
        """Scores what waits; the keys of the sets that were scored."""
        limited = {key: self.limit is not None and s.limit_to(self.limit) for key, s in self.waiting.items()}
        embedder, scored, done = self.embedder, [], 0
        embedder.expected = sum(map(_embeddings, self.waiting.values()))
        for number, (key, evalset) in enumerate(self.waiting.items(), 1):
            started = time.monotonic()
            embedder.seen, embedder.at = done, f"{evalset.task.name}, set {number} of {len(self.waiting)}"
            embedder.tell()  # the first batch may take long
            done += _embeddings(evalset)
            try:
                score = score_evalset(evalset, embedder)
            except BAD_SET as error:
                self._fail(evalset.task, evalset.folder, error)
                continue
            self.results[key] = _result(evalset, score, embedder, self.limit if limited[key] else None)
            scored.append(key)
            write_results(self.path, self.ordered())
            self.say(_progress_line(self.results[key], time.monotonic() - started))
        _refuse_none(self.home, len(self.tasks) - len(self.left_out), self.failed)
        return scored

    def ordered(self) -> list[Result]:
        """The results so far, in the order of the tasks; those that were not asked for as well."""
        return [self.results[task.key] for task, _ in self.tasks if task.key in self.results]


def _embeddings(evalset: EvalSet) -> int:
    """Of pictures and texts that its score takes."""
    return len(evalset.rows) + evalset.text_count()


def _summarise(evaluation: _Evaluation, root: Path, scored: list[str], non_standard: str | None) -> EvaluationSummary:
    """Writes the results, those that were asked for and the summary of these."""
    clip, limit = evaluation.embedder.clip, evaluation.limit
    kept = [replaced(result, non_standard=non_standard) for result in evaluation.ordered()]
    write_results(evaluation.path, kept)
    ordered = [result for result in kept if result.key not in evaluation.left_out]
    write_results(root / RESULTS, ordered)
    limits = [f"at most {limit:,} pictures of each set were scored (--limit): no scores of DataComp's"] if limit else []
    summary = widened(
        aggregate(ordered, own_tasks(evaluation.home)),
        EvaluationSummary,
        checkpoint=clip.content_hash,
        model=_published(clip.name),
        source=_published(clip.source),
        results=str(evaluation.path.relative_to(root)),
        tasks=ordered,
        notes=limits + [f"evaluation set {result.key}: {note}" for result in ordered for note in result.notes],
        limit=limit,
        left_out=evaluation.left_out or None,
    )
    write_json(root / "evaluate/summary.json", plain(summary))
    return replaced(summary, scored=scored)


def _published(model: str) -> str:
    """A model's name or source: of one that lies in a folder (``local-dir:DIR``) or file, the last part."""
    return str(without_places(model, [model, model.partition(":")[2]]))


def _state(fingerprint: str, embedder: Embedder) -> str:
    return f"{VERSION}-{embedder.precision}-{fingerprint}"


def _limited(state: str, limit: int) -> str:
    return f"{state}-limit-{limit}"


def _without_score(task: EvalTask, embedder: Embedder) -> Result:
    return Result(
        key=task.key,
        dataset=task.name,
        main_metric_name=task.main_metric or None,
        kind=task.kind,
        benchmark=task.benchmark,
        model=_published(embedder.clip.name),
        checkpoint=embedder.clip.content_hash,
        metrics={"main_metric": None},
        chance=None,
        complete=False,
        pictures=0,
        unreadable=0,
        notes=[],
    )


def _result(evalset: EvalSet, score: Score, embedder: Embedder, limit: int | None) -> Result:
    """The result as it is published: no place of this machine stands in it; ``limit``: of pictures, where the set has
    more."""
    task, state = evalset.task, _state(evalset.fingerprint, embedder)
    notes = evalset.notes + evalset.said_left_out()
    if score.unreadable:
        keys = list(score.unreadable)
        notes.append(
            f"{len(keys)} pictures cannot be decoded and were left out: {named_keys(keys)} "
            f"({keys[0]}: {score.unreadable[keys[0]]})"
        )
    counted, what = score.counted + len(score.unreadable), "pictures"
    if task.kind == "association":
        counted, what = len(evalset.riddles), "riddles"
    if task.benchmark and counted != task.size and limit is None:
        notes.append(f"it holds {counted:,} {what}, the benchmark's has {task.size:,}: its score is not comparable")
    return replaced(
        _without_score(task, embedder),
        dataset=task.name if limit is None else f"{task.name} (limit {limit})",
        metrics=score.metrics,
        chance=score.chance,
        complete=limit is None and (score.counted == task.size or (task.size == 0 and not notes)),
        pictures=score.scored,
        unreadable=len(score.unreadable),
        notes=without_places(notes + score.notes + evalset.remarks, [evalset.folder], all_texts=False),
        state=state if limit is None else _limited(state, limit),
        limit=limit,
    )


def _progress_line(result: Result, seconds: float) -> str:
    score = "no summary number"
    if result.score is not None:
        score = f"{result.main_metric_name} {result.score:.4f} (chance {result.chance:.4f})"
    return f"{result.dataset}: {score}, {result.pictures:,} pictures, {seconds:.1f} s"
