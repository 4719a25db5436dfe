"""Branches at work: the comparison run of a run, and single branches for studies."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import TracebackType

from dcfast.engine import Engine, LocalEngine, SinglesHere, open_engine
from dcfast.engine.progress import Progress, Silent, StepProgress
from dcfast.errors import DcfastError, RunError
from dcfast.process.options import option_names
from dcfast.process.signals import SAVE_SECONDS, Stopped, passed_on, postponed, spawning, start_worker
from dcfast.run.checks import check_settings
from dcfast.run.manifest import write_manifest
from dcfast.rundir.branch import branch_settings, branch_stages, comparison_dir, link_base
from dcfast.rundir.claim import located
from dcfast.rundir.recorder import Recorder, note_command, read_progress
from dcfast.rundir.run_dir import Run, open_run
from dcfast.rundir.settings import Settings
from dcfast.rundir.stage_table import STAGE_TABLE, STAGES
from dcfast.rundir.summary import Summary
from dcfast.stages import stage_steps
from dcfast.stages.runner import run_stage
from dcfast.stages.train import How, train_with, trains_here
from dcfast.storage.records import replaced

_OF_DEDUP = tuple(name for name in option_names(Settings) if name.startswith("dedup_"))
SHARED_SETTINGS = ("pool", "shards_from", "evalsets", "world", "features", "teacher_uids", "uid_from", *_OF_DEDUP)

Say = Callable[[str], None]
Show = type[Progress]


def run_one(run: Run, engine: Engine, name: str, show: Show) -> Summary:
    """Runs one stage where it belongs: trainings in this process, everything else on the engine."""
    if STAGE_TABLE[name].alone:
        if name != "teacher" and isinstance(engine, LocalEngine):
            engine.close()  # idle workers would hold memory beside the model; they start again when needed
        engine = SinglesHere(engine)
    return run_stage(run, engine, name, stage_steps(name), show)


def _go_through(base: Run, branch: Run, engine: Engine, last: str, show: Show, say: Say) -> dict[str, Summary]:
    branch.lock_settings(STAGES)
    stages = branch_stages(branch)
    stages = stages[: stages.index(last) + 1]
    summaries = {}
    with recorded(branch, engine, stages):
        link_base(base, branch)
        for number, name in enumerate(stages, 1):
            say(f"{name}, stage {number} of {len(stages)}")
            summaries[name] = run_one(branch, engine, name, show)
        write_manifest(branch)
    return summaries


@contextmanager
def recorded(run: Run, engine: Engine, stages: Sequence[str]) -> Iterator[None]:
    """For the time of a block, a run tells others how far it is; how it was started stays there if it is killed."""
    with suppress(OSError):  # of a full disk what is left out is said by what needs it
        note_command(run.out / "state")
    with Recorder(run.out / "state", engine=engine.name, workers=engine.workers, stages=stages) as run.recorder:
        try:
            yield
        finally:
            run.recorder = None


def run_branch(
    base: str | os.PathLike[str],
    base_settings: Settings,
    out: str | os.PathLike[str],
    settings: Settings,
    *,
    last: str = "evaluate",
    workers: int = 1,
    overwrite: bool = False,
    quiet: bool = True,
    say: Say = lambda line: None,
) -> dict[str, Summary]:
    """Filter, training and evaluation in ``out``, on what the run in ``base`` made up to decontamination.

    Args:
        base, base_settings: a run directory that has been through decontaminate, and its settings.
        out, settings: of the branch; pool, world, evaluation sets and features are those of the base.
        last: ``filter``, ``reshard``, ``train`` or ``evaluate``.
        workers, overwrite, quiet, say: as ``dcfast.run.run``.
    Returns:
        stage -> its summary.
    Raises:
        ValueError: the settings are not those of a branch of this base.
        RunError: the base lacks a stage, or another process is at work in ``out``.  Others as ``dcfast.run.run``.
    Example::

        settings = Settings(pool="pool", filter="words >= 3")
        run("run", settings, last="filter")
        run_branch("run", settings, "other", replace(settings, filter="no_filter"), last="filter")
    """
    check_settings(settings)
    for name in SHARED_SETTINGS:
        mine, its = getattr(located(settings), name), getattr(located(base_settings), name)
        if mine != its:
            raise ValueError(f"a branch shares {name} with its base: {its!r} there, {mine!r} here; give the base's")
    source = Run(Path(os.path.abspath(base)), base_settings)
    with open_run(out, settings, overwrite=overwrite) as branch, open_engine("local", workers) as engine:
        if last not in branch_stages(branch):
            raise ValueError(f"last must be one of {', '.join(branch_stages(branch))}; got {last!r}")
        return _go_through(source, branch, engine, last, Silent if quiet else Progress, say)


def _beside(
    base: str, base_settings: Settings, out: str, settings: Settings, last: str, overwrite: bool, how: How
) -> dict[str, Summary]:
    """A branch in a process of its own."""
    with train_with(**how):
        return run_branch(base, base_settings, out, settings, last=last, overwrite=overwrite)


class Comparison:
    """The comparison run of a run: after its training, or beside it in a process of its own.

    Two trainings at once, each on half of the cores, end sooner than one after the other on all of them: a small
    model leaves cores idle. On a GPU, and with one worker, they come one after the other.

    Args:
        base: the run; it has been through decontaminate when ``start`` is called.
        last: the last stage of the comparison, ``train`` or ``evaluate``.
        engine, overwrite, show, say: as in the run.
    """

    def __init__(self, base: Run, last: str, engine: Engine, *, overwrite: bool, show: Show, say: Say) -> None:
        place = comparison_dir(base)
        assert place is not None
        self._base, self._place, self._last, self._engine = base, place, last, engine
        self._overwrite, self._show = overwrite, show
        self._say: Say = lambda line: say(f"compare {base.compare}: {line}")
        self._settings = branch_settings(base.settings, base.compare)
        self._pool: ProcessPoolExecutor | None = None
        self._future: Future[dict[str, Summary]] | None = None
        self._entered = ExitStack()

    def _fits_beside(self) -> bool:
        if not isinstance(self._engine, LocalEngine) or self._engine.workers < 2 or not trains_here():
            return False
        if self._base.settings.device == "auto":
            import torch

            return not torch.cuda.is_available()
        return self._base.settings.device == "cpu"

    def start(self) -> None:
        """Begins it beside the training that follows, where that is of use."""
        if not self._fits_beside():
            return
        threads = max(1, len(os.sched_getaffinity(0)) // 2)
        how = self._entered.enter_context(train_with(threads=threads))
        self._say(f"filter to {self._last}, at the same time")
        # spawn, not fork: the parent holds threads of torch
        self._pool = ProcessPoolExecutor(
            1, mp_context=get_context("spawn"), initializer=start_worker, initargs=(os.getpid(),)
        )
        self._entered.enter_context(passed_on(self._pass_on))
        with spawning():
            self._future = self._pool.submit(
                _beside,
                str(self._base.out),
                self._base.settings,
                str(self._place),
                self._settings,
                self._last,
                self._overwrite,
                how,
            )

    def _state(self) -> StepProgress | None:
        """How far the other process is, by what it says in its own directory."""
        try:
            told = read_progress(self._place / "state")
        except (OSError, DcfastError):
            return None
        if told is None or told.step is None or told.pid not in {process.pid for process in self._processes()}:
            return None
        return replaced(told.step, step=f"compare {told.step.step}")

    def _processes(self) -> list[SpawnProcess]:
        return list((getattr(self._pool, "_processes", None) or {}).values())

    def _pass_on(self, number: int) -> None:
        """Its training saves what it has: at once, since both have one time of grace."""
        if number != signal.SIGINT:
            for process in self._processes():
                process.terminate()

    def finish(self) -> dict[str, Summary]:
        """Its summaries, once it has ended; RunError where its process died, and whatever it raised."""
        if self._future is None:
            with open_run(self._place, self._settings, overwrite=self._overwrite) as branch:
                return _go_through(self._base, branch, self._engine, self._last, self._show, self._say)
        title = f"compare {self._base.compare}"
        try:
            with self._show(title, total=1, pieces=1, source=self._state) as bar, postponed() as asked:
                while asked() is None and not self._future.done():
                    wait([self._future], timeout=0.2)
                bar.advance(1)
            return self._future.result()
        except BrokenProcessPool:
            raise RunError(
                f"the process of the comparison run died (killed, or out of memory): {self._place}. Run the same "
                "command again to resume; with --workers 1 it comes after the other training and needs less memory"
            ) from None

    def __enter__(self) -> Comparison:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered.close()
        if self._pool is None:
            return
        processes = self._processes()
        if isinstance(error, Stopped) and error.number != signal.SIGINT and self._future is not None:
            wait([self._future], timeout=SAVE_SECONDS)
        self._pool.shutdown(wait=kind is None, cancel_futures=True)
        if kind is not None:
            for process in processes:
                process.kill()
