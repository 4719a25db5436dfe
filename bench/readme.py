"""Rewrites the README's table of benches from the newest rows in ``bench/results``: ``python -m bench.readme``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.bars import BARS, Bar, Row, latest_comparison, measure, ratio, row_of
from bench.harness import REPO_ROOT

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"


def read_rows(results: Path) -> list[Row]:
    """All rows of all benches, each file's in the order they were written."""
    lines = [line for path in sorted(results.glob("*.jsonl")) for line in path.read_text().splitlines()]
    return [json.loads(line) for line in lines if line.strip()]


def table(rows: Sequence[Row]) -> str:
    """The table in Markdown, and a line that says what was measured where."""
    lines = [
        "| work | dcfast | beside | ratio | wanted | times its floor |",
        "|---|---|---|---|---|---|",
        *[_line(bar, rows) for bar in BARS],
    ]
    return "\n".join([*lines, "", _where(rows)])


def _line(bar: Bar, rows: Sequence[Row]) -> str:
    compared = latest_comparison(rows, bar.op)
    value = measure(bar, rows)
    ours = row_of(compared, bar.op, bar.ours)
    peer = row_of(compared, bar.op, bar.peer) if bar.peer else None
    wanted = bar.stretch_wanted if bar.bar is None else bar.wanted
    if not bar.under:
        shown = "absent" if value is None else f"{value:.0f} MB"
        return f"| {bar.work} | {shown} | | | {wanted} | |"
    if bar.measured == "peak_bytes":
        beside = f"{bar.peer}: {_megabytes(peer)}"
        return f"| {bar.work} | {_megabytes(ours)} | {beside} | {_ratio(bar, value)} | {wanted} | |"
    above = ratio(ours, row_of(compared, bar.op, bar.floor)) if bar.floor else None
    distance = "" if above is None else f"{above:.1f}"
    beside = f"{bar.peer}: {_seconds(peer)}"
    return f"| {bar.work} | {_seconds(ours)} | {beside} | {_ratio(bar, value)} | {wanted} | {distance} |"


def _ratio(bar: Bar, value: float | None) -> str:
    if value is None:
        return "absent"
    text = f"{value:.0f}x" if value >= 20 else f"{value:.1f}x" if value >= 10 else f"{value:.2f}x"
    return text if bar.is_met(value) else f"{text} (missed)"


def _megabytes(row: Row | None) -> str:
    peak = None if row is None else row.get("peak_bytes")
    return "absent" if peak is None else f"{peak / 1e6:.0f} MB"


def _seconds(row: Row | None) -> str:
    if row is None or row["median_s"] is None:
        return "absent"
    seconds = row["median_s"]
    return (
        f"{seconds:.2f} s"
        if seconds >= 1
        else f"{seconds * 1e3:.0f} ms"
        if seconds >= 0.01
        else f"{seconds * 1e3:.1f} ms"
    )


def _where(rows: Sequence[Row]) -> str:
    used = [row for bar in BARS for row in latest_comparison(rows, bar.op)]
    machines = sorted({row["cpu"] for row in used})
    dates = sorted({row["date_utc"][:10] for row in used})
    versions: dict[str, set[str]] = {}
    for row in used:
        for name, version in row["versions"].items():
            versions.setdefault(name, set()).add(version)
    shown = ", ".join(f"{name} {'/'.join(sorted(v))}" for name, v in sorted(versions.items()) if name != "kernel")
    return (
        f"Medians of interleaved repetitions, warm page cache, answers compared before timing: {'; '.join(machines)}; "
        f"{' to '.join(dict.fromkeys([dates[0], dates[-1]])) if dates else 'never'}. {shown}."
    )


def rewrite(readme: Path, rows: Sequence[Row]) -> bool:
    """Puts the table between the markers; True where the file changed. Raises ValueError without markers."""
    text = readme.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{readme} must have the lines {BEGIN} and {END}")
    new = f"{before}{BEGIN}\n{table(rows)}\n{END}{after}"
    if new == text:
        return False
    temporary = readme.with_name(f".tmp-{readme.name}")
    temporary.write_text(new, encoding="utf-8")
    os.replace(temporary, readme)
    return True


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.readme", description=__doc__)
    parser.add_argument("--results", type=Path, default=REPO_ROOT / "bench" / "results")
    parser.add_argument("--readme", type=Path, default=REPO_ROOT / "README.md")
    args = parser.parse_args(argv)
    rows = read_rows(args.results)
    if not rows:
        sys.stderr.write(f"no rows in {args.results}: run make bench first\n")
        return 1
    print(f"{args.readme}: {'rewritten' if rewrite(args.readme, rows) else 'up to date'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
