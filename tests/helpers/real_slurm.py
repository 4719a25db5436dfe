"""A Slurm of its own: slurmctld, two slurmd and munged of this machine's packages (slurm-wlm, munge), as root.

The two nodes are two names of this machine, with a port each. Everything lies in one folder and listens on loopback.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "scontrol")
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])

CONF = """ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,bf_interval=1,requeue_setup_env_fail
ReturnToService=2
KillWait=30
MailProg=/bin/true
NodeName=n[1-2] NodeHostname=localhost NodeAddr=127.0.0.1 Port=[{first}-{second}] CPUs=4 RealMemory=2000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """Why there can be none here; None where there can."""
    if os.geteuid() != 0:
        return "Slurm's servers are started as root"
    lacking = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    return f"not installed: {', '.join(lacking)} (apt-get install slurm-wlm munge)" if lacking else None


def _free_ports() -> tuple[int, int, int]:
    """The controller's, and two that follow each other."""
    while True:
        with socket.socket() as one, socket.socket() as two, socket.socket() as three:
            one.bind(("127.0.0.1", 0))
            two.bind(("127.0.0.1", 0))
            try:
                three.bind(("127.0.0.1", two.getsockname()[1] + 1))
            except OSError:
                continue
            return one.getsockname()[1], two.getsockname()[1], three.getsockname()[1]


class Slurm:
    """It runs; ``environment`` is what its programs need."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": PATH}
        self._servers: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        for name in ("munge", "state", "spool-n1", "spool-n2"):
            (self.folder / name).mkdir(parents=True)
        self.folder.chmod(0o755)
        controller, first, second = _free_ports()
        conf = CONF.format(folder=self.folder, controller=controller, first=first, second=second)
        (self.folder / "slurm.conf").write_text(conf)
        key = self.folder / "munge/key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        place = self.folder / "munge"
        self._serve(
            "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={place / 'socket'}",
            f"--pid-file={place / 'pid'}", f"--log-file={place / 'log'}", f"--seed-file={place / 'seed'}",
        )  # fmt: skip
        self._until(lambda: (place / "socket").exists(), "munged")
        self._serve("slurmctld", "-D")
        for node in ("n1", "n2"):
            self._serve("slurmd", "-D", "-N", node)
        self._until(lambda: self.run("sinfo", "-h", "-N", "-o", "%T").split() == ["idle", "idle"], "two idle nodes")

    def _serve(self, *words: str) -> None:
        with open(self.folder / f"{words[0]}.out", "ab") as out:
            server = subprocess.Popen(words, env=self.environment, stdout=out, stderr=out, start_new_session=True)
        self._servers.append(server)

    def _until(self, done: object, what: str, seconds: float = 60.0) -> None:
        assert callable(done)
        deadline = time.monotonic() + seconds
        while not done():
            if time.monotonic() > deadline:
                logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in self.folder.glob("*.log"))
                raise TimeoutError(f"no {what}: {logs}")
            time.sleep(0.2)

    def run(self, *words: str) -> str:
        """What a program of Slurm says."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, check=False)
        return done.stdout

    def wait(self, what: object, seconds: float) -> None:
        self._until(what, "such state", seconds)

    def state(self, job: str) -> str:
        """Of a job, by its number."""
        found = [word for word in self.run("scontrol", "show", "job", job).split() if word.startswith("JobState=")]
        return found[0].removeprefix("JobState=") if found else ""

    def stop(self) -> None:
        self.run("scancel", "--user=root")
        for server in reversed(self._servers):
            server.send_signal(signal.SIGTERM)
        for server in self._servers:
            try:
                server.wait(15)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


@contextmanager
def running(folder: Path) -> Iterator[Slurm]:
    """For the time of a block. The folder's path must be short: a socket lies in it."""
    slurm = Slurm(folder)
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.stop()
