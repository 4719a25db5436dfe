"""A command of dcfast that is killed by SIGKILL right before its n-th file gets its name."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence

CODE = """
import os, signal, sys
at, calls, own = int(sys.argv[1]), [0], os.replace
def replace(*given, **how):
    calls[0] += 1
    if calls[0] == at:
        os.kill(os.getpid(), signal.SIGKILL)
    return own(*given, **how)
os.replace = replace
from dcfast import cli
sys.exit(cli.main(sys.argv[2:]))
"""


def kill_at(moments: Iterable[int], words: Sequence[str]) -> int:
    """Starts ``dcfast WORDS`` once for each moment, in one directory; returns how many were killed before their end."""
    killed = 0
    for at in moments:
        done = subprocess.run(
            [sys.executable, "-c", CODE, str(at), *words], capture_output=True, text=True, check=False
        )
        killed += done.returncode == -signal.SIGKILL
        assert done.returncode in (-signal.SIGKILL, 0), done.stderr
    return killed
