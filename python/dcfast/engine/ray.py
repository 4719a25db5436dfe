"""A Ray cluster as an engine."""

from __future__ import annotations

import logging
import os
import re
import secrets
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from types import ModuleType

from dcfast.engine.engine import Engine, check_engine
from dcfast.engine.piece import Piece, S, perform
from dcfast.errors import MissingDependencyError, RunError, first_line
from dcfast.process.signals import handlers_kept

FLOOR = (2, 52)
"""The first version of Ray whose clusters can refuse who has no token."""
_TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
"""Of the clusters that this process starts: Ray reads it once a process."""
_ANSWER_SECONDS = 5.0
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Ray's name for clusters that other machines join; without, it binds all of its servers to 127.0.0.1."""


class RayEngine(Engine):
    """Tasks on a Ray cluster whose nodes all see the pool and the run directory under the same paths.

    Args:
        workers: how many pieces may be at work at once.
        address: of the cluster; None joins the one of ``RAY_ADDRESS``, or starts one on this machine, which listens on
            the loopback interface alone.
    Raises:
        What ``check_ray`` raises.
    """

    name = "ray"

    def __init__(self, workers: int, address: str | None = None) -> None:
        address = address or os.environ.get("RAY_ADDRESS")
        self.workers = workers
        self._before: dict[str, str | None] = {}
        self._ray = ray = check_ray(workers, address)
        self._owns = not ray.is_initialized()
        if self._owns:
            extra = {} if address else {"num_cpus": workers, "include_dashboard": False}
            if not address:
                self._keep_private()
            try:
                with handlers_kept():  # Ray's SIGTERM prints a stack of C++ and ends with status 15
                    # "local": without, Ray joins whatever cluster a file in /tmp names, which anybody may have written
                    ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **extra)
                if not address:
                    self._check_private()
            except BaseException:
                self.close()
                raise
        # a node may be lost: the piece is safe to repeat. One that kills its worker every time ends as a RunError
        self._perform = ray.remote(num_cpus=1, max_retries=3, scheduling_strategy="SPREAD")(perform)
        self._has_gpus = float(ray.cluster_resources().get("GPU", 0)) > 0

    def _submit(self, out: str, piece: Piece[S]) -> object:
        # Ray hides every GPU from a task that asks for none
        gpus = piece.gpus if self._has_gpus else 0
        return self._perform.options(num_gpus=gpus).remote(out, piece) if gpus else self._perform.remote(out, piece)

    def map(self, out: str, pieces: Sequence[Piece[S]]) -> Iterator[tuple[int, S]]:
        running: dict[object, int] = {}
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

    def _keep_private(self) -> None:
        """The cluster that Ray is about to start listens on loopback, and answers whoever has its token."""
        for name, value in {**_TOKEN, **_LOOPBACK}.items():
            self._before[name] = os.environ.get(name)
            os.environ[name] = value
        self._read_environment(cluster=False)

    def _read_environment(self, *, cluster: bool) -> None:
        """Ray has read it when it was imported."""
        with suppress(AttributeError):
            self._ray._private.ray_constants.ENABLE_RAY_CLUSTER = cluster
            self._ray._raylet.Config.initialize("")

    def _check_private(self) -> None:
        where = str(self._ray.get_runtime_context().gcs_address)
        if where.rpartition(":")[0].strip("[]") not in ("127.0.0.1", "::1", "localhost"):
            raise RunError(
                f"Ray {self._ray.__version__} listens at {where}, where other machines can reach it; use --engine "
                "local, or start a cluster with a token (RAY_AUTH_MODE=token) and join it (--ray-address)"
            )

    def close(self) -> None:
        if self._owns:
            self._ray.shutdown()
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if self._before:
            self._read_environment(cluster=True)
        self._before = {}


def check_ray(workers: int, address: str | None = None) -> ModuleType:
    """Ray, after all looks that need no cluster to be joined or started.

    Raises:
        MissingDependencyError: Ray is not installed, or older than ``FLOOR``.
        RunError: a cluster is to be joined without its token (whoever reaches a cluster that asks for none can run any
            program on it), or nothing answers at its address.
    """
    check_engine("ray", workers)
    ray = _import_ray()
    address = address or os.environ.get("RAY_ADDRESS")
    if address and not ray.is_initialized():
        _check_token(address)
        _check_answers(address)
    return ray


def _check_answers(address: str) -> None:
    """RunError where nobody listens at HOST:PORT, which Ray itself says after a minute; other addresses are Ray's."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise RunError(
            f"no Ray cluster answers at {address} ({first_line(error)}): start it (ray start --head), mend the address "
            "(--ray-address, RAY_ADDRESS), or use --engine local"
        ) from None


def _import_ray() -> ModuleType:
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError("engine 'ray' needs Ray: pip install 'dcfast[ray]'") from error
    version = tuple(int(part) for part in re.findall(r"\d+", ray.__version__)[:2])
    if version < FLOOR:
        raise MissingDependencyError(
            f"engine 'ray' needs Ray {FLOOR[0]}.{FLOOR[1]} or newer, which can refuse who has no token; got "
            f"{ray.__version__}: pip install -U 'dcfast[ray]'"
        )
    return ray


def _check_token(address: str) -> None:
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        raise RunError(
            f"Ray at {address} is to be joined without a token: whoever reaches such a cluster can run any program on "
            "it. Start it with RAY_AUTH_MODE=token (`ray get-auth-token --generate` makes one for all its machines), "
            "and set RAY_AUTH_MODE=token here"
        )
