"""Engines: where pieces run. ``local`` uses processes of this machine, ``ray`` a cluster.

An engine maps a function over tasks and yields ``(index, result)`` as they end. What a piece writes does not
depend on the engine, the number of workers or the order in which pieces end.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from types import TracebackType
from typing import Any, Protocol

from dcfast.errors import MissingDependencyError, RunError
from dcfast.stages.piece import Piece, perform
from dcfast.stopping import handlers_kept, spawning, start_worker

__all__ = [
    "ENGINES",
    "Engine",
    "LocalEngine",
    "RayEngine",
    "SinglesHere",
    "check_engine",
    "open_engine",
]

ENGINES = ("local", "ray")
MOST_PROCESSES = 4096  # each is an interpreter of its own, and all are started at once


class Engine(Protocol):
    """Runs pieces. ``map`` raises the first error of a piece after stopping what has not begun."""

    workers: int

    def map(self, out: str, pieces: Sequence[Piece]) -> Iterator[tuple[int, dict[str, Any]]]: ...
    def close(self) -> None: ...
    def __enter__(self) -> Engine: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class _Closing:
    def __enter__(self) -> Any:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def close(self) -> None:
        raise AssertionError("an engine defines close")

    def abandon(self) -> None:
        """Closes after an error: pieces at work need not end."""
        self.close()


class LocalEngine(_Closing):
    """Processes of this machine; one worker means this very process.

    Args:
        workers: number of processes, at least 1. They are started when first needed and kept for all stages.
    """

    def __init__(self, workers: int) -> None:
        check_engine("local", workers)
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def map(self, out: str, pieces: Sequence[Piece]) -> Iterator[tuple[int, dict[str, Any]]]:
        if self.workers == 1 or len(pieces) <= 1:
            for i, piece in enumerate(pieces):
                yield i, perform(out, piece)
            return
        if self._pool is None:
            # spawn, not fork: the parent may hold threads (Arrow, BLAS) that a fork would leave dead
            self._pool = ProcessPoolExecutor(
                self.workers, mp_context=get_context("spawn"), initializer=start_worker, initargs=(os.getpid(),)
            )
        running: dict[Future[dict[str, Any]], int] = {}
        following = iter(enumerate(pieces))
        try:
            while True:
                # a short queue ahead of the workers: what has not begun costs nothing to cancel
                while len(running) < 2 * self.workers and (task := next(following, None)) is not None:
                    with spawning():  # the first starts the workers
                        running[self._pool.submit(perform, out, task[1])] = task[0]
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    result = future.result()  # before it leaves ``running``: the message below names it
                    yield running.pop(future), result
        except BrokenProcessPool:
            names = ", ".join(sorted(f"{pieces[i].step}/{pieces[i].name}" for i in running.values())) or "unknown"
            self.abandon()
            raise RunError(
                f"a worker process died (killed, or out of memory) while these pieces were at work: {names}. "
                "Run the same command again to resume; fewer --workers need less memory"
            ) from None
        except BaseException:
            self.abandon()
            raise

    def abandon(self) -> None:
        pool, self._pool = self._pool, None
        if pool is None:
            return
        processes = list((getattr(pool, "_processes", None) or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


class RayEngine(_Closing):
    """Tasks on a Ray cluster whose nodes all see the pool and the run directory under the same paths.

    Args:
        workers: how many pieces may be at work at once.
        address: of the cluster; None joins the one of ``RAY_ADDRESS``, or starts one on this machine.
    """

    def __init__(self, workers: int, address: str | None = None) -> None:
        if workers < 1:
            raise ValueError(f"workers must be at least 1; got {workers}")
        try:
            import ray
        except ImportError as error:
            raise MissingDependencyError("engine 'ray' needs Ray: pip install 'dcfast[ray]'") from error
        self.workers = workers
        self._ray = ray
        self._owns = not ray.is_initialized()
        if self._owns:
            address = address or os.environ.get("RAY_ADDRESS")
            extra: dict[str, Any] = {} if address else {"num_cpus": workers, "include_dashboard": False}
            with handlers_kept():  # Ray's SIGTERM prints a stack of C++ and ends with status 15
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **extra)
        # a node may be lost: the piece is safe to repeat. One that kills its worker every time ends as a RunError
        self._perform = ray.remote(num_cpus=1, max_retries=3, scheduling_strategy="SPREAD")(perform)
        self._has_gpus = float(ray.cluster_resources().get("GPU", 0)) > 0  # type: ignore[no-untyped-call]

    def _submit(self, out: str, piece: Piece) -> Any:
        # Ray hides every GPU from a task that asks for none
        gpus = piece.gpus if self._has_gpus else 0
        return self._perform.options(num_gpus=gpus).remote(out, piece) if gpus else self._perform.remote(out, piece)

    def map(self, out: str, pieces: Sequence[Piece]) -> Iterator[tuple[int, dict[str, Any]]]:
        running: dict[Any, int] = {}
        following = iter(enumerate(pieces))
        try:
            while True:
                while len(running) < 2 * self.workers and (task := next(following, None)) is not None:
                    running[self._submit(out, task[1])] = task[0]
                if not running:
                    return
                done, _ = self._ray.wait(list(running), num_returns=1)
                for reference in done:
                    index = running.pop(reference)
                    try:
                        result = self._ray.get(reference)
                    except self._ray.exceptions.RayTaskError as error:
                        raise error.cause from error  # the piece's own exception, not Ray's wrapping of it
                    except self._ray.exceptions.RayError as error:
                        raise RunError(
                            f"Ray lost the piece {pieces[index].step}/{pieces[index].name} "
                            f"({type(error).__name__}: a worker or node died, or was out of memory). "
                            "Run the same command again to resume"
                        ) from error
                    yield index, result
        except BaseException:
            for reference in running:
                self._ray.cancel(reference, force=True)
            raise

    def close(self) -> None:
        if self._owns:
            self._ray.shutdown()


class SinglesHere(_Closing):
    """Another engine, but a step of one piece runs in this process: for pieces that use the whole machine."""

    def __init__(self, engine: Engine) -> None:
        self.workers = engine.workers
        self._engine = engine

    def map(self, out: str, pieces: Sequence[Piece]) -> Iterator[tuple[int, dict[str, Any]]]:
        if len(pieces) > 1:
            yield from self._engine.map(out, pieces)
        for i, piece in enumerate(pieces if len(pieces) == 1 else ()):
            yield i, perform(out, piece)

    def close(self) -> None:
        self._engine.close()


def check_engine(name: str, workers: int) -> None:
    """ValueError for an engine that there is none of, or a number of workers that it cannot have."""
    if name not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}; got {name!r}")
    if workers < 1:
        raise ValueError(f"workers must be at least 1; got {workers}")
    if name == "local" and workers > MOST_PROCESSES:
        raise ValueError(f"workers must be at most {MOST_PROCESSES} processes of this machine; got {workers}")


def open_engine(name: str, workers: int, address: str | None = None) -> LocalEngine | RayEngine:
    """The engine of that name; ValueError lists those there are."""
    check_engine(name, workers)
    return LocalEngine(workers) if name == "local" else RayEngine(workers, address)
