"""torchrun on one node of many, for a run: what its ranks say is heard, and not a page of torchrun's own.

torchrun itself prints its traceback where a rank ended by an error, and passes on neither SIGUSR1 nor a long time of
grace. This is the same agent, of torch, called in this process.
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dcfast.errors import MissingDependencyError, RunError, first_line
from dcfast.models.devices import resolve_device
from dcfast.process.exit_codes import FAILED, PEER_LOST
from dcfast.process.options import option
from dcfast.process.signals import POSTPONED

SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
_QUIET = {"TORCH_CPP_LOG_LEVEL": "ERROR", "TORCHELASTIC_SIGNALS_TO_HANDLE": SIGNALS}
"""For the agent and its ranks: torch's C++ says what happened to its sockets, with frames."""
_SAVE_SECONDS = "600"
"""How long the ranks may save, from the signal on; schedulers that know less patience kill by themselves."""


@dataclass(frozen=True)
class TorchrunOptions:
    """One node of a run; the same command on each of them."""

    nodes: int = option(1, "machines, on each of which this command is given", least=1)
    processes: int | None = option(
        None, "ranks on this machine", least=1, usual="one a GPU, one where there is none or --device is cpu"
    )
    endpoint: str | None = option(None, "where the machines meet: the first one's address and a port", metavar="H:PORT")
    show: bool = option(False, "print the line of torchrun, and do nothing", flags=("--print",))


def torchrun_words(options: TorchrunOptions, device: str, words: Sequence[str]) -> list[str]:
    """The words behind ``torchrun``.

    Raises:
        ValueError: several machines and nowhere to meet; an address that is none.
    """
    if options.nodes > 1 and options.endpoint is None:
        raise ValueError(f"{options.nodes} machines meet somewhere: give --endpoint HOST:PORT, the same on each")
    host, _, port = (options.endpoint or "127.0.0.1:0").rpartition(":")
    if not host or not port.isdecimal() or int(port) >= 1 << 16:
        raise ValueError(f"--endpoint must be HOST:PORT, as node1:29400; got {options.endpoint!r}")
    count = options.processes
    if count is None:
        import torch

        count = max(1, torch.cuda.device_count()) if device != "cpu" and resolve_device(device) == "cuda" else 1
    where = [f"--rdzv-endpoint={options.endpoint}", "--rdzv-id=dcfast"] if options.endpoint else ["--standalone"]
    meet = [f"--nnodes={options.nodes}", f"--nproc-per-node={count}", "--rdzv-backend=c10d", "--max-restarts=0"]
    return [*meet, *where, "-m", "dcfast.run", *words]


def torchrun_line(words: Sequence[str]) -> str:
    """The same for a shell."""
    return f"TORCHELASTIC_SIGNALS_TO_HANDLE={SIGNALS} torchrun {shlex.join(words)}"


def run_agent(words: Sequence[str]) -> int:
    """Starts this node's ranks and waits for their end; the exit status.

    Raises:
        RunError: a rank failed or was killed; the nodes do not find, or have lost, each other.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", _SAVE_SECONDS)
    try:
        from torch.distributed.elastic.multiprocessing import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.elastic.rendezvous.api import RendezvousError
        from torch.distributed.run import get_args_parser, run
    except ImportError as error:
        raise MissingDependencyError(f"torchrun is torch's, which cannot be imported ({error})") from error
    logging.disable(logging.ERROR)  # what it logs is said below, in a line
    p = get_args_parser()
    known = "--signals-to-handle" in p._option_string_actions
    try:
        start: Callable[[argparse.Namespace], None] = run
        start(p.parse_args([*([f"--signals-to-handle={SIGNALS}"] if known else []), *words]))
    except SignalException as stop:
        return 128 + int(stop.sigval)
    except ChildFailedError as error:
        return _failed({rank: int(failure.exitcode) for rank, failure in sorted(error.failures.items())})
    except (RendezvousError, RuntimeError, OSError) as error:  # of the store by which agents talk
        raise RunError(
            f"the machines of torchrun do not find each other, or one is gone ({first_line(error)}). Is --endpoint an "
            "address of the first of them, and its port free and open? The same command goes on"
        ) from error
    finally:
        logging.disable(logging.NOTSET)
    return 0


def _failed(ends: Mapping[int, int]) -> int:
    """The status of ranks that ended with these, of which one has said what happened; RunError where one was killed."""
    killed = {rank: -code for rank, code in ends.items() if code < 0 and -code != signal.SIGTERM}
    if killed:
        rank, number = next(iter(killed.items()))
        why = ": by hand, or the machine ran out of memory" if number == signal.SIGKILL else ""
        raise RunError(
            f"rank {rank} was killed by {signal.Signals(number).name}{why}. All ranks ended; the same command goes on"
        )
    stops = [code for code in ends.values() if code - 128 in POSTPONED]
    if stops:
        return stops[0]
    return next((code for code in ends.values() if code not in (0, PEER_LOST) and code > 0), FAILED)
