"""What a study writes: ``study.json``, ``study.csv``, ``study.md`` and its plots."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

from dcfast.errors import printable
from dcfast.storage.atomic import write_bytes, write_json
from dcfast.storage.published import without_places
from dcfast.storage.records import as_record, plain
from dcfast.study.grid import NOT_CANDIDATES
from dcfast.study.plot import draw
from dcfast.study.records import Compared, FilterRow, Study, Verdict

NAMED = 5
"""Cells that the page names for a set that they lack."""


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _table(rows: list[FilterRow]) -> list[str]:
    rows = sorted(rows, key=lambda row: (row.mean is None, -(row.mean or 0.0)))
    plain: dict[str, float] = next((row.scores for row in rows if row.filter == "no_filter"), {})
    lines = ["| filter | kept | seeds | score | against no_filter, same seeds |", "|---|---:|---:|---:|---:|"]
    for row in rows:
        score = _number(row.mean) + (f" ± {row.deviation:.4f}" if row.deviation is not None else "")
        # filters may have run on different seeds, and each seed is another world: only equal seeds are compared
        gains = [score - plain[seed] for seed, score in row.scores.items() if seed in plain]
        gain = f"{math.fsum(gains) / len(gains):+.4f}" if gains else "-"
        kept = "-" if row.kept is None else f"{100 * row.kept:.1f}%"
        of_all = f"{len(row.seeds)} of {len(row.seeds) + len(row.missing)}" if row.missing else f"{len(row.seeds)}"
        lines.append(f"| {row.filter} | {kept} | {of_all} | {score} | {gain} |")
    return lines


def _missing(rows: list[FilterRow], verdict: Verdict) -> list[str]:
    """Which cells have no score, by filter, and why; nothing where all have one."""
    lacking = {row.filter: row.missing for row in rows if row.missing}
    if not lacking:
        return []
    named = "; ".join(f"{name}: {_seeds(seeds)}" for name, seeds in lacking.items())
    lines = [
        "Not every filter has a score on every seed, so that means in the table are of different seeds: compare by its "
        f"last column. Missing are the seeds of {named}."
    ]
    later = set(verdict.confirm)
    if any(later & set(seeds) for name, seeds in lacking.items() if name not in (*NOT_CANDIDATES, verdict.best)):
        lines.append(
            f"On the seeds that confirm ({_seeds(verdict.confirm)}) the best filter and what it is compared with are "
            "run alone; --confirm-all runs the others, too."
        )
    return [*lines, ""]


def _seeds(seeds: list[int]) -> str:
    """Seeds in their order, three neighbours or more as a range: 0, 2-4."""
    runs: list[list[int]] = []
    for seed in seeds:
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    parts = [f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return ", ".join(parts) or "none"


def _copies(rows: list[FilterRow]) -> list[str]:
    """Which filters let training samples through that are copies of evaluation pictures."""
    scored = [row for row in rows if row.mean is not None]
    some = [f"{row.filter} {row.contaminated:,.0f}" for row in scored if row.contaminated]
    unknown = [row.filter for row in scored if row.contaminated is None]
    lines = []
    if some:
        lines.append(
            "Trained on samples that are copies of evaluation pictures, so that their scores may be too high (samples, "
            f"mean over seeds): {', '.join(some)}. With --and '~contaminated' no filter keeps them."
        )
    if unknown:
        lines.append(f"Not checked for copies of evaluation pictures: {', '.join(unknown)}.")
    return lines


def _verdict(verdict: Verdict) -> list[str]:
    choose, confirm = _seeds(verdict.choose), _seeds(verdict.confirm)
    lines = [f"Best on the seeds that choose ({choose}): {verdict.best or 'none'}."]
    if verdict.note:
        lines.append(f"Not confirmed: {verdict.note}.")
    confirmed, drawn, chance = verdict.confirmed, verdict.random, verdict.above_chance
    if confirmed is not None and confirmed.means is not None:
        word = "clearly better" if confirmed.clear else "not clearly better"
        lines.append(
            f"On the seeds that confirm ({confirm}) it is {word} than no_filter: {confirmed.means[0]:.4f} against "
            f"{confirmed.means[1]:.4f}, difference {confirmed.difference:+.4f}, bar 2*sqrt(s1^2+s2^2) = "
            f"{confirmed.bar:.4f}; it won on {confirmed.seeds_won} of {len(verdict.confirm)} seeds."
        )
    if drawn is not None and drawn.difference is not None:
        lines.append(
            f"A share drawn by chance is {drawn.difference:+.4f} from no_filter (bar {drawn.bar:.4f}) over all "
            f"of these seeds."
        )
    if chance is not None:
        lines.append(f"no_filter is above chance on {chance.above} of {chance.tasks} evaluation sets.")
    return lines


def _tasks(tasks: Compared) -> list[str]:
    """What the scores are means of, where that is not simply every set."""
    if not tasks.left_out:
        return []
    parts = []
    for key, cells in tasks.left_out.items():
        named = "; ".join(f"{scale}, seed {seed}, {label}" for scale, seed, label in cells[:NAMED])
        more = f" and {len(cells) - NAMED} more" if len(cells) > NAMED else ""
        parts.append(f"- {key}: not in {named}{more}")
    what = f"No evaluation set has a score in all {tasks.cells} cells: nothing can be compared."
    if tasks.compared:
        what = (
            "Not every cell has scores on the same evaluation sets: scores are compared over the "
            f"{len(tasks.compared)} that all {tasks.cells} cells have."
        )
    return ["", f"**{what}** Left out of all scores here (study.csv has them):", "", *parts]


def _recipe(study: Study) -> list[str]:
    """That the recipe was changed on purpose, and how."""
    if not study.settings.overrides:
        return []
    changes = ", ".join(f"{name} {value}" for name, value in sorted(study.settings.overrides.items()))
    return ["", f"The recipe was changed on purpose ({changes}): these are no scores of a DataComp scale."]


def markdown(study: Study) -> str:
    """The study as a page of Markdown: a table a scale, the verdict, chance, and what failed."""
    drawn = (
        "Each seed draws another world, another teacher and another training."
        if study.settings.pool is None
        else "All seeds share one pool and its scores: a seed draws the training, and what a filter draws by chance. "
        "The spread is that of training alone, and says nothing of other pools."
    )
    lines = [
        "# Study",
        "",
        "The score is the mean of the main metrics of all evaluation sets that have one; ± is the standard deviation "
        f"over seeds. {drawn}",
        *_recipe(study),
        *_tasks(study.tasks),
    ]
    for verdict in study.verdicts:
        rows = [row for row in study.table if row.scale == verdict.scale]
        lines += ["", f"## Scale {verdict.scale}", "", *_table(rows), "", *_missing(rows, verdict), *_copies(rows)]
        lines += _verdict(verdict)
    if study.rank_correlation:
        lines += ["", "## Between scales", "", "| scales | filters | Spearman's rho |", "|---|---:|---:|"]
        for pair in study.rank_correlation:
            lines.append(f"| {', '.join(pair.scales)} | {pair.filters} | {_number(pair.rho, 3)} |")
    if study.failed:
        lines += ["", "## Not finished", "", *(f"- {failure.cell}: {failure.message}" for failure in study.failed)]
    return "\n".join(lines) + "\n"


def _csv(study: Study) -> bytes:
    tasks = sorted({key for cell in study.cells for key in cell.tasks})
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["scale", "seed", "filter", "expression", "kept", "rows", "samples_seen", "score", *tasks])
    for cell in study.cells:
        first = [cell.scale, cell.seed, cell.label, cell.filter, cell.kept, cell.rows, cell.samples_seen, cell.score]
        writer.writerow([*first, *(cell.tasks.get(key, "") for key in tasks)])
    return buffer.getvalue().encode("utf-8")


def write_results(out: Path, study: Study, *, plots: bool) -> None:
    """Writes the files, without the places of this machine; ``plots`` also the pictures (they take a second)."""
    settings = study.settings
    published = without_places(plain(study), [out, settings.pool, settings.evalsets, settings.teacher_uids])
    write_json(out / "study.json", published)
    study = as_record(published, Study, "study.json")
    write_bytes(out / "study.csv", _csv(study))
    write_bytes(out / "study.md", printable(markdown(study)).encode("utf-8"))
    if plots and any(row.mean is not None for row in study.table):
        for name, data in draw(study).items():
            write_bytes(out / name, data)
