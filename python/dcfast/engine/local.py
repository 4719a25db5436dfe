"""This machine as an engine: processes, or threads for pieces whose work is outside of Python."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from functools import partial
from multiprocessing import get_context

from dcfast.engine.engine import Engine, check_engine
from dcfast.engine.piece import Piece, S, perform
from dcfast.errors import RunError
from dcfast.process.read_ahead import read_ahead
from dcfast.process.signals import spawning, start_worker

MOST_THREADS = 8
"""Above it, the interpreter's lock costs more than it takes to start processes."""


class LocalEngine(Engine):
    """Processes of this machine; one worker means this very process.

    Args:
        workers: pieces at work at once, at least 1. Processes are started when first needed and kept for all stages;
            up to MOST_THREADS workers, ``native`` pieces run in threads of this process.
    """

    def __init__(self, workers: int) -> None:
        check_engine("local", workers)
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def map(self, out: str, pieces: Sequence[Piece[S]]) -> Iterator[tuple[int, S]]:
        if self.workers == 1 or len(pieces) <= 1:
            for i, piece in enumerate(pieces):
                yield i, perform(out, piece)
            return
        if self.workers <= MOST_THREADS and all(piece.native for piece in pieces):
            threads = read_ahead(
                partial(perform, out), pieces, threads=self.workers, ahead=2 * self.workers, name="dcfast-piece"
            )
            with closing(threads) as results:
                yield from enumerate(results)
            return
        if self._pool is None:
            # spawn, not fork: the parent may hold threads (Arrow, BLAS) that a fork would leave dead
            self._pool = ProcessPoolExecutor(
                self.workers, mp_context=get_context("spawn"), initializer=start_worker, initargs=(os.getpid(),)
            )
        running: dict[Future[S], int] = {}
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
