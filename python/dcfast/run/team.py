"""A run in many processes, as torchrun, Slurm or MPI start them: rank 0 does the data and the scores, all train.

The ranks meet before any work, at the address of the training that is to come, and compare what must be the same.
From then on they talk by the run directory: rank 0 says in ``state/ranks/leader.json`` when they are to train and how
it ended, and each rank gives signs of life in a file of its own. No file has two writers.
"""

from __future__ import annotations

import gc
import logging
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from dcfast.errors import CorruptDataError, RunError
from dcfast.models.devices import has_gpu
from dcfast.process.caption_places import caption_paths
from dcfast.process.command import status_of
from dcfast.process.exit_codes import DONE
from dcfast.process.signals import Stopped
from dcfast.run.options import RunOptions, run_directory
from dcfast.rundir.layout import RANKS
from dcfast.rundir.settings import Settings
from dcfast.rundir.training_summary import TrainingSummary
from dcfast.stages.train import trained_by
from dcfast.storage.atomic import write_json
from dcfast.storage.lock import locked, take_lock
from dcfast.storage.paths import absolute, is_url, make_directory, not_left_empty
from dcfast.storage.records import Count, Record, plain, read_record
from dcfast.train import TrainSettings, train
from dcfast.train.heartbeat import Heartbeat, end_process
from dcfast.train.place import Place, alone, check_world_size
from dcfast.train.ranks import TOLD, Ranks, code_version, join_ranks

LEADER, HELD = "leader.json", "lock"
"""Files of the folder of the ranks: what rank 0 says, and what it holds from the meeting to the end."""
_LOG = logging.getLogger("dcfast.run")
_POLL_SECONDS = 0.5
_SEEN_SECONDS = 30.0
"""How long a rank looks for what rank 0 has just written: a file system of many machines may show it late."""
_LEAVE_SECONDS = 5.0
_AFTER_THE_FIRST = 2.0
"""A rank that ends with an error waits so long: torchrun ends all when one has ended, and rank 0 says what happened."""
_OF_EACH_MACHINE = ("workers", "quiet")
Prepared = tuple[RunOptions, Settings]
Work = Callable[[RunOptions, Settings], int]


class Word(Record, omit_defaults=True):
    """What rank 0 says: ``start`` is that of this start of the ranks, ``number`` counts what it has said.

    Attributes:
        train: the training that all ranks begin now.   status: the end, with this exit status.
    """

    start: str
    number: Count
    train: TrainSettings | None = None
    status: int | None = None


@dataclass
class _Team:
    """This rank of a run, after the ranks have met.

    Attributes:
        hosts: of each rank.   said: how many words were said, or heard.   ended: the end was said.
    """

    place: Place
    folder: Path
    start: str
    hosts: list[str]
    seconds: float
    said: int = 0
    ended: bool = False

    def say(self, train: TrainSettings | None = None, status: int | None = None) -> None:
        self.said += 1
        write_json(self.folder / LEADER, plain(Word(self.start, self.said, train, status)))
        self.ended = status is not None

    def train(self, settings: TrainSettings) -> TrainingSummary:
        """On rank 0: the training, with all ranks."""
        self.say(train=settings)
        with alone(False):
            return train(settings)

    def hear(self) -> Word:
        """On another rank: the next word of rank 0, waited for as long as that one lives."""
        seen = time.monotonic()
        while True:
            with suppress(OSError, CorruptDataError):
                word = read_record(self.folder / LEADER, Word)
                seen = time.monotonic()
                if word.start == self.start and word.number > self.said:
                    self.said = word.number
                    return word
            if 0 < self.seconds < time.monotonic() - seen:
                raise RunError(
                    f"{self.folder / LEADER} cannot be read any more on {self.hosts[self.place.rank]}, since "
                    f"{self.seconds:.0f} s: is its disk still mounted? The same command goes on"
                )
            time.sleep(_POLL_SECONDS)

    def gone(self, rank: int) -> None:
        what = "which does the data of this run, " if rank == 0 else ""
        end_process(
            f"error: rank {rank} of {self.hosts[rank]}, {what}has given no sign of life for {self.seconds:.0f} s: it "
            "was stopped, or its machine is gone. The run ended; the same command goes on",
            1,
        )

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Gives signs of life, and watches for those of others, for the time of a block."""
        place = self.place
        beat = Heartbeat(self.folder, self.start, place.rank, place.size, self.seconds, self.gone)
        beat.start()
        in_order = False
        try:
            yield
            in_order = True
        except Exception as error:
            in_order = TOLD in getattr(error, "__notes__", ())
            raise
        finally:
            beat.stop(in_order or self.ended)

    def leave(self) -> None:
        """On rank 0, after its last word: nothing of the ranks is left once the others have read it."""
        deadline = time.monotonic() + _LEAVE_SECONDS
        own = {LEADER, HELD}
        with suppress(OSError):
            while set(os.listdir(self.folder)) - own and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS / 5)
            if set(os.listdir(self.folder)) == own:
                (self.folder / LEADER).unlink()
                (self.folder / HELD).unlink()
                self.folder.rmdir()


def run_on_ranks(place: Place, prepare: Callable[[], Prepared], work: Work) -> int:
    """One rank of a run; its exit status.

    Args:
        place: this rank among all.
        prepare: reads the command line.
        work: does the whole run, on rank 0; its trainings are begun on all ranks.
    Raises:
        RunError: the ranks do not find each other, or differ in what they are to do or see; one of them is gone.
        What ``prepare`` and ``work`` raise.
    """
    problem, prepared = None, None
    try:
        prepared = prepare()
    except Exception as error:  # on one node alone the others would wait for it: it is said when all are there
        problem = error
    if prepared is not None and prepared[0].dry_run:
        with alone():
            return work(*prepared) if place.rank == 0 else DONE
    try:
        ranks = join_ranks("cpu", place)
        with ExitStack() as held:
            if place.rank == 0 and prepared:
                held.enter_context(not_left_empty(_place_of(prepared)))
            try:
                how, settings, team = _meet(ranks, place, prepared, problem, held)
            finally:
                ranks.leave()
            return _lead(team, how, settings, work) if place.rank == 0 else _follow(team)
    except Exception as error:
        if place.rank == 0 or TOLD not in getattr(error, "__notes__", ()):
            raise
        time.sleep(_AFTER_THE_FIRST)
        return status_of(error)


def _place_of(prepared: Prepared) -> Path:
    how, settings = prepared
    return Path(absolute(run_directory(how.out, settings.scale)))


def _lead(team: _Team, how: RunOptions, settings: Settings, work: Work) -> int:
    try:
        with team.alive():
            status = 1
            try:
                with alone(), trained_by(team.train):
                    status = work(how, settings)
            except BaseException as error:
                stopped = error.number if isinstance(error, Stopped) else 2
                status = status_of(error) if isinstance(error, Exception) else 128 + stopped
                raise
            finally:
                with suppress(OSError):  # of a full disk: the others see that there are no more signs of life
                    team.say(status=status)
    except Exception:
        team.leave()
        raise
    team.leave()
    return status


def _follow(team: _Team) -> int:
    with team.alive():
        while (word := team.hear()).status is None:
            if word.train is not None:
                train(word.train)
                _free_memory()
    if word.status:
        time.sleep(_AFTER_THE_FIRST)
    return word.status


def _free_memory() -> None:
    gc.collect()
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _meet(
    ranks: Ranks, place: Place, prepared: Prepared | None, problem: Exception | None, held: ExitStack
) -> tuple[RunOptions, Settings, _Team]:
    """All looks that need all ranks: what one of them finds is raised on each.   ``held``: gets rank 0's lock."""
    hosts = ranks.gather(socket.gethostname())
    _check_problems(ranks, hosts, problem)
    assert prepared is not None  # else there is a problem
    how, settings = prepared
    out = _place_of(prepared)
    options = {name: value for name, value in asdict(how).items() if name not in _OF_EACH_MACHINE}
    facts: dict[str, object] = {"settings": asdict(settings), "options": {**options, "out": str(out)}}
    if settings.train and settings.device != "cpu":
        facts["gpu"] = has_gpu()
    _check_seen(ranks, hosts, settings)
    ranks.agree({**facts, "code": code_version()})
    with ranks.together():
        if settings.train:
            check_world_size(settings.recipe().global_batch, place.size, 1)
    team = ranks.on_first(lambda: _found(place, out, hosts, how.rank_timeout, held))
    team.place = place
    missing = [] if _is_seen(team) else [f"--out {out}"]
    _refuse_unseen(ranks, hosts, missing)
    _try_locks(ranks, hosts, team.folder)
    return how, settings, team


def _check_problems(ranks: Ranks, hosts: list[str], problem: Exception | None) -> None:
    """What is wrong with the command: said as it is where it is wrong everywhere, else with the host."""
    problems = ranks.gather(None if problem is None else str(problem))
    if problem is not None and all(problems):
        raise ranks.known(problem)
    for rank, words in enumerate(problems):
        if words:
            ranks.fail(
                f"rank {rank} on {hosts[rank]} cannot do what the others can: {words}. Mend it there, or leave that "
                "node out"
            )


def _check_seen(ranks: Ranks, hosts: list[str], settings: Settings) -> None:
    """RunError where a node does not see an input that another one sees."""
    given = [("--pool", settings.pool), ("--evalsets", settings.evalsets), ("--teacher-uids", settings.teacher_uids)]
    given += [("--signatures", path) for path in settings.signatures or []]
    given += [("--dedup-against", path) for path in settings.dedup_against or []]
    given += [("--caption-from", path) for path in caption_paths(settings.caption_from)]
    missing = [f"{name} {path}" for name, path in given if path and not is_url(path) and not os.path.exists(path)]
    _refuse_unseen(ranks, hosts, missing)


def _refuse_unseen(ranks: Ranks, hosts: list[str], missing: list[str]) -> None:
    everyone = ranks.gather(missing)
    for what in sorted({name for names in everyone for name in names}):
        lacking = sorted({hosts[rank] for rank, names in enumerate(everyone) if what in names})
        if all(what in names for names in everyone):
            continue  # the run itself says it
        ranks.fail(
            f"{what} is not there on {', '.join(lacking)}, and another rank sees it: mount it under this path on every "
            "node, then start the same command again"
        )


def _try_locks(ranks: Ranks, hosts: list[str], folder: Path) -> None:
    """Says so where a lock that one machine holds can be taken on another one: as of Lustre with ``localflock``."""
    taken = ""
    if ranks.rank > 0 and hosts[ranks.rank] != hosts[0]:
        with suppress(OSError):
            os.close(take_lock(folder / HELD))
            taken = hosts[ranks.rank]
    strangers = sorted({host for host in ranks.gather(taken) if host})
    if ranks.rank == 0 and strangers:
        _LOG.warning(
            "locks in --out do not hold between machines (%s took one that %s holds): a second run that is started "
            "there by mistake would not be refused. Mount it with flock (not localflock, not nolock)",
            ", ".join(strangers),
            hosts[0],
        )


def _found(place: Place, out: Path, hosts: list[str], seconds: float, held: ExitStack) -> _Team:
    """On rank 0: the folder of the ranks, emptied of what an earlier start left; RunError where one is at work."""
    folder = make_directory(out, "--out") / "state" / RANKS
    folder.mkdir(parents=True, exist_ok=True)
    busy = f"--out {out}: another process is running there; wait for it, or choose another --out"
    held.enter_context(locked(folder / HELD, busy))
    for path in folder.iterdir():
        if path.name != HELD:
            path.unlink()
    team = _Team(place, folder, secrets.token_hex(8), hosts, seconds)
    write_json(folder / LEADER, plain(Word(team.start, 0)))
    return team


def _is_seen(team: _Team) -> bool:
    deadline = time.monotonic() + _SEEN_SECONDS
    while time.monotonic() < deadline:
        with suppress(OSError, CorruptDataError):
            if read_record(team.folder / LEADER, Word).start == team.start:
                return True
        time.sleep(_POLL_SECONDS)
    return False
