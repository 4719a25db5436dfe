"""``dcfast launch slurm | torchrun | ray [options] -- ARGUMENTS``: starts ``dcfast.run`` with the arguments, on many
machines."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dcfast.errors import RunError, did_you_mean
from dcfast.process.command import report, run_command
from dcfast.process.exit_codes import DONE, FAILED
from dcfast.process.options import add_options, given_options, made_of, option
from dcfast.process.parser import ArgumentParser
from dcfast.process.terminal import log_printably, say
from dcfast.run.agent import TorchrunOptions, run_agent, torchrun_line, torchrun_words
from dcfast.run.options import RunOptions, options_of, run_directory
from dcfast.run.options import parser as run_parser
from dcfast.run.slurm_script import SlurmOptions, check_words, slurm_script, submit, write_script
from dcfast.rundir.settings import Settings
from dcfast.scales import scale
from dcfast.storage.paths import absolute, make_directory
from dcfast.train.place import check_world_size


@dataclass(frozen=True)
class RayOptions:
    """A job of Ray, for the data."""

    address: str | None = option(None, "of the cluster's dashboard, http://HOST:8265", usual="$RAY_ADDRESS")
    submit: bool = option(False, "hand the job to ray")


@dataclass(frozen=True)
class _Words:
    words: list[str] = option(
        [],
        "behind --: the arguments of dcfast.run",
        flags=("words",),
        metavar="ARGUMENT",
        gather=list,
        may_be_bare=True,
    )


def _run_options(words: Sequence[str]) -> tuple[RunOptions, Settings]:
    """What the words mean to the run itself: a mistake is found here, and not after hours in a queue."""
    check_words(words, "the command")
    return options_of(run_parser().parse_args(words))


def _slurm(arguments: argparse.Namespace, words: list[str]) -> list[str]:
    options = made_of(SlurmOptions, given_options(arguments, SlurmOptions))
    how, settings = _run_options(words)
    if options.gpus_per_node == 0 and settings.train and settings.device != "cpu" and settings.scale != "tiny":
        raise ValueError(
            f"scale {settings.scale} trains on GPUs: give --gpus-per-node, or insist on the processor (--device cpu)"
        )
    if settings.train:
        check_world_size(settings.recipe().global_batch, options.nodes * (options.gpus_per_node or 1), 1)
    out = absolute(run_directory(how.out, settings.scale))
    log = "{}.{}.log"  # beside the directory, which is the run's alone
    of_jobs = log.format(out.replace("%", "%%"), "%j")
    text = slurm_script(options, f"dcfast-{os.path.basename(out)}", of_jobs, os.getcwd(), words)
    path = Path(options.script or f"{out}.sbatch")
    make_directory(path.parent, "--script")
    make_directory(os.path.dirname(out), "--out")
    write_script(path, text)
    lines = [f"script: {path}", f"log: {log.format(out, 'JOB')}"]
    lines += _cost(settings, options.nodes * options.gpus_per_node)
    if options.submit:
        number = submit(path)
        return [*lines, f"job {number}: squeue --job {number}, dcfast status {out}"]
    return [*lines, f"submit it: sbatch {shlex.quote(str(path))}"]


def _cost(settings: Settings, gpus: int) -> list[str]:
    """How long the training takes on some GPUs, by the paper's hours of its scale."""
    recipe, standard = settings.recipe(), scale(settings.scale)
    if not gpus or not settings.train or standard.gpu_hours is None or recipe.model != standard.model:
        return []
    hours = standard.gpu_hours * recipe.samples_seen / standard.samples_seen
    return [
        f"training: about {hours:,.0f} A100 GPU-hours by DataComp's paper, {hours / gpus:,.1f} h on {gpus} GPUs, if "
        "they are as fast and their number costs nothing (assumed); --dry-run on such a node tries it"
    ]


def _ray(arguments: argparse.Namespace, words: list[str]) -> list[str]:
    options = made_of(RayOptions, given_options(arguments, RayOptions))
    how, settings = _run_options(words)
    if how.engine != "ray" or (settings.train and how.last in (None, "train", "evaluate", "report")):
        raise ValueError(
            "a job of Ray does the data on all machines of a cluster, and trains on one: add --engine ray and --to "
            "verify (or --no-train), and train by dcfast launch slurm or torchrun"
        )
    address = [f"--address={options.address}"] if options.address else []
    name = f"dcfast-{os.path.basename(absolute(run_directory(how.out, settings.scale)))}"
    job = ["ray", "job", "submit", *address, f"--submission-id={name}-{os.getpid()}", "--no-wait", "--"]
    whole = ["sh", "-c", f"cd {shlex.quote(os.getcwd())} && exec {shlex.join(['python', '-m', 'dcfast.run', *words])}"]
    job = [*job, *whole]
    if not options.submit:
        return [shlex.join(job)]
    try:
        done = subprocess.run(job, check=False)
    except FileNotFoundError:
        raise RunError("there is no ray here: pip install 'dcfast[ray]', or leave --submit out") from None
    if done.returncode:
        raise RunError("ray did not take the job; what it says is above. Mend it, and submit it again")
    return []


def _torchrun(arguments: argparse.Namespace, words: list[str]) -> list[str]:
    options = made_of(TorchrunOptions, given_options(arguments, TorchrunOptions))
    _, settings = _run_options(words)
    chosen = torchrun_words(options, settings.device, words)
    if options.show:
        return [torchrun_line(chosen)]
    arguments.agent = chosen
    return []


class Action(NamedTuple):
    """``does``: what it does with a command of ``dcfast.run``, for the help."""

    options: type
    prepare: Callable[[argparse.Namespace, list[str]], list[str]]
    does: str


ACTIONS = {
    "slurm": Action(
        SlurmOptions,
        _slurm,
        "Write a script for sbatch that does a run on many nodes: a rank on each GPU, a checkpoint before its time is "
        "over, and into the queue again.",
    ),
    "torchrun": Action(
        TorchrunOptions,
        _torchrun,
        "Start the ranks of this machine by torch's agent; the same command on each machine.",
    ),
    "ray": Action(RayOptions, _ray, "Print, or submit, a job of Ray that does the data of a run on a cluster."),
}


def _parser(name: str) -> ArgumentParser:
    p = ArgumentParser(
        prog=f"dcfast launch {name}",
        description=ACTIONS[name].does,
        epilog="The same command goes on where a run was stopped. Docs: docs/cluster.md.",
    )
    add_options(p, ACTIONS[name].options)
    add_options(p, _Words)
    return p


def parsers() -> list[ArgumentParser]:
    """The command line of each action; ``prog`` is its words."""
    return [_parser(name) for name in ACTIONS]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of ``dcfast launch``; returns the exit status."""
    p = ArgumentParser(prog="dcfast launch", description="A run on many machines.", epilog="Docs: docs/cluster.md.")
    p.add_argument("action", help=f"{', '.join(ACTIONS)}: `dcfast launch slurm --help` lists the options of one")
    given = list(sys.argv[1:] if argv is None else argv)
    action = p.parse_args(given[:1]).action
    if action not in ACTIONS:
        hint = did_you_mean(action, ACTIONS)
        p.error(f"expected one of {', '.join(ACTIONS)} as the first word; got {action!r}{hint}")
    p = _parser(action)
    before = given[1 : given.index("--")] if "--" in given else given[1:]
    if stray := next(
        (word for word in before if word[:2] == "--" and not p.knows(word) and run_parser().knows(word)), None
    ):
        p.error(f"{stray} is an option of dcfast.run: give all of those behind --, as ... -- {stray}")
    arguments = p.parse_args(given[1:])
    arguments.agent = None
    status = run_command(lambda: _main(action, arguments), "stopped; nothing was begun")
    if status != DONE or arguments.agent is None:
        return status
    try:  # torch's agent has handlers of its own for signals
        return run_agent(arguments.agent)
    except KeyboardInterrupt:
        return FAILED
    except Exception as error:
        return report(error)


def _main(name: str, arguments: argparse.Namespace) -> int:
    log_printably()
    words = given_options(arguments, _Words).get("words", [])
    if lines := ACTIONS[name].prepare(arguments, words):
        say("\n".join(lines))
    return DONE
