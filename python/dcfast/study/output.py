"""What a study writes: ``study.json``, ``study.csv``, ``study.md`` and its plots."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any

from dcfast.errors import printable
from dcfast.storage.atomic import write_bytes, write_json
from dcfast.storage.published import without_places
from dcfast.study.plot import draw

__all__ = ["markdown", "write_results"]

NAMED = 5
"""Cells that the page names for a set that they lack."""


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"


def _table(rows: list[dict[str, Any]], scale: str) -> list[str]:
    mine = sorted(
        (row for row in rows if row["scale"] == scale), key=lambda row: (row["mean"] is None, -(row["mean"] or 0.0))
    )
    plain: dict[str, float] = next((row["scores"] for row in mine if row["filter"] == "no_filter"), {})
    lines = ["| filter | kept | seeds | score | against no_filter, same seeds |", "|---|---:|---:|---:|---:|"]
    for row in mine:
        score = _number(row["mean"]) + (f" ± {row['deviation']:.4f}" if row["deviation"] is not None else "")
        # filters may have run on different seeds, and each seed is another world: only equal seeds are compared
        gains = [score - plain[seed] for seed, score in row["scores"].items() if seed in plain]
        gain = f"{math.fsum(gains) / len(gains):+.4f}" if gains else "-"
        lines.append(f"| {row['filter']} | {_share(row['kept'])} | {len(row['seeds'])} | {score} | {gain} |")
    return lines


def _copies(rows: list[dict[str, Any]], scale: str) -> list[str]:
    """Which filters let training samples through that are copies of evaluation pictures."""
    mine = [row for row in rows if row["scale"] == scale and row["mean"] is not None]
    some = [f"{row['filter']} {row['contaminated']:,.0f}" for row in mine if row["contaminated"]]
    unknown = [row["filter"] for row in mine if row["contaminated"] is None]
    lines = []
    if some:
        lines.append(
            "Trained on samples that are copies of evaluation pictures, so that their scores may be too high (samples, "
            f"mean over seeds): {', '.join(some)}. With --and '~contaminated' no filter keeps them."
        )
    if unknown:
        lines.append(f"Not checked for copies of evaluation pictures: {', '.join(unknown)}.")
    return lines


def _verdict(found: dict[str, Any]) -> list[str]:
    choose = ", ".join(map(str, found["choose"])) or "none"
    confirm = ", ".join(map(str, found["confirm"])) or "none"
    lines = [f"Best on the seeds that choose ({choose}): {found['best'] or 'none'}."]
    if found.get("note"):
        lines.append(f"Not confirmed: {found['note']}.")
    confirmed = found["confirmed"]
    if confirmed is not None and confirmed["difference"] is not None:
        word = "clearly better" if confirmed["clear"] else "not clearly better"
        lines.append(
            f"On the seeds that confirm ({confirm}) it is {word} than no_filter: {confirmed['means'][0]:.4f} against "
            f"{confirmed['means'][1]:.4f}, difference {confirmed['difference']:+.4f}, bar 2*sqrt(s1^2+s2^2) = "
            f"{confirmed['bar']:.4f}; it won on {confirmed['seeds_won']} of {len(found['confirm'])} seeds."
        )
    drawn = found["random"]
    if drawn is not None and drawn["difference"] is not None:
        lines.append(
            f"A share drawn by chance is {drawn['difference']:+.4f} from no_filter (bar {drawn['bar']:.4f}) over all "
            f"of these seeds."
        )
    return lines


def _tasks(found: dict[str, Any]) -> list[str]:
    """What the scores are means of, where that is not simply every set."""
    if not found["left_out"]:
        return []
    parts = []
    for key, cells in found["left_out"].items():
        named = "; ".join(f"{scale}, seed {seed}, {label}" for scale, seed, label in cells[:NAMED])
        more = f" and {len(cells) - NAMED} more" if len(cells) > NAMED else ""
        parts.append(f"- {key}: not in {named}{more}")
    count = len(found["compared"])
    what = (
        f"Not every cell has scores on the same evaluation sets: scores are compared over the {count} that all "
        f"{found['cells']} cells have."
        if count
        else f"No evaluation set has a score in all {found['cells']} cells: nothing can be compared."
    )
    return ["", f"**{what}** Left out of all scores here (study.csv has them):", "", *parts]


def markdown(study: dict[str, Any]) -> str:
    """The study as a page of Markdown: a table a scale, the verdict, chance, and what failed."""
    lines = [
        "# Study",
        "",
        "The score is the mean of the main metrics of all evaluation sets that have one; ± is the standard deviation "
        "over seeds. Each seed draws another world and another training.",
        *_tasks(study["tasks"]),
    ]
    for found in study["verdicts"]:
        lines += ["", f"## Scale {found['scale']}", "", *_table(study["table"], found["scale"]), ""]
        lines += [*_copies(study["table"], found["scale"]), *_verdict(found)]
        chance = found.get("above_chance")
        if chance:
            lines.append(f"no_filter is above chance on {chance['above']} of {chance['tasks']} evaluation sets.")
    if study["rank_correlation"]:
        lines += ["", "## Between scales", "", "| scales | filters | Spearman's rho |", "|---|---:|---:|"]
        for pair in study["rank_correlation"]:
            lines.append(
                f"| {pair['scales'][0]}, {pair['scales'][1]} | {pair['filters']} | {_number(pair['rho'], 3)} |"
            )
    if study["failed"]:
        lines += ["", "## Not finished", ""]
        lines += [f"- {failure['cell']}: {failure['message']}" for failure in study["failed"]]
    return "\n".join(lines) + "\n"


def _csv(study: dict[str, Any]) -> bytes:
    tasks = sorted({key for cell in study["cells"] for key in cell["tasks"]})
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["scale", "seed", "filter", "expression", "kept", "rows", "samples_seen", "score", *tasks])
    for cell in study["cells"]:
        values = [cell["tasks"].get(key, "") for key in tasks]
        first = [cell[key] for key in ("scale", "seed", "label", "filter", "kept", "rows", "samples_seen", "score")]
        writer.writerow([*first, *values])
    return buffer.getvalue().encode("utf-8")


def write_results(out: Path, study: dict[str, Any], *, plots: bool) -> None:
    """Writes the files, without the places of this machine; ``plots`` also the pictures (they take a second)."""
    study = without_places(
        study, [out, *(study["settings"].get(name) for name in ("pool", "evalsets", "teacher_uids"))]
    )
    write_json(out / "study.json", study)
    write_bytes(out / "study.csv", _csv(study))
    write_bytes(out / "study.md", printable(markdown(study)).encode("utf-8"))
    if plots and any(row["mean"] is not None for row in study["table"]):
        for name, data in draw(study).items():
            write_bytes(out / name, data)
