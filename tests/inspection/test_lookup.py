"""Samples found by search: every sample of a run against its tables, and a simulated run of more."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from dcfast.errors import RunError
from dcfast.inspection.copies import near_copies
from dcfast.inspection.facts import Inspector
from dcfast.inspection.target import read_target, stored_run
from dcfast.inspection.words import headline
from dcfast.report.facts.draw import Choice, draw
from dcfast.rundir import tables
from dcfast.rundir.lookup import SampleLookup
from dcfast.rundir.tables import read_table
from dcfast.stages.report import make_report
from dcfast.uids.sets import uid_format, uid_parse
from simulated_run import BROKEN, COPY, FILTER, KEPT, REASONS, SIZE, THRESHOLD, Simulation, simulate

OUTCOME = {KEPT: "kept", BROKEN: "quarantined"}


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Simulation]:
    """A run whose tables are directories of parts, as those of a large one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "MAX_SINGLE_ROWS", 20_000)
        out, _, simulation = simulate(tmp_path_factory.mktemp("simulated"), 70_000, 2_500)
    assert (out / "fates.parquet").is_dir()
    return out, simulation


def test_every_kind_of_sample_is_found_with_its_outcome(simulated: tuple[Path, Simulation]) -> None:
    out, simulation = simulated
    inspector = Inspector(stored_run(out))
    kinds = simulation.kind_of(np.arange(simulation.samples))
    for kind, reason in enumerate(REASONS):
        sample = int(np.flatnonzero(kinds == kind)[-1])
        uid = uid_format(simulation.uids_of(np.array([sample])), as_list=True)[0]
        (place,) = inspector.by_uid(uid)
        assert place is not None
        facts = inspector.facts(place)
        assert (facts.shard, facts.row) == (f"{sample // 2_500:08d}.tar", sample % 2_500)
        assert facts.fate == OUTCOME.get(kind, "dropped")
        assert facts.reason == (None if kind == KEPT else reason)
        assert facts.in_subset == (kind == KEPT)
        assert facts.contaminated == (kind == COPY) == bool(facts.evidence)
        assert facts.caption == f"a picture of number {sample % 2_500} with some clouds, taken in the evening"
        assert headline(facts).endswith(reason if kind != KEPT else "it is in subset.npy")
        failed = [rule.rule for rule in facts.rules if not rule.passes]
        assert facts.metadata is not None
        assert facts.metadata.values["url"] == f"https://example.org/{sample}.jpg"
        assert failed[:1] == ([] if kind in (KEPT, BROKEN) else [reason])


def test_look_ups_are_those_of_the_tables(simulated: tuple[Path, Simulation]) -> None:
    out, simulation = simulated
    samples = SampleLookup(out)
    rows = read_table(out / "fates.parquet")
    chosen = np.random.default_rng(3).permutation(simulation.samples)[:500]
    uids = simulation.uids_of(chosen)
    places = [found[0] for found in samples.find(uids)]
    fates = samples.fates(places)
    expected = rows.take(chosen).to_pylist()
    for place, fate, row in zip(places, fates, expected, strict=True):
        assert (place.shard, place.row) == (row["shard"], row["row"])
        assert (samples.key_of(place), samples.uid_of(place)) == (row["key"], row["uid"])
        assert (fate.fate, fate.reason) == (row["fate"], row["reason"])
    verdicts = samples.verdicts(uids)
    assert [v.code for v in verdicts if v] == simulation.code_of(chosen).tolist()
    unknown, _ = uid_parse(["0" * 31 + "1"])
    assert samples.find(unknown) == [[]]
    assert samples.verdicts(unknown) == [None]
    with pytest.raises(LookupError, match=r"no shard 'x\.tar'"):
        samples.shard("x.tar")


def test_draws_are_fixed_bounded_and_as_asked(simulated: tuple[Path, Simulation]) -> None:
    out, simulation = simulated
    run, samples = stored_run(out), SampleLookup(out)
    everything = draw(run, samples, Choice(fate="dropped", reason="SIZE", most=9, all_rows=True))
    kinds = simulation.kind_of(np.arange(simulation.samples))
    assert everything.matching == int((kinds == SIZE).sum())
    assert everything.looked == everything.of == simulation.samples
    assert {row.reason for row in everything.rows} == {REASONS[SIZE]}
    assert len(everything.rows) == 9
    again = draw(run, samples, Choice(fate="dropped", reason="SIZE", most=9, all_rows=True))
    other = draw(run, samples, Choice(fate="dropped", reason="SIZE", most=9, seed=1, all_rows=True))
    assert again == everything != other
    looked = draw(run, samples, Choice(fate="kept"))
    assert looked.looked <= 65_536 < looked.of == simulation.samples
    shard = draw(run, samples, Choice(shard="00000007.tar", fate="kept", most=2_500))
    assert len(shard.rows) == shard.matching == int((kinds[17_500:20_000] == KEPT).sum())


def test_draws_by_expression(simulated: tuple[Path, Simulation]) -> None:
    out, simulation = simulated
    run, samples = stored_run(out), SampleLookup(out)
    low = draw(run, samples, Choice("clip_score(l14, threshold=0.25)", fate="dropped", most=20))
    assert len(low.rows) == 20
    assert all(row.fate == "dropped" and row.clip_score >= 0.25 for row in low.rows)
    assert low.unit == "metadata rows"
    # a threshold by fraction that the run has found may be asked for again
    same = draw(run, samples, Choice("clip_score(l14, fraction=0.3)", most=5))
    assert all(row.clip_score >= THRESHOLD for row in same.rows)
    with pytest.raises(ValueError, match=r"this run has not found; write the score instead"):
        draw(run, samples, Choice("clip_score(l14, fraction=0.2)"))
    whole = draw(run, samples, Choice("~clip_score(l14, threshold=0.25)", most=5, all_rows=True))
    assert whole.looked == whole.of == simulation.samples


def test_near_copies_are_those_within_the_distance(simulated: tuple[Path, Simulation]) -> None:
    out, simulation = simulated
    samples = SampleLookup(out)
    all_signatures = [np.load(out / f"signatures/pool-{n:05d}.npy") for n in range(samples.num_segments)]
    hashes = np.concatenate([part["phash"] for part in all_signatures])
    (place,) = samples.find(simulation.uids_of(np.array([12_345])))[0]
    distance = np.bitwise_count(hashes ^ hashes[12_345])
    for bits in (0, 16, 20):
        found = near_copies(samples, place, bits, whole_pool=False)
        assert found.found == int((distance <= bits).sum()) - 1
        nearest = [copy.distance for copy in found.nearest]
        assert nearest == sorted(np.delete(distance, 12_345)[np.delete(distance, 12_345) <= bits].tolist())[:12]
        assert found.looked == simulation.samples


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("f" * 31, "expected a uid of 32 hex digits"),
        ("", "expected a uid of 32 hex digits"),
        ("f" * 32, "is no run directory: it has no state/settings.json"),
        ("a.tar/k", "is no run directory"),
    ],
)
def test_targets_that_are_none(word: str, message: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, RunError), match=message):
        read_target(word, str(tmp_path))


def test_an_unfinished_run_says_what_to_run(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state/settings.json").write_text(json.dumps({"pool": str(tmp_path), "filter": FILTER}))
    with pytest.raises(RunError, match="stage index has not been run yet"):
        Inspector(stored_run(tmp_path)).by_uid("f" * 32)


def test_the_report_of_a_simulated_run_says_of_how_many(simulated: tuple[Path, Simulation]) -> None:
    """The small form of ``test_soak_whole_report.py``."""
    out, simulation = simulated
    run = stored_run(out)
    make_report(run, "clip_score(l14, threshold=0.31)")
    report = json.loads((out / "report.json").read_bytes())
    page = (out / "report.html").read_bytes()
    assert len(page) < 5_000_000
    assert sum(report["fates"].values()) == report["draw"]["of"] == simulation.samples > report["draw"]["rows"]
    text = page.decode()
    assert f"A sample, not all: drawn from {report['draw']['rows']:,} of {simulation.samples:,} rows" in text
    assert f"Kept: 12 of {report['fates']['kept']:,}" in text
    assert f"a sample of {simulation.samples:,} from all over the pool" in text
    assert "these rows are a sample of" in text
    assert len(report["gallery"]["asked"]) == 12
