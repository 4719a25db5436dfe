"""Where the ranks of a training meet: MASTER_ADDR and MASTER_PORT, or what Slurm says of its job."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

_LISTS = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
_JOB = ("SLURM_JOB_ID", "SLURM_JOBID")
_FIRST_PORT, _PORTS = 20_000, 10_000
"""Below the ports that systems give away by themselves (32,768 and up)."""
_PART = re.compile(r"[^\[,]+|\[([^\]]*)\]")


def meeting_address(environment: Mapping[str, str] | None = None) -> tuple[str, str, str]:
    """Address and port at which rank 0 is met, and of which variables they are.

    Under Slurm, what is not set is made of its variables: the first node of the step, on which rank 0 is, and a port by
    the numbers of job and step, the same on all nodes.

    Raises:
        ValueError: names what is not set.
    """
    values = os.environ if environment is None else environment
    address, port = values.get("MASTER_ADDR", ""), values.get("MASTER_PORT", "")
    names = ["MASTER_ADDR", "MASTER_PORT"]
    if not address and (name := next((n for n in _LISTS if values.get(n)), None)) is not None:
        address, names[0] = first_node(values[name]), name
    if not port and (name := next((n for n in _JOB if values.get(n, "").isdecimal()), None)) is not None:
        step = values.get("SLURM_STEP_ID", "")
        number = int(values[name]) * 7 + (int(step) if step.isdecimal() else 0)
        port, names[1] = str(_FIRST_PORT + number % _PORTS), name
    missing = [name for name, value in (("MASTER_ADDR", address), ("MASTER_PORT", port)) if not value]
    if missing:
        raise ValueError(" and ".join(missing))
    return address, port, " and ".join(names)


def first_node(nodes: str) -> str:
    """The first of Slurm's list of nodes: of ``rack[02-03]n[1,4],login`` it is ``rack02n1``.

    Example: ``first_node("gpu-[07-10,12]") == "gpu-07"``
    """
    name = ""
    for part in _PART.finditer(nodes):
        if part.start() and nodes[part.start() - 1] == ",":
            break
        name += part[0] if part[1] is None else re.split("[-,]", part[1])[0]
    return name
