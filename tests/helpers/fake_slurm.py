"""Slurm's programs as far as dcfast calls them: jobs are processes of this machine, begun at once.

``installed(folder)`` makes them; each is this file, called by another name. What ``sbatch`` refuses is named by
FAKE_SLURM_REFUSES; FAKE_SLURM is the folder of the jobs. A file ``squeue`` in it is a script that is called instead.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

NAMES = ("sbatch", "squeue", "scancel", "scontrol")


def installed(folder: Path) -> dict[str, str]:
    """Makes the programs; the variables that make them found."""
    programs = folder / "bin"
    programs.mkdir(parents=True)
    for name in NAMES:
        path = programs / name
        path.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -S {shlex.quote(__file__)} {name} "$@"\n')
        path.chmod(0o755)
    return {"FAKE_SLURM": str(folder), "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}


def scripts(folder: Path) -> list[str]:
    """What was submitted, in order."""
    return [path.read_text() for path in sorted(folder.glob("script-*"))]


def _directives(script: str) -> dict[str, str]:
    found = {}
    for line in script.splitlines():
        if line.startswith("#SBATCH "):
            for word in shlex.split(line.removeprefix("#SBATCH ")):
                name, _, value = word.partition("=")
                found[name] = value
    return found


def _sbatch(folder: Path, words: list[str]) -> int:
    if os.environ.get("FAKE_SLURM_REFUSES"):
        print(f"sbatch: error: {os.environ['FAKE_SLURM_REFUSES']}", file=sys.stderr)
        return 1
    text = Path(words[-1]).read_text()
    number = len(list(folder.glob("script-*"))) + 1
    (folder / f"script-{number:04d}").write_text(text)
    given = _directives(text)
    last = int(given.get("--array", "0-0").partition("%")[0].partition("-")[2])
    for task in range(last + 1):
        log = given.get("--output", "/dev/null").replace("%a", str(task)).replace("%j", str(number)).replace("%%", "%")
        environment = {**os.environ, "SLURM_JOB_ID": str(number), "SLURM_ARRAY_TASK_ID": str(task)}
        with open(log, "ab") as out:
            job = subprocess.Popen(
                ["bash", words[-1]], env=environment, stdout=out, stderr=out, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
        (folder / f"job-{number}-{task}").write_text(f"{job.pid} {given.get('--job-name', '')}")
    print(number)
    return 0


def _jobs(folder: Path) -> list[tuple[str, str, int, str]]:
    """Number, task, process and name of those that are at work."""
    found = []
    for path in sorted(folder.glob("job-*")):
        _, number, task = path.name.split("-")
        process, _, name = path.read_text().partition(" ")
        try:
            state = Path("/proc", process, "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            found.append((number, task, int(process), name))
    return found


def _squeue(folder: Path, words: list[str]) -> int:
    if (folder / "squeue").exists():
        return subprocess.run(["sh", folder / "squeue"], check=False).returncode
    wanted = dict(word.partition("=")[::2] for word in words)
    for number, task, _, name in _jobs(folder):
        if wanted.get("--jobs", number) == number and wanted.get("--name", name) == name:
            print(wanted["--format"].replace("%F", number).replace("%A", number).replace("%K", task))
    return 0


def _scancel(folder: Path, words: list[str]) -> int:
    for number, _, process, _ in _jobs(folder):
        if number in words:
            os.killpg(process, signal.SIGKILL)
    return 0


def main() -> int:
    folder, name, words = Path(os.environ["FAKE_SLURM"]), sys.argv[1], sys.argv[2:]
    with open(folder / "calls", "a") as calls:
        calls.write(f"{name} {' '.join(words)}\n")
    return {"sbatch": _sbatch, "squeue": _squeue, "scancel": _scancel}.get(name, lambda *given: 0)(folder, words)


if __name__ == "__main__":
    sys.exit(main())
