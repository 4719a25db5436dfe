"""Filters that stand on scores of embeddings through the whole workflow, against slow versions; mixtures and files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from dcfast.dedup.semdedup import semdedup
from dcfast.errors import FilterError, PoolError
from dcfast.filters import compile_filter
from dcfast.report.facts.metadata_rows import examine, metadata_files
from dcfast.run.workflow import run
from dcfast.rundir.layout import score_path
from dcfast.rundir.run_dir import Run
from dcfast.rundir.settings import Settings
from dcfast.stages.filter import contrast
from dcfast.stages.filter.contrast import shuffled_rows
from dcfast.uids import UID_DTYPE, save_subset, uid_parse
from pool_builder import plain_pool, uid_of

COUNT, SHARDS, DIM, T = 60, 3, 16, 0.01
PER_FILE = COUNT // SHARDS
WITHOUT = (4, 33)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


RNG = np.random.default_rng(11)
SHARED = RNG.normal(size=(COUNT, DIM))
IMAGE, TEXT = (unit(SHARED + RNG.normal(size=(COUNT, DIM)) + 0.5) for _ in range(2))
IMAGE[20] = IMAGE[22]
IMAGE[50] = IMAGE[5]
IMAGE[WITHOUT[0]] = 0
TEXT[WITHOUT[1], 3] = np.nan
TARGET = unit(RNG.normal(size=(25, DIM)) + 0.3)
OWN = RNG.permutation(COUNT).astype(np.float32)


def write_npz(pool: Path, **more: np.ndarray) -> None:
    for number in range(SHARDS):
        rows = slice(number * PER_FILE, (number + 1) * PER_FILE)
        arrays = {"l14_img": IMAGE, "l14_txt": TEXT, **more}
        np.savez(pool / f"metadata/{number:08d}.npz", **{name: array[rows] for name, array in arrays.items()})


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    given = iter(range(COUNT))

    def columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
        numbers = [next(given) for _ in rows]
        return {
            "clip_l14_similarity_score": [None if i == 7 else i % 13 / 13 for i in numbers],
            "votes": [int(i * 7 % 11) for i in numbers],
        }

    root = plain_pool(tmp_path_factory.mktemp("embedded") / "pool", COUNT, SHARDS).write(columns)
    write_npz(root, quality=OWN)
    return root


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("target") / "target.npy"
    np.save(path, TARGET)
    return str(path)


def filtered(pool: Path, out: Path, text: str, **more: Any) -> Any:
    return run(out, Settings(pool=str(pool), filter=text, train=False, device="cpu"), last="filter", **more)["filter"]


def kept(out: Path) -> set[str]:
    return {r["uid"] for r in pq.read_table(out / "fates.parquet").to_pylist() if r["fate"] == "kept"}


def best(scores: np.ndarray, fraction: float) -> set[str]:
    """Those at or above the value at index int(n * fraction), NaN last."""
    ordered = np.sort(-np.where(np.isnan(scores), -np.inf, scores))
    place = int(len(scores) * fraction)
    limit = -ordered[place] if place < len(scores) else -np.inf
    return {uid_of(i) for i in range(len(scores)) if scores[i] >= limit}


def columns_of(out: Path, key: str) -> np.ndarray:
    return np.concatenate([np.load(out / score_path(key, f"{number:08d}.parquet")) for number in range(SHARDS)])


def key_of(text: str) -> str:
    (source,) = compile_filter(text).scores
    return source.key


def contrast_by_hand(shuffles: int, seed: int, batch: int) -> np.ndarray:
    scores = np.full((shuffles, COUNT), np.nan)
    usable = np.isfinite(IMAGE).all(axis=1) & np.isfinite(TEXT).all(axis=1) & (IMAGE != 0).any(axis=1)
    for number in range(SHARDS):
        rows = number * PER_FILE + np.flatnonzero(usable[number * PER_FILE : (number + 1) * PER_FILE])
        for shuffle in range(shuffles):
            order = rows[shuffled_rows(len(rows), seed, shuffle, f"{number:08d}.parquet")]
            for begin in range(0, len(order), batch):
                mine = order[begin : begin + batch]
                others = np.concatenate([mine, order[: min(batch, len(order)) - len(mine)] if begin else mine[:0]])
                z = IMAGE[others].astype(np.float64) @ TEXT[others].astype(np.float64).T / T
                value = np.diag(z) - (np.logaddexp.reduce(z, axis=1) + np.logaddexp.reduce(z, axis=0)) / 2
                scores[shuffle, mine] = T * value[: len(mine)]
    return np.asarray(scores.mean(axis=0))


@pytest.mark.parametrize("batch", [32_768, 8])
def test_s_cliploss(pool: Path, tmp_path: Path, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrast, "BATCH", batch)
    text = "s_cliploss(l14, fraction=0.3, shuffles=3, seed=5)"
    summary = filtered(pool, tmp_path / "run", text)
    expected = contrast_by_hand(3, 5, batch)
    got = columns_of(tmp_path / "run", key_of(text))
    assert np.flatnonzero(np.isnan(got)).tolist() == list(WITHOUT)
    assert np.nanmax(np.abs(got - expected)) < 1e-4 * np.nanstd(expected)
    assert kept(tmp_path / "run") == best(expected, 0.3)
    assert summary.reasons[f"{key_of(text)[:-1]}, fraction=0.3): no score"] == 2
    assert any("2 of the 60 metadata rows have no score" in note for note in summary.notes)


def test_another_fraction_and_more_shuffles_cost_no_second_pass(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    filtered(pool, out, "s_cliploss(l14, fraction=0.3, shuffles=2)")
    shuffles = sorted(out.glob("state/filter/scores/s_cliploss-*/*/*.npy"))
    assert len(shuffles) == 2 * SHARDS
    times = {path: path.stat().st_mtime_ns for path in shuffles}
    filtered(pool, out, "words >= 1 & s_cliploss(l14, fraction=0.6, shuffles=2)", overwrite=True)
    assert kept(out) == best(contrast_by_hand(2, 0, 32_768), 0.6)
    filtered(pool, out, "s_cliploss(l14, fraction=0.3, shuffles=3)", overwrite=True)
    assert {path: path.stat().st_mtime_ns for path in shuffles} == times
    assert len(list(out.glob("state/filter/scores/s_cliploss-*/*/*.npy"))) == 3 * SHARDS
    assert kept(out) == best(contrast_by_hand(3, 0, 32_768), 0.3)


@pytest.mark.parametrize(
    ("term", "formula"),
    [
        ("normsim(l14, target={}, p=2, fraction=0.4)", lambda z: np.linalg.norm(z, axis=1)),
        ("normsim(l14, target={}, fraction=0.4)", lambda z: np.abs(z).max(axis=1)),
        ("vas(l14, target={}, fraction=0.4)", lambda z: np.square(z).mean(axis=1)),
    ],
)
def test_nearness_to_a_target(pool: Path, tmp_path: Path, target: str, term: str, formula: Any) -> None:
    text = term.format(f'"{target}"')
    filtered(pool, tmp_path / "run", text)
    expected = formula(IMAGE.astype(np.float64) @ TARGET.astype(np.float64).T)
    expected[WITHOUT[0]] = np.nan
    got = columns_of(tmp_path / "run", key_of(text))
    assert np.nanmax(np.abs(got - expected)) < 1e-4 * np.nanstd(expected)
    assert np.isnan(got[WITHOUT[0]])
    assert kept(tmp_path / "run") == best(expected, 0.4)


def test_a_fraction_within_another(pool: Path, tmp_path: Path, target: str) -> None:
    text = f'within(column(votes), normsim(l14, target="{target}"), first=0.5, fraction=0.2)'
    filtered(pool, tmp_path / "run", text)
    votes = np.arange(COUNT) * 7 % 11
    limit = np.sort(votes)[::-1][int(COUNT * 0.5)]
    second = np.abs(IMAGE.astype(np.float64) @ TARGET.astype(np.float64).T).max(axis=1)
    second[WITHOUT[0]] = np.nan
    assert kept(tmp_path / "run") == best(np.where(votes >= limit, second, np.nan), 0.2)


def test_first_may_ask_for_more_rows_than_have_a_score(pool: Path, tmp_path: Path) -> None:
    uids = [uid_of(i) for i in range(COUNT // 2)]
    np.savez(tmp_path / "half.npz", uid=uids, score=np.arange(len(uids), dtype=np.float32))
    text = f'within(score("{tmp_path}/half.npz"), column(votes), first=0.8, fraction=0.2)'
    notes = filtered(pool, tmp_path / "run", text).notes
    assert not kept(tmp_path / "run")
    assert [
        n for n in notes if "first=0.8 asks for more rows than have" in n and "30 of 60" in n and "give a lower" in n
    ]
    assert not [n for n in notes if "the fraction 0.2 asks for" in n]


def ranks(scores: np.ndarray) -> np.ndarray:
    known = scores[~np.isnan(scores)]
    middle = [(np.sum(known < x) + np.sum(known <= x) - 1) / 2 for x in scores]
    return np.where(np.isnan(scores), np.nan, np.array(middle) / (len(known) - 1))


@pytest.mark.parametrize("normalize", ["minmax", "rank"])
def test_mixtures(pool: Path, tmp_path: Path, normalize: str) -> None:
    text = (
        f"mix(0.7 * column(votes), clip_score(l14), -0.25 * array(quality), normalize={normalize}, fraction=0.3) "
        "& column(votes, fraction=0.9)"
    )
    filtered(pool, tmp_path / "run", text)
    votes = (np.arange(COUNT) * 7 % 11).astype(float)
    clip = np.arange(COUNT) % 13 / 13
    clip[7] = np.nan
    parts = [
        ranks(x) if normalize == "rank" else (x - np.nanmin(x)) / (np.nanmax(x) - np.nanmin(x))
        for x in (votes, clip, OWN.astype(float))
    ]
    mixed = 0.7 * parts[0] + parts[1] - 0.25 * parts[2]
    got = columns_of(tmp_path / "run", key_of(text))
    assert np.allclose(got, mixed, rtol=0, atol=1e-12, equal_nan=True)
    assert kept(tmp_path / "run") == best(got, 0.3) & best(votes, 0.9)


def test_semdedup_and_density(pool: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    text = "semdedup(l14, clusters=1, eps=0.001)"
    filtered(pool, tmp_path / "run", text)
    lost = {uid_of(i) for i in range(COUNT)} - kept(tmp_path / "run") - {uid_of(WITHOUT[0])}
    assert len(lost) == 2
    assert len(lost & {uid_of(20), uid_of(22)}) == len(lost & {uid_of(5), uid_of(50)}) == 1
    wide = IMAGE.astype(np.float64)
    distances = columns_of(tmp_path / "run", key_of(text))
    assert np.nanmax(distances) == 2  # of the first
    others = wide @ wide.T - 2 * np.eye(COUNT)
    known = np.flatnonzero((distances < 2) & ~np.isnan(distances))
    assert all(np.abs(others[i] - (1 - distances[i])).min() < 2e-3 for i in known)
    filtered(pool, tmp_path / "run", "density(l14, clusters=5, fraction=0.5)", overwrite=True)
    assert len(kept(tmp_path / "run")) == COUNT // 2 + 1  # as of any other fraction
    filtered(pool, tmp_path / "run", "density(l14, clusters=5, total=11, tau=0.1)", overwrite=True)
    assert len(kept(tmp_path / "run")) == 11


@pytest.mark.parametrize("eps", [0.1, 0.3, 0.5])
def test_semdedup_of_a_run_is_that_of_the_library(eps: float, pool: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    filtered(pool, tmp_path / "run", f"semdedup(l14, clusters=1, eps={eps})")
    usable = np.flatnonzero(np.abs(IMAGE).sum(axis=1) > 0)
    expected = usable[semdedup(IMAGE[usable], 1, eps).kept[0]]
    assert kept(tmp_path / "run") - {uid_of(WITHOUT[0])} == {uid_of(int(i)) for i in expected}
    assert 0 < len(expected) < len(usable)


def test_scores_in_numpy_files(pool: Path, tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(COUNT)
    texts = np.array([uid_of(i) for i in order])
    uids, _ = uid_parse(texts)
    np.savez(tmp_path / "u8.npz", uid=uids, mine=OWN[order])
    np.savez_compressed(tmp_path / "text.npz", uid=texts, score=OWN[order].astype(np.float64))
    records = np.empty(COUNT, [*UID_DTYPE.descr, ("score", "<f4")])
    records["f0"], records["f1"], records["score"] = uids["f0"], uids["f1"], OWN[order]
    np.save(tmp_path / "records.npy", records)
    for folder in ("rows", "named"):
        (tmp_path / folder).mkdir()
    for number in range(SHARDS):
        part = OWN[number * PER_FILE : (number + 1) * PER_FILE]
        np.save(tmp_path / f"rows/{number:08d}.npy", part)
        np.savez(tmp_path / f"named/{number:08d}.npz", mine=part)
    for place in ('u8.npz", column=mine', 'text.npz"', 'records.npy"', 'rows"', 'named", column=mine'):
        name, _, rest = place.partition('"')
        filtered(pool, tmp_path / "run", f'score("{tmp_path}/{name}"{rest}, fraction=0.25)', overwrite=True)
        assert kept(tmp_path / "run") == best(OWN, 0.25), place
    filtered(pool, tmp_path / "run", "array(quality, threshold=40)", overwrite=True)
    assert kept(tmp_path / "run") == {uid_of(i) for i in range(COUNT) if OWN[i] >= 40}


def test_a_published_list_of_uids(pool: Path, tmp_path: Path) -> None:
    uids, _ = uid_parse([uid_of(i) for i in range(0, COUNT, 7)])
    listed = np.sort(np.array([(int(u["f0"]), int(u["f1"])) for u in uids], "u8,u8"))
    np.save(tmp_path / "datacomp_medium_dfn_20m_inds.npy", listed)  # as they are published: numpy.save of "u8,u8"
    filtered(pool, tmp_path / "run", f'"{tmp_path}/datacomp_medium_dfn_20m_inds.npy"')
    assert kept(tmp_path / "run") == {uid_of(i) for i in range(0, COUNT, 7)}
    save_subset(tmp_path / "same.npy", listed)
    assert (tmp_path / "same.npy").read_bytes() == (tmp_path / "datacomp_medium_dfn_20m_inds.npy").read_bytes()


def test_the_report_looks_at_each_source(pool: Path, tmp_path: Path, target: str) -> None:
    text = f'vas(l14, target="{target}", fraction=0.4) & array(quality, threshold=3)'
    summary = filtered(pool, tmp_path / "run", text)
    made = Run(tmp_path / "run", Settings(pool=str(pool), filter=text, train=False))
    thresholds = {key: float(value) for key, value in summary.thresholds.items()}
    seen = examine(made, metadata_files(made), summary.filter, thresholds)
    assert list(seen.sources) == [s.key for s in compile_filter(text).scores]
    assert np.array_equal(seen.sources["array(quality)"], OWN)
    assert seen.limits["array(quality)"] == 3
    assert seen.limits[key_of(text.partition(" & ")[0])] == pytest.approx(next(iter(thresholds.values())))


def test_what_is_refused(pool: Path, tmp_path: Path, target: str) -> None:
    def refused(text: str, error: type[Exception], words: str, where: Path = pool) -> None:
        with pytest.raises(error, match=words):
            filtered(where, tmp_path / "refused", text, overwrite=True)

    np.save(tmp_path / "narrow.npy", TARGET[:, :5])
    bad = TARGET.copy()
    bad[17] = 0
    np.save(tmp_path / "zero.npy", bad)
    refused("normsim(l14, fraction=0.2)", FilterError, 'needs target="embeddings.npy"')
    refused(f'vas(l14, target="{tmp_path}/none.npy", fraction=0.2)', FileNotFoundError, "none.npy")
    refused(f'vas(l14, target="{tmp_path}/narrow.npy", fraction=0.2)', FilterError, "has 5 dimensions")
    refused(f'normsim(l14, target="{tmp_path}/zero.npy", fraction=0.2)', FilterError, "row 17: zero")
    refused("s_cliploss(b32, fraction=0.2)", PoolError, "needs b32_img, and .* has l14_img, l14_txt, quality")
    refused("array(nothing, fraction=0.2)", PoolError, "has no array 'nothing' .l14_img, l14_txt, quality")
    refused("array(l14_img, fraction=0.2)", PoolError, "expected 20 numbers")
    refused("column(text, fraction=0.2)", PoolError, "text")
    other = shutil.copytree(pool, tmp_path / "other")
    np.savez(other / "metadata/00000001.npz", l14_img=IMAGE[:9], l14_txt=TEXT[:9])
    refused("s_cliploss(l14, fraction=0.2)", PoolError, "has 9 rows and its metadata 20", other)
    np.savez(other / "metadata/00000001.npz", l14_img=IMAGE[:20], l14_txt=TEXT[:20, :7])
    refused("s_cliploss(l14, fraction=0.2)", PoolError, "are of two models", other)
    (other / "metadata/00000001.npz").unlink()
    refused("semdedup(l14, eps=0.1)", PoolError, "is not there", other)
    (tmp_path / "rows").mkdir()
    np.save(tmp_path / "rows/00000000.npy", OWN[:20])
    refused(f'score("{tmp_path}/rows", fraction=0.2)', PoolError, "it is of another pool")
    for number in range(SHARDS):
        np.save(tmp_path / f"rows/{number:08d}.npy", OWN[:21])
    refused(f'score("{tmp_path}/rows", fraction=0.2)', PoolError, "one for each of the 20 rows")
    np.savez(tmp_path / "s.npz", uid=np.array(["not a uid"]), score=OWN[:1])
    refused(f'score("{tmp_path}/s.npz", fraction=0.2)', PoolError, "row 0: expected a uid")
    np.savez(tmp_path / "s.npz", score=OWN[:1])
    refused(f'score("{tmp_path}/s.npz", fraction=0.2)', PoolError, "arrays 'uid' and 'score'")
    np.save(tmp_path / "s.npy", OWN)
    refused(f'score("{tmp_path}/s.npy", fraction=0.2)', PoolError, "expected records")
    np.save(tmp_path / "rows/00000000.npy", np.full(20, np.inf, np.float32))
    for number in (1, 2):
        np.save(tmp_path / f"rows/{number:08d}.npy", OWN[:20])
    refused(f'mix(score("{tmp_path}/rows"), column(votes), fraction=0.2)', PoolError, "infinite scores")
