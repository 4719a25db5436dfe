"""A Ray cluster as an engine."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

from dcfast.engine.engine import ClosingEngine
from dcfast.engine.piece import Piece, perform
from dcfast.errors import MissingDependencyError, RunError
from dcfast.process.signals import handlers_kept

__all__ = ["RayEngine"]


class RayEngine(ClosingEngine):
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
