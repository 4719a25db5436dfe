"""One harness for all benches: answers are checked first, then the sides run in turns, and rows are kept.

A bench is a list of comparisons. Each has sides that do the same work; ``Bench.compare`` runs every side once and
checks what it gave, then times rounds in which each side has its turns, so that a slow minute of the machine falls
on all of them. One row a side is appended to ``bench/results/NAME.jsonl``. Ratios are ratios of medians of one
comparison; ``bench/bars.py`` says which are wanted.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from bench.bars import BARS, Bar, Value, measure

REPO_ROOT = Path(__file__).resolve().parent.parent
# A side faster than this has several turns a round, one after the other.
_TURN_SECONDS = 0.25
_MOST_TURNS = 8


class WrongAnswerError(AssertionError):
    """A side's answer is not the reference's: nothing is timed."""


@dataclass(frozen=True)
class Timed:
    """What a side returns that keeps its own time, such as a worker in another interpreter."""

    seconds: float
    answer: Any


@dataclass
class Side:
    """One contender of a comparison.

    run does the work once and returns its answer. check gets that answer once, before anything is timed, and raises
    WrongAnswerError. prepare runs before each turn and is not timed. once: the run that is checked is the only one, for
    a peer that takes minutes. note goes into the row.
    """

    provider: str
    run: Callable[[], Any]
    check: Callable[[Any], None]
    prepare: Callable[[], None] | None = None
    threads: int = 1
    versions: dict[str, str] = field(default_factory=dict)
    note: str = ""
    once: bool = False


@dataclass(frozen=True)
class Absent:
    """A side that cannot run here, and why. Its row says so, and its bars have no ratio."""

    provider: str
    why: str


def require_equal(provider: str, what: str, got: Any, expected: Any) -> None:
    """Raises WrongAnswerError with the first difference."""
    if isinstance(expected, np.ndarray):
        if isinstance(got, np.ndarray) and got.dtype == expected.dtype and np.array_equal(got, expected):
            return
        shape = f"{got.dtype} {got.shape}" if isinstance(got, np.ndarray) else type(got).__name__
        differs = ""
        if isinstance(got, np.ndarray) and got.shape == expected.shape and got.dtype == expected.dtype:
            at = int(np.flatnonzero(got != expected)[0])
            differs = f"; first at {at}: expected {expected[at]}, got {got[at]}"
        wanted = f"{expected.dtype} {expected.shape}"
        raise WrongAnswerError(f"{provider}: {what} differs: expected {wanted}, got {shape}{differs}")
    if got == expected:
        return
    if isinstance(expected, (list, dict)) and type(got) is type(expected):
        expected_items = expected.items() if isinstance(expected, dict) else enumerate(expected)
        known = got if isinstance(got, dict) else dict(enumerate(got))
        first = next(((k, v) for k, v in expected_items if known.get(k) != v), None)
        detail = f"{len(got)} entries, expected {len(expected)}"
        if first is not None:
            detail += f"; first difference at {first[0]!r}: expected {first[1]!r}, got {known.get(first[0])!r}"
        raise WrongAnswerError(f"{provider}: {what} differs: {detail}")
    raise WrongAnswerError(f"{provider}: {what} differs: expected {expected!r}, got {got!r}")


class Bench:
    """One bench script's run: its options, rows and bars."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.name = name
        self.options = options
        self.rows: list[dict[str, Any]] = []

    def compare(
        self,
        op: str,
        sides: Sequence[Side | Absent],
        *,
        shape: str,
        dtype: str = "",
        size_bytes: int = 0,
        rounds: int = 5,
        touched: Sequence[Any] = (),
    ) -> None:
        """Checks all sides, times them in turns, and notes a row for each.

        Raises WrongAnswerError before anything is timed. rounds is what --rounds and --quick override; as many more are
        done as let each side go first equally often. touched: files, arrays and tensors that all sides read. They are
        read before each side's turns, untimed: who comes after a pause would pay for pages and clocks gone cold.
        """
        rounds = self.options.rounds or (2 if self.options.quick else rounds)
        present = [side for side in sides if isinstance(side, Side)]
        timed = sum(not side.once for side in present)
        if not (self.options.rounds or self.options.quick) and timed:
            rounds = -(-rounds // timed) * timed
        with _frozen():
            times = _timed(present, rounds, touched)
        date = now()
        about = {"op": op, "shape": shape, "dtype": dtype, "bytes": size_bytes, "date_utc": date}
        for side in sides:
            self.rows.append(self._row(side, times, about))
        self._print(op, shape, size_bytes, sides, times)

    def note_memory(
        self, op: str, provider: str, peak_bytes: int, *, shape: str, seconds: float, note: str, date: str = ""
    ) -> None:
        """A row for a peak of memory. Those that are compared have one date."""
        about = {"op": op, "shape": shape, "dtype": "", "bytes": 0, "date_utc": date or now()}
        side = Side(provider, lambda: None, lambda _: None, note=note)
        row = self._row(side, {provider: [seconds]}, about)
        self.rows.append({**row, "peak_bytes": peak_bytes})
        print(f"\n{op}: {shape}\n  {provider:<34} {peak_bytes / 1e6:10.1f} MB  in {seconds:.2f} s ({note})", flush=True)

    def _row(self, side: Side | Absent, times: dict[str, list[float]], about: dict[str, Any]) -> dict[str, Any]:
        seconds = times.get(side.provider, [])
        low, middle, high = quantiles(seconds) if seconds else (None, None, None)
        here = isinstance(side, Side)
        return {
            "op": about["op"],
            "provider": side.provider,
            "shape": about["shape"],
            "dtype": about["dtype"],
            "reps": len(seconds),
            "median_s": middle,
            "p20_s": low,
            "p80_s": high,
            "bytes": about["bytes"],
            "checked": here,
            "cpu": cpu_name(),
            "gpu": None,
            "threads": side.threads if isinstance(side, Side) else None,
            "versions": {**versions(), **(side.versions if isinstance(side, Side) else {})},
            "commit": commit(),
            "date_utc": about["date_utc"],
            "note": side.note if isinstance(side, Side) else f"absent: {side.why}",
        }

    def _print(
        self, op: str, shape: str, size: int, sides: Sequence[Side | Absent], times: dict[str, list[float]]
    ) -> None:
        print(f"\n{op}: {shape}")
        own = statistics.median(times["dcfast"]) if times.get("dcfast") else None
        for side in sides:
            if isinstance(side, Absent):
                print(f"  {side.provider:<34} absent: {side.why}")
                continue
            low, middle, high = quantiles(times[side.provider])
            line = f"  {side.provider:<34} {middle * 1e3:10.2f} ms  ({low * 1e3:.2f} to {high * 1e3:.2f}, "
            line += f"{len(times[side.provider])} times)"
            if size:
                line += f"  {size / middle / 1e9:8.2f} GB/s"
            if own is not None and side.provider != "dcfast":
                line += f"  {middle / own:8.2f} x dcfast"
            print(line)
        sys.stdout.flush()

    def finish(self) -> dict[str, Value]:
        """Appends the rows, prints the bars and, as the last line, their values as JSON; returns them."""
        results = Path(self.options.results)
        results.mkdir(parents=True, exist_ok=True)
        with open(results / f"{self.name}.jsonl", "a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in self.rows)
        bars = [bar for bar in BARS if bar.bench == self.name]
        values = {bar.name: measure(bar, self.rows) for bar in bars}
        print("\nbars:")
        for bar in bars:
            print(f"  {bar.name:<34} {verdict(bar, values[bar.name])}")
        print(json.dumps(values), flush=True)
        return values


def verdict(bar: Bar, value: Value) -> str:
    """A bar's value in words."""
    if value is None:
        return f"absent (bar {bar.wanted})"
    outcome = "no bar" if bar.bar is None else "met" if bar.is_met(value) else "MISSED"
    return f"{value:9.2f}{bar.unit}  {outcome} (bar {bar.wanted}, stretch {bar.stretch_wanted})"


def touch(things: Sequence[Any]) -> None:
    """Reads files, arrays and tensors once."""
    for thing in things:
        if isinstance(thing, (str, Path)):
            with open(thing, "rb", buffering=0) as file:
                while file.read(1 << 22):
                    pass
        else:
            array = np.ascontiguousarray(thing.detach().float().numpy() if hasattr(thing, "detach") else thing)
            flat = array.reshape(-1).view(np.uint8)
            flat[: len(flat) // 8 * 8].view(np.uint64).sum()


@contextmanager
def _frozen() -> Iterator[None]:
    """What is there by now is left out of the collections before each turn: they would look through it for 0.2 s."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _timed(sides: Sequence[Side], rounds: int, touched: Sequence[Any]) -> dict[str, list[float]]:
    """Provider -> seconds of its turns, after each side's answer was checked."""
    turns = []
    times: dict[str, list[float]] = {}
    for side in sides:
        seconds, answer = _one_turn(side)
        side.check(answer)
        del answer
        turns.append(0 if side.once else max(1, min(_MOST_TURNS, int(_TURN_SECONDS / max(seconds, 1e-9)))))
        times[side.provider] = [seconds] if side.once else []
    for round_number in range(rounds):
        # another one first each time
        start = round_number % len(sides) if sides else 0
        for k in [*range(start, len(sides)), *range(start)]:
            if turns[k]:
                touch(touched)
            times[sides[k].provider] += [_one_turn(sides[k])[0] for _ in range(turns[k])]
    return times


def _one_turn(side: Side) -> tuple[float, Any]:
    if side.prepare is not None:
        side.prepare()
    gc.collect()
    gc.disable()
    try:
        began = time.perf_counter()
        answer = side.run()
        seconds = time.perf_counter() - began
    finally:
        gc.enable()
    return (answer.seconds, answer.answer) if isinstance(answer, Timed) else (seconds, answer)


def quantiles(seconds: Sequence[float]) -> tuple[float, float, float]:
    """20th percentile, median, 80th percentile."""
    low, middle, high = np.quantile(np.asarray(seconds), [0.2, 0.5, 0.8])
    return float(low), float(middle), float(high)


def parse_options(name: str, argv: Sequence[str] | None, description: str | None) -> argparse.Namespace:
    """The options that all benches have."""
    parser = argparse.ArgumentParser(prog=f"python -m bench.{name}", description=(description or "").split("\n")[0])
    add = parser.add_argument
    add("--quick", action="store_true", help="tiny sizes and two rounds: a test of the bench, not of the speed")
    add("--rounds", type=int, default=0, help="rounds of each comparison; default: by the bench, 3 to 7")
    add("--threads", type=int, default=2, help="threads where a comparison uses several (default 2)")
    add("--results", default=str(REPO_ROOT / "bench" / "results"), help="directory of the .jsonl files")
    add("--cache", help="where the pool is kept and outputs are written; default: the directory for temporary files")
    add(
        "--peers-python", default=sys.executable, metavar="PATH", help="interpreter with DALI and webdataset < 1 (wids)"
    )
    add("--webdataset", metavar="DIR", help="directory with webdataset 0.2.86, without which open_clip's loader fails")
    add("--datacomp", metavar="DIR", help="checkout of DataComp's repository")
    add("--datacomp-python", metavar="PATH", help="interpreter in which its resharder.py and baselines.py run")
    add("--img2dataset-python", metavar="PATH", help="interpreter that has img2dataset")
    add(
        "--captions", metavar="FILE", help="parquet with a column TEXT: captions of the pools that filters are timed on"
    )
    return parser.parse_args(argv)


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@cache
def cpu_name() -> str:
    name = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            name = line.partition(":")[2].strip()
            break
    return f"{name}, {os.cpu_count()} cores"


@cache
def commit() -> str:
    """The commit of the tree, with -dirty where files other than results differ from it."""
    git = shutil.which("git")
    if git is None or not (REPO_ROOT / ".git").exists():
        return "unknown"
    here = [git, "-C", str(REPO_ROOT)]
    head = subprocess.run([*here, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True)
    if head.returncode != 0:
        return "unknown"
    changed = ["status", "--porcelain", "--", ".", ":!bench/results", ":!README.md"]
    dirty = subprocess.run([*here, *changed], capture_output=True, text=True).stdout.strip()
    return head.stdout.strip() + ("-dirty" if dirty else "")


@cache
def _versions() -> tuple[tuple[str, str], ...]:
    import dcfast

    known = {"dcfast": dcfast.__version__, "python": platform.python_version(), "numpy": np.__version__}
    return tuple({**known, "kernel": platform.release()}.items())


def versions() -> dict[str, str]:
    return dict(_versions())


def version_of(distribution: str) -> dict[str, str]:
    """{distribution: version}, empty where it is not installed."""
    try:
        return {distribution: metadata.version(distribution)}
    except metadata.PackageNotFoundError:
        return {}


class WorkDir:
    """A directory for outputs, removed at the end; in memory where that is asked for and to be had."""

    def __init__(self, options: argparse.Namespace, *, in_memory: bool = False) -> None:
        shared = Path("/dev/shm")
        parent = str(shared) if in_memory and shared.is_dir() and os.access(shared, os.W_OK) else options.cache
        self._directory = tempfile.TemporaryDirectory(prefix="dcfast-bench-", dir=parent)
        self.path = Path(self._directory.name)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self._directory.cleanup()


def emptied(directory: Path) -> Callable[[], None]:
    """A Side.prepare that makes a directory anew."""

    def prepare() -> None:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)

    return prepare


def peak_memory(arguments: Sequence[str]) -> tuple[int, float, str]:
    """Runs Python with arguments; (peak bytes resident beside mapped files, seconds, stdout).

    The peak is that of RssAnon + RssShmem, looked at every few milliseconds while it runs. Raises RuntimeError where
    the child fails.
    """
    peak = 0
    began = time.perf_counter()
    with tempfile.TemporaryFile() as out:
        child = subprocess.Popen([sys.executable, *arguments], stdout=out, cwd=REPO_ROOT)
        while child.poll() is None:
            peak = max(peak, resident(child.pid))
            time.sleep(0.003)
        seconds = time.perf_counter() - began
        out.seek(0)
        text = out.read().decode()
    if child.returncode != 0:
        raise RuntimeError(f"python {' '.join(arguments)} exited with {child.returncode}: {text[-500:]}")
    return peak, seconds, text


def resident(pid: int) -> int:
    """RssAnon + RssShmem of a process, 0 where there is none."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return sum(int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "RssShmem") if name in fields)


class PeerProcess:
    """``bench/peer_worker.py`` in another interpreter: it keeps its own time, so that only its work is measured."""

    def __init__(self, python: str) -> None:
        worker = Path(__file__).with_name("peer_worker.py")
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        try:
            self._child: subprocess.Popen[str] | None = subprocess.Popen(
                [python, str(worker)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
            )
        except OSError as error:
            self._child, self._why = None, f"{python} does not start: {error}"

    def ask(self, op: str, **arguments: Any) -> Any:
        """The reply's ``value``; raises PeerAbsentError with the reason where the peer cannot do it."""
        if self._child is None:
            raise PeerAbsentError(self._why)
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        try:
            self._child.stdin.write(json.dumps({"op": op, **arguments}) + "\n")
            self._child.stdin.flush()
            line = self._child.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise PeerAbsentError("its interpreter ended")
        reply = json.loads(line)
        if "error" in reply:
            raise PeerAbsentError(reply["error"])
        return reply["value"]

    def timed(self, op: str, **arguments: Any) -> Timed:
        value = self.ask(op, **arguments)
        return Timed(value["seconds"], value["answer"])

    def __enter__(self) -> PeerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self._child is not None:
            assert self._child.stdin is not None
            self._child.stdin.close()
            self._child.wait(timeout=30)
            if self._child.stdout is not None:
                self._child.stdout.close()


class PeerAbsentError(Exception):
    """A peer is not installed, or does not run here; the message says why."""
