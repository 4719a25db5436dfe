"""Steps told to tensorboard, wandb and trackio, too (``--report-to``).

None of them is contacted beyond this machine without being asked: tensorboard writes files, trackio a database here
(unless TRACKIO_SPACE_ID names a place), and wandb needs a login of its own, or WANDB_MODE=offline. A reporter that
fails later is told of once and left out: it never ends a training.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import logging
import netrc
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from dcfast.errors import MissingDependencyError, did_you_mean, first_line

_LOG = logging.getLogger("dcfast.train")
_PROJECT = "dcfast"
_OFFLINE = ("offline", "disabled", "dryrun")


class Reporter(Protocol):
    """Where values are told; its errors are its own."""

    def tell(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class _Tensorboard:
    """Files of events in ``OUT/train/tensorboard``; those of steps that are taken again are marked as void."""

    def __init__(self, folder: Path, step: int, config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        del config
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def tell(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    """A run of wandb, which the same command goes on with; its files lie in ``OUT/train/wandb``."""

    def __init__(self, folder: Path, step: int, config: Mapping[str, Any]) -> None:
        del step
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        own = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or _PROJECT,
            dir=str(folder),
            id=os.environ.get("WANDB_RUN_ID") or own,
            resume="allow",
            config=dict(config),
            settings=wandb.Settings(silent=True, console="off"),
        )

    def tell(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class _Trackio:
    """A run of trackio; its database lies in ``OUT/train/trackio`` unless TRACKIO_DIR says otherwise."""

    def __init__(self, folder: Path, step: int, config: Mapping[str, Any]) -> None:
        del step
        os.environ.setdefault("TRACKIO_DIR", str((folder / "trackio").resolve()))
        import trackio

        self._trackio: Any = trackio
        with contextlib.redirect_stdout(io.StringIO()):
            trackio.init(
                project=_PROJECT,
                name=folder.resolve().parent.name,
                resume="allow",
                config=dict(config),
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def tell(self, step: int, values: Mapping[str, float]) -> None:
        self._trackio.log(dict(values), step=step)

    def close(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            self._trackio.finish()


_KINDS: dict[str, Callable[[Path, int, Mapping[str, Any]], Reporter]] = {
    "tensorboard": _Tensorboard,
    "wandb": _Wandb,
    "trackio": _Trackio,
}
REPORTERS = (*_KINDS,)


def check_reporters(names: Sequence[str]) -> None:
    """ValueError for a name that is none of ``REPORTERS``."""
    for name in names:
        if name not in _KINDS:
            near = did_you_mean(name, REPORTERS)
            raise ValueError(f"report_to: no reporter {name!r}{near}; expected some of {', '.join(REPORTERS)}")


def require_reporters(names: Sequence[str]) -> None:
    """Before work: MissingDependencyError for one that is not installed; ValueError where wandb would ask for a login,
    and wait for it."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise MissingDependencyError(
                f"report_to {name}: the package {name} is not installed: pip install {name}, or leave it out"
            )
    if "wandb" in names and os.environ.get("WANDB_MODE") not in _OFFLINE and not _wandb_login():
        raise ValueError(
            "report_to wandb: there is no login of wandb here; run wandb login, export WANDB_API_KEY, or export "
            "WANDB_MODE=offline, which contacts nobody"
        )


def _wandb_login() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    with contextlib.suppress(OSError, netrc.NetrcParseError):
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    return False


class Reports:
    """The reporters of a training, on rank 0.

    Args:
        step: steps done before this start.   config: of the training, which some show.
    """

    def __init__(self, names: Sequence[str], folder: Path, step: int, config: Mapping[str, Any]) -> None:
        self._reporters: dict[str, Reporter] = {}
        for name in names:
            with self._or_without(name):
                self._reporters[name] = _KINDS[name](folder, step, config)

    @contextlib.contextmanager
    def _or_without(self, name: str) -> Iterator[None]:
        """What fails within the block is said once; the reporter is not asked again."""
        try:
            yield
        except Exception as error:  # whatever a library does when a disk or a network fails
            self._reporters.pop(name, None)
            _LOG.warning(
                "  train: %s is told no more, the training goes on: %s: %s",
                name,
                type(error).__name__,
                first_line(error),
            )

    def tell(self, step: int, values: Mapping[str, float]) -> None:
        """Tells values of a step to all."""
        for name, reporter in [*self._reporters.items()]:
            with self._or_without(name):
                reporter.tell(step, values)

    def close(self) -> None:
        """Ends all of them; what they have been told is kept."""
        for name, reporter in [*self._reporters.items()]:
            with self._or_without(name):
                reporter.close()
        self._reporters.clear()
