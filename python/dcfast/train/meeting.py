"""How the ranks of a training find each other: within a limit of time, and with a word about who did not come.

Ranks of one machine that ``dcfast.train.launch`` started meet by a file, all others at MASTER_ADDR. Each says how many
ranks it was told there are; rank 0 compares, and what it finds is what all of them raise.
"""

from __future__ import annotations

import json
import os
import socket
import time
from datetime import timedelta
from itertools import count
from typing import TYPE_CHECKING

from dcfast.errors import RunError, first_line
from dcfast.storage.json_files import parse_json
from dcfast.storage.records import as_record
from dcfast.train.address import meeting_address

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

MEETING = "DCFAST_MEETING"
"""The file at which the ranks that ``launch`` started meet."""
MEET_SECONDS = 300.0
"""How long a rank waits for the others, which may start later: images are loaded, nodes boot."""
_LAST_WORD_SECONDS = 1.0
"""How long rank 0 lives on where it says no: the store, which the others read it from, may end with it."""
_AGENT = "TORCHELASTIC_USE_AGENT_STORE"
_SHOWN_RANKS = 8
_stores: dict[tuple[str, int, int, int, int], Store] = {}
_meetings = count()  # of this process: the store of torchrun outlives a training


def meet(rank: int, size: int, started_by: str) -> Store:
    """The store through which the ranks make their process group, once all are there.

    Raises:
        ValueError: no MASTER_ADDR.   RunError: not all came in time, or they were told different numbers of ranks.
    """
    file, told = os.environ.get(MEETING) or None, ""
    where = file or ""
    if file is None:
        try:
            address, port, told = meeting_address()
        except ValueError as error:
            raise ValueError(
                f"{started_by} started {size} ranks, but not where they meet: set {error}. "
                "Export the address of rank 0's machine and a free port (MASTER_PORT=29500), or start them by torchrun"
            ) from None
        where = f"{address}:{_port(port)}"
    deadline = time.monotonic() + MEET_SECONDS
    try:
        store = _open_store(file, rank, size)
        problem = _gather(store, size, deadline, where) if rank == 0 else _ask(store, rank, size, where)
    except RuntimeError as error:
        reason = first_line(error)
        if rank == 0:
            raise RunError(
                f"rank 0 cannot be met at {where} ({reason}). Is MASTER_ADDR this machine, and MASTER_PORT free?"
                + ("" if told.startswith("MASTER_ADDR and") else f" They are of {told}: export them")
            ) from None
        raise RunError(
            f"rank {rank} of {size} has no connection to rank 0 at {where}, for which it waits {MEET_SECONDS:.0f} s "
            f"({reason}). Was rank 0 started, does it live, and is the port open between the machines?"
        ) from None
    if problem:
        raise RunError(problem)
    return store


def _open_store(file: str | None, rank: int, size: int) -> Store:
    from torch._C import _distributed_c10d as dist  # torch.distributed has them, but does not declare it

    limit = timedelta(seconds=MEET_SECONDS)
    address, port = ("", 0) if file is not None else _address()
    # kept: who comes to a second meeting must not find the first one's, about to end with its last user
    key = (file or address, port, rank, size, os.getpid())
    if key not in _stores and file is not None:
        _stores[key] = dist.FileStore(file, size)
        _stores[key].set_timeout(limit)
    elif key not in _stores:
        serves = rank == 0 and os.environ.get(_AGENT) != "True"  # else torchrun itself does
        _stores[key] = dist.TCPStore(
            address, port, is_master=serves, timeout=limit, wait_for_workers=False, multi_tenant=True,
            master_listen_fd=_listen(address, port) if serves else None,
        )  # fmt: skip
    store = _stores[key]
    again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"dcfast/{again}/{next(_meetings)}", store)


def _address() -> tuple[str, int]:
    address, port, _ = meeting_address()
    return address, _port(port)


def _nodes() -> int:
    """Machines of a step, as far as Slurm says."""
    text = os.environ.get("SLURM_STEP_NUM_NODES", "") or os.environ.get("SLURM_NNODES", "")
    return int(text) if text.isdecimal() else 1


def _listen(address: str, port: int) -> int:
    """A socket that only what MASTER_ADDR names is reached by: torch's own listens on every address of the machine.

    Raises:
        RuntimeError: the address is none of this machine's, or the port is taken.
    """
    try:
        family, kind, _, _, where = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        if str(where[0]).startswith("127.") and _nodes() > 1 and not address.startswith(("127.", "localhost")):
            raise RuntimeError(
                f"{address} is {where[0]} here, where no other machine reaches it: export MASTER_ADDR, an address of "
                "this machine on its network"
            )
        with socket.socket(family, kind) as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(where)
            listening.listen(4096)
            return listening.detach()
    except OSError as error:
        raise RuntimeError(error.strerror or str(error)) from None


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) >= 1 << 16:
        raise ValueError(f"environment variable MASTER_PORT must be a number from 0 to 65535; got {text!r}")
    return int(text)


def _gather(store: Store, size: int, deadline: float, where: str) -> str:
    """Rank 0: what is wrong, in a sentence, which the others are told; empty where all are there."""
    absent, problem = [], ""
    for rank in range(1, size):
        try:
            store.wait([f"rank-{rank}"], timedelta(seconds=max(0.01, deadline - time.monotonic())))
        except RuntimeError:
            absent.append(rank)
            continue
        its_size = int(store.get(f"rank-{rank}"))
        if its_size != size:
            problem = (
                f"rank 0 was told that there are {size} ranks, rank {rank} that there are {its_size}. Start all of "
                "them by the same command (WORLD_SIZE, --nnodes, --nproc-per-node, --ntasks)"
            )
            break  # whoever is missing was perhaps never to come
    if absent and not problem:
        names = ", ".join(map(str, absent[:_SHOWN_RANKS])) + (", ..." if len(absent) > _SHOWN_RANKS else "")
        problem = (
            f"of {size} ranks {size - len(absent)} came to {where} within {MEET_SECONDS:.0f} s; not there: rank "
            f"{names}. Were they started, with the same MASTER_ADDR and MASTER_PORT, and can they reach that address?"
        )
    store.set("verdict", json.dumps([size, problem]))
    if problem:
        time.sleep(_LAST_WORD_SECONDS)
    return problem


def _ask(store: Store, rank: int, size: int, where: str) -> str:
    """Another rank: what rank 0 says."""
    store.set(f"rank-{rank}", str(size))
    # rank 0 may have come as late as it could, and wait as long as it may
    store.wait(["verdict"], timedelta(seconds=MEET_SECONDS + 10))
    its_size, problem = as_record(parse_json(store.get("verdict")), tuple[int, str], where)
    if not problem and its_size != size:
        return (
            f"rank {rank} was told that there are {size} ranks, rank 0 at {where} that there are {its_size}. Start all "
            "of them by the same command"
        )
    return problem
